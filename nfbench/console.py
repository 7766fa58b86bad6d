"""Where tables are printed."""

import os
import sys

from rich.console import Console

WIDE = 1000  # letters


def new_console() -> Console:
    """A console as wide as the terminal; where there is none, as what is printed."""
    is_told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console() if is_told else Console(width=WIDE)
