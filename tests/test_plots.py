"""Figures show what the runs of a table left behind."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from harness import GAUSSIAN, write_table
from matplotlib.image import imread

from nfbench.cli import main
from nfbench.config import load
from nfbench.plots import gallery
from nfbench.run import run

ROW = GAUSSIAN | {"cells": {"pinwheel": {}, "digits": {"preprocess": {"dequantize": "uniform"}}}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two rows, one of which has run."""
    root = write_table(tmp_path_factory.mktemp("plots"), gaussian=ROW, other=ROW)
    for cell in ROW["cells"]:
        run(load("tiny/gaussian", cell, root=root), root=root, device="cpu")
    return root


def arrays(root: Path, cell: str) -> dict[str, np.ndarray]:
    with np.load(root / "runs" / "tiny" / "gaussian" / cell / "0" / "pictures.npz") as file:
        return dict(file)


def test_no_pictures_no_figure(tmp_path: Path) -> None:
    assert gallery("tiny", write_table(tmp_path, gaussian=ROW)) is None


def test_a_gallery_is_a_png_with_something_in_it(root: Path) -> None:
    path = gallery("tiny", root)
    assert path == root / "results" / "tiny.png"
    image = imread(path)
    assert image.ndim == 3
    assert image[..., :3].std() > 0.05
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]


def test_a_gallery_is_of_one_seed(root: Path) -> None:
    assert gallery("tiny", root, seed=1) is None


def test_plot_names_the_figure_it_drew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    shown = CliRunner().invoke(main, ["plot", "tiny"])
    assert (shown.exit_code, shown.output.strip()) == (0, str(root / "results" / "tiny.png"))


def test_the_densities_over_the_square_integrate_to_one(root: Path) -> None:
    picture = arrays(root, "pinwheel")
    area = (picture["x"][1] - picture["x"][0]) * (picture["y"][1] - picture["y"][0])
    assert np.exp(picture["true_log_density"]).sum() * area == pytest.approx(1, abs=0.01)
    assert np.exp(picture["log_density"]).sum() * area == pytest.approx(1, abs=0.05)


def test_the_samples_are_where_the_model_has_its_mass(root: Path) -> None:
    picture = arrays(root, "pinwheel")
    density = np.exp(picture["log_density"])
    mean_x = (density.sum(0) * picture["x"]).sum() / density.sum()
    assert picture["samples"].shape[1] == 2
    assert picture["samples"].mean(0)[0] == pytest.approx(mean_x, abs=0.2)


def test_sampled_images_stand_beside_real_ones(root: Path) -> None:
    picture = arrays(root, "digits")
    assert picture["samples"].shape == picture["real"].shape == (64, 1, 8, 8)
    assert picture["samples"].min() >= 0
    assert picture["samples"].max() <= 16
