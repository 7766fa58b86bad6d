"""What the processes of a run do together: they share out batches, and hold the same weights.

What a run gives does not depend on how many there are, up to the order of floating-point sums:
each takes its part of every training batch, and whole batches of the evaluation, in float64 sums.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, distributed


def are_many() -> bool:
    """Whether this process has met others."""
    return distributed.is_available() and distributed.is_initialized()


def place() -> tuple[int, int]:
    """The rank of this process among those it has met, and how many they are."""
    return (distributed.get_rank(), distributed.get_world_size()) if are_many() else (0, 1)


def add_up(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes, in place; all of them must call it."""
    if are_many():
        distributed.all_reduce(values)
    return values


def average(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes, in place; all of them must call it."""
    if are_many():
        distributed.all_reduce(values)
        values /= distributed.get_world_size()
    return values


def any_of(*flags: bool, device: torch.device) -> list[bool]:
    """For each flag, whether one of the processes at least has it; all of them must call it."""
    if not are_many():
        return list(flags)
    return [bool(n) for n in add_up(torch.tensor(flags, dtype=torch.float32, device=device))]


def wait() -> None:
    """Wait until all processes are here."""
    if are_many():
        distributed.barrier()


def leave() -> None:
    """Part from the other processes, once all are done."""
    if are_many():
        distributed.barrier()
        distributed.destroy_process_group()


def gather_rows(
    n: int, parts: Iterable[tuple[int, Tensor]], device: torch.device, columns: Sequence[int] = ()
) -> Tensor:
    """The rows (n, *columns) in float64 of which each process has some: parts with their start.

    All of them must call it.

    Raises:
        RuntimeError: if a row is missing, or there twice.
    """
    found = torch.zeros(n, *columns, dtype=torch.float64, device=device)
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    for start, part in parts:
        found[start : start + len(part)] = part.double()
        counts[start : start + len(part)] += 1
    wrong = int((add_up(counts) != 1).sum())
    if wrong:
        raise RuntimeError(f"expected each of {n} rows once, got {wrong} of them never or twice")
    return add_up(found)


def over_batches(
    rows: Tensor,
    batch_size: int,
    call: Callable[[int, Tensor], Tensor],
    columns: Sequence[int] = (),
) -> Tensor:
    """``call(i, batch)``, (B, *columns) for batch i, of all rows: (n, *columns) in float64.

    Each process takes every world_size-th batch.
    """
    rank, size = place()
    batches = rows.split(batch_size)
    parts = ((i * batch_size, call(i, batches[i])) for i in range(rank, len(batches), size))
    return gather_rows(len(rows), parts, rows.device, columns)
