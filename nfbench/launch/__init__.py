"""Launching what is missing: the same list, the same order, the same command per cell, wherever it
runs.
"""
