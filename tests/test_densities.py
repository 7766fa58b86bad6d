"""Every flow integrates to one, and its samples are of its density."""

import math

import pytest
import torch
from flow_cases import cases, context, random_flow
from torch import Tensor

pytestmark = pytest.mark.usefixtures("float64")

STEP = {1: 1e-3, 2: 0.06}  # of a grid, by dimension


def grid(half_width: float, step: float, features: int) -> Tensor:
    """The middles of the cells that fill [-half_width, half_width]^features."""
    middles = torch.arange(-half_width + step / 2, half_width, step)
    return torch.cartesian_prod(*[middles] * features).reshape(-1, features)


@cases(1, 2)
def test_mass_is_one_and_samples_are_of_the_density(
    name: str, features: int, n_context: int
) -> None:
    """The mean log-density of the samples is minus the entropy, which quadrature gives."""
    flow, given = random_flow(name, features, n_context, spread=0.4), context(1, n_context)

    def rows(n: int) -> Tensor | None:
        return None if given is None else given.expand(n, -1)

    with torch.no_grad():
        samples = flow.sample(20_000, rows(20_000))
        center, spread = samples.mean(0), samples.std(0)
        # In units of the samples' spread, so that the cells suit any density.
        points = grid(12.0, STEP[features], features)
        log_density = flow.log_prob(center + points * spread, rows(len(points)))
        cell = STEP[features] ** features * spread.prod()
        weights = log_density.exp() * cell
        assert weights.sum().item() == pytest.approx(1, abs=2e-3)
        scores = flow.log_prob(samples, rows(20_000))
    entropy = -(weights * log_density.clamp(min=-1e3)).sum()
    assert abs(scores.mean() + entropy) < 4 * scores.std() / math.sqrt(20_000) + 2e-3
