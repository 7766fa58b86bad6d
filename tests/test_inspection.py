"""An audit of what a run kept, from its checkpoint alone, wherever that lies."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from harness import GAUSSIAN, MAF, changed, finished_runs

from nfbench import record
from nfbench.cli import main
from nfbench.config import Experiment, load, restore
from nfbench.errors import UsageError
from nfbench.inspection import inspect
from nfbench.seal import sealed_text

SHORT = changed(MAF, training={"max_steps": 20, "validate_every": 10})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_runs(tmp_path_factory.mktemp("audit"), maf=SHORT, gaussian=GAUSSIAN)


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(finished, tmp_path / "root")


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a record of other content, sealed anew."""
    del content["sha256"]
    path.write_text(sealed_text(content))


def experiment(root: Path, row: str = "maf") -> Experiment:
    return load(f"tiny/{row}", "pinwheel", root=root)


@pytest.mark.parametrize(
    "target",
    [
        "tiny/maf/pinwheel",
        "tiny/maf/pinwheel/0",
        "runs/tiny/maf/pinwheel/0/",
        "./runs/tiny/maf/pinwheel",
        "tiny/maf/pinwheel/0/best.pt",
        "{root}/runs/tiny/maf/pinwheel/0",
    ],
)
def test_a_run_is_audited_as_it_was_when_it_ended(root: Path, target: str) -> None:
    kept = record.read(record.record_path(experiment(root), root))
    found = inspect(target.format(root=root), root=root)
    assert found.audit == kept.audit
    assert found.record == record.record_path(experiment(root), root)
    assert kept.audit["log_det_error"] < 1e-9
    assert 0 <= kept.audit["sample_calibration"] <= 1
    assert kept.audit["non_finite_samples"] == 0


def test_what_calibration_alone_has_fitted_can_be_audited(root: Path) -> None:
    assert inspect("tiny/gaussian/pinwheel", root=root).audit["mass"] == pytest.approx(1, abs=0.05)


def test_an_audit_is_stored_in_a_record_without_one(root: Path) -> None:
    path = record.record_path(experiment(root), root)
    before = json.loads(path.read_text())
    write(path, before | {"audit": {}})
    inspect("tiny/maf/pinwheel", root=root)
    after = json.loads(path.read_text())
    assert after == before


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_checkpoint_may_lie_anywhere(root: Path, tmp_path: Path, name: str) -> None:
    run_dir = record.run_dir(experiment(root), root)
    moved = shutil.copy(run_dir / name, tmp_path / "elsewhere.pt")
    found = inspect(str(moved), root=root)
    assert found.audit["log_det_error"] < 1e-9
    assert found.record is None, "other weights may lie there than the record is of"


def test_weights_in_training_are_not_those_of_the_record(root: Path) -> None:
    """Of the same step, but not averaged, say."""
    assert inspect("tiny/maf/pinwheel/0/last.pt", root=root).record is None


def test_an_audit_on_other_data_is_not_stored(root: Path) -> None:
    path = record.record_path(experiment(root), root)
    kept = json.loads(path.read_text())
    kept["data"]["fingerprint"] = "another"
    write(path, kept)
    assert inspect("tiny/maf/pinwheel", root=root).record is None


def test_weights_of_another_step_leave_the_record_alone(root: Path) -> None:
    path = record.record_path(experiment(root), root)
    kept = json.loads(path.read_text())
    kept["model"]["best_step"] += 1
    kept["audit"] = {}
    write(path, kept)
    assert inspect("tiny/maf/pinwheel", root=root).record is None
    assert json.loads(path.read_text())["audit"] == {}


def test_an_experiment_is_restored_from_what_a_checkpoint_says(root: Path) -> None:
    one = load("tiny/maf", "pinwheel", 3, ("flow.layers=1",), root)
    other = restore(one.identity())
    assert (other.config(), other.hash, other.overrides) == (
        one.config(),
        one.hash,
        one.overrides,
    )
    assert record.run_dir(other, root) == record.run_dir(one, root)


def test_a_wrong_target_says_where_it_looked(root: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*runs/tiny/maff/pinwheel/0/best\.pt"):
        inspect("tiny/maff/pinwheel", root=root)
    with pytest.raises(UsageError, match=r"expected a checkpoint, or a run .* as TABLE/ROW/CELL"):
        inspect("tiny/maf", root=root)
    with pytest.raises(UsageError, match=r"there is no .*/pinwheel/7/best\.pt"):
        inspect("tiny/maf/pinwheel", seed=7, root=root)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("results/tiny/maf/pinwheel/0.json", "tiny/maf/pinwheel/0"),
        ("{root}/results/tiny/maf/pinwheel/0.json", "tiny/maf/pinwheel/0"),
        ("results/tiny/maf/pinwheel/7.json", "tiny/maf/pinwheel/7"),
        ("runs/tiny/maf/pinwheel/0-12ab34cd/record.json", "tiny/maf/pinwheel/0-12ab34cd"),
        ("results/sweeps/small.json", "TABLE/ROW/CELL/SEED"),
    ],
)
def test_a_record_is_no_checkpoint_and_its_run_is_named(
    root: Path, target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(UsageError) as caught:
        inspect(target.format(root=root), root=root)
    assert "expected a run or a checkpoint, got a record" in str(caught.value)
    assert str(caught.value).endswith(f"give the name of its run, {name}")


def test_a_damaged_record_says_what_to_do(root: Path) -> None:
    path = record.record_path(experiment(root), root)
    path.write_text(path.read_text().replace('"test/n": 10000', '"test/n": 10001'))
    with pytest.raises(UsageError, match=r"0\.json: sha256: .* changed .*; restore it"):
        inspect("tiny/maf/pinwheel", root=root)


IDENTITY = {"table": "t", "row": "r", "cell": "c", "seed": 0, "overrides": []}
CONFIG = {"flow": {"name": "maf"}, "data": {"name": "pinwheel"}}


def state(**changes: Any) -> dict[str, Any]:
    return {"model": {}, "step": 1, "experiment": IDENTITY | {"config": CONFIG} | changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "unreadable file"),
        (torch.zeros(3), "names its experiment"),
        ({"a": 1}, "names its experiment"),
        ({"model": {}, "step": 1, "experiment": 3}, "expected a checkpoint of a run"),
        ({"model": {}, "step": 1, "experiment": {}}, "lacks cell, config"),
        (state(seed="x"), "expected a non-negative integer below"),
        (state(table="../x"), "expected lower case letters"),
        (state(config=CONFIG | {"flow": {"name": "nope"}}), "unknown flow 'nope'"),
        (state(config=CONFIG | {"data": {"name": "nope"}}), "unknown data 'nope'"),
        (state(config=CONFIG | {"training": {"momentum": 1}}), "unknown key"),
        (state(), "the flow is not what it was"),
    ],
)
def test_other_files_are_refused(root: Path, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "other.pt"
    if content is None:
        path.write_bytes(b"no checkpoint")
    else:
        torch.save(content, path)
    with pytest.raises(UsageError, match=message):
        inspect(str(path), root=root)


def test_the_command_prints_every_finding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    shown = CliRunner().invoke(main, ["audit", "tiny/maf/pinwheel"])
    assert shown.exit_code == 0
    assert "log_det_error: " in shown.output
    assert "verdict: ok: log-determinant, base density and inverse within 1e-06" in shown.output
    assert "verdict: samples " in shown.output
    assert "stored in " in shown.output
    wrong = CliRunner().invoke(main, ["audit", "nothing"])
    assert wrong.exit_code == 2
    assert "expected a checkpoint" in wrong.output
