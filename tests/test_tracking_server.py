"""W&B's server, for which a stub on loopback stands: runs online, and runs pushed afterwards."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import wandb
from click.testing import CliRunner, Result
from filelock import FileLock
from harness import GAUSSIAN, MAF, begin, changed, exit_code, write_table
from wandb_stub import KEY, Stub, command_in, environment, serving

from nfbench import record
from nfbench.cli import main
from nfbench.record import read_curve
from nfbench.tracking.log_file import read_log
from nfbench.tracking.logger import STEP

LONG = changed(MAF, training={"max_steps": 100_000, "validate_every": 20})


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server; all that it was asked for, it knew."""
    with serving() as stub:
        yield stub
        assert stub.unknown == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_table(tmp_path, maf=MAF, long=LONG, gaussian=GAUSSIAN)


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
    for _ in range(600):
        if (lines := read_curve(curve)) and lines[-1]["step"] > steps + 100:
            break
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, number)
    return exit_code(process)


def sync(*words: str) -> Result:
    return CliRunner().invoke(main, ["wandb", "sync", *words])


def folder(root: Path, row: str) -> Path:
    return root / "runs" / "tiny" / row / "pinwheel" / "0"


def rows(stub: Stub, name: str) -> list[dict[str, Any]]:
    """The lines of a run's curve that the server has."""
    return [row for row in stub.runs[name].history if "train/loss" in row]


def test_a_run_online_arrives_with_its_numbers_and_its_figure(
    stub: Stub, root: Path, env: Mapping[str, str]
) -> None:
    printed = whole(env, "maf")
    run = stub.runs["tiny-maf-pinwheel-0"]
    assert run.project == "nfbench"
    assert run.fields["groupName"] == "tiny/maf/pinwheel"
    assert run.fields["displayName"] == "tiny/maf/pinwheel/0"
    assert run.fields["jobType"] == "train"
    assert run.fields["tags"] == ["tiny", "maf", "pinwheel", "seed-0"]
    assert run.config["training"]["max_steps"] == 100
    curve = read_curve(folder(root, "maf") / "curve.jsonl")
    arrived = rows(stub, run.id)
    assert [row[STEP] for row in arrived] == [line["step"] for line in curve]
    assert [row["train/loss"] for row in arrived] == [line["train_loss"] for line in curve]
    result = record.read(root / "results/tiny/maf/pinwheel/0.json")
    assert run.summary["test/log_likelihood"] == result.metrics["test/log_likelihood"]
    assert run.summary["best/step"] == 100
    (name,) = [name for name in run.uploads if name.startswith("media/images/plot")]
    assert run.uploads[name] == (folder(root, "maf") / "plot.png").read_bytes()
    assert run.exit_code == 0
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
    logs = [read_log(path) for path in sorted(directory.glob("wandb/offline-*/*.wandb"))]
    assert [(log.exit_code, log.preempted) for log in logs] == [(130, True), (143, True)]
    assert stub.operations == []

    shown = sync("--dry-run")
    assert "nfbench/tiny-long-pinwheel-0: to push, 2 logs" in shown.output
    assert stub.operations == []
    shown = sync()
    assert shown.exit_code == 0, shown.output
    assert "1 to push, 1 pushed, 0 left" in shown.output
    run = stub.runs["tiny-long-pinwheel-0"]
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))
    curve = read_curve(directory / "curve.jsonl")
    assert [row[STEP] for row in rows(stub, run.id)] == [line["step"] for line in curve]
    assert run.exit_code == 143
    asked = len(stub.operations)
    again = sync()
    assert "0 to push, 0 pushed, 0 left" in again.output
    assert len(stub.operations) == asked


def offline_run(env: dict[str, str], row: str) -> None:
    whole(env | {"WANDB_MODE": "offline"}, row)


def test_a_log_that_was_cut_is_healed_and_pushed(
    stub: Stub, root: Path, env: dict[str, str], at_login: None
) -> None:
    offline_run(env, "maf")
    (log,) = folder(root, "maf").glob("wandb/offline-*/*.wandb")
    log.write_bytes(log.read_bytes()[:-10])
    assert read_log(log).exit_code is None
    shown = sync()
    assert shown.exit_code == 0, shown.output
    run = stub.runs["tiny-maf-pinwheel-0"]
    assert len(rows(stub, run.id)) == 5
    assert "test/log_likelihood" in run.summary
    assert "0 to push" in sync().output


def test_a_run_that_goes_on_is_left_alone(
    stub: Stub, root: Path, env: dict[str, str], at_login: None
) -> None:
    offline_run(env, "gaussian")
    with FileLock(folder(root, "gaussian") / "run.lock"):
        shown = sync()
    assert "still running" in shown.output
    assert (shown.exit_code, stub.operations) == (0, [])
    assert "1 pushed" in sync(str(folder(root, "gaussian"))).output


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
    for _ in range(100):
        if (found := read_log(log)).exit_code is not None:
            break
        time.sleep(0.1)
    return found.staged[0]


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
    root: Path, env: dict[str, str], at_login: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_run(env, "gaussian")
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()
    shown = sync()
    assert shown.exit_code == 2
    assert re.search("nothing was pushed, as no key for .* is configured", shown.output)


def test_a_server_that_takes_nothing_is_given_up(
    stub: Stub, root: Path, env: dict[str, str], at_login: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline_run(env, "gaussian")
    gate = stub.lock
    with gate:  # it accepts requests, and answers none
        begun = time.monotonic()
        shown = sync("--patience", "3")
        assert time.monotonic() - begun < 20
    assert shown.exit_code == 1
    assert "not taken: ERROR W&B took nothing for 3 seconds" in shown.output
    assert "1 pushed, 0 left" in sync().output
