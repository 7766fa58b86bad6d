"""Conditioners: networks that are not invertible themselves."""
