"""Means and standard errors of per-example log-likelihoods, and bits per dimension."""

import math

import numpy as np
import pytest
import torch

from nfbench.metrics import bits_per_dim, log_mean_exp, summarize


def test_summary_is_that_of_numpy() -> None:
    values = torch.randn(1000, dtype=torch.float64) * 3 - 100
    summary = summarize(values)
    assert summary.n == 1000
    assert summary.mean == pytest.approx(np.mean(values.numpy()), rel=1e-12)
    assert summary.se == pytest.approx(np.std(values.numpy(), ddof=1) / np.sqrt(1000), rel=1e-12)


def test_sums_are_in_float64() -> None:
    values = torch.full((3_000_000,), 0.1, dtype=torch.float32)
    exact = np.float64(np.float32(0.1))
    assert summarize(values).mean == pytest.approx(exact, rel=1e-12)
    assert summarize(values).se < 1e-12


def test_order_and_batches_do_not_matter() -> None:
    values = torch.randn(1001) * 50
    shuffled = values[torch.randperm(1001)]
    assert summarize(shuffled).mean == pytest.approx(summarize(values).mean, rel=1e-12)
    assert summarize(shuffled).se == pytest.approx(summarize(values).se, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_spoils_the_mean(bad: float) -> None:
    values = torch.zeros(100)
    values[17] = bad
    assert not math.isfinite(summarize(values).mean)


def test_one_example_has_no_standard_error() -> None:
    summary = summarize(torch.tensor([2.5]))
    assert (summary.mean, summary.n) == (2.5, 1)
    assert math.isnan(summary.se)


def test_no_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one example, got none"):
        summarize(torch.empty(0))


def test_bits_per_dim_divides_by_dimensions_and_log_two() -> None:
    assert bits_per_dim(-3 * math.log(2), 3) == 1
    assert bits_per_dim(-784 * math.log(256), 784) == 8
    assert bits_per_dim(10.0, 2) < 0


def test_log_mean_exp_is_that_of_numpy_in_float64() -> None:
    draws = torch.randn(50, 7, dtype=torch.float64) * 30 - 2000
    expected = np.log(np.exp(draws.numpy() + 2000).mean(0)) - 2000
    np.testing.assert_allclose(log_mean_exp(draws).numpy(), expected, rtol=1e-13)
    assert torch.equal(log_mean_exp(draws.flip(0)[:1]), draws[-1])
    assert log_mean_exp(draws.float()).dtype == torch.float64


def test_an_impossible_draw_counts_as_one_and_what_is_not_a_number_stays() -> None:
    draws = torch.tensor([[0.0, -math.inf, 0.0], [-math.inf, -math.inf, math.nan]]).double()
    result = log_mean_exp(draws)
    assert result[:2].tolist() == [pytest.approx(-math.log(2)), -math.inf]
    assert result[2].isnan()


def test_no_draws_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one, got none"):
        log_mean_exp([])
