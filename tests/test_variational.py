"""Learned noise has the density it says; bounds of many draws rise to the probability."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import check_gradients, close, jacobians, randomize
from torch import Tensor

from nfbench.distributions.base import StandardNormal
from nfbench.flows.flow import Flow
from nfbench.flows.maf import maf
from nfbench.flows.preprocessed import Preprocessed
from nfbench.metrics import bits_per_dim
from nfbench.objectives import maximum_likelihood
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.rescale import Rescale
from nfbench.transforms.reshape import Flatten
from nfbench.transforms.variational import VariationalDequantize, noise_flow

pytestmark = pytest.mark.usefixtures("float64")

TINY = (1, 2, 2)
SHAPES = pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 3), (6,)], ids=str)


def variational(shape: tuple[int, ...], levels: int, spread: float = 0.2) -> VariationalDequantize:
    """With random weights, so that its noise depends on the image."""
    transform = VariationalDequantize(levels, noise_flow(shape, layers=3, hidden=8))
    randomize(transform, spread)
    return transform


@SHAPES
def test_the_density_of_learned_noise_is_that_of_autograd(shape: tuple[int, ...]) -> None:
    """``log q = log N(eps) - log|det du/deps|`` and ``log_det = -log q - D log(levels)``."""
    levels, n, d = 7, 4, math.prod(shape)
    dequantize = variational(shape, levels)
    x = torch.randint(levels, (n, *shape))
    torch.manual_seed(1)
    eps = torch.randn(n, *shape)
    image = x / (levels - 1) - 0.5

    def noise(eps: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-1.702 * dequantize.flow(eps, image)[0]))

    log_q = torch.distributions.Normal(0.0, 1.0).log_prob(eps).flatten(1).sum(1)
    log_q = log_q - torch.linalg.slogdet(jacobians(noise, eps)).logabsdet
    torch.manual_seed(1)
    z, log_det = dequantize(x)
    close(z, (x + noise(eps)) / levels)
    close(log_det, -log_q - d * math.log(levels))
    check_gradients(dequantize, z.square().sum() + log_det.square().sum())


@SHAPES
def test_learned_noise_stays_in_its_cell_and_depends_on_image_and_seed(
    shape: tuple[int, ...],
) -> None:
    levels = 5
    dequantize = variational(shape, levels, spread=5.0).float()  # far out on both sides
    x = torch.randint(levels, (2000, *shape), dtype=torch.uint8)
    z, log_det = dequantize(x)
    assert z.dtype == log_det.dtype == torch.float32
    assert z.min() >= 0
    assert z.max() < 1
    assert log_det.isfinite().all()
    back, _ = dequantize.inverse(z)
    assert torch.equal(back, x.float())
    assert dequantize.inverse(torch.tensor([-0.1, 2.0]))[0].tolist() == [0, 4]
    draws = []
    for seed, image in ((3, x), (3, x), (4, x), (3, 4 - x)):
        torch.manual_seed(seed)
        draws.append(dequantize.noise(image.float())[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])


def test_learned_noise_is_nearly_uniform_before_training() -> None:
    """0.02 bits, where a plain sigmoid of a standard normal would lose 0.28."""
    dequantize = VariationalDequantize(256, noise_flow((4000,), layers=2, hidden=4))
    x = torch.randint(256, (50, 4000))
    with torch.no_grad():
        z, log_det = dequantize(x)
    assert bits_per_dim(log_det.mean().item(), 4000) == pytest.approx(8, abs=0.02)
    u = (z * 256 - x).flatten().sort().values
    assert (u - (torch.arange(len(u)) + 0.5) / len(u)).abs().max() < 0.015


def test_learned_noise_needs_vectors_or_images() -> None:
    with pytest.raises(ValueError, match=r"expected data \(D,\) or \(C, H, W\) .* got \(4, 4\)"):
        noise_flow((4, 4), layers=1, hidden=4)


def tiny_density() -> Flow:
    """A smooth density of four dependent dimensions, most of it on the unit cube."""
    flow = maf((4,), layers=2, hidden=(6,), activation="tanh", batch_norm=False)
    randomize(flow, spread=0.4)
    return Flow(flow.base, Compose([Rescale(shift=0.5), Scaled(4.0), flow.transform])).eval()


class Scaled(Transform):
    """z = factor x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.factor * x, x.new_full((len(x),), x[0].numel() * math.log(self.factor))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z / self.factor, z.new_full((len(z),), -z[0].numel() * math.log(self.factor))


@torch.no_grad()
def exact_log_probabilities(density: Flow, every: Tensor) -> Tensor:
    """The integral of the density over the cells of images of two levels, by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    points = torch.cartesian_prod(*[torch.from_numpy(nodes + 1) / 4] * 4)  # of [0, 1/2]
    weight = torch.cartesian_prod(*[torch.from_numpy(weights) / 4] * 4).prod(1)
    cells = [density.log_prob(image / 2 + points).exp() @ weight for image in every.flatten(1)]
    return torch.stack(cells).log()


@pytest.mark.parametrize(
    "noise",
    [lambda: Dequantize(2), lambda: variational(TINY, 2, spread=0.08)],
    ids=["uniform", "variational"],
)
def test_bounds_rise_to_the_probability_of_the_image(noise: Callable[[], Transform]) -> None:
    """The mean over the noise of p(x + u) / q(u|x) is the integral of p over the pixels' cells."""
    density = tiny_density()
    model = Preprocessed(Compose([noise(), Flatten(TINY)]), density)
    every = torch.cartesian_prod(*[torch.arange(2)] * 4).reshape(16, *TINY)
    exact = exact_log_probabilities(density, every)
    assert 0.3 < exact.exp().sum() < 1  # the rest of the mass is outside the cube
    n = 5_000
    with torch.no_grad():
        draws = model.log_prob(every.repeat(n, 1, 1, 1)).reshape(n, 16)
    weights = (draws - exact).exp()
    assert ((weights.mean(0) - 1).abs() < 4.5 * weights.std(0) / n**0.5).all()
    assert (weights.std(0) / n**0.5).max() < 0.08
    loss = exact - draws.mean(0)
    assert (loss > 4 * draws.std(0) / n**0.5).all()
    ten = model.bound(every.repeat(250, 1, 1, 1), 10).reshape(250, 16).mean(0)
    assert (ten < exact + 0.02).all()
    assert ((exact - ten) < 0.5 * loss).all()


def test_trained_noise_gives_a_tighter_bound_than_uniform_noise() -> None:
    """Where the density is high at one end of each cell, the one that depends on the pixel."""
    shape, d = (1, 4, 4), 16
    density = Flow(StandardNormal(shape), Compose([Rescale(shift=0.5), Scaled(8.0)]))
    inside = math.erf(4 / math.sqrt(2))  # of a dimension's mass, in two equal halves
    exact = -math.log2(inside / 2)
    dequantize = VariationalDequantize(2, noise_flow(shape, layers=2, hidden=8))
    model = Preprocessed(Compose([dequantize]), density)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        maximum_likelihood(model, torch.randint(2, (64, *shape))).backward()
        optimizer.step()
    x = torch.randint(2, (2000, *shape))
    with torch.no_grad():
        learned = -model.log_prob(x) / d / math.log(2)
        uniform = -Preprocessed(Compose([Dequantize(2)]), density).log_prob(x) / d / math.log(2)
    error = 4 * learned.std() / 2000**0.5
    assert uniform.mean() > exact + 1.5
    assert exact - error < learned.mean() < exact + 0.15


def rows(n: int = 600, levels: int = 2) -> Tensor:
    return torch.randint(levels, (n, *TINY), dtype=torch.uint8)


def test_one_draw_is_the_plain_bound() -> None:
    model = Preprocessed(Compose([variational(TINY, 2), Flatten(TINY)]), tiny_density())
    x = rows()
    torch.manual_seed(6)
    with torch.no_grad():
        plain = torch.cat([model.log_prob(each) for each in x.split(400)])
    torch.manual_seed(6)
    assert torch.equal(model.bound(x, 1), plain)


@pytest.mark.parametrize("learned", [False, True])
def test_more_draws_give_a_tighter_and_steadier_bound(learned: bool) -> None:
    noise = variational(TINY, 2) if learned else Dequantize(2)
    model = Preprocessed(Compose([noise, Flatten(TINY)]), tiny_density())
    x = rows()
    found = [torch.stack([model.bound(x, draws) for _ in range(6)]) for draws in (1, 4, 16)]
    for few, many in pairwise(found):
        gain = (many - few).mean(0)
        assert gain.mean() > 4 * gain.std() / len(x) ** 0.5
        assert many.var(0).mean() < 0.6 * few.var(0).mean()
