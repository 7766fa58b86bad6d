"""nfbench: a benchmark of normalizing flows."""

__version__ = "0.1.0"
