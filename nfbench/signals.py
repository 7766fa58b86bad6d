"""Ctrl-C, SIGTERM and SIGUSR1, by which SLURM announces the end of a job's time.

A flag while training, an exception otherwise. Imports no torch.
"""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger("nfbench")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class InterruptedRunError(RuntimeError):
    """A run that was told to stop; the same command goes on from its last checkpoint."""

    def __init__(self, received: signal.Signals, step: int | None = None) -> None:
        super().__init__(received.name if step is None else f"{received.name} at step {step}")
        self.received = received


class StopRequest:
    """Listens for a request to stop, as a context manager around a run.

    While ``deferred`` the first signal is only remembered in ``received``, so that the training
    can stop at a chunk end with a checkpoint; at any other time, or at a second Ctrl-C, it raises
    InterruptedRunError at once. SLURM sends several signals in a row, which mean the same.
    """

    def __init__(self, *, deferred: bool = False) -> None:
        self.deferred = deferred
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        """Listen from here on."""
        self.previous = {number: signal.getsignal(number) for number in STOPPING}
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            install(number, handler)

    def listen(self) -> None:
        """Take the signals over, from whoever did so in between."""
        for number in STOPPING:
            install(number, self.handle)

    def admit(self) -> None:
        """Let signals through from here on, one that came meanwhile at once."""
        self.deferred = False
        if self.received is not None:
            raise InterruptedRunError(self.received)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal, or raise."""
        received = signal.Signals(number)
        again = self.received is not None
        if not self.deferred or (again and received == signal.SIGINT):
            raise InterruptedRunError(received)
        if again:
            return
        self.received = received
        log.warning("%s received: stopping at the next chunk end", received.name)


def install(number: signal.Signals, handler: Any) -> None:
    """Set a signal handler where Python allows it: in the main thread."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)
