"""Invertible maps, one idea per file."""
