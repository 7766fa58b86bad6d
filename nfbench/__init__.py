"""nfbench: a benchmark of normalizing flows."""
