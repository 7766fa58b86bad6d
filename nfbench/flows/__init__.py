"""Normalizing flows: one paper per file, each a short recipe over transforms."""

from .gaussian import gaussian
from .maf import made, made_mog, maf, maf_mog
from .realnvp import realnvp

FLOWS = {
    "gaussian": gaussian,
    "made": made,
    "made_mog": made_mog,
    "maf": maf,
    "maf_mog": maf_mog,
    "realnvp": realnvp,
}
