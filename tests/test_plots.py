"""Figures show what the runs of a table left behind."""

import io
import json
import logging
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from harness import GAUSSIAN, MAF, Location, changed, normal_rows, write_table
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from nfbench import figures, plots, record
from nfbench.catalog import load_table
from nfbench.cli import main
from nfbench.config import load
from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flows import FLOWS
from nfbench.pictures import save_pictures
from nfbench.plots import gallery, plot
from nfbench.run import run
from nfbench.signals import InterruptedRunError
from nfbench.stamp import outdated, stamp

ROW = GAUSSIAN | {"cells": {"pinwheel": {}, "digits": {"preprocess": {"dequantize": "uniform"}}}}
TRAINED = changed(MAF, training={"max_steps": 40}, flow={"layers": 9, "batch_norm": False})
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of three rows, two of which have run."""
    root = write_table(tmp_path_factory.mktemp("plots"), gaussian=ROW, other=ROW, maf=TRAINED)
    for row, cell in (("gaussian", "pinwheel"), ("gaussian", "digits"), ("maf", "pinwheel")):
        run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")
    return root


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the package logs as warnings."""
    with caplog.at_level(logging.WARNING, logger="nfbench"):
        yield caplog


def arrays(root: Path, cell: str, row: str = "gaussian") -> dict[str, np.ndarray]:
    with np.load(root / "runs" / "tiny" / row / cell / "0" / "pictures.npz") as file:
        return dict(file)


def saved(model: DensityModel, **options: int) -> dict[str, np.ndarray]:
    """The pictures of a model beside normal rows."""
    data = DataModule(normal_rows(**options), batch_size=10)
    data.setup()
    file = io.BytesIO()
    save_pictures(model.eval(), data, file)
    file.seek(0)
    return dict(np.load(file))


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


def test_noise_is_followed_to_the_samples(root: Path) -> None:
    picture = arrays(root, "pinwheel", "maf")
    assert picture["transport"].shape == (8, 2000, 2)
    assert picture["n_steps"] == 9
    assert picture["stage"].tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert picture["stage_name"].tolist() == ["StandardNormal", *["Autoregressive"] * 7]
    start, end = picture["transport"][[0, -1]]
    assert abs(start.mean(0)).max() < 0.1
    np.testing.assert_allclose(start.std(0), 1, atol=0.1)
    np.testing.assert_allclose(end.mean(0), picture["samples"].mean(0), atol=0.2)


def test_steps_that_move_nothing_do_not_count() -> None:
    flow = FLOWS["realnvp"]([2], layers=3, hidden=[8], batch_norm=False)
    kinds = [type(part).__name__ for part in flow.transform.parts]
    assert kinds == ["Permute", *["Coupling"] * 3], "in two dimensions they are in order already"
    picture = saved(flow)
    assert picture["stage_name"].tolist() == ["StandardNormal", *["Coupling"] * 3]
    assert saved(FLOWS["made_mog"]([2], hidden=[8]))["n_steps"] == 0


def test_an_affine_flow_keeps_the_lines_of_the_grid_straight(root: Path) -> None:
    """And in their order."""
    grid = arrays(root, "pinwheel")["grid"]
    assert grid.shape == (2, 17, 129, 2)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(np.diff(grid, 2, axis=2), 0, atol=1e-4)
    for lines, across in zip(grid, (1, 0), strict=True):
        assert (np.diff(lines[:, 64, across]) > 0).all()


def test_pictures_are_small(root: Path) -> None:
    for path in root.glob("runs/tiny/*/*/0/pictures.npz"):
        assert path.stat().st_size < 600_000


def test_a_model_that_is_no_flow_leaves_its_density_and_samples() -> None:
    assert set(saved(Location())) == {"x", "y", "log_density", "samples", "real"}


def test_tabular_data_leave_a_file_without_pictures() -> None:
    assert saved(Location(3), features=3) == {}


class Unsteady(Location):
    """Cannot be sampled."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        raise self.error


def test_a_picture_that_fails_is_left_out(logged: pytest.LogCaptureFixture) -> None:
    assert saved(Unsteady(ValueError("no luck"))) == {}
    assert logged.messages == ["pictures: no plane: no luck"]
    with pytest.raises(InterruptedRunError):
        saved(Unsteady(InterruptedRunError(signal.SIGTERM)))


@pytest.mark.parametrize(
    "target",
    [
        "tiny/maf/pinwheel",
        "tiny/maf/pinwheel/0",
        "runs/tiny/maf/pinwheel/0/",
        "./tiny/maf/pinwheel/",
    ],
)
def test_a_run_is_drawn_beside_its_checkpoints(
    target: str, root: Path, logged: pytest.LogCaptureFixture
) -> None:
    path = plot(target, root=root)
    assert path == root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "plot.png"
    height, width, _ = imread(path).shape
    assert width > 2 * height, "a row of panels above another"
    assert path.stat().st_size < MEGABYTE
    assert not logged.messages


def test_a_run_with_overrides_is_drawn_under_its_folder(root: Path) -> None:
    overrides = ["training.max_steps=3"]
    experiment = load("tiny/maf", "pinwheel", overrides=overrides, root=root)
    run(experiment, root=root, device="cpu")
    folder = record.run_dir(experiment, root)
    assert plot(f"{folder.relative_to(root)}/", root=root) == folder / "plot.png"


def test_what_only_its_record_is_here_of_is_not_told_to_run_again(
    root: Path, tmp_path: Path
) -> None:
    for folder in ("experiments", "results"):
        shutil.copytree(root / folder, tmp_path / folder)
    with pytest.raises(UsageError, match=r"it stays .* move results/tiny/\S+ away and run"):
        plot("tiny/maf/pinwheel", root=tmp_path)
    with pytest.raises(UsageError, match="what is not trained leaves pictures of images and the"):
        plot("tiny/gaussian/pinwheel", root=tmp_path)


def test_images_and_a_curve_alone_are_drawn_too(root: Path, tmp_path: Path) -> None:
    image = imread(plot("tiny/gaussian/digits", root=root))
    assert image[..., :3].std() > 0.05
    write_table(tmp_path, maf=TRAINED)
    folder = tmp_path / "runs" / "tiny" / "maf" / "pinwheel" / "3"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match=r"expected pictures or a training curve, got neither"):
        plot("tiny/maf/pinwheel", 3, tmp_path)
    lines = [{"step": 1, "train_loss": 3.0, "val_log_likelihood": -2.5}]
    lines.append({"step": 2, "train_loss": float("inf"), "val_log_likelihood": -2.0})
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "pictures.npz").touch()
    assert plot("tiny/maf/pinwheel", 3, tmp_path) == folder / "plot.png"
    assert gallery("tiny", tmp_path, seed=3) is None


def test_older_pictures_are_drawn_without_what_they_lack(
    root: Path, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    write_table(tmp_path, maf=TRAINED)
    folder = tmp_path / "runs" / "tiny" / "maf" / "pinwheel" / "0"
    folder.mkdir(parents=True)
    old = arrays(root, "pinwheel", "maf")
    kept = {"x", "y", "log_density", "samples", "real"}
    np.savez(folder / "pictures.npz", **{key: old[key] for key in kept})
    assert plot("tiny/maf/pinwheel", root=tmp_path) == folder / "plot.png"
    assert "has no grid and no steps of the noise" in logged.text


def test_what_is_not_finite_is_drawn_around(root: Path, tmp_path: Path) -> None:
    write_table(tmp_path, maf=TRAINED)
    folder = tmp_path / "runs" / "tiny" / "maf" / "pinwheel" / "0"
    folder.mkdir(parents=True)
    broken = arrays(root, "pinwheel", "maf")
    broken["log_density"][:40] = np.nan
    broken["log_density"][40:50] = 200.0
    broken["samples"][:40] = np.inf
    broken["transport"][3] = np.nan
    broken["transport"][4, ::2] = np.inf
    broken["grid"][:, :, 3] = np.inf
    broken["grid"][:, :, 4] = np.nan
    np.savez(folder / "pictures.npz", **broken)
    assert imread(plot("tiny/maf/pinwheel", root=tmp_path)).ndim == 3
    del broken["true_log_density"]
    np.savez(folder / "pictures.npz", **broken)
    assert imread(plot("tiny/maf/pinwheel", root=tmp_path)).ndim == 3


@pytest.mark.parametrize(
    ("table", "metric"),
    [("toy2d", "test/kl"), ("rezende2015_energies", "test/reverse_kl"), ("digits", "test/kl")],
)
def test_panels_note_the_divergence_that_a_table_compares(table: str, metric: str) -> None:
    assert plots.divergence(load_table(table, record.find_root())) == metric


def test_a_long_table_over_the_plane_shows_one_panel_a_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["gaussian", *(f"row{i}" for i in range(5))]
    one_cell = {key: value for key, value in ROW.items() if key != "cells"}
    one_cell |= {"cells": {"pinwheel": {}}}
    write_table(tmp_path, **dict.fromkeys([*names, "absent"], one_cell))
    source = Path("tiny", "gaussian", "pinwheel")
    for name in names:
        shutil.copytree(root / "runs" / source, tmp_path / "runs" / "tiny" / name / "pinwheel")
    place = Path("results", source, "0.json")
    (tmp_path / place).parent.mkdir(parents=True)
    shutil.copy(root / place, tmp_path / place)
    drawn: list[tuple[str, str]] = []
    compact = plots.compact

    def watched(
        table: plots.Table, columns: plots.Columns, rows: list[str], seed: int
    ) -> plots.Figure:
        drawn.extend((row, picture.note) for row, picture in columns["pinwheel"].items())
        return compact(table, columns, rows, seed)

    monkeypatch.setattr(plots, "compact", watched)
    path = gallery("tiny", tmp_path)
    kl = record.read(tmp_path / place).metrics["test/kl"]
    assert drawn == [("gaussian", f"{kl:.3f}"), *((name, "") for name in names[1:])]
    height, width, _ = imread(path).shape
    assert height > 3 * width
    assert path.stat().st_size < MEGABYTE


def test_a_long_table_of_images_shows_several_in_a_line(root: Path, tmp_path: Path) -> None:
    """Real ones and six models are seven panels: two lines of five."""
    names = [f"row{i}" for i in range(6)]
    one_cell = {key: value for key, value in ROW.items() if key != "cells"}
    write_table(tmp_path, **dict.fromkeys(names, one_cell | {"cells": {"digits": {}}}))
    for name in names:
        source = root / "runs" / "tiny" / "gaussian" / "digits"
        shutil.copytree(source, tmp_path / "runs" / "tiny" / name / "digits")
    height, width, _ = imread(gallery("tiny", tmp_path)).shape
    assert width == pytest.approx(2.5 * height, rel=0.01)


def test_a_figure_of_other_records_than_there_are_is_told(root: Path, tmp_path: Path) -> None:
    """A gallery is of seed 0; what is drawn of all seeds is of all, and of the verdicts."""
    for folder in ("experiments", "results", "runs"):
        shutil.copytree(root / folder, tmp_path / folder)
    path = gallery("tiny", tmp_path)
    other = path.with_name("tiny_gap.png")
    figures.save(Figure(), other, texts=stamp("tiny", tmp_path))
    assert list(outdated("tiny", tmp_path)) == []
    kept = next((tmp_path / "results" / "tiny").glob("*/*/0.json"))
    found = record.read(kept)
    costs = path.with_name("tiny_speed.png")
    figures.save(Figure(), costs, texts=stamp("tiny", tmp_path, speeds=True))
    assert list(outdated("tiny", tmp_path)) == []
    record.amend(found, tmp_path, speed={"sample_ms": 7.0})
    (message,) = outdated("tiny", tmp_path)
    assert message.endswith("run `nfbench plot tiny --speed`")
    costs.unlink()
    record.write(replace(found, experiment=found.experiment | {"seed": 1}), tmp_path)
    (message,) = outdated("tiny", tmp_path)
    assert message.startswith("results/tiny_gap.png is not drawn from the records")
    assert message.endswith("run `nfbench plot tiny --gap`")
    kept.with_name("1.json").unlink()
    assert list(outdated("tiny", tmp_path)) == []
    row = tmp_path / "experiments" / "tiny" / f"{found.experiment['row']}.yaml"
    kept_row = row.read_text()
    row.write_text(kept_row + "data: {batch_size: 7}\n")
    assert list(outdated("tiny", tmp_path)) == [message]  # the verdict: stale
    row.write_text(kept_row)
    kept.unlink()
    assert len(list(outdated("tiny", tmp_path))) == 2
    path.write_bytes(b"no picture")
    assert "run `nfbench plot tiny`" in " ".join(outdated("tiny", tmp_path))
