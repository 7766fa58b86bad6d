"""Searches over hyper-parameters of a row: by validation, shared by many processes, on record."""
