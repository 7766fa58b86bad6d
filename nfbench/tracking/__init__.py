"""Runs and tables as W&B shows them: a view of the records, which no record depends on."""
