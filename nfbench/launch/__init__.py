"""Launching what is missing: the same list, order and command per cell, wherever it runs."""
