"""When things happen in a run is a pure function of the step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfbench.errors import UsageError
from nfbench.schedule import Schedule

SCHEDULES = st.builds(
    Schedule,
    steps_per_epoch=st.just(10),
    max_steps=st.none() | st.integers(0, 200),
    validate_every=st.integers(1, 60),
    chunk=st.integers(1, 70),
)


def make(**settings: object) -> Schedule:
    return Schedule(**{"steps_per_epoch": 10, "max_steps": 100, "validate_every": 10, **settings})


@given(SCHEDULES, st.integers(0, 250))
def test_chunks_end_at_the_next_validation_or_at_the_end(schedule: Schedule, start: int) -> None:
    ends = list(schedule.chunk_ends(start))
    if schedule.ends_at(start):
        assert ends == []
        return
    assert ends[0] > start
    assert all(0 < b - a <= schedule.chunk for a, b in zip([start, *ends], ends, strict=False))
    assert schedule.validates_at(ends[-1])
    assert not any(schedule.validates_at(step) for step in range(start + 1, ends[-1]))
    assert schedule.max_steps is None or ends[-1] <= schedule.max_steps


@given(SCHEDULES, st.integers(0, 200), st.data())
def test_a_resume_at_a_chunk_end_meets_the_same_chunk_ends(
    schedule: Schedule, start: int, data: st.DataObject
) -> None:
    ends = list(schedule.chunk_ends(start))
    if len(ends) > 1:
        cut = data.draw(st.integers(0, len(ends) - 2))
        assert list(schedule.chunk_ends(ends[cut])) == ends[cut + 1 :]


def test_a_run_validates_at_its_interval_and_at_its_end() -> None:
    schedule = make(max_steps=25)
    assert [step for step in range(1, 26) if schedule.validates_at(step)] == [10, 20, 25]
    assert [schedule.ends_at(step) for step in (24, 25, 26)] == [False, True, True]


def test_a_run_without_max_steps_has_no_end() -> None:
    assert not make(max_steps=None).ends_at(10**9)


def test_the_constant_rate_is_constant() -> None:
    assert {make(learning_rate=0.3).rate(step) for step in range(101)} == {0.3}


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [make(learning_rate=0.4, warmup_steps=4).rate(step) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_the_cosine_falls_from_the_peak_to_zero() -> None:
    rates = [make(learning_rate=2.0, shape="cosine").rate(step) for step in range(101)]
    assert rates[0] == 2.0
    assert rates[50] == pytest.approx(1.0)
    assert rates[25] == pytest.approx(1 + math.sqrt(0.5))
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert rates == sorted(rates, reverse=True)


def test_the_exponential_falls_by_its_factor_after_each_epoch() -> None:
    schedule = make(learning_rate=2.0, shape="exponential", decay_per_epoch=0.5)
    rates = [schedule.rate(step) for step in range(35)]
    assert rates == [2.0] * 10 + [1.0] * 10 + [0.5] * 10 + [0.25] * 5


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shape": "cosin"}, "constant, cosine, exponential, plateau; got 'cosin'"),
        ({"shape": "cosine", "max_steps": None}, "max_steps"),
        ({"validate_every": 0}, "training.validate_every: expected a positive number of steps"),
        ({"chunk": 0}, "training.chunk: expected a positive number of steps"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make(**settings)
