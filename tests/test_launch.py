"""Reproducing a table runs what is missing, side by side, and a failure stops nothing else."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from harness import DIVERGING, GAUSSIAN, MAF, changed, write_table

from nfbench import record
from nfbench.cli import main
from nfbench.config import load
from nfbench.errors import UsageError
from nfbench.launch import local
from nfbench.launch import reproduce as reproduce_module
from nfbench.launch.estimate import estimate
from nfbench.launch.local import launch
from nfbench.launch.plan import plan
from nfbench.run import run

BOTH = {"cells": {"pinwheel": {}, "checkerboard": {}}}
Reproduce = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))
    return write_table(tmp_path, gaussian=GAUSSIAN | BOTH, maf=MAF | BOTH)


@pytest.fixture
def reproduce() -> Reproduce:
    return lambda *words: CliRunner().invoke(
        main, ["reproduce", "tiny", "--device", "cpu", *words]
    )


def folder(root: Path, row: str, cell: str = "pinwheel") -> Path:
    path = root / "runs" / "tiny" / row / cell / "0"
    path.mkdir(parents=True, exist_ok=True)
    return path


def finish(root: Path, row: str, cell: str = "pinwheel") -> None:
    run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")


def test_a_plan_is_every_cell_in_the_order_of_the_table_with_its_state(root: Path) -> None:
    write_table(root, gaussian=GAUSSIAN | BOTH, maf=MAF | BOTH, diverging=DIVERGING)
    finish(root, "gaussian")
    finish(root, "diverging")
    (folder(root, "maf") / "last.pt").touch()
    assert {job.name: job.state for job in plan("tiny", root=root)} == {
        "tiny/gaussian/pinwheel/0": "done",
        "tiny/gaussian/checkerboard/0": "missing",
        "tiny/maf/pinwheel/0": "started",
        "tiny/maf/checkerboard/0": "missing",
        "tiny/diverging/pinwheel/0": "failed",
    }


def test_a_plan_takes_only_the_rows_cells_and_seeds_named(root: Path) -> None:
    jobs = plan("tiny", rows=["maf"], cells=["checkerboard"], seeds=range(3), root=root)
    assert [job.name for job in jobs] == [f"tiny/maf/checkerboard/{seed}" for seed in range(3)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"rows": ["mav"]}, "unknown row 'mav' of tiny; did you mean 'maf'"),
        ({"cells": ["checkers"]}, "unknown cell 'checkers' of tiny; did you mean 'checkerboard'"),
    ],
)
def test_a_plan_refuses_names_that_the_table_has_not(
    root: Path, names: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        plan("tiny", root=root, **names)


def test_a_dry_run_shows_the_plan_and_its_cost_and_runs_nothing(
    root: Path, reproduce: Reproduce
) -> None:
    shown = reproduce("--dry-run", "--jobs", "2")
    assert shown.exit_code == 0
    assert "tiny: 4 cells, 0 done, 4 to run, 2 at a time" in shown.output
    assert "tiny/maf/checkerboard/0" in shown.output
    assert "in all for the cells with a fixed end" in shown.output
    assert sorted(path.name for path in root.iterdir()) == ["experiments"]


def test_cells_without_their_data_are_left_out_and_named(root: Path, reproduce: Reproduce) -> None:
    write_table(root, gaussian=GAUSSIAN | {"cells": {"power": {}, "pinwheel": {}}})
    shown = reproduce("--dry-run")
    assert "2 cells, 0 done, 1 to run" in shown.output
    assert "data set power is missing" in " ".join(shown.output.split())


def test_a_cell_that_fails_or_crashes_stops_no_other_and_is_listed_at_the_end(
    root: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(root, diverging=DIVERGING, crashing=MAF, gaussian=GAUSSIAN)
    (folder(root, "crashing") / "best.pt").mkdir()
    shown = reproduce("--jobs", "2")
    assert shown.exit_code == 1
    lines = shown.output.splitlines()
    for row in ("diverging", "crashing"):
        first = lines.index(f"failed: tiny/{row}/pinwheel/0")
        log = folder(root, row) / "log.txt"
        assert lines[first + 1] == f"  log: {log}"
        assert lines[first + 2] == f"  again: nfbench run tiny/{row} pinwheel --seed 0"
        assert first > max(i for i, line in enumerate(lines) if "table: results/tiny.md" in line)
    assert "Traceback" in (folder(root, "crashing") / "log.txt").read_text()
    results = root / "results" / "tiny"
    assert record.read(results / "gaussian" / "pinwheel" / "0.json").status == "done"
    assert record.read(results / "diverging" / "pinwheel" / "0.json").status == "failed"
    assert not (results / "crashing").exists()
    page = (root / "results" / "tiny.md").read_text()
    assert "failed: non-finite loss" in page
    assert "missing" in page

    started: list[str] = []

    def start(command: Sequence[str], log: Path, root: Path) -> subprocess.Popen[bytes]:
        started.append(command[2])
        return subprocess.Popen(["true"])

    monkeypatch.setattr(local, "start", start)
    shown = reproduce()
    assert started == ["tiny/crashing"]
    assert shown.exit_code == 1
    assert "failed: tiny/diverging/pinwheel/0" in shown.output


def test_a_second_call_runs_nothing(
    root: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: Sequence[str], log: Path, root: Path) -> subprocess.Popen[bytes]:
        job = jobs[len(started)]
        started.append(job.name)
        options = ["--device", "cpu", "--threads", "1", "--no-bar"]
        assert list(command) == [*job.experiment.command, *options]
        assert log == job.log
        finish(root, job.experiment.row, job.experiment.cell)
        return subprocess.Popen(["true"])

    jobs, started = plan("tiny", root=root), list[str]()
    monkeypatch.setattr(local, "start", start)
    first, second = reproduce(), reproduce()
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert started == [job.name for job in jobs]
    assert "4 cells, 4 done, 0 to run" in second.output
    page = (root / "results" / "tiny.md").read_text()
    assert page.count("measured") == 4


class Scripts:
    """Stands in for the processes of jobs: python programs, and when each ran."""

    def __init__(self, *programs: str) -> None:
        self.programs = list(programs)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.most = 0

    def start(self, command: Sequence[str], log: Path, root: Path) -> subprocess.Popen[bytes]:
        program = self.programs[len(self.processes)]
        self.processes.append(subprocess.Popen([sys.executable, "-S", "-c", program]))
        self.most = max(self.most, sum(p.poll() is None for p in self.processes))
        return self.processes[-1]


def test_jobs_run_in_order_so_many_at_a_time_and_a_failure_stops_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nap = "import time; time.sleep(0.3)"
    scripts = Scripts(nap, "raise SystemExit(3)", nap, nap)
    monkeypatch.setattr(local, "start", scripts.start)
    jobs, seen = plan("tiny", root=root), list[str]()
    outcomes = launch(
        jobs,
        n_parallel=2,
        on_start=lambda job: seen.append(job.name),
        on_end=lambda outcome: seen.append(f"{outcome.job.name} {outcome.exit_code}"),
    )
    names = [job.name for job in jobs]
    assert {o.job.name: o.exit_code for o in outcomes} == dict(
        zip(names, (0, 3, 0, 0), strict=True)
    )
    assert [name for name in seen if name in names] == names
    assert seen.index(f"{names[1]} 3") < seen.index(names[2])
    assert scripts.most == 2


def test_ctrl_c_asks_every_process_to_stop_and_waits_for_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = [tmp_path / name for name in ("first", "second")]
    scripts = Scripts(
        *(
            "import pathlib, signal, sys, time\n"
            "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.2), sys.exit(130)))\n"
            f"pathlib.Path({str(path)!r}).touch(); time.sleep(60)"
            for path in ready
        )
    )
    monkeypatch.setattr(local, "start", scripts.start)

    def interrupt(seconds: float) -> None:
        if all(path.exists() for path in ready):
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(plan("tiny", root=root), n_parallel=2)
    assert [process.returncode for process in scripts.processes] == [130, 130]


def test_an_interrupted_reproduction_says_how_to_go_on(
    root: Path, reproduce: Reproduce, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce_module, "launch", interrupted)
    shown = reproduce()
    assert shown.exit_code == 130
    assert "The same command goes on from there." in " ".join(shown.output.split())


def test_a_job_is_a_process_that_the_signals_of_the_terminal_do_not_reach(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job, *_) = plan("tiny", root=root)
    process = local.start([*job.experiment.command, "--help"], job.log, root)
    assert process.wait(60) == 0
    assert "Train and test one cell" in job.log.read_text()
    assert job.log == folder(root, "gaussian") / "log.txt"


def test_an_estimate_grows_with_the_steps_and_knows_an_open_end(root: Path) -> None:
    few, many, none = (
        estimate(load("tiny/maf", "pinwheel", 0, [f"training.max_steps={n}"], root))
        for n in (100, 100_000, 0)
    )
    assert 0 < none.seconds < many.seconds
    assert few.seconds < many.seconds
    assert not many.open_ended
    words = ["training.max_steps=null", "training.patience=3"]
    assert estimate(load("tiny/maf", "pinwheel", 0, words, root)).open_ended


def test_an_estimate_takes_images_too(root: Path) -> None:
    row = changed(MAF, preprocess={"dequantize": "uniform"}) | {"cells": {"digits": {}}}
    write_table(root, maf=row)
    assert estimate(load("tiny/maf", "digits", root=root)).seconds > 0


def test_signals_of_a_stop_reach_a_real_process() -> None:
    program = (  # a shell's background job, and what it starts, ignores interrupts
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(OSError, match="no more"), local.stopping([process]):
        raise OSError("no more")
    assert process.returncode in (-signal.SIGINT, 1)
