"""Records are total, strict and never lost; a path is its content's name."""

import copy
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from harness import begin, exit_code

from nfbench import archive, record
from nfbench.errors import UsageError
from nfbench.record import Record


@dataclass(frozen=True)
class Place:
    table: str = "small"
    row: str = "maf_5"
    cell: str = "power"
    seed: int = 0
    overrides: tuple[str, ...] = ()


SECTIONS: dict[str, Any] = {
    "status": "done",
    "experiment": {
        "table": "small",
        "row": "maf_5",
        "cell": "power",
        "seed": 0,
        "config": {"flow": {"name": "maf", "layers": 5, "hidden": [100, 100]}},
        "config_hash": "ed9ef2dc31de",
        "overrides": [],
        "deviations": ["a deviation in about as many words as the longest of them takes " * 2] * 3,
        "reduced": None,
    },
    "metrics": {
        f"{split}/{key}": value
        for split in ("val", "test")
        for key, value in {
            "log_likelihood": 0.1412345678901234,
            "log_likelihood_se": 0.005123456789012345,
            "bits_per_dim": None,
            "n": 204928,
        }.items()
    },
    "likelihood": {"kind": "exact"},
    "audit": {},
    "speed": {},
    "model": {"n_parameters": 1, "best_step": 2, "steps": 3, "stop_reason": "patience"},
    "data": {
        "name": "power",
        "source": "power/data.npy",
        "n_train": 3,
        "n_val": 2,
        "n_test": 1,
        "fingerprint": "f" * 64,
    },
    "provenance": {
        "git": "a" * 40,
        "dirty": False,
        "versions": {"python": "3.11.9", "torch": "2.7.0", "numpy": "2.1.0"},
        "device": "cpu",
        "precision": "float32",
        "world_size": 1,
        "threads": 1,
        "seconds": 1.0,
        "peak_memory_bytes": 10**9,
        "compiled": False,
        "command": "nfbench run small/maf_5 power",
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:00:01+00:00",
    },
}
FAILURE = {"kind": "diverged", "step": 7, "batch": None, "message": "NaN", "checkpoint": None}
Change = Callable[[dict[str, Any]], object]


def make(**sections: Any) -> Record:
    return Record(**copy.deepcopy(SECTIONS | sections))


def failed() -> Record:
    return make(status="failed", metrics={}, failure=FAILURE)


def test_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for written in (make(), make(experiment=SECTIONS["experiment"] | {"seed": 1})):
        path = record.write(written, tmp_path)
        assert record.read(path) == written
        assert path.stat().st_size <= 3072
    assert path == tmp_path / "results/small/maf_5/power/1.json"


def test_finished_record_is_never_overwritten(tmp_path: Path) -> None:
    path = record.write(make(), tmp_path)
    before = path.read_text()
    for later in (make(), failed()):
        with pytest.raises(UsageError, match="a finished record stands here"):
            record.write(later, tmp_path)
    assert path.read_text() == before


def test_failed_record_gives_way_to_a_later_run(tmp_path: Path) -> None:
    path = record.write(failed(), tmp_path)
    assert record.read(path).failure == FAILURE
    record.write(make(), tmp_path)
    assert record.read(path).status == "done"


def test_file_that_is_no_record_is_not_overwritten(tmp_path: Path) -> None:
    path = record.record_path(Place(), tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("{half a rec")
    with pytest.raises(UsageError, match=str(path)):
        record.write(make(), tmp_path)


def test_crash_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        record.write(make(), tmp_path)
    assert [p for p in (tmp_path / "results").rglob("*") if p.is_file()] == []


def test_half_written_files_are_no_records(tmp_path: Path) -> None:
    path = record.write(make(), tmp_path)
    path.with_name(".1.json.123.tmp").write_text("{")
    path.with_name(".1.json").write_text("{")
    assert list(archive.records("small", tmp_path)) == [make()]
    assert list(archive.records("none", tmp_path)) == []


def test_records_come_by_row_cell_and_seed(tmp_path: Path) -> None:
    for row, seed in [("made", 0), ("maf_5", 10), ("maf_5", 2)]:
        named = SECTIONS["experiment"] | {"row": row, "seed": seed}
        record.write(make(experiment=named), tmp_path)
    order = [(r.row, r.seed) for r in archive.records("small", tmp_path)]
    assert order == [("made", 0), ("maf_5", 2), ("maf_5", 10)]


def test_amendments_by_two_at_once_are_both_kept(tmp_path: Path) -> None:
    record.write(make(), tmp_path)
    one, other = (record.read(tmp_path / "results/small/maf_5/power/0.json") for _ in range(2))
    record.amend(one, tmp_path, audit={"log_det_error": 1.0})
    record.amend(other, tmp_path, speed={"samples_per_second": 2.0})
    (found,) = archive.records("small", tmp_path)
    assert (found.audit, found.speed) == ({"log_det_error": 1.0}, {"samples_per_second": 2.0})


CHANGES: dict[str, tuple[Change, str]] = {
    "section_missing": (lambda r: r.pop("audit"), "audit"),
    "section_unknown": (lambda r: r.update(extra={}), "extra"),
    "section_not_object": (lambda r: r.update(speed=[]), "speed: expected an object"),
    "other_version": (lambda r: r.update(version=1), "version: expected 2, got 1"),
    "other_status": (lambda r: r.update(status="running"), "status"),
    "key_missing": (lambda r: r["provenance"].pop("git"), "provenance.*git"),
    "parts_no_list": (lambda r: r["provenance"].update(earlier="a"), "earlier: expected a list"),
    "part_incomplete": (
        lambda r: r["provenance"].update(earlier=[{"git": "a"}]),
        r"provenance.earlier\[0\]: missing or unknown .*'step'",
    ),
    "key_unknown": (lambda r: r["model"].update(extra=1), "model.*extra"),
    "nan": (lambda r: r["metrics"].update({"test/log_likelihood": float("nan")}), "NaN"),
    "nan_elsewhere": (lambda r: r["speed"].update(x=float("inf")), "Infinity"),
    "text_as_number": (lambda r: r["metrics"].update({"test/kl": "1"}), "test/kl.*'1'"),
    "no_result": (lambda r: r["metrics"].pop("test/n"), "test/n: missing"),
    "likelihood": (lambda r: r["likelihood"].update(kind="guess"), "likelihood.kind"),
    "failure_of_done": (lambda r: r.update(failure=FAILURE), "failure"),
    "numbers_of_failed": (lambda r: r.update(status="failed", failure=FAILURE), "metrics"),
    "failed_without_reason": (lambda r: r.update(status="failed", metrics={}), "failure"),
    "other_cell": (lambda r: r["experiment"].update(cell="gas"), "results/small/maf_5/gas/0.json"),
    "other_seed": (lambda r: r["experiment"].update(seed=3), "3.json"),
    "overrides": (lambda r: r["experiment"].update(overrides=["a.b=1"]), "runs/small"),
    "seal_missing": (lambda r: r.pop("sha256"), "sha256"),
    "other_number": (
        lambda r: r["metrics"].update({"test/log_likelihood": 0.2}),
        "sha256: its content was changed",
    ),
    "other_hash": (
        lambda r: r["experiment"].update(config_hash="0123456789ab"),
        "config_hash: expected ed9ef2dc31de, of its settings, got '0123456789ab'",
    ),
    "other_setting": (
        lambda r: r["experiment"]["config"]["flow"].update(layers=6),
        "config_hash: expected .*, got 'ed9ef2dc31de'",
    ),
    "outside": (lambda r: r["experiment"].update(row="../x"), "row: expected lower case"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_damaged_record_is_told_with_its_file(tmp_path: Path, name: str) -> None:
    change, told = CHANGES[name]
    path = record.write(make(), tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=told) as caught:
        record.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "null"])
def test_file_that_is_no_json_object_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "0.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"0\.json"):
        record.read(path)
    with pytest.raises(UsageError, match=r"1\.json"):
        record.read(tmp_path / "1.json")


def test_value_that_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.json"):
        record.write(make(speed={"samples": float("nan")}), tmp_path)
    with pytest.raises(UsageError, match="test/log_likelihood_se"):
        make(metrics=SECTIONS["metrics"] | {"test/log_likelihood_se": float("nan")})


def test_run_with_overrides_never_touches_results(tmp_path: Path) -> None:
    tried = Place(overrides=("training.max_steps=2",))
    folder = record.run_dir(tried, tmp_path)
    assert folder.parent == tmp_path / "runs/small/maf_5/power"
    assert folder.name.startswith("0-") and len(folder.name) == 10
    assert folder != record.run_dir(replace(tried, overrides=("training.max_steps=3",)), tmp_path)
    named = SECTIONS["experiment"] | {"overrides": list(tried.overrides)}
    path = record.write(make(experiment=named), tmp_path)
    assert path == folder / "record.json"
    assert record.read(path).overrides == tried.overrides
    assert not (tmp_path / "results").exists()
    assert record.run_dir(Place(), tmp_path) == tmp_path / "runs/small/maf_5/power/0"


@pytest.mark.parametrize(
    "place",
    [Place(row=".."), Place(cell=""), Place(table="A"), Place(row="a/b"), Place(seed=-1)],
)
def test_names_cannot_leave_the_tree(tmp_path: Path, place: Place) -> None:
    with pytest.raises(UsageError, match="expected"):
        record.record_path(place, tmp_path)


def test_root_is_the_variable_or_the_nearest_folder_with_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "experiments").mkdir()
    monkeypatch.delenv("NFBENCH_ROOT", raising=False)
    monkeypatch.chdir(inner)
    assert record.find_root() == tmp_path / "project"
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    assert record.find_root() == tmp_path
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="NFBENCH_ROOT: expected a folder"):
        record.find_root()


def test_committed_records_stand_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(record.__file__).parents[1]
    paths = list((root / "results").glob("*/*/*/*.json"))
    assert len(paths) > 100
    for path in paths:
        found = record.read(path)
        assert (root / "experiments" / found.table / f"{found.row}.yaml").is_file(), path


def write_seed(root: Path, seed: int) -> None:
    named = SECTIONS["experiment"] | {"seed": seed}
    record.write(make(experiment=named, model=SECTIONS["model"] | {"steps": seed}), root)


def write_same(root: Path, steps: int) -> None:
    try:
        record.write(make(model=SECTIONS["model"] | {"steps": steps}), root)
    except UsageError:
        return
    (root / f"wrote-{steps}").touch()


def write_torn(root: Path) -> None:
    """A writer that is killed between its last byte and the new name."""
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    record.write(make(), root)


def test_two_hundred_writers_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    writers = [begin(write_seed, tmp_path, seed) for seed in range(200)]
    reads = 0
    while any(writer.is_alive() for writer in writers):
        # Whoever reads meanwhile meets whole records alone.
        reads += all(r.model["steps"] == r.seed for r in archive.records("small", tmp_path))
    assert [exit_code(writer) for writer in writers] == [0] * 200
    found = list(archive.records("small", tmp_path))
    assert [r.seed for r in found] == [r.model["steps"] for r in found] == list(range(200))
    assert reads > 0


def test_of_many_writers_of_one_record_one_has_its_way(tmp_path: Path) -> None:
    record.write(failed(), tmp_path)
    writers = [begin(write_same, tmp_path, steps) for steps in range(40)]
    assert [exit_code(writer) for writer in writers] == [0] * 40
    (kept,) = archive.records("small", tmp_path)
    assert [p.name for p in tmp_path.glob("wrote-*")] == [f"wrote-{kept.model['steps']}"]


def test_what_a_killed_writer_leaves_is_never_a_result(tmp_path: Path) -> None:
    assert exit_code(begin(write_torn, tmp_path)) == -signal.SIGKILL
    (left,) = (p for p in (tmp_path / "results").rglob("*") if p.is_file())
    assert json.loads(left.read_text())["status"] == "done"  # whole, but nameless
    assert list(archive.records("small", tmp_path)) == []
    record.write(make(), tmp_path)
    assert list(archive.records("small", tmp_path)) == [make()]
