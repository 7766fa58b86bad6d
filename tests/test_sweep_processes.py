"""Processes that share a sweep, and die in it: no trial is lost, run twice or counted twice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from harness import begin, command, exit_code, kill_at, write_sweep

from nfbench import checkpoint, record
from nfbench.curve import read_curve
from nfbench.sweeps import result
from nfbench.sweeps.launch import launch, log_path
from nfbench.sweeps.space import load_sweep
from nfbench.sweeps.study import Study
from nfbench.sweeps.work import work

SPACE = {"flow.layers": [1, 2], "training.learning_rate": [0.01, 0.001]}
STEP = "nfbench.module:DensityModule.optimize"
CREATE = "optuna:Trial.__init__"
SUGGEST = "optuna:Trial.suggest_categorical"
TELL = "optuna:Study.tell"
TEST = "nfbench.module:DensityModule.test_step"
RECORD = "nfbench.sweeps.result:write_atomic"


def work_until_killed(root: Path, place: str, count: int) -> None:
    kill_at(place, count)
    work(load_sweep("small", root), device="cpu")


def values(root: Path) -> list[tuple[list[str], float]]:
    """What the trials of a finished sweep gave."""
    found = result.read(root / "results/sweeps/small.json")
    return [(trial["overrides"], trial["value"]) for trial in found.trials]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[str], float]]:
    """The values of a sweep that nothing happened to."""
    root = write_sweep(tmp_path_factory.mktemp("uncut"), space=SPACE)
    assert work(load_sweep("small", root), device="cpu")
    return values(root)


def test_a_sweep_killed_again_and_again_gives_the_trials_of_one_that_never_was(
    tmp_path: Path, uncut: list[tuple[list[str], float]]
) -> None:
    write_sweep(tmp_path, space=SPACE)
    moments = [
        (CREATE, 1),  # a trial that has no values at all
        (SUGGEST, 2),  # one that has half of them
        (STEP, 31),  # in its training
        (TELL, 1),  # trained, and not told
        (STEP, 45),  # in the next one
        (TEST, 1),
        (RECORD, 1),
    ]
    for place, count in moments:
        process = begin(work_until_killed, tmp_path, place, count)
        assert exit_code(process) == -signal.SIGKILL, f"not killed at {place} {count}"
        assert len(Study(load_sweep("small", tmp_path)).trials()) <= 4
    assert work(load_sweep("small", tmp_path), device="cpu")
    assert values(tmp_path) == uncut


def test_a_trial_that_was_cut_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    sweep = load_sweep("small", write_sweep(tmp_path, space=SPACE))
    assert exit_code(begin(work_until_killed, tmp_path, STEP, 31)) == -signal.SIGKILL
    (trial,) = Study(sweep).trials()
    folder = record.run_dir(sweep.experiment(trial.words), tmp_path)
    step = checkpoint.load(folder / "last.pt")["step"]
    assert 20 <= step < 31
    # The next process is killed before it could have come so far from the start.
    assert exit_code(begin(work_until_killed, tmp_path, STEP, 40 - step + 2)) == -signal.SIGKILL
    trials = Study(sweep).trials()
    assert [t.state for t in trials] == ["done", "running"]
    assert trials[0].outcome.steps == 40
    assert [line["step"] for line in read_curve(folder / "curve.jsonl")] == [20, 40]


def test_a_trial_that_kills_every_process_ends_as_failed(tmp_path: Path) -> None:
    sweep = load_sweep("small", write_sweep(tmp_path, space=SPACE))
    for _ in range(3):
        assert exit_code(begin(work_until_killed, tmp_path, STEP, 1)) == -signal.SIGKILL
        assert [t.state for t in Study(sweep).trials()] == ["running"]
    assert work(sweep, device="cpu")
    found = result.read(tmp_path / "results/sweeps/small.json")
    assert [trial["state"] for trial in found.trials] == ["failed", "done", "done", "done"]
    assert found.trials[0]["reason"] == "3 processes died of it, see their log"


def test_processes_share_a_sweep_and_run_each_trial_once(
    tmp_path: Path, uncut: list[tuple[list[str], float]]
) -> None:
    space = {"flow.layers": [1, 2], "training.learning_rate": [0.01, 0.001, 0.003]}
    write_sweep(tmp_path, space=space)
    logs = [tmp_path / f"{i}.log" for i in range(3)]
    processes = [begin(command, tmp_path, ["sweep", "small", "--jobs", "1"], log) for log in logs]
    assert [exit_code(process) for process in processes] == [0, 0, 0]
    texts = [log.read_text() for log in logs]
    text = log_path(load_sweep("small", tmp_path)).read_text()
    begun = re.findall(r"trial (\d): flow.layers", text)
    assert sorted(begun) == list("012345")
    assert sum("the winner is trial" in text for text in texts) == 1
    ours = {tuple(words): value for words, value in values(tmp_path)}
    assert len(ours) == 6
    assert {tuple(words): value for words, value in uncut}.items() <= ours.items()


def interrupt(root: Path, process: BaseProcess) -> None:
    """Ctrl-C as soon as a trial has left a checkpoint."""
    wait_for(lambda: any((root / "runs").glob("tiny/maf/pinwheel/*/last.pt")))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process) == 130
    assert not (root / "results").exists()


def test_ctrl_c_leaves_what_the_same_command_takes_up(
    tmp_path: Path, uncut: list[tuple[list[str], float]]
) -> None:
    write_sweep(tmp_path, space=SPACE)
    output = tmp_path / "output.txt"
    interrupt(tmp_path, begin(command, tmp_path, ["sweep", "small", "--jobs", "1"], output))
    assert "to go on from there: nfbench sweep small" in output.read_text()
    assert work(load_sweep("small", tmp_path), device="cpu")
    assert values(tmp_path) == uncut


def test_no_job_is_left_behind_when_the_next_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise OSError("no more processes")
        started.append(original([sys.executable, "-S", "-c", "import time; time.sleep(60)"]))
        return started[0]

    original = subprocess.Popen
    sweep = load_sweep("small", write_sweep(tmp_path, space=SPACE))
    monkeypatch.setattr(subprocess, "Popen", popen)
    try:
        with pytest.raises(OSError, match="no more processes"):
            launch(sweep, 2, device="cpu", threads=1)
        assert started[0].poll() is not None
    finally:
        started[0].kill()


@pytest.mark.slow
def test_jobs_are_processes_that_stop_and_go_on_together(
    tmp_path: Path, uncut: list[tuple[list[str], float]]
) -> None:
    write_sweep(tmp_path, space=SPACE)
    words = ["sweep", "small", "--jobs", "2", "--device", "cpu"]
    interrupt(tmp_path, begin(command, tmp_path, words, tmp_path / "first.txt"))
    output = tmp_path / "second.txt"
    assert exit_code(begin(command, tmp_path, words, output), 120) == 0
    assert "page: results/sweeps/small.md" in output.read_text()
    assert values(tmp_path) == uncut
    log = log_path(load_sweep("small", tmp_path))
    before = log.read_text()
    assert before.count("wrote results/sweeps/small.json") == 1
    assert exit_code(begin(command, tmp_path, words, tmp_path / "third.txt")) == 0
    assert log.read_text() == before
