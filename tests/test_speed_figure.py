"""Accuracy against the cost of a sample: families, labels, and which runs are drawn."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import GAUSSIAN, MAF, changed, finished_runs
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from nfbench import record, tradeoff
from nfbench.catalog import Column
from nfbench.config import load
from nfbench.flows import FLOWS
from nfbench.tradeoff import FAMILIES, NO_FAMILY, Mark, draw, family_of, fill, place_all

CONDITIONS = {"device": "CPU of a test", "threads": 1, "precision": "float32"}
LOWER = Column(heading="A", metric="test/kl", unit="nats", direction="lower")
ROW = changed(MAF, training={"max_steps": 20, "validate_every": 10})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_runs(tmp_path_factory.mktemp("figure"), maf=ROW, gaussian=GAUSSIAN)


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "root")


def measured(root: Path, row: str, rate: float, **changes: Any) -> None:
    """Put a throughput into a record."""
    kept = record.read(record.record_path(load(f"tiny/{row}", "pinwheel", root=root), root))
    record.amend(kept, root, speed={**CONDITIONS, "samples_per_second": rate, **changes})


@pytest.fixture
def drawn(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figure that is saved, if one is."""
    kept: dict[str, Figure] = {}

    def save(figure: Figure, path: Path, dpi: int, texts: dict[str, str]) -> Path:
        kept["figure"] = figure
        return original(figure, path, dpi)

    original = tradeoff.save
    monkeypatch.setattr(tradeoff, "save", save)
    return kept


def test_every_flow_has_a_family() -> None:
    named = [flow.partition("/")[0] for _, flows in FAMILIES.values() for flow in flows.split()]
    assert set(named) == set(FLOWS)
    kinds = [flow for _, flows in FAMILIES.values() for flow in flows.split()]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    ("row", "cell", "family"),
    [
        ("toy2d/nsf_c", "moons", "coupling"),
        ("toy2d/nsf_ar", "moons", "autoregressive"),
        ("digits/iaf", "digits", "inverse autoregressive"),
        ("digits/ffjord", "digits", "continuous"),
    ],
)
def test_the_family_is_that_of_the_flow(row: str, cell: str, family: str) -> None:
    experiment = load(row, cell, root=Path(__file__).parents[1])
    assert family_of(experiment)[0] == family


def test_without_a_measurement_there_is_no_figure(root: Path) -> None:
    assert draw("tiny", root) is None
    assert not (root / "results" / "tiny_speed.png").exists()


def test_points_are_where_the_records_say(root: Path, drawn: dict[str, Figure]) -> None:
    measured(root, "maf", 500.0)
    path = draw("tiny", root)
    assert path == root / "results" / "tiny_speed.png"
    assert imread(path)[..., :3].std() > 0.02
    timed, counted = drawn["figure"].axes
    results = {
        row: record.read(record.record_path(load(f"tiny/{row}", "pinwheel", root=root), root))
        for row in ("maf", "gaussian")
    }
    value = {row: each.metrics["test/log_likelihood"] for row, each in results.items()}
    assert points(timed) == {(2.0, value["maf"])}  # milliseconds
    assert points(counted) == {(4.0, value["maf"]), (0.0, value["gaussian"])}
    low, high = timed.get_ylim()
    assert low < high  # the better the higher
    assert [text.get_text() for text in timed.texts] == ["MAF"]
    words = [text.get_text() for text in drawn["figure"].findobj(match=has_text)]
    assert any("CPU of a test, threads 1, float32" in text for text in words)


def test_times_of_two_machines_share_no_axis(root: Path, drawn: dict[str, Figure]) -> None:
    measured(root, "maf", 500.0)
    measured(root, "gaussian", 1e8, device="H100")
    draw("tiny", root)
    timed, counted = drawn["figure"].axes
    assert [x for x, _ in points(timed)] == [2.0]
    assert len(points(counted)) == 2
    words = [text.get_text() for text in drawn["figure"].findobj(match=has_text)]
    assert any(
        "Times: CPU of a test, threads 1, float32 (measured otherwise and left out: 1)." in text
        for text in words
    )


def has_text(artist: Any) -> bool:
    return bool(getattr(artist, "get_text", lambda: "")())


def points(axis: Any) -> set[tuple[float, float]]:
    """Where marks with an error bar stand."""
    lines = [bars[0] for bars in axis.containers]
    return {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines}


def test_of_a_metric_that_should_be_low_the_axis_is_turned() -> None:
    axis = Figure().subplots()
    fill(axis, LOWER, [Mark("a", "red", 1.0, 0.2, 0.1), Mark("b", "blue", 2.0, 0.9, 0.1)])
    low, high = axis.get_ylim()
    assert low > high
    assert low > 1.0 and high < 0.1


def test_divergences_have_a_logarithmic_axis_that_holds_zero() -> None:
    axis = Figure().subplots()
    fill(axis, LOWER, [Mark("a", "red", 1.0, 0.0, 0.001), Mark("b", "blue", 2.0, 0.9, 0.1)])
    zero, *decades = (axis.transData.transform((1, y))[1] for y in (0, 0.001, 0.01, 0.1))
    assert decades[0] - decades[1] == pytest.approx(decades[1] - decades[2], rel=0.01)
    assert zero > decades[0]
    other = Figure().subplots()
    fill(other, replace(LOWER, metric="test/bits_per_dim"), [Mark("a", "red", 1.0, 2.0, 0.1)])
    assert other.get_yscale() == "linear"


def test_labels_cover_neither_each_other_nor_marks_and_stay_inside() -> None:
    """Nine rows in a heap, some of them at the edges."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    marks = [
        Mark(f"a long label {i}", "red", 10 ** (0.1 * i), 1 + 0.05 * (i % 3), 0.005)
        for i in range(9)
    ]
    labels = fill(axis, LOWER, marks)
    axis.set_xscale("log")
    place_all(figure, labels)
    boxes = [label.get_window_extent() for label in labels]
    boxes += [tradeoff.around(axis, mark) for mark in marks]
    frame = axis.get_window_extent()
    for i, box in enumerate(boxes[:9]):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1
        for other in boxes[i + 1 :]:
            shared = Bbox.intersection(box, other)
            assert shared is None or shared.width * shared.height < 1.0


def test_a_flow_of_no_family_has_one_of_its_own() -> None:
    experiment = load("digits/maf", "digits", root=Path(__file__).parents[1])
    experiment.flow["name"] = "unheard_of"
    assert family_of(experiment) == NO_FAMILY
