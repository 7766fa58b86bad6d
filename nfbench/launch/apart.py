"""Calls in a process of their own: a crash, or too much memory or time, ends that call alone.

Imports no torch itself.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError
from nfbench.exits import INTERRUPTED

LONGEST = 300  # characters of a reason


class ApartError(UsageError):
    """A call that has no result, and why."""


class Worker:
    """A process that answers calls, one after another; what one call breaks, ends it alone.

    It is forked from a server that has imported a module already, which takes milliseconds instead
    of seconds. What it prints is added to a log. A call that fails ends the process, and the next
    one starts another.
    """

    def __init__(self, *, log: Path, preload: str) -> None:
        self.log, self.preload = log, preload
        self.running: tuple[BaseProcess, Connection] | None = None

    def call(self, call: Callable[..., Any], *arguments: object, seconds: float) -> Any:
        """The result of a call.

        Raises:
            ApartError: it raised an error, ended without an answer, or gave none in so many
                seconds.
        """
        if self.running and not self.running[0].is_alive():  # ended by no call, but in between
            self.end()
        process, pipe = self.running = self.running or self.start()
        good = False
        try:
            pipe.send((call, arguments))
            if not pipe.poll(seconds):
                raise ApartError(f"no end in {seconds:g} s")
            good, value = pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            process.join()
            raise ApartError(f"its process {ending(process.exitcode or 0)}") from None
        finally:
            if not good:
                self.end()
        if not good:
            raise ApartError(value)
        return value

    def start(self) -> tuple[BaseProcess, Connection]:
        """A process and the pipe to it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self.preload])
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.log), daemon=True)
        # The server imports for seconds, and inherits what is blocked: a Ctrl-C is for us. What
        # it has started with it would unblock that, so that has to be there.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return process, ours

    def end(self) -> None:
        """End the process, if there is one."""
        if self.running:
            process, pipe = self.running
            process.kill()
            process.join()
            pipe.close()
        self.running = None


def serve(pipe: Connection, log: Path) -> None:
    """Answer calls until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides what a Ctrl-C means
    threading.Thread(target=follow, daemon=True).start()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    with suppress(EOFError):
        while True:
            answer(pipe, *pipe.recv())


def answer(pipe: Connection, call: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Make the call and send what it gave, or in words why it gave nothing."""
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
