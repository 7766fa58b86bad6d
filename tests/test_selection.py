"""The validations alone decide which weights are kept, when the rate is cut and when it ends."""

import math

import pytest

from nfbench.selection import Selection


def feed(selection: Selection, *values: float) -> list[bool]:
    return [selection.update(step, value) for step, value in enumerate(values, start=1)]


def test_the_best_is_kept_and_a_tie_is_not_an_improvement() -> None:
    selection = Selection()
    assert feed(selection, -3.0, -2.0, -2.0, -2.5, -1.0) == [True, True, False, False, True]
    assert (selection.best, selection.best_step) == (-1.0, 5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_that_is_not_finite_is_never_the_best(value: float) -> None:
    selection = Selection(patience=2)
    assert feed(selection, value, value) == [False, False]
    assert selection.best_step == 0
    assert selection.exhausted


def test_patience_counts_validations_since_the_best() -> None:
    selection = Selection(patience=2)
    feed(selection, 1.0, 0.0)
    assert not selection.exhausted
    selection.update(3, 2.0)
    selection.update(4, 1.0)
    assert not selection.exhausted
    selection.update(5, 1.0)
    assert selection.exhausted


def test_without_patience_it_never_ends() -> None:
    selection = Selection()
    feed(selection, *[0.0] * 1000)
    assert not selection.exhausted


def test_a_plateau_cuts_the_rate_once_for_each_wait() -> None:
    selection = Selection(plateau_patience=2, plateau_factor=0.1)
    rates = []
    for step, value in enumerate([1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0], start=1):
        selection.update(step, value)
        rates.append(selection.rate_factor)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001])


def test_no_plateau_patience_no_cut() -> None:
    selection = Selection()
    feed(selection, *[0.0] * 100)
    assert selection.rate_factor == 1.0


def test_its_state_is_all_there_is_to_it() -> None:
    selection = Selection(patience=3, plateau_patience=2)
    feed(selection, 1.0, 0.0, 0.0)
    assert Selection(**selection.state()) == selection
