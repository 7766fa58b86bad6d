"""A call in a process of its own: a crash, or too much memory or time, ends that call alone.

Imports no torch itself.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError
from nfbench.exits import INTERRUPTED

LONGEST = 300  # characters of a reason


class ApartError(UsageError):
    """A call that has no result, and why."""


def call_apart(
    call: Callable[..., Any], *arguments: object, seconds: float, log: Path, preload: str
) -> Any:
    """The result of a call, from a process that has imported a module already.

    It is forked from a server that has done so once, which takes milliseconds instead of seconds.
    What the process prints is added to a log.

    Raises:
        ApartError: it raised an error, ended without an answer, or gave none in so many seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(theirs, log, call, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise ApartError(f"no end in {seconds:g} s")
        good, value = ours.recv()
    except EOFError:
        process.join()
        raise ApartError(f"its process {ending(process.exitcode or 0)}") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if not good:
        raise ApartError(value)
    return value


def answer(pipe: Connection, log: Path, call: Callable[..., Any], arguments: Any) -> None:
    """Make the call and send what it gave, or in words why it gave nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides what a Ctrl-C means
    threading.Thread(target=follow, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        pipe.send((True, call(*arguments)))
    except UsageError as error:
        pipe.send((False, str(error)))
    except Exception as error:
        traceback.print_exc()
        pipe.send((False, " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]))


def follow() -> None:
    """End this process when the one that asked is gone, however that has ended."""
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(INTERRUPTED)


def ending(exit_code: int) -> str:
    """How a process ended, in words."""
    if exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with code {exit_code}"
