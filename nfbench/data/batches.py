"""Batches of a run: which rows they hold, in what order, and which process takes which.

Batches are one gather from a seeded permutation; no worker processes, no per-row collation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nfbench.errors import UsageError
from nfbench.schedule import Schedule
from nfbench.seeds import mix

from .augment import augment, binarize

AUGMENT = 3  # a stream of random numbers of its own, beside the phases of module.py


@dataclass(frozen=True)
class BatchOrder:
    """The rows of batch t: a pure function of (seed, epoch, rank), so a resume needs no state.

    Each epoch is a fresh permutation of the ``n`` rows, cut into batches of ``batch_size``; the
    ragged end of an epoch (fewer rows than that, others each time) is dropped. Each of
    ``world_size`` ranks takes its part of every batch, so that a step is the same however many
    there are.

    Raises:
        UsageError: if a batch is empty, needs more rows than there are, or cannot be shared out
            evenly.
    """

    n: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.n:
            raise UsageError(
                f"data.batch_size: expected 1 to {self.n} rows, got {self.batch_size}"
            )
        if self.batch_size % self.world_size:
            raise UsageError(
                f"data.batch_size: expected a multiple of the {self.world_size} processes that "
                f"share each batch, got {self.batch_size}"
            )

    @property
    def share(self) -> int:
        """The rows of a batch that are this rank's."""
        return self.batch_size // self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.n // self.batch_size

    def indices(self, start: int, stop: int) -> Tensor:
        """The rank's row numbers of the batches start, ..., stop - 1: (stop - start, share)."""
        parts = []
        while start < stop:
            epoch, first = divmod(start, self.steps_per_epoch)
            last = min(first + stop - start, self.steps_per_epoch)
            parts.append(self.epoch(epoch)[first:last])
            start += last - first
        return torch.cat(parts)

    def epoch(self, epoch: int) -> Tensor:
        """All row numbers of an epoch on this rank, shape (steps_per_epoch, share)."""
        order = permutation(self.n, self.seed, epoch)[: self.steps_per_epoch * self.batch_size]
        return order.view(-1, self.world_size, self.share)[:, self.rank]


@lru_cache(maxsize=2)
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of n rows that depends on seed and epoch alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, epoch)))


class ChunkLoader:
    """The rank's training batches up to the next validation, in chunks (k, share, *event).

    With ``labels`` each chunk is a pair, the labels (k, share) second. It starts from the
    step that ``step()`` tells, so a resumed run goes on where it was cut; what ``changes``, names
    in ``AUGMENTATIONS``, draw depends on seed, rank and the chunk's first step alone. So do, from
    ``stochastic`` rows, the binary ones.
    """

    def __init__(
        self,
        rows: Tensor,
        labels: Tensor | None,
        order: BatchOrder,
        schedule: Schedule,
        step: Callable[[], int],
        *,
        device: torch.device,
        changes: Sequence[str] = (),
        stochastic: bool = False,
    ) -> None:
        self.rows, self.labels = rows, labels
        self.order, self.schedule, self.step = order, schedule, step
        self.device, self.changes, self.stochastic = device, changes, stochastic

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        start = self.step()
        for stop in self.schedule.chunk_ends(start):
            index = self.order.indices(start, stop)
            rows = self.changed(gather(self.rows, index).to(self.device), start)
            yield rows if self.labels is None else (rows, gather(self.labels, index))
            start = stop

    def changed(self, chunk: Tensor, start: int) -> Tensor:
        """The chunk (k, share, *event) that starts at a step, with the random changes."""
        if not (self.changes or self.stochastic):
            return chunk
        seed = mix(self.order.seed, AUGMENT, start, self.order.rank)
        generator = torch.Generator(chunk.device).manual_seed(seed)
        if self.changes:
            chunk = augment(chunk.flatten(0, 1), self.changes, generator).view_as(chunk)
        return binarize(chunk, generator) if self.stochastic else chunk


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """The rows (*index.shape, *event) of (N, *event) that an index of any shape names."""
    flat = index.flatten().to(rows.device)
    return rows.index_select(0, flat).view(*index.shape, *rows.shape[1:])


class RowLoader:
    """The rows of a split once, in order, in batches as large as ``batch_size``.

    Of several ranks each takes every world_size-th batch, whole, so that a batch is the same
    however many there are, and so is what is drawn or solved for it.
    """

    def __init__(self, rows: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        n_batches = -(-len(self.rows) // self.batch_size)
        return len(range(self.rank, n_batches, self.world_size))

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.rows.split(self.batch_size)[self.rank :: self.world_size])
