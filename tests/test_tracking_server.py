"""W&B's server, for which a stub on loopback stands: runs online, and runs pushed afterwards."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import wandb
from click.testing import CliRunner, Result
from filelock import FileLock
from harness import MAF, begin, changed, exit_code, write_table
from wandb_stub import KEY, Stub, StubRun, command_in, environment, serving

from nfbench import record
from nfbench.cli import main
from nfbench.config import load
from nfbench.curve import read_curve
from nfbench.run import run
from nfbench.tracking import mode
from nfbench.tracking.identity import Identity, identify
from nfbench.tracking.log_file import BLOCK, STEP, Logged, marker, read_log
from nfbench.tracking.logger import RunLogger

NAMED = Identity("some-run", "some run", "group", (), {})
LONG = changed(MAF, training={"max_steps": 1000, "validate_every": 50})


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server; all that it was asked for, it knew."""
    with serving() as stub:
        yield stub
        assert stub.unknown == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_table(tmp_path, maf=MAF, long=LONG)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run offline has left in runs/."""
    root = write_table(tmp_path_factory.mktemp("offline"), maf=MAF)
    run(load("tiny/maf", "pinwheel", root=root), root=root, device="cpu", wandb="offline")
    (log,) = (root / "runs").rglob("*.wandb")
    wait_for(log)
    wandb.teardown()
    return root / "runs"


@pytest.fixture
def log(finished: Path, root: Path) -> Path:
    """The log of a run offline, in a tree of its own."""
    shutil.copytree(finished, root / "runs", symlinks=True)
    (found,) = (root / "runs").rglob("*.wandb")
    return found


def wait_for(log: Path) -> Logged:
    """What a log says once W&B's own process has written it whole."""
    for _ in range(100):
        if (found := read_log(log)).exit_code is not None:
            break
        time.sleep(0.1)
    return found


@pytest.fixture
def env(stub: Stub, root: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with a key."""
    return dict(os.environ) | environment(stub, tmp_path / "home") | {"NFBENCH_ROOT": str(root)}


@pytest.fixture
def at_login(env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process sees the server."""
    wandb.teardown()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")
    yield
    wandb.teardown()


def start(env: Mapping[str, str], row: str) -> BaseProcess:
    """`nfbench run` of a row in a process of its own, in an environment."""
    root = Path(env["NFBENCH_ROOT"])
    words = ["run", f"tiny/{row}", "pinwheel", "--device", "cpu", "--no-bar"]
    return begin(command_in, dict(env), root, words, root / "output")


def whole(env: Mapping[str, str], row: str) -> str:
    """What a run prints that ends well."""
    process, output = start(env, row), Path(env["NFBENCH_ROOT"]) / "output"
    assert exit_code(process, 100) == 0, output.read_text()
    return output.read_text()


def interrupt(env: Mapping[str, str], row: str, number: int, steps: float = 0) -> int | None:
    """Send a signal to a run once its curve is longer than so many steps; its exit code."""
    process, curve = start(env, row), folder(Path(env["NFBENCH_ROOT"]), row) / "curve.jsonl"
    for _ in range(3000):
        if (lines := read_curve(curve)) and lines[-1]["step"] > steps:
            break
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, number)
    return exit_code(process)


def sync(*words: str) -> Result:
    return CliRunner().invoke(main, ["wandb", "sync", *words])


def folder(root: Path, row: str) -> Path:
    return root / "runs" / "tiny" / row / "pinwheel" / "0"


def name_of(root: Path, row: str) -> str:
    """The id of the run of a row."""
    return identify(load(f"tiny/{row}", "pinwheel", root=root), None).id


def rows(stub: Stub, name: str) -> list[dict[str, Any]]:
    """The lines of a run's curve that the server has."""
    return [row for row in stub.runs[name].history if "train/loss" in row]


def test_a_run_online_arrives_with_its_numbers_and_its_figure(
    stub: Stub, root: Path, env: Mapping[str, str]
) -> None:
    printed = whole(env, "maf")
    found = stub.runs[name_of(root, "maf")]
    assert found.project == "nfbench"
    assert found.fields["groupName"] == "tiny/maf/pinwheel"
    assert found.fields["displayName"] == "tiny/maf/pinwheel/0"
    assert found.fields["jobType"] == "train"
    assert found.fields["tags"] == ["tiny", "maf", "pinwheel", "seed-0"]
    assert found.config["training"]["max_steps"] == 100
    curve = read_curve(folder(root, "maf") / "curve.jsonl")
    arrived = rows(stub, found.id)
    assert [row[STEP] for row in arrived] == [line["step"] for line in curve]
    assert [row["train/loss"] for row in arrived] == [line["train_loss"] for line in curve]
    result = record.read(root / "results/tiny/maf/pinwheel/0.json")
    assert found.summary["test/log_likelihood"] == result.metrics["test/log_likelihood"]
    assert found.summary["best/step"] == 100
    (name,) = [name for name in found.uploads if name.startswith("media/images/plot")]
    assert found.uploads[name] == (folder(root, "maf") / "plot.png").read_bytes()
    assert found.exit_code == 0
    (log,) = folder(root, "maf").glob("wandb/run-*/*.wandb")
    assert marker(log).exists()  # nothing is left to push
    assert KEY not in printed
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_run_offline_that_was_interrupted_and_resumed_is_pushed_as_one_run_once(
    stub: Stub, root: Path, env: dict[str, str], at_login: None
) -> None:
    offline = env | {"WANDB_MODE": "offline"}
    directory = folder(root, "long")
    assert interrupt(offline, "long", signal.SIGINT) == 130
    reached = read_curve(directory / "curve.jsonl")[-1]["step"]
    assert interrupt(offline, "long", signal.SIGTERM, reached) == 130
    whole(offline, "long")
    logs = [wait_for(path) for path in sorted(directory.glob("wandb/offline-*/*.wandb"))]
    ends = [(each.exit_code, each.preempted) for each in logs]
    assert ends == [(130, True), (143, True), (0, False)]
    assert stub.operations == []

    shown = sync("--dry-run")
    assert f"nfbench/{name_of(root, 'long')}: to push, 3 logs" in shown.output
    assert stub.operations == []
    shown = sync()
    assert shown.exit_code == 0, shown.output
    assert "1 to push, 1 pushed, 0 left" in shown.output
    found = stub.runs[name_of(root, "long")]
    steps = [row["_step"] for row in found.history]
    assert steps == sorted(set(steps))
    curve = read_curve(directory / "curve.jsonl")
    assert [row[STEP] for row in rows(stub, found.id)] == [line["step"] for line in curve]
    result = record.read(root / "results/tiny/long/pinwheel/0.json")
    assert found.summary["best/step"] == result.model["best_step"]
    for name in ("test/log_likelihood", "val/log_likelihood"):
        assert found.summary[name] == result.metrics[name]
    assert found.exit_code == 0
    asked = len(stub.operations)
    again = sync()
    assert "0 to push, 0 pushed, 0 left" in again.output
    assert len(stub.operations) == asked


def test_a_log_that_was_cut_is_pushed_up_to_there(
    stub: Stub, root: Path, log: Path, at_login: None
) -> None:
    log.write_bytes(log.read_bytes()[:-10])
    assert read_log(log).exit_code is None
    shown = sync()
    assert shown.exit_code == 0, shown.output
    found = stub.runs[name_of(root, "maf")]
    assert len(rows(stub, found.id)) == 5
    assert "test/log_likelihood" in found.summary
    assert "0 to push" in sync().output


def test_a_run_that_goes_on_is_left_alone(
    stub: Stub, root: Path, log: Path, at_login: None
) -> None:
    with FileLock(folder(root, "maf") / "run.lock"):
        shown = sync()
    assert "still running" in shown.output
    assert (shown.exit_code, stub.operations) == (0, [])
    assert "1 pushed" in sync(str(folder(root, "maf"))).output


@pytest.fixture
def place(root: Path) -> Path:
    """The folder of a run that only logs."""
    found = root / "runs" / "some" / "run"
    found.mkdir(parents=True)
    return found


def logged_by_a_start(place: Path, steps: range, text: str = "") -> Path:
    """The log of a start of a run that has logged some steps offline."""
    logger = RunLogger(NAMED, place, "offline")
    for step in steps:
        logger.experiment.log({"train/loss": step / 2, STEP: step, "text": text})
    logger.experiment.finish(exit_code=143)
    found = max(place.glob("wandb/offline-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    wait_for(found)
    time.sleep(1)  # W&B names the folders of logs by the second
    return found


def held(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> tuple[threading.Event, threading.Event]:
    """Have the server stop with so many rows of a run; set when it has, and to go on."""
    arrived, go_on = threading.Event(), threading.Event()

    def stream(run: StubRun, body: dict[str, Any]) -> None:
        Stub.stream(stub, run, body)
        if len(run.history) >= n_rows:
            arrived.set()
            go_on.wait(100)

    monkeypatch.setattr(stub, "stream", stream)
    return arrived, go_on


def pushed(stub: Stub) -> list[tuple[int, int]]:
    """The number and the training step of each row that the server has."""
    return [(row["_step"], row[STEP]) for row in rows(stub, "some-run")]


def test_a_push_that_is_cut_and_repeated_leaves_each_row_once(
    stub: Stub,
    root: Path,
    place: Path,
    env: dict[str, str],
    at_login: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged_by_a_start(place, range(4))
    logged_by_a_start(place, range(4, 8))
    arrived, go_on = held(stub, monkeypatch, 5)
    process = begin(command_in, env, root, ["wandb", "sync"], root / "output")
    assert arrived.wait(100)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process) != 0
    go_on.set()
    assert "1 to push, 1 pushed, 0 left" in sync().output
    assert pushed(stub) == [(i, i) for i in range(8)]
    assert "0 to push" in sync().output


def test_starts_that_are_pushed_in_separate_calls_are_one_run(
    stub: Stub, place: Path, at_login: None
) -> None:
    logged_by_a_start(place, range(3))
    assert "1 pushed" in sync().output
    logged_by_a_start(place, range(3, 5))
    assert "to push, 2 logs" in sync("--dry-run").output
    assert "1 pushed" in sync(str(place)).output
    assert pushed(stub) == [(i, i) for i in range(5)]


def test_steps_that_a_start_repeats_after_a_kill_are_pushed_once(
    stub: Stub, place: Path, at_login: None
) -> None:
    first = logged_by_a_start(place, range(6))
    first.write_bytes(first.read_bytes()[:-10])
    logged_by_a_start(place, range(3, 8))
    assert "1 pushed" in sync().output
    assert pushed(stub) == [(i, i) for i in range(8)]
    assert stub.runs["some-run"].summary["train/loss"] == 3.5


def test_of_two_at_once_the_second_pushes_nothing(
    stub: Stub, root: Path, log: Path, at_login: None
) -> None:
    with FileLock(root / "runs" / "sync.lock"):
        shown = sync()
    assert (shown.exit_code, stub.operations) == (2, [])
    assert "expected no other one to be at work" in shown.output


def test_of_a_log_that_is_spoilt_the_rest_is_pushed_and_the_loss_is_told(
    stub: Stub, place: Path, at_login: None
) -> None:
    log = logged_by_a_start(place, range(60), "x" * 2000)
    content = bytearray(log.read_bytes())
    content[BLOCK + 100] ^= 1
    log.write_bytes(content)
    shown = sync()
    assert f"part of {log} cannot be read; the rest is pushed" in shown.output
    assert "1 pushed, 0 left" in shown.output
    assert log.read_bytes() == content
    steps = [step for _, step in pushed(stub)]
    assert 30 < len(steps) < 60
    assert (steps[0], steps[-1]) == (0, 59)
    marker(log).unlink()
    content[100] ^= 1
    log.write_bytes(content)
    shown = sync()
    assert shown.exit_code == 1
    assert f"{log}: its beginning cannot be read" in shown.output


@pytest.fixture
def staged(root: Path, env: dict[str, str]) -> Path:
    """A log of a run offline with a table, whose bytes W&B keeps elsewhere; the file of these."""
    directory = root / "runs" / "other"
    directory.mkdir(parents=True)
    program = (
        "import sys, wandb\n"
        "with wandb.init(project='nfbench', id='other', mode='offline', dir=sys.argv[1]) as run:\n"
        "    run.log({'table': wandb.Table(columns=['a'], data=[[1]])})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(directory)], env=env, check=True)
    (log,) = directory.glob("wandb/offline-*/*.wandb")
    return wait_for(log).staged[0]


def test_files_of_an_artifact_that_are_gone_are_reported_and_nothing_is_pushed(
    stub: Stub, staged: Path, at_login: None
) -> None:
    kept = staged.read_bytes()
    shutil.rmtree(staged.parent)
    shown = sync()
    assert shown.exit_code == 1
    assert f"a file of an artifact is missing: {staged}" in shown.output
    assert stub.operations == []
    staged.parent.mkdir(parents=True)
    staged.write_bytes(kept)
    assert sync().exit_code == 0
    (artifact,) = stub.artifacts
    assert artifact.state == "COMMITTED"


def test_without_a_key_nothing_is_pushed_and_the_message_says_why(
    log: Path, at_login: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    shown = sync()
    assert shown.exit_code == 2
    assert re.search("nothing was pushed, as no key for .* is configured", shown.output)


def test_a_server_that_takes_nothing_is_given_up(
    stub: Stub, log: Path, at_login: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, go_on = held(stub, monkeypatch, 0)
    begun = time.monotonic()
    shown = sync("--patience", "3")
    assert time.monotonic() - begun < 20
    assert shown.exit_code == 1
    assert "not taken: ERROR W&B took nothing for 3 seconds" in shown.output
    go_on.set()
    assert "1 pushed, 0 left" in sync().output


def test_a_server_that_answers_nothing_is_given_up(stub: Stub, log: Path, at_login: None) -> None:
    with stub.lock:  # it accepts requests
        begun = time.monotonic()
        shown = sync("--patience", "3")
        assert time.monotonic() - begun < 20
    assert shown.exit_code == 2
    assert "nothing was pushed" in shown.output
    assert "1 pushed, 0 left" in sync().output


def test_a_run_that_the_server_does_not_take_is_tracked_offline_and_pushed_later(
    stub: Stub,
    place: Path,
    at_login: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(mode.SETTINGS, "init_timeout", 3.0)
    logger = RunLogger(NAMED, place, "online")
    with stub.lock:  # it accepts requests, and answers none
        logger.log_metrics({"train_loss": 1.0}, step=1)
    assert "W&B: offline, as the server did not take the run" in caplog.text
    logger.log_metrics({"train_loss": 2.0}, step=2)
    assert not logger.failed
    logger.experiment.finish()
    (log,) = place.glob("wandb/offline-*/*.wandb")
    assert [row["train/loss"] for row in wait_for(log).history] == [1.0, 2.0]
    assert "1 pushed, 0 left" in sync().output
    assert pushed(stub) == [(0, 1), (1, 2)]


def test_a_server_that_goes_away_holds_a_run_up_for_a_limited_time(
    env: dict[str, str],
    at_login: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(mode.SETTINGS, "finish_timeout", 3.0)
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        logger = RunLogger(NAMED, tmp_path, "online")
        logger.log_metrics({"train_loss": 1.0}, step=1)
    logger.log_metrics({"train_loss": 2.0}, step=2)
    begun = time.monotonic()
    logger.finish(0)
    assert time.monotonic() - begun < 20
    assert f"what was is in {tmp_path}/wandb" in caplog.text
    (log,) = tmp_path.glob("wandb/run-*/*.wandb")
    assert [row["train/loss"] for row in read_log(log).history] == [1.0, 2.0]
    with serving() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        wandb.teardown()
        assert "1 pushed, 0 left" in sync(str(tmp_path)).output
        assert pushed(stub) == [(0, 1), (1, 2)]
        assert "0 to push" in sync(str(tmp_path)).output


def test_a_log_that_cannot_be_read_holds_its_run_back_but_not_others(
    stub: Stub, log: Path, place: Path, at_login: None
) -> None:
    first = logged_by_a_start(place, range(3))
    second = logged_by_a_start(place, range(3, 5))
    content = first.read_bytes()
    first.write_bytes(b"something else")
    for path in (place, second):
        shown = sync(str(path))
        assert shown.exit_code == 1
        assert f"{first}: expected a log of W&B" in shown.output
    assert "1 pushed, 1 left" in sync().output
    assert list(stub.runs) == [read_log(log).id]
    first.write_bytes(content)
    assert sync(str(second)).exit_code == 0
    assert pushed(stub) == [(i, i) for i in range(5)]


def test_a_log_of_a_process_that_was_killed_at_once_is_no_fault(
    stub: Stub, place: Path, at_login: None
) -> None:
    logged_by_a_start(place, range(3)).write_bytes(b"")
    assert "0 to push, 0 pushed, 0 left" in sync().output
    logged_by_a_start(place, range(2))
    shown = sync()
    assert (shown.exit_code, pushed(stub)) == (0, [(0, 0), (1, 1)])
    assert "0 to push, 0 pushed, 0 left" in sync().output
