"""The figure of a published table: each number where its gap is, what is far off at the edge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from test_tables import make, root  # noqa: F401

from nfbench import gaps, record, tables
from nfbench.cli import main
from nfbench.errors import UsageError


def panel(root: Path, cell: str) -> Any:  # noqa: F811
    view = tables.build("small", root)
    entries = [e for e in view.entries if e.experiment.cell == cell and e.gap is not None]
    axis = Figure().subplots()
    gaps.fill(axis, view.table.columns[cell], entries)
    return axis


def test_points_errors_and_seeds_stand_at_the_gap(root: Path) -> None:  # noqa: F811
    for seed, value in enumerate((0.13, 0.17)):
        record.write(make(root, "maf_5", "moons", seed=seed, value=value), root)
    axis = panel(root, "moons")
    point = axis.containers[-1]
    assert point[0].get_xdata() == pytest.approx([0.01])
    (bar,) = point[2]
    assert bar.get_segments()[0][:, 0] == pytest.approx([0.01 - 0.002, 0.01 + 0.002])
    seeds = [
        line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_marker() == "|"
    ]
    assert seeds[-1].get_xdata() == pytest.approx([-0.01, 0.03])
    band = axis.patches[0]
    assert (band.get_x(), band.get_width()) == pytest.approx((-0.01, 0.02))
    assert "0.15 (0.14)" in [text.get_text() for text in axis.texts]


def test_every_seed_is_within_the_panel(root: Path) -> None:  # noqa: F811
    for seed, value in enumerate((0.14, 0.15, 0.4)):
        record.write(make(root, "maf_5", "moons", seed=seed, value=value), root)
    assert panel(root, "moons").get_xlim()[1] > 0.26


def test_what_is_far_off_does_not_hide_the_rest(root: Path) -> None:  # noqa: F811
    file = root / "experiments" / "small" / "gaussian.yaml"
    published = "moons: {reported: {value: 0.2, source: Table 1}}"
    file.write_text(file.read_text().replace("moons: {}", published))
    record.write(make(root, "gaussian", "moons", value=0.3), root)
    record.write(make(root, "maf_5", "moons", value=-4e5, se=4e5), root)
    record.write(make(root, "maf_5", "moons", seed=1, value=0.15), root)
    axis = panel(root, "moons")
    assert np.abs(axis.get_xlim()).max() < 100
    ticks = [line.get_xdata() for line in axis.lines if line.get_marker() == "|"]
    assert pytest.approx([0.01]) in ticks  # the seed that is not far off
    arrows = [line for line in axis.lines if line.get_marker() == "<"]
    assert [line.get_xdata()[0] for line in arrows] == [axis.get_xlim()[0]]


def test_a_table_draws_its_figure_and_says_when_it_has_nothing(
    root: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    with pytest.raises(UsageError, match="small: expected numbers beside published ones"):
        gaps.draw("small", root)
    record.write(make(root, "maf_5", "moons"), root)
    shown = CliRunner().invoke(main, ["plot", "small", "--gap"])
    assert shown.output.strip().endswith("results/small_gap.png")
    assert (root / "results" / "small_gap.png").read_bytes().startswith(b"\x89PNG")
