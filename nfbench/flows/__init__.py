"""Normalizing flows: one paper per file, each a short recipe over transforms."""

from .gaussian import gaussian
from .glow import glow
from .iaf import iaf
from .maf import made, made_mog, maf, maf_mog
from .nice import nice
from .nsf import nsf
from .realnvp import realnvp
from .rezende2015 import planar, radial
from .sylvester import sylvester

FLOWS = {
    "gaussian": gaussian,
    "made": made,
    "made_mog": made_mog,
    "maf": maf,
    "maf_mog": maf_mog,
    "nice": nice,
    "iaf": iaf,
    "realnvp": realnvp,
    "glow": glow,
    "nsf": nsf,
    "planar": planar,
    "radial": radial,
    "sylvester": sylvester,
}
