"""Energies of the plane: their values, integrals and samples, and flows fitted to them."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad
from torch import Tensor

from nfbench.data import DATA
from nfbench.data.energies import BOX, NODES, Energy, log_integral
from nfbench.density import DensityModel
from nfbench.distributions.base import StandardNormal
from nfbench.flows import FLOWS
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.objectives import check_reverse_kl, reverse_kl
from nfbench.transforms.base import Compose
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.rescale import Rescale
from nfbench.transforms.scaling import DiagonalScaling

NAMES = [name for name, dataset in DATA.items() if isinstance(dataset, Energy)]
each = pytest.mark.parametrize("name", NAMES)
N_SAMPLES = 40_000
MEAN, VARIANCE, LOG_SCALE = (0.5, -1.0), 0.7, (0.3, -0.2)  # of a normal target, and of a flow


def energy_of(name: str) -> Energy:
    energy = DATA[name]
    assert isinstance(energy, Energy)
    return energy


def bump(x: float, center: float, width: float) -> float:
    return math.exp(-0.5 * ((x - center) / width) ** 2)


def u1(x: float, y: float) -> float:
    ring = 0.5 * ((math.hypot(x, y) - 2) / 0.4) ** 2
    return ring - math.log(bump(x, 2, 0.6) + bump(x, -2, 0.6))


def u2(x: float, y: float) -> float:
    return 0.5 * ((y - math.sin(2 * math.pi * x / 4)) / 0.4) ** 2


def u3(x: float, y: float) -> float:
    w1, w2 = math.sin(2 * math.pi * x / 4), 3 * bump(x, 1, 0.6)
    return -math.log(bump(y, w1, 0.35) + bump(y, w1 - w2, 0.35))


def u4(x: float, y: float) -> float:
    w1, w3 = math.sin(2 * math.pi * x / 4), 3 / (1 + math.exp(-(x - 1) / 0.3))
    return -math.log(bump(y, w1, 0.4) + bump(y, w1 - w3, 0.35))


FORMULAS: dict[str, Callable[[float, float], float]] = {"u1": u1, "u2": u2, "u3": u3, "u4": u4}


def walled(name: str, x: float, y: float) -> float:
    """U and the wall, one point at a time."""
    beyond = [max(abs(side) - 4, 0) / 0.1 for side in (x, y)]
    return FORMULAS[name](x, y) + 0.5 * (beyond[0] ** 2 + beyond[1] ** 2)


def spread(n: int, reach: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-reach, reach, (n, 2))


def test_there_are_four() -> None:
    assert list(FORMULAS) == NAMES


@each
def test_energies_are_the_papers_behind_a_wall(name: str) -> None:
    points = spread(500, 4.6)
    expected = [walled(name, x, y) for x, y in points.tolist()]
    np.testing.assert_allclose(energy_of(name).energy(points), expected, rtol=1e-10, atol=1e-10)


@each
def test_numpy_and_torch_agree(name: str) -> None:
    points = spread(500, 6.0)
    energy = energy_of(name)
    values = energy.energy(points)
    found = energy.energy(torch.from_numpy(points), torch)
    np.testing.assert_allclose(found.numpy(), values, rtol=1e-12, atol=1e-12)
    single = energy.energy(torch.from_numpy(points).float(), torch)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), values, rtol=2e-5, atol=2e-5)


@each
def test_slopes_are_those_of_differences(name: str) -> None:
    points = torch.from_numpy(spread(20, 4.5)).requires_grad_()
    energy = energy_of(name)
    assert torch.autograd.gradcheck(lambda z: energy.energy(z, torch), points)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_slopes_are_finite_everywhere(name: str, dtype: torch.dtype) -> None:
    far = [0.0, 1e-20, -1e-7, 1.0, 2.0, -2.0, 4.0, -4.0, 30.0, -200.0, 1e6, -1e6]
    points = torch.cartesian_prod(*[torch.tensor(far, dtype=dtype)] * 2).requires_grad_()
    values = energy_of(name).energy(points, torch)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    assert values.isfinite().all()
    assert slopes.isfinite().all()


@each
def test_the_integral_is_that_of_adaptive_quadrature(name: str) -> None:
    edges = (-4.6, -4.0, 0.0, 4.0, 4.6)  # the wall is smooth between these
    total = sum(
        dblquad(lambda y, x: math.exp(-walled(name, x, y)), *across, *along, epsabs=1e-6)[0]
        for across in pairwise(edges)
        for along in pairwise(edges)
    )
    assert energy_of(name).log_normalizer == pytest.approx(math.log(total), abs=3e-6)


@each
def test_half_the_step_changes_no_integral(name: str) -> None:
    energy = energy_of(name)
    finer = log_integral(energy, 2 * NODES - 1)
    assert energy.log_normalizer == pytest.approx(finer, abs=1e-7)
    assert energy.log_normalizer is energy.log_normalizer


@each
def test_nothing_is_beyond_the_box(name: str) -> None:
    edge = np.linspace(-BOX, BOX, 1001)
    sides = [np.stack([edge, np.full_like(edge, s)], 1) for s in (-BOX, BOX)]
    rim = np.concatenate([*sides, *(side[:, ::-1] for side in sides)])
    assert energy_of(name).energy(rim).min() > 49


@each
def test_no_energy_is_below_the_least_that_sampling_takes_it_for(name: str) -> None:
    axis = np.linspace(-4, 4, 801)
    values = energy_of(name).energy(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    assert 0 <= values.min() - energy_of(name).LEAST < 0.01


@each
def test_moments_of_samples_are_those_of_quadrature(name: str) -> None:
    energy = energy_of(name)
    axis = np.linspace(-BOX, BOX, 401)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    weights = np.exp(energy.density(points)) * (axis[1] - axis[0]) ** 2
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    samples = energy.sample(N_SAMPLES, np.random.default_rng(3))

    def moments(z: np.ndarray) -> np.ndarray:
        """Means, second and third moments, and the part to the right of each axis."""
        x, y = z.T
        return np.stack([x, y, x * x, x * y, y * y, x**3, y**3, x * y * y, x > 0, y > 0.5])

    found, expected = moments(samples), moments(points) @ weights
    error = found.std(1) / N_SAMPLES**0.5
    cells = np.array([0.0] * 8 + [0.01, 0.01])  # half of a cell is on the wrong side of an edge
    assert (abs(found.mean(1) - expected) < 4.5 * error + cells + 1e-6).all()


def test_samples_depend_on_nothing_but_the_generator() -> None:
    energy = energy_of("u4")
    first, again, other = (energy.sample(100, np.random.default_rng(s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first, other).any()
    assert energy.sample(0, np.random.default_rng(0)).shape == (0, 2)


def normal(z: Tensor) -> Tensor:
    """The energy of N(MEAN, VARIANCE I) without its normalizer."""
    return ((z - torch.tensor(MEAN)) ** 2).sum(1) / (2 * VARIANCE)


def scaling() -> Flow:
    """Samples N(0, diag exp(-2 s))."""
    transform = DiagonalScaling(2)
    with torch.no_grad():
        next(transform.parameters()).copy_(torch.tensor(LOG_SCALE))
    return Flow(StandardNormal([2]), transform)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_loss_is_the_mean_over_samples_of_the_flow(beta: float) -> None:
    flow = scaling()
    (s,) = flow.parameters()
    torch.manual_seed(7)
    loss = reverse_kl(flow, torch.zeros(50, 2), None, beta, energy=normal)
    (slope,) = torch.autograd.grad(loss, s)
    torch.manual_seed(7)
    z = torch.randn(50, 2)
    scale = torch.tensor(LOG_SCALE)
    x = z * torch.exp(-scale)
    log_q = -0.5 * (z**2).sum(1) - math.log(2 * math.pi) + scale.sum()
    assert loss.item() == pytest.approx((log_q + beta * normal(x)).mean().item(), rel=1e-12)
    push = beta * ((x - torch.tensor(MEAN)) / VARIANCE * x).mean(0)
    torch.testing.assert_close(slope, 1 - push, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_loss_is_the_divergence_less_the_normalizer() -> None:
    flow = scaling()
    torch.manual_seed(0)
    losses = torch.stack(
        [reverse_kl(flow, torch.zeros(1000, 2), energy=normal).detach() for _ in range(100)]
    )
    variances = [math.exp(-2 * s) for s in LOG_SCALE]
    divergence = 0.5 * sum(
        (v + m * m) / VARIANCE - 1 + math.log(VARIANCE / v)
        for v, m in zip(variances, MEAN, strict=True)
    )
    log_normalizer = math.log(2 * math.pi * VARIANCE)
    error = losses.std().item() / 10
    assert losses.mean().item() == pytest.approx(divergence - log_normalizer, abs=4 * error)


@pytest.mark.usefixtures("float64")
def test_the_least_loss_is_at_the_target() -> None:
    flow = scaling()
    (s,) = flow.parameters()
    optimizer = torch.optim.Adam([s], lr=0.05)
    torch.manual_seed(0)
    for _ in range(100):
        optimizer.zero_grad()
        reverse_kl(flow, torch.zeros(2000, 2), energy=lambda z: (z**2).sum(1) / 0.5).backward()
        optimizer.step()
    np.testing.assert_allclose(torch.exp(-s).tolist(), [0.5, 0.5], rtol=0.02)


@pytest.mark.parametrize("name", ["planar", "radial", "nice", "realnvp", "iaf", "nsf", "glow"])
def test_flows_without_statistics_of_data_are_trained_from_samples(name: str) -> None:
    small: dict[str, dict[str, Any]] = {
        "realnvp": {"hidden": [8], "batch_norm": False},
        "iaf": {"hidden": [8], "layers": 2},
        "nice": {"hidden": [8]},
        "nsf": {"hidden": 8, "layers": 2},
        "glow": {"hidden": [8], "layers": 2},
    }
    flow = FLOWS[name]([2], **small.get(name, {}))
    energy = energy_of("u1")
    check_reverse_kl(flow, energy=normal)
    torch.manual_seed(0)
    loss = reverse_kl(flow, torch.zeros(64, 2), energy=lambda z: energy.energy(z, torch))
    loss.backward()  # type: ignore[no-untyped-call]
    slopes = [parameter.grad for parameter in flow.parameters()]
    assert all(slope is not None and slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("name", ["gaussian", "maf", "maf_mog", "realnvp"])
def test_flows_with_statistics_of_data_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="without statistics"):
        check_reverse_kl(FLOWS[name]([2]), energy=normal)


def refused() -> dict[str, tuple[DensityModel, str]]:
    flow = FLOWS["nice"]([2], hidden=[8])
    of_classes = FLOWS["nice"]([2], context_features=3, hidden=[8])
    rescaled = Preprocessed(Compose([Rescale(2.0, 0.0)]), flow)
    bound = Flow(StandardNormal([2]), Compose([Dequantize(4), flow.transform]))
    mixture = FLOWS["maf_mog"]([2], hidden=[8], layers=1, components=2, batch_norm=False)
    return {
        "preprocessed": (rescaled, "plain flow, .* got Preprocessed"),
        "classes": (ClassConditional(of_classes, 3), "plain flow, .* got ClassConditional"),
        "statistics": (FLOWS["realnvp"]([2], hidden=[8]), "without statistics of data"),
        "bound": (bound, "got a bound"),
        "mixture": (mixture, "base without parameters, .* got AutoregressiveMixture"),
    }


@pytest.mark.parametrize("case", ["preprocessed", "classes", "statistics", "bound", "mixture"])
def test_models_whose_samples_teach_nothing_are_refused(case: str) -> None:
    model, message = refused()[case]
    with pytest.raises(ValueError, match=message):
        check_reverse_kl(model, energy=normal)
