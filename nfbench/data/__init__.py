"""Data sets: one a file, all of them in `DATA`. numpy only."""

from .binary import MNIST_DYNAMIC
from .bsds300 import Bsds300
from .bsds300_redrawn import Bsds300Redrawn
from .caltech101_silhouettes import Caltech101Resplit, Caltech101Silhouettes
from .celeba import CELEBA
from .cifar10 import CIFAR10, CIFAR10_40K, Cifar10Subset
from .curves import EIGHT_GAUSSIANS, MOONS, RINGS, TWO_SPIRALS
from .dataset import Dataset, File, MissingDataError, Source, Splits, data_root, fingerprint
from .digits import Digits
from .energies import ForkedWave, SplitWave, TwoArcs, Wave
from .fashion_mnist import FASHION_MNIST
from .freyfaces import FreyFaces
from .gas import Gas
from .hepmass import Hepmass
from .imagenet import IMAGENET32, IMAGENET64
from .lsun import LSUN_BEDROOM, LSUN_CHURCH_OUTDOOR, LSUN_TOWER
from .miniboone import Miniboone
from .mnist import MNIST
from .mnist_binarized import MnistBinarized
from .omniglot import Omniglot
from .omniglot_small import OmniglotSmall
from .padded import MNIST_PADDED
from .power import Power
from .svhn import SVHN
from .toys import Checkerboard, Pinwheel

DATA: dict[str, Dataset] = {
    "power": Power(),
    "gas": Gas(),
    "hepmass": Hepmass(),
    "miniboone": Miniboone(),
    "bsds300": Bsds300(),
    "bsds300_redrawn": Bsds300Redrawn(),
    "digits": Digits(),
    "mnist": MNIST,
    "mnist_padded": MNIST_PADDED,
    "mnist_binarized": MnistBinarized(),
    "mnist_dynamic": MNIST_DYNAMIC,
    "fashion_mnist": FASHION_MNIST,
    "omniglot": Omniglot(),
    "omniglot_small": OmniglotSmall(),
    "caltech101_silhouettes": Caltech101Silhouettes(),
    "caltech101_resplit": Caltech101Resplit(),
    "freyfaces": FreyFaces(),
    "cifar10": CIFAR10,
    "cifar10_40k": CIFAR10_40K,
    "cifar10_subset": Cifar10Subset(),
    "svhn": SVHN,
    "imagenet32": IMAGENET32,
    "imagenet64": IMAGENET64,
    "celeba": CELEBA,
    "lsun_bedroom": LSUN_BEDROOM,
    "lsun_tower": LSUN_TOWER,
    "lsun_church_outdoor": LSUN_CHURCH_OUTDOOR,
    "moons": MOONS,
    "rings": RINGS,
    "checkerboard": Checkerboard(),
    "eight_gaussians": EIGHT_GAUSSIANS,
    "pinwheel": Pinwheel(),
    "two_spirals": TWO_SPIRALS,
    "u1": TwoArcs(),
    "u2": Wave(),
    "u3": SplitWave(),
    "u4": ForkedWave(),
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
