"""A verdict follows from the records; a table is rendered, and checked against its rendering."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import rich.console

from nfbench import archive, record, rendering, tables
from nfbench.config import load
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.record import Record
from nfbench.seal import config_hash
from nfbench.verdict import Entry, claim

TABLE = """
title: A small table
paper: {key: maf, title: A paper, authors: Someone, year: 2017, url: "https://example.org"}
source: Table 1
metric: test/log_likelihood
unit: nats
direction: higher
uncertainty: {published: of one model, ours: two standard errors}
columns: {moons: Moons, digits: {heading: Digits, metric: test/bits_per_dim, direction: lower}}
rows: [gaussian, maf_5]
"""
GAUSSIAN = """
title: Gaussian
flow: {name: gaussian}
cells: {moons: {}, digits: {}}
"""
MAF = """
title: MAF (5)
deviations: [no batch norm]
flow: {name: maf}
cells:
  moons: {reported: {value: 0.14, uncertainty: 0.01, source: Table 1}}
  digits: {reported: {value: 2.00, source: Table 1}, deviations: [a smaller net]}
"""
FAILURE = {"kind": "diverged", "step": 7, "batch": None, "message": "NaN", "checkpoint": None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments" / "small"
    folder.mkdir(parents=True)
    for name, text in {"table": TABLE, "gaussian": GAUSSIAN, "maf_5": MAF}.items():
        (folder / f"{name}.yaml").write_text(text)
    return tmp_path


def make(root: Path, row: str, cell: str, *, seed: int = 0, **changes: Any) -> Record:
    """A record of today's settings; `value` is its metric, a `failure` makes it a failed one."""
    experiment = load(f"small/{row}", cell, root=root)
    value = changes.get("value", 0.14)
    metrics = {
        "test/log_likelihood": value,
        "test/log_likelihood_se": changes.get("se", 0.001),
        "test/log_likelihood_min": value,
        "test/bits_per_dim": value,
        "test/n": 100,
        **changes.get("metrics", {}),
    }
    failure = changes.get("failure")
    return Record(
        status="failed" if failure else "done",
        experiment={
            "table": "small",
            "row": row,
            "cell": cell,
            "seed": seed,
            "config": (config := experiment.config() | changes.get("config", {})),
            "config_hash": config_hash(config),
            "overrides": [],
            "deviations": [],
            "reduced": changes.get("reduced"),
        },
        metrics={} if failure else metrics,
        likelihood={"kind": "exact"},
        audit={},
        speed=changes.get("speed", {}),
        model={"n_parameters": 1, "best_step": 1, "steps": 1, "stop_reason": "max_steps"},
        data={
            "name": experiment.data.name,
            "source": changes.get("source", "generated"),
            "n_train": 1,
            "n_val": 1,
            "n_test": 100,
            "fingerprint": changes.get("fingerprint", "f"),
        },
        provenance=dict.fromkeys(record.KEYS["provenance"].split())
        | changes.get("provenance", {}),
        failure=failure,
    )


def entry(root: Path, row: str = "maf_5", cell: str = "moons") -> Entry:
    view = tables.build("small", root)
    return next(e for e in view.entries if (e.experiment.row, e.experiment.cell) == (row, cell))


@pytest.fixture
def judged(root: Path) -> Callable[..., Entry]:
    """Writes one record with the changes told, and gives the entry of its cell."""

    def judge(row: str = "maf_5", cell: str = "moons", **changes: Any) -> Entry:
        record.write(make(root, row, cell, **changes), root)
        return entry(root, row, cell)

    return judge


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.12, "reproduced"), (0.119, "short"), (0.161, "better")]
)
def test_difference_within_the_equivalence_band_is_none(
    root: Path, value: float, verdict: str
) -> None:
    path = root / "experiments" / "small" / "table.yaml"
    path.write_text(
        TABLE.replace("{moons: Moons,", "{moons: {heading: Moons, equivalence: 0.02},")
    )
    record.write(make(root, "maf_5", "moons", value=value), root)
    assert entry(root).verdict == verdict
    assert "within the combined ±, or no more than 0.02 nats (Moons)." in tables.markdown(
        tables.build("small", root)
    )


def test_runs_that_scatter_reproduce_nothing(root: Path) -> None:
    for seed, value in enumerate((0.20, 0.21, 0.22)):  # mean 0.21, standard error 0.0058, t 4.3
        record.write(make(root, "maf_5", "moons", seed=seed, value=value), root)
    assert entry(root).verdict == "better"  # by 0.07
    record.write(make(root, "maf_5", "moons", seed=3, value=0.01), root)  # 0.16, 0.05
    assert entry(root).verdict == "inconclusive"
    assert "0.16† ≈ (0.14)" in tables.markdown(tables.build("small", root))


@pytest.mark.parametrize(
    ("value", "se", "verdict"),
    [
        (0.14, 0.001, "reproduced"),
        (0.13, 0.0, "reproduced"),  # at the paper's 0.01, which binary numbers overstep
        (0.129, 0.0, "short"),
        (0.151, 0.002, "better"),
        (0.151, 0.003, "reproduced"),  # (0.01^2 + 0.006^2)^(1/2) = 0.0117
        (0.10, 0.02, "reproduced"),  # (0.01^2 + 0.04^2)^(1/2) = 0.0412
        (0.098, 0.02, "short"),
    ],
)
def test_verdict_is_by_the_combined_uncertainty(
    judged: Callable[..., Entry], value: float, se: float, verdict: str
) -> None:
    assert judged(value=value, se=se).verdict == verdict


def test_our_error_over_the_papers_own_test_points_is_none_of_the_gap(
    judged: Callable[..., Entry], root: Path
) -> None:
    assert judged(value=0.10, se=0.02).verdict == "reproduced"
    file = root / "experiments" / "small" / "table.yaml"
    file.write_text(
        TABLE.replace("two standard errors}", "two standard errors, same_points: true}")
    )
    found = entry(root)
    assert (found.verdict, found.points) == ("short", pytest.approx(0.04))
    page = tables.markdown(tables.build("small", root))
    assert "is within the paper's ± (ours is over the same test points)." in page


@pytest.mark.parametrize(
    ("value", "verdict"), [(2.0, "reproduced"), (1.9, "better"), (2.1, "short")]
)
def test_lower_is_better_where_the_column_says_so(
    judged: Callable[..., Entry], value: float, verdict: str
) -> None:
    found = judged(cell="digits", value=value)
    assert found.verdict == verdict
    assert found.points is None  # the record has no standard error of bits/dim


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"config": {"flow": {"name": "maf", "layers": 99}}}, "stale"),
        ({"reduced": "100 steps"}, "reduced budget"),
        ({"failure": FAILURE}, "failed: diverged at step 7"),
    ],
)
def test_record_that_cannot_count_says_why(
    judged: Callable[..., Entry], changes: dict[str, Any], verdict: str
) -> None:
    assert judged(**changes).verdict == verdict


def test_reduced_row_never_counts_as_a_reproduction(
    judged: Callable[..., Entry], root: Path
) -> None:
    file = root / "experiments" / "small" / "maf_5.yaml"
    file.write_text(MAF + "reduced: a tenth of the steps\n")
    assert judged().verdict == "reduced budget"
    assert "1. reduced budget: a tenth of the steps" in tables.markdown(
        tables.build("small", root)
    )


def test_data_other_than_the_declared_is_stale(
    judged: Callable[..., Entry], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = replace(DATA["moons"], known={"one file": "f", "another": "g"})
    monkeypatch.setitem(DATA, "moons", declared)
    for source, fingerprint, verdict in [
        ("another", "g", "reproduced"),
        ("another", "f", "stale"),
        ("a third", "h", "reproduced"),
    ]:
        assert judged(source=source, fingerprint=fingerprint).verdict == verdict
        (root / "results/small/maf_5/moons/0.json").unlink()


def test_nothing_recorded_is_missing_and_nothing_published_is_measured(
    judged: Callable[..., Entry], root: Path
) -> None:
    assert entry(root).verdict == "missing"
    assert entry(root).gap is None
    assert judged(row="gaussian").verdict == "measured"


def test_seeds_and_test_points_are_spread_apart(root: Path) -> None:
    for seed, value in enumerate([0.13, 0.14, 0.15]):
        record.write(make(root, "maf_5", "moons", seed=seed, value=value, se=0.003), root)
    found = entry(root)
    assert found.n_seeds == 3
    assert found.ours == pytest.approx(0.14)
    assert found.points == pytest.approx(0.006)
    assert found.seeds == pytest.approx(0.01)


def test_stale_and_failed_seeds_give_no_number_but_failures_are_told(root: Path) -> None:
    record.write(make(root, "maf_5", "moons", value=0.14), root)
    record.write(
        make(root, "maf_5", "moons", seed=1, value=9.0, config={"flow": {"name": "made"}}), root
    )
    record.write(make(root, "maf_5", "moons", seed=2, failure=FAILURE), root)
    found = entry(root)
    assert (found.ours, found.n_seeds, found.verdict) == (0.14, 1, "reproduced")
    page = tables.markdown(tables.build("small", root))
    assert "- maf_5/moons: seed 2 failed: diverged at step 7" in page


def test_metric_that_a_record_lacks_is_told(root: Path) -> None:
    file = root / "experiments" / "small" / "table.yaml"
    file.write_text(TABLE.replace("test/log_likelihood", "test/log_likelihod"))
    record.write(make(root, "maf_5", "moons"), root)
    with pytest.raises(
        UsageError, match=r"small/maf_5/moons/0.*did you mean 'test/log_likelihood'"
    ):
        tables.build("small", root)


def test_markdown_shows_ours_beside_the_papers(root: Path) -> None:
    record.write(make(root, "maf_5", "moons", value=0.1342, se=0.0031), root)
    page = tables.markdown(tables.build("small", root))
    assert page.startswith(
        "# A small table\n\nSomeone (2017), [A paper](https://example.org), Table 1."
    )
    rows = [
        [c.strip() for c in r.strip("|").split("|")] for r in page.splitlines() if r[:1] == "|"
    ]
    assert ["MAF (5)", "0.13† ✓ (0.14)", "· (2.00)"] in rows
    long = dict(zip(rows[4], rows[8], strict=True))
    assert long == {
        "row": "maf_5",
        "cell": "moons",
        "ours": "0.13",
        "± test points": "0.01",
        "± seeds": "",
        "seeds": "1",
        "paper": "0.14",
        "paper's ±": "0.01",
        "gap": "-0.01",
        "verdict": "reproduced",
        "likelihood": "exact",
        "audit": "not audited",
        "errors": "",
        "samples": "",
        "passes": "",
        "notes": "1",
    }
    assert "1. no batch norm\n2. a smaller net\n" in page
    assert "    nfbench reproduce small\n" in page
    assert "The paper's ±: of one model." in page


def test_table_without_published_numbers_is_a_leaderboard(root: Path) -> None:
    file = root / "experiments" / "small" / "maf_5.yaml"
    file.write_text(MAF.replace("reported: {value: 0.14, uncertainty: 0.01, source: Table 1}", "")
                    .replace("reported: {value: 2.00, source: Table 1}, ", ""))  # fmt: skip
    for row, value in [("gaussian", 1.0), ("maf_5", 2.0)]:
        for cell in ("moons", "digits"):
            record.write(make(root, row, cell, value=value), root)
    view = tables.build("small", root)
    order = [(e.experiment.cell, e.experiment.row) for e in view.entries]
    assert order == [
        ("moons", "maf_5"),
        ("moons", "gaussian"),
        ("digits", "gaussian"),
        ("digits", "maf_5"),
    ]
    assert "paper" not in tables.lines(view)[0] and "gap" not in tables.lines(view)[0]


def test_other_renderings_hold_the_same_cells(root: Path) -> None:
    record.write(make(root, "maf_5", "moons", value=0.1342), root)
    view = tables.build("small", root)
    rows = {(r["row"], r["cell"]): r for r in csv.DictReader(io.StringIO(tables.csv_text(view)))}
    assert float(rows["maf_5", "moons"]["ours"]) == 0.1342
    assert len(rows) == 4
    assert r"maf\_5" in tables.latex(view) and r"\toprule" in tables.latex(view)
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(tables.terminal(view))
    text = console.export_text()
    assert "reproduced" in text and "Likelihood: exact." in text


def test_marks_and_notes_stand_in_every_rendering(root: Path) -> None:
    values = [0.14] * 99 + [-990.0]
    found = {"test/log_likelihood_min": -990.0, "test/n": 100}
    se = stdev(values) / 10
    record.write(make(root, "maf_5", "moons", value=fmean(values), se=se, metrics=found), root)
    file = root / "experiments" / "small" / "maf_5.yaml"
    file.write_text(MAF.replace("no batch norm", "fan_in & 5 % of it; no batch norm"))
    view = tables.build("small", root)
    outlier = "one test point of 100 has -990 nats; without it the mean of seed 0 is 0.140 nats"
    latex = tables.latex(view)
    assert "-9.76†‡ &" in latex
    _, _, below = latex.partition("\\end{tabular}\n")
    assert below == (
        "\n† without a sound audit, ‡ a single test point carries the mean, see the notes\n"
        "\n\\begin{enumerate}\n"
        f"\\item {outlier}\n"
        "\\item fan\\_in \\& 5 \\% of it; no batch norm\n"
        "\\item a smaller net\n"
        "\\end{enumerate}\n"
    )
    rows = {(r["row"], r["cell"]): r for r in csv.DictReader(io.StringIO(tables.csv_text(view)))}
    deviation = "fan_in & 5 % of it; no batch norm"
    assert float(rows["maf_5", "moons"]["ours"]) == fmean(values)
    assert rows["maf_5", "moons"]["notes"] == f"{outlier} | {deviation}"
    assert rows["maf_5", "digits"]["notes"] == f"{deviation} | a smaller net"
    assert rows["gaussian", "moons"]["notes"] == ""
    console = rich.console.Console(width=120, record=True, file=io.StringIO())
    console.print(tables.terminal(view))
    text = " ".join(console.export_text().split())
    assert "-9.76†‡" in text
    assert "see the notes. Likelihood: exact. Notes: results/small.md." in text


def test_without_notes_there_is_nothing_about_them(root: Path) -> None:
    file = root / "experiments" / "small" / "maf_5.yaml"
    file.write_text(
        MAF.replace("deviations: [no batch norm]", "").replace(", deviations: [a smaller net]", "")
    )
    view = tables.build("small", root)
    assert tables.latex(view).endswith("\\end{tabular}\n")
    assert "Notes" not in str(tables.terminal(view).caption)


EARLY = {
    "log_det_error": 1e-14,
    "round_trip_error": 1e-13,
    "round_trip_error_float32": 2e-6,
    "passes_per_log_prob": 5,
    "passes_per_sample": 30,
    "sample_log_prob_error": 1e-13,
}
SOUND = EARLY | {"sample_calibration": 0.02, "mass": None}


@pytest.mark.parametrize("least", [-990.0, -5.0])
@pytest.mark.parametrize(("offset", "without"), [(None, "0.140"), (100.0, "100.140")])
def test_a_mean_that_a_single_test_point_carries_is_marked(
    root: Path, least: float, offset: float | None, without: str
) -> None:
    """99 points of 0.14 and one of -990, or all of about -2 to 2; with preprocessing, too."""
    values = [0.14] * 99 + [least] if least < -100 else [(-1.0) ** i * i / 25 for i in range(100)]
    found = {"test/log_likelihood_min": least, "test/n": 100}
    if offset is not None:
        found["test/log_density"] = fmean(values) + offset
    se = stdev(values) / 10
    record.write(make(root, "maf_5", "moons", value=fmean(values), se=se, metrics=found), root)
    text = tables.markdown(tables.build("small", root))
    told = f"without it the mean of seed 0 is {without} nats"
    note = f"one test point of 100 has -990 nats; {told}"
    assert (note in text) == ("‡" in text) == (least < -100)
    assert entry(root).verdict == ("short" if least < -100 else "reproduced")


def test_a_record_that_does_not_tell_its_least_likely_point_says_so(root: Path) -> None:
    record.write(make(root, "maf_5", "moons", metrics={"test/log_likelihood_min": None}), root)
    note = "the least likely test point of seed 0 was not recorded"
    assert note in tables.markdown(tables.build("small", root))
    assert entry(root).verdict == "reproduced"


@pytest.mark.parametrize(
    ("kind", "more", "claimed"),
    [
        ("lower bound", {}, "exact"),
        ("lower bound", {"draws": 10}, "lower bound"),
        ("lower bound", {"odes": 1}, "exact or estimate"),
    ],
)
def test_the_density_of_dequantized_points_is_no_bound(
    root: Path, kind: str, more: dict[str, int], claimed: str
) -> None:
    likelihood = {"kind": kind, **more}
    found = replace(make(root, "maf_5", "moons"), likelihood=likelihood)
    assert claim(found, "test/log_density") == claimed
    assert claim(found, "test/log_likelihood") == kind


@pytest.mark.parametrize(
    ("audit", "finding", "errors"),
    [
        (SOUND, "ok", "1e-14 / 2e-06"),
        (EARLY, "samples not looked at", "1e-14 / 2e-06"),
        (SOUND | {"log_det_error": None}, "log-det not measured", "- / 2e-06"),
        (SOUND | {"mass": 4.0}, "mass off", "1e-14 / 2e-06"),
        (SOUND | {"mass": 0.98}, "ok", "1e-14 / 2e-06"),
        (SOUND | {"non_finite_samples": 3}, "samples not finite", "1e-14 / 2e-06"),
        (SOUND | {"round_trip_error": None, "non_finite": 1}, "not finite", "1e-14 / 2e-06"),
        (SOUND | {"log_det_error": 0.7}, "log-det off", "7e-01 / 2e-06"),
        (SOUND | {"base_log_prob_error": 0.1}, "base density off", "1e-14 / 2e-06"),
        (SOUND | {"round_trip_error": 1e-3}, "inverse off", "1e-14 / 2e-06"),
        (SOUND | {"sample_log_prob_error": 0.1}, "inverse off", "1e-14 / 2e-06"),
        ({}, "not audited", ""),
    ],
)
def test_a_row_shows_its_audit_and_is_marked_without_a_sound_one(
    root: Path, audit: dict[str, Any], finding: str, errors: str
) -> None:
    record.write(replace(make(root, "maf_5", "moons"), audit=audit), root)
    view = tables.build("small", root)
    line = next(line for line in tables.lines(view) if line["audit"])
    assert (line["audit"], line["errors"]) == (finding, errors)
    assert line["passes"] == ("5 / 30" if audit else "")
    assert ("†" in tables.markdown(view)) == (finding != "ok")


def test_the_worst_audit_of_the_seeds_is_shown(root: Path) -> None:
    for seed, error in enumerate((1e-14, 3e-9, 2e-12)):
        made = make(root, "maf_5", "moons", seed=seed)
        record.write(replace(made, audit=SOUND | {"log_det_error": error}), root)
    assert [e.audited.log_det_error for e in tables.build("small", root).entries if e.audited] == [
        3e-9
    ]


def test_mass_and_calibration_of_samples_are_shown_by_the_worst_of_the_seeds(root: Path) -> None:
    for seed, (mass, distance) in enumerate([(1.001, 0.02), (0.97, 0.11), (1.01, None)]):
        found = SOUND | {"mass": mass, "sample_calibration": distance}
        record.write(replace(make(root, "maf_5", "moons", seed=seed), audit=found), root)
    line = next(line for line in tables.lines(tables.build("small", root)) if line["audit"])
    assert line["samples"] == "0.970 / 0.11"


def test_check_passes_on_what_was_written_and_shows_what_differs(root: Path) -> None:
    with pytest.raises(UsageError, match="run `nfbench table small`"):
        rendering.check("small", root)
    path = rendering.write(tables.build("small", root))
    assert path == root / "results" / "small.md"
    rendering.check("small", root)
    record.write(make(root, "maf_5", "moons"), root)
    with pytest.raises(UsageError) as caught:
        rendering.check("small", root)
    assert "+| MAF (5)" in str(caught.value) and "-| MAF (5)" in str(caught.value)


def test_setting_that_is_newer_than_the_record_does_not_make_it_stale(
    judged: Callable[..., Entry], root: Path
) -> None:
    layers = load("small/maf_5", "moons", root=root).flow["layers"]
    assert judged(config={"flow": {"name": "maf", "layers": layers}}).verdict == "reproduced"


EXTRA = """
extra:
  val/bits_per_dim: {heading: Validation, unit: bits/dim, decimals: 3}
  speed/sample_ms: {heading: Sampling, unit: ms, decimals: 1}
  model/n_parameters: {heading: Parameters, decimals: 0}
"""
VALUES = {"metrics": {"val/bits_per_dim": 1.25}, "speed": {"sample_ms": 20.0}}


@pytest.fixture
def with_extra(root: Path) -> Path:
    file = root / "experiments" / "small" / "table.yaml"
    file.write_text(TABLE + EXTRA)
    return root


def test_further_numbers_are_shown_of_each_cell_and_of_each_row(with_extra: Path) -> None:
    for seed, value in enumerate((1.25, 1.35)):
        changes = VALUES | {"metrics": {"val/bits_per_dim": value}}
        record.write(make(with_extra, "maf_5", "moons", seed=seed, **changes), with_extra)
    view = tables.build("small", with_extra)
    line = tables.lines(view)[2]
    assert list(line)[8:12] == ["gap", "Validation", "Sampling", "Parameters"]
    assert [line[key] for key in ("Validation", "Sampling", "Parameters")] == [
        "1.300",
        "20.0",
        "1",
    ]
    assert tables.lines(view, exact=True)[2]["Validation"] == "1.3"
    assert tables.lines(view)[0]["Validation"] == ""
    rows = {row[""]: row for row in tables.overview(view)}
    assert rows["MAF (5)"]["Validation"] == "1.300"
    assert rows["Gaussian"]["Parameters"] == "·"
    page = tables.markdown(view)
    assert "- Validation: `val/bits_per_dim` in bits/dim.\n" in page
    assert "- Parameters: `model/n_parameters`.\n" in page
    record.write(
        make(with_extra, "maf_5", "digits", **VALUES | {"speed": {"sample_ms": 7.04}}), with_extra
    )
    rows = {row[""]: row for row in tables.overview(tables.build("small", with_extra))}
    assert rows["MAF (5)"]["Sampling"] == "7.0 to 20.0"
    assert rows["MAF (5)"]["Parameters"] == "1"


def test_times_are_averaged_over_seeds_of_one_machine_which_the_page_names(
    with_extra: Path,
) -> None:
    speeds = [
        {"sample_ms": 1.0, "device": "cuda", "threads": 1},  # as a run measures itself
        {"sample_ms": 20.0, "device": "cpu", "threads": 1},
        {"sample_ms": 40.0, "device": "CPU B", "threads": 1, "precision": "float32"},
    ]
    for seed, (speed, device) in enumerate(zip(speeds, ("GPU A", "CPU B", "GPU A"), strict=True)):
        changes = VALUES | {"speed": speed}
        provenance = {"device": device, "precision": "float32"}
        found = make(with_extra, "maf_5", "moons", seed=seed, provenance=provenance, **changes)
        record.write(found, with_extra)
    view = tables.build("small", with_extra)
    assert tables.lines(view)[2]["Sampling"] == "30.0"
    page = tables.markdown(view)
    assert "- Sampling: `speed/sample_ms` in ms, on CPU B, threads 1, float32.\n" in page


def test_the_seconds_of_a_run_are_a_further_number_and_words_are_none(root: Path) -> None:
    file = root / "experiments" / "small" / "table.yaml"
    file.write_text(TABLE + "extra: {provenance/seconds: {heading: Run, unit: s, decimals: 0}}")
    for seed, seconds in enumerate((60.0, 91.0)):
        provenance = {"seconds": seconds, "device": "CPU"}
        record.write(make(root, "maf_5", "moons", seed=seed, provenance=provenance), root)
    record.write(make(root, "gaussian", "moons"), root)
    view = tables.build("small", root)
    shown = {(line["row"], line["cell"]): line["Run"] for line in tables.lines(view)}
    assert shown["maf_5", "moons"] == "76"
    assert set(shown.values()) == {"76", ""}
    assert "- Run: `provenance/seconds` in s.\n" in tables.markdown(view)
    for wrong, message in (
        ("provenance/second", "has no provenance/second; did you mean 'provenance/seconds'"),
        ("provenance/device", "maf_5/moons/0: provenance/device: expected a number, got 'CPU'"),
    ):
        file.write_text(TABLE + f"extra: {{{wrong}: {{heading: Wrong}}}}")
        with pytest.raises(UsageError, match=message):
            tables.build("small", root)


def test_further_numbers_change_no_other(root: Path) -> None:
    record.write(make(root, "maf_5", "moons", **VALUES), root)
    before = tables.lines(tables.build("small", root))
    file = root / "experiments" / "small" / "table.yaml"
    file.write_text(TABLE + EXTRA)
    after = tables.lines(tables.build("small", root))
    headings = ("Validation", "Sampling", "Parameters")
    assert [{k: v for k, v in line.items() if k not in headings} for line in after] == before


def test_a_time_that_was_not_measured_is_empty_and_a_number_that_is_none_is_told(
    with_extra: Path,
) -> None:
    record.write(
        make(with_extra, "maf_5", "moons", metrics={"val/bits_per_dim": None}), with_extra
    )
    line = tables.lines(tables.build("small", with_extra))[2]
    assert (line["Validation"], line["Sampling"]) == ("", "")
    file = with_extra / "experiments" / "small" / "table.yaml"
    for wrong, known in (
        ("val/bits_per_dims", "val/bits_per_dim"),
        ("model/n_parameter", "model/n_parameters"),
    ):
        file.write_text(TABLE + f"extra: {{{wrong}: {{heading: Wrong}}}}")
        with pytest.raises(UsageError, match=f"has no {wrong}; did you mean '{known}'"):
            tables.build("small", with_extra)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("extra: {val/n: 3}", "extra.val/n: expected a mapping, got 3"),
        ("extra: {val/n: {unit: rows}}", "extra.val/n.heading: missing"),
        ("extra: {val/n: {heading: Rows, decimal: 1}}", "extra.val/n.decimal: unknown key"),
    ],
)
def test_further_numbers_have_a_heading(root: Path, extra: str, message: str) -> None:
    (root / "experiments" / "small" / "table.yaml").write_text(TABLE + extra)
    with pytest.raises(UsageError, match=message):
        tables.build("small", root)


def test_the_readme_shows_a_table_between_its_markers(root: Path) -> None:
    readme = root / "README.md"
    readme.write_text("Before.\n<!-- nfbench table small -->\nold\n<!-- end -->\nAfter.\n")
    record.write(make(root, "maf_5", "moons"), root)
    rendering.write(tables.build("small", root))
    text = readme.read_text()
    assert text.startswith("Before.\n<!-- nfbench table small -->\n")
    assert text.endswith("\n<!-- end -->\nAfter.\n")
    assert "| MAF (5)  | 0.14† ✓ (0.14) |" in text and "old" not in text
    assert "[A paper](https://example.org), Table 1." in text
    rendering.check("small", root)
    readme.write_text(text.replace("0.14†", "0.15†"))
    with pytest.raises(UsageError, match=r"README\.md is not what the records give"):
        rendering.check("small", root)


def tamper(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of a record by hand."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_check_names_every_record_at_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA, "digits", replace(DATA["digits"], known={"one file": "f"}))
    for seed in range(7):
        record.write(make(root, "maf_5", "moons", seed=seed), root)
    record.write(make(root, "maf_5", "digits", fingerprint="e", source="one file"), root)
    record.write(make(root, "gaussian", "digits", fingerprint="f", source="one file"), root)
    rendering.write(tables.build("small", root))
    folder = root / "results" / "small" / "maf_5" / "moons"
    tamper(folder / "1.json", lambda r: r["metrics"].update({"test/log_likelihood": 0.9}))
    tamper(folder / "2.json", lambda r: r["experiment"].update(config_hash="0" * 12))
    tamper(folder / "3.json", lambda r: r.update(version=1))
    tamper(folder / "4.json", lambda r: r["experiment"].update(seed=5))
    (folder / "6.json").write_text("{half a rec")
    (folder / "0.json").rename(folder / "8.json")
    with pytest.raises(UsageError) as caught:
        rendering.check("small", root)
    told = dict(line.split(": ", 1) for line in str(caught.value).splitlines())
    place = "results/small/maf_5/moons/{}.json"
    assert told.pop("small") == "7 at fault in its records"
    expected = {
        place.format(1): "sha256: its content was changed",
        place.format(2): "config_hash: expected",
        place.format(3): "version: expected 2, got 1",
        place.format(4): "its content is results/small/maf_5/moons/5.json",
        place.format(6): "expected the JSON of a whole record, got Expecting property name",
        place.format(8): "its content is results/small/maf_5/moons/0.json",
        "results/small/maf_5/digits/0.json": "data fingerprint: expected",
    }
    assert set(told) == set(expected)
    for name, words in expected.items():
        assert told[name].startswith(words)


def test_a_record_of_a_row_that_is_gone_is_at_fault(root: Path) -> None:
    record.write(make(root, "maf_5", "digits", source="here"), root)
    record.write(make(root, "gaussian", "moons"), root)
    (root / "experiments/small/maf_5.yaml").write_text(MAF.split("  digits")[0])
    (root / "experiments/small/gaussian.yaml").unlink()
    path = root / "experiments/small/table.yaml"
    path.write_text(path.read_text().replace("[gaussian, maf_5]", "[maf_5]"))
    assert list(archive.faults("small", root)) == [
        "results/small/gaussian/moons/0.json: row: small has no row 'gaussian'",
        "results/small/maf_5/digits/0.json: cell: small/maf_5 has no cell 'digits'",
    ]


def test_data_that_differ_between_records_are_told(root: Path) -> None:
    for row, fingerprint in (("gaussian", "f"), ("maf_5", "e")):
        record.write(make(root, row, "moons", fingerprint=fingerprint), root)
    assert list(archive.faults("small", root)) == [
        "results/small/maf_5/moons/0.json: data fingerprint: expected f..., as in "
        "results/small/gaussian/moons/0.json"
    ]


def test_records_of_no_table_are_told(root: Path) -> None:
    path = record.write(make(root, "maf_5", "moons"), root)
    assert list(archive.strays(root)) == []
    for place in ("small/0.json", "gone/maf_5/moons/0.json", "small/maf_5/moons/deep/0.json"):
        (root / "results" / place).parent.mkdir(parents=True, exist_ok=True)
        (root / "results" / place).write_text(path.read_text())
    told = list(archive.strays(root))
    assert len(told) == 3 and all("it is the record of no table" in each for each in told)
