"""Toy densities: of mass one, and those of the samples."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from nfbench.data import DATA, fingerprint
from nfbench.data.curves import NoisyCurves
from nfbench.data.toys import Toy, turn
from nfbench.errors import UsageError

TOYS = [name for name, dataset in DATA.items() if isinstance(dataset, Toy)]
CURVES = [name for name in TOYS if isinstance(DATA[name], NoisyCurves)]
HALF_WIDTH = 5.0
STEP = 1 / 32  # the squares of the checkerboard begin and end on the grid
N_CELLS = 32
N_ACROSS = int(2 * HALF_WIDTH / STEP)


@cache
def log_density_on_grid(name: str) -> np.ndarray:
    """At the middles of small squares over [-5, 5]^2, (N_ACROSS, N_ACROSS)."""
    middle = -HALF_WIDTH + STEP * (np.arange(N_ACROSS) + 0.5)
    points = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1).reshape(-1, 2)
    return DATA[name].log_density(points).reshape(N_ACROSS, N_ACROSS)


def test_there_are_toys() -> None:
    assert {"moons", "rings", "checkerboard", "pinwheel", "two_spirals"} < set(TOYS)


@pytest.mark.parametrize("name", TOYS)
def test_density_has_mass_one(name: str) -> None:
    assert np.exp(log_density_on_grid(name)).sum() * STEP**2 == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_samples_fill_cells_as_the_density_says(name: str) -> None:
    splits = DATA[name].load(seed=1)
    samples = np.concatenate(list(splits.arrays.values()))
    edges = np.linspace(-HALF_WIDTH, HALF_WIDTH, N_CELLS + 1)
    counts = np.histogram2d(samples[:, 0], samples[:, 1], bins=[edges, edges])[0]
    blocks = np.exp(log_density_on_grid(name)).reshape(N_CELLS, N_ACROSS // N_CELLS, N_CELLS, -1)
    expected = len(samples) * STEP**2 * blocks.sum(axis=(1, 3))
    usual = expected > 5
    chi_square = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
    n_usual = usual.sum()
    assert n_usual > 100
    assert abs(chi_square - n_usual) < 5 * np.sqrt(2 * n_usual)
    rare = expected[~usual].sum()
    assert abs(counts[~usual].sum() - rare) < 5 * np.sqrt(rare) + 1


@pytest.mark.parametrize("name", TOYS)
def test_mean_log_density_of_samples_is_minus_the_entropy(name: str) -> None:
    log_density = log_density_on_grid(name)
    density = np.exp(log_density)
    entropy = -(density * np.where(density > 0, log_density, 0)).sum() * STEP**2
    on_samples = DATA[name].log_density(DATA[name].load().train)
    error = on_samples.std() / np.sqrt(len(on_samples))
    assert on_samples.mean() == pytest.approx(-entropy, abs=5 * error + 1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_quadrature_has_converged(name: str) -> None:
    toy = DATA[name]
    assert isinstance(toy, NoisyCurves)
    x = np.random.default_rng(0).uniform(-4, 4, size=(1000, 2))
    finer = replace(toy, panels=4 * toy.panels)
    np.testing.assert_allclose(toy.log_density(x), finer.log_density(x), rtol=0, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).uniform(-4, 4, size=(1000, 2))
    whole = DATA["moons"].log_density(x)
    monkeypatch.setattr("nfbench.data.curves.CHUNK_ENTRIES", 1000)
    np.testing.assert_allclose(DATA["moons"].log_density(x), whole, rtol=1e-13)


def test_eight_gaussians_are_the_mixture_in_closed_form() -> None:
    x = np.random.default_rng(0).uniform(-4, 4, size=(100, 2))
    angle = np.arange(8) * np.pi / 4
    squares = sum((x[:, i, None] - 2.5 * f(angle)) ** 2 for i, f in enumerate((np.cos, np.sin)))
    density = (np.exp(-squares / (2 * 0.3**2)) / (2 * np.pi * 0.3**2)).mean(axis=1)
    np.testing.assert_allclose(DATA["eight_gaussians"].log_density(x), np.log(density), rtol=1e-9)


def test_no_sample_of_the_checkerboard_has_density_zero() -> None:
    board = DATA["checkerboard"]
    assert np.isfinite(board.log_density(board.load().train)).all()
    assert board.log_density(np.array([[1.0, 3.0], [1.0, 1.0], [5.0, 1.0]])).tolist() == [
        -np.inf,
        -np.log(32),
        -np.inf,
    ]


def test_turn_keeps_radii_and_adds_angles() -> None:
    quarter = turn(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([np.pi / 2, np.pi]))
    np.testing.assert_allclose(quarter, [[0, 2], [0, -1]], atol=1e-15)


@pytest.mark.parametrize("name", TOYS)
def test_splits_differ_from_each_other_and_by_seed(name: str) -> None:
    splits = DATA[name].load(seed=0)
    assert fingerprint(splits) != fingerprint(DATA[name].load(seed=1))
    assert not np.isin(splits.val[:, 0], splits.train[:, 0]).all()
    assert np.abs(splits.train).max() < 5


@pytest.mark.parametrize("name", TOYS)
def test_log_density_is_double_precision_whatever_comes_in(name: str) -> None:
    x = DATA[name].load().test[:10]
    log_density = DATA[name].log_density(x)
    assert log_density.shape == (10,)
    assert log_density.dtype == np.float64
    assert DATA[name].log_density(x[:0]).shape == (0,)
    with pytest.raises(UsageError, match=r"\(n, 2\), got \(10, 3\)"):
        DATA[name].log_density(np.zeros((10, 3)))
