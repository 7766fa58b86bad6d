"""Data sets: one a file, all of them in `DATA`. numpy only."""

from .bsds300 import Bsds300
from .curves import EIGHT_GAUSSIANS, MOONS, RINGS, TWO_SPIRALS
from .dataset import Dataset, File, MissingDataError, Source, Splits, data_root, fingerprint
from .digits import Digits
from .gas import Gas
from .hepmass import Hepmass
from .miniboone import Miniboone
from .mnist import MNIST
from .power import Power
from .toys import Checkerboard, Pinwheel

DATA: dict[str, Dataset] = {
    "power": Power(),
    "gas": Gas(),
    "hepmass": Hepmass(),
    "miniboone": Miniboone(),
    "bsds300": Bsds300(),
    "digits": Digits(),
    "mnist": MNIST,
    "moons": MOONS,
    "rings": RINGS,
    "checkerboard": Checkerboard(),
    "eight_gaussians": EIGHT_GAUSSIANS,
    "pinwheel": Pinwheel(),
    "two_spirals": TWO_SPIRALS,
}

__all__ = [
    "DATA",
    "Dataset",
    "File",
    "MissingDataError",
    "Source",
    "Splits",
    "data_root",
    "fingerprint",
]
