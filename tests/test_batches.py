"""The order of the batches is a pure function of seed, epoch and rank; a resume needs no state."""

import numpy as np
import pytest
import torch
from harness import Rows, normal_rows
from hypothesis import given
from hypothesis import strategies as st

from nfbench.data.base import DataModule
from nfbench.data.batches import BatchOrder, RowLoader, permutation
from nfbench.errors import UsageError
from nfbench.schedule import Schedule

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 40)).map(
    lambda t: (t[0] * t[1] + t[2], t[0] * t[1], t[1])  # rows, batch size, ranks
)


def numbered(n: int) -> Rows:
    """Rows that hold their own number."""
    rows = np.arange(n, dtype=np.float32)[:, None].repeat(2, 1)
    return Rows.of(rows, rows[:5], rows[:3])


def data_module(n: int, schedule: Schedule, start: int = 0, batch_size: int = 4) -> DataModule:
    data = DataModule(numbered(n), batch_size=batch_size, seed=3)
    data.setup()
    data.schedule, data.step = schedule, lambda: start
    return data


@given(SIZES, st.integers(0, 2**40), st.integers(0, 100))
def test_an_epoch_visits_each_row_at_most_once_over_all_ranks(
    sizes: tuple[int, int, int], seed: int, epoch: int
) -> None:
    n, batch_size, world_size = sizes
    orders = [BatchOrder(n, batch_size, seed, rank, world_size) for rank in range(world_size)]
    seen = torch.cat([order.epoch(epoch).flatten() for order in orders]).tolist()
    assert len(seen) == len(set(seen)) == orders[0].steps_per_epoch * batch_size
    assert n - len(seen) < batch_size
    assert set(seen) <= set(range(n))


@given(SIZES, st.integers(0, 2**40), st.integers(0, 60), st.integers(0, 60))
def test_the_order_depends_on_nothing_but_seed_epoch_and_rank(
    sizes: tuple[int, int, int], seed: int, start: int, more: int
) -> None:
    n, batch_size, world_size = sizes
    order = BatchOrder(n, batch_size, seed, world_size - 1, world_size)
    step_by_step = [order.indices(t, t + 1) for t in range(start, start + more + 1)]
    permutation.cache_clear()
    torch.manual_seed(start)
    again = BatchOrder(n, batch_size, seed, world_size - 1, world_size)
    assert torch.equal(again.indices(start, start + more + 1), torch.cat(step_by_step))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [BatchOrder(100, 10, seed).epoch(epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 9


def test_the_ranks_share_out_the_batches_of_one_process() -> None:
    one = BatchOrder(101, 12, 5)
    three = [BatchOrder(101, 12, 5, rank, 3) for rank in range(3)]
    assert one.steps_per_epoch == three[0].steps_per_epoch == 8
    together = torch.cat([order.indices(0, 20) for order in three], dim=1)
    assert torch.equal(together, one.indices(0, 20))


def test_the_ragged_end_of_an_epoch_is_dropped_and_is_others_each_time() -> None:
    order = BatchOrder(10, 4, 0)
    left_out = [set(range(10)) - set(order.epoch(e).flatten().tolist()) for e in range(8)]
    assert {len(rows) for rows in left_out} == {2}
    assert len({frozenset(rows) for rows in left_out}) > 1


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_a_batch_that_cannot_be_filled_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match=f"batch_size: expected 1 to 10 rows, got {batch_size}"):
        BatchOrder(10, batch_size, 0)


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected a multiple of the 2 processes .* got 5"):
        BatchOrder(10, 5, 0, 0, 2)


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 40))
def test_chunks_are_the_batches_one_after_the_other_from_any_step(
    chunk: int, validate_every: int, start: int
) -> None:
    schedule = Schedule(5, None, validate_every, chunk)
    data = data_module(23, schedule, start)
    chunks = list(data.train_dataloader())
    batches = torch.cat(chunks)
    stop = start + len(batches)
    assert [len(c) for c in chunks] == np.diff([start, *schedule.chunk_ends(start)]).tolist()
    assert stop % validate_every == 0
    assert batches.shape == (stop - start, 4, 2)
    assert torch.equal(batches[..., 0].long(), data.order.indices(start, stop))


def test_a_resume_sees_the_tail_of_what_an_uncut_run_sees() -> None:
    schedule = Schedule(5, 30, 12, 5)
    whole = torch.cat(list(data_module(23, schedule).train_dataloader()))
    for start in (1, 5, 10, 11):
        tail = torch.cat(list(data_module(23, schedule, start).train_dataloader()))
        assert torch.equal(tail, whole[start:])


def test_evaluation_sees_every_row_once_and_in_order() -> None:
    rows = torch.arange(17)
    loader = RowLoader(rows, 5)
    assert len(loader) == len(list(loader)) == 4
    assert torch.equal(torch.cat(list(loader)), rows)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_evaluation_deals_whole_batches_out_to_the_ranks(world_size: int) -> None:
    rows = torch.arange(17)
    loaders = [RowLoader(rows, 5, rank, world_size) for rank in range(world_size)]
    dealt = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(batches) for batches in dealt]
    for i, batch in enumerate(rows.split(5)):
        assert torch.equal(dealt[i % world_size].pop(0), batch)
    assert not any(dealt)


def test_training_needs_a_schedule() -> None:
    data = DataModule(normal_rows(), batch_size=4)
    data.setup()
    with pytest.raises(ValueError, match="schedule: expected"):
        data.train_dataloader()
