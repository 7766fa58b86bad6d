"""How commands end: their exit codes, beside 0. Imports no torch."""

FAILED = 1  # something has no number, or is at fault; what there is to know was said
USAGE_ERROR = 2  # what was asked for cannot be done
INTERRUPTED = 130  # told to stop; the same command goes on from there
