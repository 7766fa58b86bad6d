"""Normalizing flows: one paper per file, each a short recipe over transforms."""

from .ffjord import ffjord, ffjord_image
from .gaussian import gaussian
from .glow import glow, glow_image
from .iaf import iaf
from .identity import identity
from .lippe2021 import lippe_image
from .maf import made, made_mog, maf, maf_mog
from .nice import nice
from .nsf import nsf, nsf_image
from .realnvp import realnvp, realnvp_image
from .recipe import is_of_images
from .rezende2015 import planar, radial
from .sylvester import sylvester

FLOWS = {
    "identity": identity,
    "gaussian": gaussian,
    "made": made,
    "made_mog": made_mog,
    "maf": maf,
    "maf_mog": maf_mog,
    "nice": nice,
    "iaf": iaf,
    "realnvp": realnvp,
    "realnvp_image": realnvp_image,
    "glow": glow,
    "glow_image": glow_image,
    "lippe_image": lippe_image,
    "nsf": nsf,
    "nsf_image": nsf_image,
    "ffjord": ffjord,
    "ffjord_image": ffjord_image,
    "planar": planar,
    "radial": radial,
    "sylvester": sylvester,
}

# Events of these are images (C, H, W); of all others, vectors.
IMAGE_FLOWS = frozenset(filter(is_of_images, FLOWS))
VECTOR_FLOWS = frozenset(FLOWS) - IMAGE_FLOWS
