"""A run that was resumed elsewhere says by which sources and on what each part of it was made."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import MAF, write_table
from test_run import directory, go, strike

from nfbench import checkpoint, cost_page, leaderboard, provenance, record, report, tables
from nfbench.parts import resumed
from nfbench.record import Record
from nfbench.signals import InterruptedRunError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_table(tmp_path, maf=MAF)


@pytest.fixture
def part(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes on with the run, from a commit and a machine on, as far as a step or to its end."""
    times = (f"2025-01-01T00:00:{second:02}+00:00" for second in range(60))

    def go_on(
        git: str, *, changes: str = "", device: str = "CPU A", until: int | None = None
    ) -> Any:
        with monkeypatch.context() as patch:
            answers = {"rev-parse": git, "status": changes}
            patch.setattr(provenance, "git", lambda root, word, *rest: answers[word])
            patch.setattr(provenance, "device_name", lambda place: device)
            patch.setattr(provenance, "now", lambda: next(times))
            if until is None:
                return go(root, "maf")
            strike(patch, signal.SIGINT, until - 1)
            with pytest.raises(InterruptedRunError, match=f"SIGINT at step {until}"):
                go(root, "maf")
            return None

    return go_on


def sources(found: Record) -> list[tuple[str, bool, str, int]]:
    return [
        (part["git"], part["dirty"], part["device"], part["step"])
        for part in found.provenance["earlier"]
    ]


def test_a_run_resumed_at_another_commit_names_both(root: Path, part: Any) -> None:
    part("aaaa", until=26)
    found = part("bbbb")
    assert found == record.read(root / "results/tiny/maf/pinwheel/0.json")
    assert (found.provenance["git"], found.provenance["dirty"]) == ("bbbb", False)
    (first,) = found.provenance["earlier"]
    assert first == {
        "git": "aaaa",
        "dirty": False,
        "versions": provenance.versions(),
        "device": "CPU A",
        "world_size": 1,
        "threads": torch.get_num_threads(),
        "compiled": False,
        "started": "2025-01-01T00:00:00+00:00",
        "step": 26,
    }
    assert found.provenance["started"] == first["started"] < found.provenance["finished"]


def test_a_run_in_one_go_or_resumed_as_it_was_has_no_earlier_parts(part: Any) -> None:
    for step in (26, 40, 60):
        part("aaaa", until=step)
    found = part("aaaa").provenance
    assert set(found) == set(record.KEYS["provenance"].split())
    assert found["started"] == "2025-01-01T00:00:00+00:00"
    assert found["finished"] == "2025-01-01T00:00:04+00:00"


def test_a_part_of_changed_sources_stays_named_as_such(part: Any) -> None:
    part("aaaa", changes=" M nfbench/run.py", until=26)
    found = part("aaaa")
    assert found.provenance["dirty"] is False
    assert sources(found) == [("aaaa", True, "CPU A", 26)]


def test_each_part_is_named_in_turn(part: Any) -> None:
    part("aaaa", until=26)
    part("aaaa", until=40)
    part("aaaa", device="CPU B", until=60)
    found = part("aaaa")
    assert sources(found) == [("aaaa", False, "CPU A", 40), ("aaaa", False, "CPU B", 60)]


def test_the_test_alone_is_a_part(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("nfbench.evaluation.likelihood_metrics", interrupted)
        with pytest.raises(InterruptedRunError):
            part("aaaa")
    assert sources(part("bbbb")) == [("aaaa", False, "CPU A", 100)]


def test_a_checkpoint_from_before_parts_were_kept_is_one_of_unknown_sources(
    root: Path, part: Any
) -> None:
    part("aaaa", until=26)
    last = directory(root, "maf") / "last.pt"
    state = checkpoint.load(last)
    del state["parts"]
    checkpoint.save(last, state)
    found = part("bbbb").provenance
    (first,) = found["earlier"]
    assert first == dict.fromkeys(record.KEYS["earlier"].split()) | {"step": 26}
    assert (found["git"], found["dirty"]) == ("bbbb", False)
    assert found["started"] < found["finished"]
    assert "until step 26: commit unknown, device unknown" in resumed(found)
    assert "| unknown; CPU A, " in cost_page.markdown(root)


def test_what_shows_a_commit_or_a_device_shows_those_of_every_part(
    root: Path, part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "__version__", "0.0.1")
        part("aaaa", changes=" M nfbench/run.py", device="CPU B", until=26)
    found = part("bbbb")
    (line,) = leaderboard.lines(tables.build("tiny", root), leaderboard.place)
    assert line["commit"] == "aaaa+, bbbb"
    assert line["hardware"] == "CPU A, CPU B"
    facts = report.facts(found)
    told = "until step 26: commit aaaa with changes, device CPU B, nfbench 0.0.1"
    assert facts["resumed"] == told
    assert f"<dd>{told}</dd>" in report.write(root=root).read_text()
    threads = f"{torch.get_num_threads()} thread"
    assert f"| CPU B, {threads}; CPU A, {threads}" in cost_page.markdown(root)
