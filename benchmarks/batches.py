"""Batches of data in memory, whole epochs of them: chunked gathers against a DataLoader."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.timing import Comparison, Pace, command, interleave, verdict
from nfbench.data.batches import BatchOrder, ChunkLoader
from nfbench.schedule import Schedule

POWER = (1_659_917, 6)
BATCH, CHUNK = 100, 64


def chunked(rows: Tensor) -> Callable[[], None]:
    """Epoch after epoch as a run draws them: a fresh permutation, chunks, minibatches."""
    order = BatchOrder(len(rows), BATCH, seed=0)
    schedule = Schedule(
        order.steps_per_epoch, None, validate_every=order.steps_per_epoch, chunk=CHUNK
    )
    epochs = count()

    def epoch() -> None:
        start = next(epochs) * order.steps_per_epoch
        n = sum(
            1
            for chunk in ChunkLoader(
                rows, None, order, schedule, lambda: start, device=rows.device
            )
            for _ in chunk.unbind(0)
        )
        check(n, order.steps_per_epoch)

    return epoch


def loop(batches: Callable[[], Iterator[object]], n_batches: int) -> Callable[[], None]:
    """One epoch of an ordinary loop."""

    def epoch() -> None:
        check(sum(1 for _ in batches()), n_batches)

    return epoch


def gathers(rows: Tensor) -> Iterator[Tensor]:
    """A permutation of the rows, gathered a batch at a time."""
    order = torch.randperm(len(rows))
    for start in range(0, len(rows) - BATCH + 1, BATCH):
        yield rows.index_select(0, order[start : start + BATCH])


def check(n: int, expected: int) -> None:
    """Refuse to compare epochs of unequal length."""
    if n != expected:
        raise ValueError(f"epoch: expected {expected} batches, got {n}")


def compare(quick: bool) -> list[Comparison]:
    """Time whole epochs; report seconds per batch."""
    rows = torch.randn(POWER[0] // 20 if quick else POWER[0], POWER[1])
    dataset, n_batches = TensorDataset(rows), len(rows) // BATCH
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
    sampler = BatchSampler(RandomSampler(dataset), BATCH, drop_last=True)
    lists = DataLoader(dataset, sampler=sampler, batch_size=None)
    ours, theirs = "nfbench, chunks of 64", "DataLoader(shuffle=True)"
    epochs = {
        ours: chunked(rows),
        "index_select per batch": loop(lambda: gathers(rows), n_batches),
        "DataLoader(BatchSampler)": loop(lambda: iter(lists), n_batches),
        theirs: loop(lambda: iter(loader), n_batches),
    }
    seconds = interleave(epochs, Pace.of(quick, 5, 0), work=n_batches)
    result = Comparison(
        f"{len(rows):,} x {POWER[1]} float32, batch {BATCH}, whole epochs, per batch",
        theirs,
        "us",
        seconds,
        {
            ours: "the permutation, the gathers and the unbinding into minibatches",
            "DataLoader(BatchSampler)": "batch_size=None: a whole batch is one item",
            theirs: "TensorDataset, no workers: the usual way",
        },
    )
    faster = 1 / result.ratio(ours)
    target = verdict(
        f"at least 10 times the DataLoader's batches per second ({faster:.0f} times)", faster >= 10
    )
    return [replace(result, target=target)]


if __name__ == "__main__":
    command("batches", "Batches from memory", compare)()
