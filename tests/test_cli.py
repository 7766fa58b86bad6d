"""The command line: what it says, what it exits with, and that mistakes cost one line."""

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from harness import GAUSSIAN, MAF, begin, changed, command, comparable, exit_code, write_table

from nfbench import checkpoint, record
from nfbench.cli import main
from nfbench.config import load
from nfbench.data import DATA
from nfbench.run import run

# Long enough to be met in the middle; a validation says when.
LONG = changed(
    MAF,
    flow={"layers": 1, "batch_norm": False},
    training={"max_steps": 1000, "validate_every": 200, "chunk": 20},
)
ENDLESS = changed(LONG, training={"max_steps": 10**6, "validate_every": 10**6})
Nfbench = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = {"maf": MAF | {"cells": {"pinwheel": {}, "power": {}}}, "gaussian": GAUSSIAN}
    write_table(tmp_path, **rows, long=LONG, endless=ENDLESS)
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def nfbench(root: Path) -> Nfbench:
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def wait_for(text: str, file: Path, seconds: float = 60.0) -> str:
    """What a file holds once a text is in it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if file.exists() and text in (content := file.read_text()):
            return content
        time.sleep(0.02)
    raise TimeoutError(f"{text!r} is not in {file}: {file.exists() and file.read_text()}")


def test_help_imports_nothing_that_takes_long() -> None:
    program = "import sys; from nfbench.cli import main\ntry: main(['--help'])\nfinally: "
    program += "print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = ast.literal_eval(done.stdout.splitlines()[-1])
    assert {"nfbench", "click"} <= imported
    heavy = {"torch", "pytorch_lightning", "numpy", "scipy", "matplotlib", "wandb", "optuna"}
    assert not heavy & imported


@pytest.mark.parametrize("name", main.commands)
def test_every_command_explains_itself(name: str, nfbench: Nfbench) -> None:
    shown = nfbench(name, "--help")
    assert shown.exit_code == 0
    assert main.commands[name].get_short_help_str(limit=1000) in " ".join(shown.output.split())


RUN = ("run", "tiny/maf", "pinwheel")
MISTAKES = [
    (("run", "maff", "pinwheel"), "unknown row 'maff'; did you mean 'maf'?"),
    (("run", "tiny/maff", "pinwheel"), "unknown row 'maff' of tiny; did you mean 'maf'?"),
    (("run", "tinny/maf", "pinwheel"), "unknown table 'tinny'; did you mean 'tiny'?"),
    (("run", "tiny/maf", "pinwhel"), "cells.pinwhel: unknown cell of tiny/maf; did you mean"),
    ((*RUN, "data.name=moon"), "unknown data 'moon'; did you mean 'moons'?"),
    ((*RUN, "flow.name=mef"), "unknown flow 'mef'; did you mean 'maf'?"),
    ((*RUN, "flow.layer=3"), "command line: flow.layer: unknown key; did you mean 'layers'?"),
    ((*RUN, "flw.layers=3"), "command line: flw: unknown key; did you mean 'flow'?"),
    ((*RUN, "flow.layers=five"), "command line: flow.layers: expected int, got 'five'"),
    ((*RUN, "flow.layers"), "expected section.key=value"),
    ((*RUN, "layers=3"), "expected section.key=value"),
    ((*RUN, "flow.scale=tahn"), "tahn"),
    ((*RUN, "training.optimizer=sgd"), "training.optimizer: expected one of adam"),
    ((*RUN, "training.objective=luck"), "training.objective: expected one of maximum_likelihood"),
    ((*RUN, "training.max_steps=null"), "nothing ends the training"),
    ((*RUN, "training.validate_every=0"), "training.validate_every: expected at least 1, got 0"),
    ((*RUN, "training.patience=0"), "training.patience: expected at least 1, got 0"),
    ((*RUN, "training.learning_rate=-1"), "training.learning_rate: expected at least 0.0, got -1"),
    ((*RUN, "training.lr=1"), "training.lr: unknown key; did you mean 'learning_rate'?"),
    ((*RUN, "training.dropout=1"), "training.dropout: unknown key (known: objective,"),
    ((*RUN, "preprocess.dequantize=uniform"), "continuous data need 'none', got 'uniform'"),
    ((*RUN, "data.batch_size=500001"), "data.batch_size: expected 1 to 500000 rows, got 500001"),
    ((*RUN, "data.batch_size=0"), "data.batch_size: expected at least 1, got 0"),
    ((*RUN, "--device", "tpu"), "--device: expected one of auto, cpu, cuda; got 'tpu'"),
    ((*RUN, "--seed=-1"), "seed: expected a non-negative integer below 2^63, got -1"),
    ((*RUN, f"--seed={2**63}"), "below 2^63, got 9223372036854775808"),
    (("run", "tiny", "pinwheel"), "tiny is a table; name one of its rows: tiny/maf, tiny/g"),
    ((*RUN, "flow.layers="), "flow.layers: expected int, got null"),
    ((*RUN, "flow.layers=0"), "flow.layers: expected at least 1, got 0"),
    ((*RUN, "flow.hidden=[64,-3]"), "flow.hidden: expected at least 1, got [64, -3]"),
    (("table",), "table: expected names of tables or --all (tables: tiny)"),
    (("table", "tinny"), "unknown table 'tinny'; did you mean 'tiny'?"),
    (("reproduce", "tinny"), "unknown table 'tinny'; did you mean 'tiny'?"),
    (("reproduce", "tiny", "--row", "maff"), "unknown row 'maff' of tiny; did you mean 'maf'?"),
    (("reproduce", "tiny", "--cell", "pinwhel"), "unknown cell 'pinwhel' of tiny"),
    (("plot", "tinny"), "unknown table 'tinny'; did you mean 'tiny'?"),
    (("plot", "tiny"), "run its cells first"),
    (
        ("plot", "tiny/maf"),
        "expected TABLE, TABLE/ROW/CELL or TABLE/ROW/CELL/SEED, got 'tiny/maf'",
    ),
    (("plot", "tiny/maff/pinwheel"), "unknown row 'maff' of tiny; did you mean 'maf'?"),
    (("plot", "tiny/maf/pinwhel"), "unknown cell of tiny/maf; did you mean 'pinwheel'?"),
    (("plot", "tiny/maf/pinwheel"), "run it first: nfbench run tiny/maf pinwheel --seed 0"),
    (("plot", "runs/tiny/maf/pinwheel/x/"), "expected a seed after tiny/maf/pinwheel, got 'x'"),
    (("plot", "tiny/maf/pinwheel/1", "--seed", "2"), "got '1' and --seed 2"),
    (("data", "verify", "powr"), "unknown data set 'powr'; did you mean 'power'?"),
    (("data", "prepare", "powr"), "unknown data set 'powr'; did you mean 'power'?"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda a: " ".join(a)[:50])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: str, nfbench: Nfbench, root: Path
) -> None:
    shown = nfbench(*arguments)
    assert shown.exit_code == 2
    (line,) = shown.output.splitlines()
    assert line.startswith("nfbench: ")
    assert words in line
    assert not (root / "results").exists()


def test_a_missing_data_set_says_how_to_get_it(nfbench: Nfbench, root: Path) -> None:
    shown = nfbench("run", "tiny/maf", "power")
    assert shown.exit_code == 2
    assert shown.output.startswith("nfbench: power: its files are not in the data root")
    for words in ("Looked for", str(root / "data"), "NFBENCH_DATA"):
        assert words in shown.output
    assert "Traceback" not in shown.output


def test_a_verified_set_tells_whether_its_fingerprint_is_known(
    nfbench: Nfbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = nfbench("data", "verify", "digits").output
    found = re.search(r"^digits: whole, .* 1,297 / 200 / 300; fingerprint ([0-9a-f]{64}) ", told)
    assert found and told.endswith("(none is known to compare with)\n")
    digits = replace(DATA["digits"], known={DATA["digits"].load().source: found[1]})
    monkeypatch.setitem(DATA, "digits", digits)
    assert nfbench("data", "verify", "digits").output.endswith("(as known)\n")


def test_a_run_of_any_seed_that_was_begun_is_in_the_status(nfbench: Nfbench, root: Path) -> None:
    begun = root / "runs" / "tiny" / "maf" / "pinwheel" / "3" / "last.pt"
    begun.parent.mkdir(parents=True)
    begun.touch()
    shown = nfbench("status", "tiny").output
    assert "1 started" in shown
    assert "tiny/maf/pinwheel/3" in shown


def test_a_run_with_overrides_leaves_the_results_alone(nfbench: Nfbench, root: Path) -> None:
    shown = nfbench("run", "gaussian", "pinwheel", "data.seed=1", "--device", "cpu")
    assert shown.exit_code == 0
    assert not (root / "results").exists()
    (path,) = (root / "runs").rglob("record.json")
    assert record.read(path).overrides == ("data.seed=1",)
    assert path.parent.name.startswith("0-")


def test_a_run_says_what_it_found_and_is_not_run_twice(nfbench: Nfbench, root: Path) -> None:
    arguments = ("run", "gaussian", "pinwheel", "--device", "cpu")
    first, second = nfbench(*arguments), nfbench(*arguments)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "wrote results/tiny/gaussian/pinwheel/0.json" in first.output
    assert "finished already" in second.output
    assert first.output.splitlines()[-2:] == second.output.splitlines()[-2:]
    assert first.output.splitlines()[-1].startswith("test: -")
    assert "nats from the truth" in first.output
    assert "finished already" in (root / "runs/tiny/gaussian/pinwheel/0/log.txt").read_text()


def test_a_table_is_checked_against_the_records(nfbench: Nfbench, root: Path) -> None:
    assert nfbench("table", "tiny", "--check").exit_code == 2
    assert nfbench("table", "tiny").exit_code == 0
    assert nfbench("table", "tiny", "--check").exit_code == 0
    assert nfbench("table", "--all", "--check").exit_code == 0
    page = root / "results" / "tiny.md"
    page.write_text(page.read_text().replace("missing", "reproduced"))
    shown = nfbench("table", "tiny", "--check")
    assert shown.exit_code == 2
    assert "results/tiny.md is not what the records give" in shown.output
    assert page.read_text().count("reproduced")


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
def test_a_table_has_four_forms(form: str, nfbench: Nfbench) -> None:
    shown = nfbench("table", "tiny", "--format", form)
    assert shown.exit_code == 0
    assert "gaussian" in shown.output.lower()


def test_a_crash_is_told_with_where_its_files_are(
    nfbench: Nfbench, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("nfbench.run.execute", crash)
    shown = nfbench("run", "gaussian", "pinwheel")
    assert shown.exit_code == 1
    assert "the run crashed" in shown.output
    assert "no space left" in (root / "runs/tiny/gaussian/pinwheel/0/log.txt").read_text()


def test_ctrl_c_leaves_a_checkpoint_and_names_the_command_that_goes_on(root: Path) -> None:
    folder = root / "runs" / "tiny" / "long" / "pinwheel" / "0"
    words = ["nfbench", "run", "tiny/long", "pinwheel", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", *words], stderr=subprocess.PIPE, text=True)
    wait_for("step 200", folder / "log.txt")
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in shown
    line = shown.splitlines()[-1]
    assert "stopped by SIGINT at step" in line
    assert "nfbench run tiny/long pinwheel --seed 0" in line
    step = checkpoint.load(folder / "last.pt")["step"]
    assert 200 <= step < 1000
    assert_the_same_record_as_uncut(root, step)


def test_a_termination_leaves_a_checkpoint(root: Path, tmp_path: Path) -> None:
    folder, output = root / "runs" / "tiny" / "long" / "pinwheel" / "0", tmp_path / "output.txt"
    process = begin(command, root, ["run", "tiny/long", "pinwheel", "--device", "cpu"], output)
    wait_for("step 200", output)
    os.kill(process.pid or 0, signal.SIGTERM)
    assert exit_code(process) == 130
    assert "stopped by SIGTERM at step" in output.read_text()
    assert_the_same_record_as_uncut(root, checkpoint.load(folder / "last.pt")["step"])


def assert_the_same_record_as_uncut(root: Path, step: int) -> None:
    shown = CliRunner().invoke(main, ["run", "tiny/long", "pinwheel", "--device", "cpu"])
    assert shown.exit_code == 0
    assert f"going on from step {step} " in shown.output
    uncut = write_table(root / "uncut", long=LONG)
    whole = run(load("tiny/long", "pinwheel", root=uncut), root=uncut, device="cpu")
    found = record.read(root / "results" / "tiny" / "long" / "pinwheel" / "0.json")
    assert comparable(found) == comparable(whole)


def test_a_second_process_on_a_cell_is_one_line(
    root: Path, tmp_path: Path, nfbench: Nfbench
) -> None:
    output = tmp_path / "output.txt"
    arguments = ["run", "tiny/endless", "pinwheel", "--device", "cpu"]
    process = begin(command, root, arguments, output)
    lock = root / "runs" / "tiny" / "endless" / "pinwheel" / "0" / "run.lock"
    while not lock.exists():
        time.sleep(0.02)
    shown = nfbench(*arguments)
    process.kill()
    assert exit_code(process) == -signal.SIGKILL
    assert shown.exit_code == 2
    (line,) = shown.output.splitlines()
    assert line.endswith("pinwheel/0: another process is running this cell")


class Struck:
    """An importer that has Ctrl-C come while the command line is imported."""

    def find_spec(self, name: str, *_: object) -> None:
        """Find nothing."""
        if name == "nfbench.cli":
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_the_first_moment_shows_no_traceback() -> None:
    program = (
        f"import os, signal, sys\n{inspect.getsource(Struck)}\nsys.meta_path.insert(0, Struck())\n"
        "from nfbench.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT
    assert not done.stdout + done.stderr
