"""The leaderboard: its lines are those of the records, and W&B gets them once."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import pytest
import wandb
from click.testing import CliRunner, Result
from harness import GAUSSIAN, write_table
from wandb_stub import KEY, Stub, environment, serving

from nfbench import leaderboard, record, tables
from nfbench.cli import main
from nfbench.config import load
from nfbench.errors import UsageError
from nfbench.record import Record
from nfbench.run import run

CELL = {"pinwheel": {"reported": {"value": -3.5, "uncertainty": 0.25, "source": "Table 1"}}}
DEVIATIONS = ["no training; the paper has some", "one seed"]
PUBLISHED = GAUSSIAN | {"cells": CELL, "deviations": DEVIATIONS}
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with two seeds of one row, and none of another."""
    root = write_table(tmp_path_factory.mktemp("root"), gaussian=PUBLISHED, absent=PUBLISHED)
    for seed in SEEDS:
        run(load("tiny/gaussian", "pinwheel", seed, root=root), root=root, device="cpu")
    return root


@pytest.fixture
def root(done: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NFBENCH_ROOT", str(done))
    return done


def lines(root: Path) -> list[leaderboard.Line]:
    return leaderboard.lines(tables.build("tiny", root), leaderboard.place)


def test_a_line_has_the_numbers_of_its_records(root: Path) -> None:
    absent, found = lines(root)
    records = [record.read(root / f"results/tiny/gaussian/pinwheel/{seed}.json") for seed in SEEDS]
    values = [each.metrics["test/log_likelihood"] for each in records]
    assert found["ours"] == pytest.approx(fmean(values))
    assert found["± seeds"] == pytest.approx(stdev(values))
    errors = [each.metrics["test/log_likelihood_se"] for each in records]
    assert found["± test points"] == pytest.approx(2 * fmean(errors))
    assert (found["published"], found["published ±"]) == (-3.5, 0.25)
    assert found["gap"] == pytest.approx(fmean(values) + 3.5)
    assert (found["seeds"], found["verdict"]) == (2, "reproduced")
    assert found["parameters"] == records[0].model["n_parameters"]
    assert (found["samples/s"], found["speed on"]) == (None, "")  # but for one size of batch
    assert found["runs"] == "runs/tiny/gaussian/pinwheel/0 runs/tiny/gaussian/pinwheel/1"
    assert found["nfe"] is None
    assert found["remarks"] == "no training; the paper has some | one seed"
    assert (absent["model"], absent["ours"], absent["verdict"]) == ("absent", None, "missing")


def test_a_column_is_of_numbers_or_of_text(root: Path) -> None:
    for line in lines(root):
        for name, value in line.items():
            kinds = (str,) if name in leaderboard.TEXT else (int, float, type(None))
            assert isinstance(value, kinds), name


def test_rates_are_of_one_machine_which_is_named_beside_them(done: Path, tmp_path: Path) -> None:
    root = shutil.copytree(done, tmp_path / "root")
    own = {"device": "CPU", "threads": 1, "precision": "float32", "samples_per_second": 10.0}
    record.amend(seed_of(root, 0), root, speed=own | {"device": "H100", "samples_per_second": 1e8})
    for seed in SEEDS:
        found = lines(root)[1]
        assert (found["samples/s"], found["speed on"]) == (1e8, "H100, threads 1, float32")
        assert found["hardware"] == seed_of(root, seed).provenance["device"]
    record.amend(seed_of(root, 1), root, speed=own)
    assert lines(root)[1]["samples/s"] == 10.0  # of as many the first by name
    record.amend(seed_of(root, 0), root, speed=own | {"samples_per_second": 30.0})
    found = lines(root)[1]
    assert (found["samples/s"], found["speed on"]) == (20.0, "CPU, threads 1, float32")


def seed_of(root: Path, seed: int) -> Record:
    return record.read(root / f"results/tiny/gaussian/pinwheel/{seed}.json")


def test_the_lines_need_neither_torch_nor_wandb(root: Path) -> None:
    program = (
        "import sys; from nfbench import leaderboard as l\n"
        "print(len(l.lines(l.views(['tiny'])[0], l.place)))\n"
        "print(sorted({'torch', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["2", "[]"]


def push(*words: str) -> Result:
    return CliRunner().invoke(main, ["leaderboard", "push", *words])


def test_a_dry_run_prints_the_table_without_a_key_and_a_network(root: Path) -> None:
    shown = push("--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "reproduced" in shown.output
    assert "missing" in shown.output
    assert f"{lines(root)[1]['ours']:.2f}" in shown.output


def test_tables_without_a_published_number_are_pushed_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFBENCH_ROOT", str(write_table(tmp_path, gaussian=GAUSSIAN)))
    (tmp_path / "results" / "tiny").mkdir(parents=True)
    with pytest.raises(UsageError, match="expected tables with records"):
        leaderboard.views()
    for found in (leaderboard.views(every=True), leaderboard.views(["tiny"])):
        assert [view.table.name for view in found] == ["tiny"]


def test_without_a_key_nothing_is_pushed(root: Path) -> None:
    wandb.teardown()
    shown = push()
    assert shown.exit_code == 2
    assert "nothing was pushed, as no key" in shown.output


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A server that this process has a key for, although it tracks no runs."""
    with serving() as stub:
        for name, value in (environment(stub, tmp_path) | {"WANDB_MODE": "offline"}).items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        yield stub
        wandb.teardown()
        assert stub.unknown == []


def test_the_server_gets_the_lines_as_an_artifact_and_a_report_and_each_once(
    root: Path, stub: Stub
) -> None:
    shown = push()
    assert shown.exit_code == 0, shown.output
    assert "someone/nfbench/leaderboard-tiny:v0" in shown.output
    (artifact,) = stub.artifacts
    assert (artifact.name, artifact.type) == ("leaderboard-tiny", "leaderboard")
    assert artifact.state == "COMMITTED"
    found = lines(root)
    table = json.loads(artifact.contents["table.table.json"])
    assert table["columns"] == list(found[0])
    assert table["data"] == [list(line.values()) for line in found]
    assert json.loads(artifact.contents["lines.json"]) == found
    page = artifact.contents["table.md"].decode()
    assert page == tables.markdown(tables.build("tiny", root))
    (first, _) = csv.DictReader(artifact.contents["table.csv"].decode().splitlines())
    assert float(first["ours"]) == found[1]["ours"]
    board = stub.runs["leaderboard"]
    assert (board.fields["jobType"], board.exit_code) == ("leaderboard", 0)
    assert board.summary["lb/tiny/pinwheel/gaussian/ours"] == found[1]["ours"]
    assert board.summary["lb/tiny/pinwheel/gaussian/published"] == -3.5

    shown = push()
    assert shown.exit_code == 0, shown.output
    assert [each.version for each in stub.artifacts] == [0]
    assert len(stub.views) == 1
    assert board.history == []


def test_the_report_compares_ours_with_the_published_number(root: Path, stub: Stub) -> None:
    pytest.importorskip("wandb_workspaces")
    assert push().exit_code == 0
    (view,) = stub.views.values()
    assert view["displayName"] == "Leaderboard: Tiny"
    spec = json.loads(view["spec"])
    kinds = [block["type"] for block in spec["blocks"] if block["type"] != "paragraph"]
    assert kinds == ["panel-grid", "markdown-block", "panel-grid"]
    bars, page, _ = (block for block in spec["blocks"] if block["type"] != "paragraph")
    text = json.dumps(bars)
    for name in ("ours", "published"):
        assert f"lb/tiny/pinwheel/gaussian/{name}" in text
    assert "reproduced" in json.dumps(page)


def test_without_its_extra_the_report_is_left_out_and_said_how_to_get(
    root: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    shown = push()
    assert shown.exit_code == 0
    assert "pip install 'nfbench[reports]'" in shown.output
    assert stub.views == {}
    assert len(stub.artifacts) == 1


def test_changed_records_make_a_new_version_that_the_api_reads_back(
    root: Path, stub: Stub, tmp_path: Path
) -> None:
    assert push().exit_code == 0
    path = root / "results/tiny/gaussian/pinwheel/1.json"
    kept = path.read_text()
    path.unlink()
    try:
        assert push().exit_code == 0
        found = lines(root)
    finally:
        path.write_text(kept)
    assert [each.version for each in stub.artifacts] == [0, 1]
    artifact = wandb.Api().artifact("someone/nfbench/leaderboard-tiny:latest")
    assert artifact.version == "v1"
    table = artifact.get("table")
    assert table.columns == list(found[0])
    assert [list(row) for row in table.data] == [list(line.values()) for line in found]


def test_runs_that_the_server_has_are_linked_to(
    root: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load("tiny/gaussian", "pinwheel", 2, root=root)
    try:
        result = run(other, root=root, device="cpu", wandb="online")
        assert result.status == "done"
        assert push().exit_code == 0
    finally:
        record.record_path(other, root).unlink()
    line = json.loads(stub.artifacts[0].contents["lines.json"])[1]
    *_, address = line["runs"].split()
    assert address == f"{stub.url}/someone/nfbench/runs/tiny-gaussian-pinwheel-2-{other.hash[:6]}"


def test_no_key_is_written_or_printed(root: Path, stub: Stub) -> None:
    shown = push()
    assert KEY not in shown.output
    assert not any(KEY.encode() in content for content in stub.blobs.values())
    assert not re.search(KEY, json.dumps(list(stub.views.values())))
