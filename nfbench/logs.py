"""Where the log of a run goes. Imports no torch."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

log = logging.getLogger("nfbench")


@contextlib.contextmanager
def logging_to(path: Path, *, quiet: bool = False) -> Iterator[None]:
    """Send the log to the terminal, and to a file beside the run's checkpoints.

    If ``quiet``, as one of several processes is, warnings alone are told, on the terminal.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = []
    # A launched run's own output already ends in this file.
    if not quiet and not is_stderr(path):
        handlers.append(logging.FileHandler(path))
    handlers.append(EchoHandler())
    for handler in handlers:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        )
        log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class EchoHandler(logging.Handler):
    """Writes to what standard error is just then: a progress bar takes it over for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(self.format(record), err=True)


def is_stderr(path: Path) -> bool:
    """Whether standard error is this file."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError):
        return False
