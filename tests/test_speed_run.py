"""The speed of runs, measured after them: what changes in their records, and what does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from harness import GAUSSIAN, MAF, changed, write_table
from matplotlib.image import imread

from nfbench import record, speed, tables, throughput
from nfbench.cli import main
from nfbench.cli_speed import busy
from nfbench.config import load
from nfbench.errors import UsageError
from nfbench.inspection import load_trained
from nfbench.machine import torch_device
from nfbench.run import run
from nfbench.throughput import is_measured, measure_all, measure_run

SHORT = changed(MAF, training={"max_steps": 20, "validate_every": 10, "clip_norm": 1.0})
HALF = {
    "title": "Half",
    "flow": {
        "name": "realnvp_image",
        "scales": 1,
        "blocks": 1,
        "features": 2,
        "net_dtype": "bfloat16",
    },
    "preprocess": {"dequantize": "uniform", "logit": 0.05},
    "data": {"batch_size": 20},
    "training": {
        "max_steps": 2,
        "validate_every": 2,
        "chunk": 1,
        "matmul_precision": "medium",
    },
    "cells": {"digits": {}},
}
EXTRA = """
extra:
  speed/samples_per_second: {heading: Samples/s, decimals: 0}
"""
WHOLE = ("log_probs_per_second", "samples_per_second", "training_examples_per_second")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_table(tmp_path_factory.mktemp("speed"), maf=SHORT, gaussian=GAUSSIAN, other=SHORT)
    with (root / "experiments" / "tiny" / "table.yaml").open("a") as file:
        file.write(EXTRA)
    for row in ("maf", "gaussian"):
        run(load(f"tiny/{row}", "pinwheel", root=root), root=root, device="cpu")
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil, where the commands find it."""
    copy = shutil.copytree(finished, tmp_path / "root")
    monkeypatch.setenv("NFBENCH_ROOT", str(copy))
    return copy


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches alone."""
    monkeypatch.setattr(throughput, "SIZES", (1, 16, 64))
    monkeypatch.setattr(throughput, "N_LARGER", 2)


def path_of(root: Path, row: str = "maf") -> Path:
    return record.record_path(load(f"tiny/{row}", "pinwheel", root=root), root)


def nfbench(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.usefixtures("brief")
def test_the_record_gets_the_speed_and_keeps_all_else(root: Path) -> None:
    before = json.loads(path_of(root).read_text())
    best = (root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "best.pt").read_bytes()
    found = measure_run("tiny/maf/pinwheel", root=root, device="cpu")
    assert found.place == path_of(root)
    after = json.loads(path_of(root).read_text())
    assert after["speed"] == json.loads(json.dumps(found.speed))
    own = {key: before[key] for key in ("speed", "sha256")}
    assert after | own == before
    assert set(before["speed"]) < set(after["speed"])
    assert (root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "best.pt").read_bytes() == best


@pytest.mark.usefixtures("brief")
def test_what_is_measured_and_under_which_conditions(root: Path) -> None:
    found: Any = measure_run("tiny/maf/pinwheel", root=root, device="cpu").speed
    assert [point["batch"] for point in found["sample_curve"]] == [1, 16, 64]
    assert [point["batch"] for point in found["training_curve"]] == [20, 80]
    assert found["sample_ms"] == found["sample_curve"][2]["ms"]
    assert found["training_ms"] == found["training_curve"][0]["ms"]
    assert found["training_batch"] == 20
    rates = [point["batch"] / point["ms"] for point in found["log_prob_curve"]]
    assert found["log_probs_per_second"] == pytest.approx(1000 * max(rates))
    # Two layers of 2 x 8 and 8 x 4 weights, of which a density uses all, and training three
    # times as many but for the gradient of the data.
    assert found["log_prob_flops"] == 2 * 2 * (2 * 8 + 8 * 4)
    assert found["training_flops"] == 3 * found["log_prob_flops"] - 2 * 2 * 8
    kept = record.read(path_of(root))
    assert found["step"] == kept.model["best_step"]
    assert found["device"] == kept.provenance["device"]
    assert (found["threads"], found["precision"]) == (1, "float32")
    assert found["training_precision"] == kept.provenance["precision"] == "float32"
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["load"] >= 0


@pytest.mark.parametrize(
    ("load", "threads", "is_busy"),
    [(0.4, 2, False), (2.0, 2, True), (1.4, 1, False), (2.0, 1, True)],
)
def test_that_a_machine_is_busy_is_said(
    load: float, threads: int, is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cores one may be taken where one is asked for."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 9.0, 9.0))
    told = busy(threads)
    assert bool(told) == is_busy
    assert not told or told.startswith("this machine is busy: 2.0 processes on 2 cores")


@pytest.mark.usefixtures("brief")
def test_training_steps_leave_the_weights_as_they_are(root: Path) -> None:
    trained = load_trained("tiny/maf/pinwheel", seed=0, root=root)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    found = measure_all(trained, torch.device("cpu"), root)
    assert found["training_examples_per_second"] > 0  # type: ignore[operator]
    after = trained.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.usefixtures("brief")
def test_training_steps_are_those_of_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer moves weights, by clipped gradients, at the rate of the best step."""
    seen: list[tuple[int, float]] = []
    original = throughput.build_module

    def watched(*arguments: Any, **options: Any) -> Any:
        module = original(*arguments, **options)
        optimize = module.optimize

        def step(optimizer: Any, x: torch.Tensor, labels: Any) -> torch.Tensor:
            before, at = module.weights.detach().clone(), module.step
            loss: torch.Tensor = optimize(optimizer, x, labels)
            assert module.model.training
            assert not torch.equal(module.weights, before)
            seen.append((at, float(module.weights.grad.norm())))
            return loss

        module.optimize = step
        return module

    monkeypatch.setattr(throughput, "build_module", watched)
    best_step = measure_run("tiny/maf/pinwheel", root=root, device="cpu").speed["step"]
    assert seen[0][0] == best_step
    assert max(norm for _, norm in seen) <= 1 + 1e-5


@pytest.mark.usefixtures("brief")
def test_where_nothing_is_trained_no_training_is_timed(root: Path) -> None:
    found = measure_run("tiny/gaussian/pinwheel", root=root, device="cpu").speed
    assert not any(key.startswith("training") for key in found)
    assert found["sample_flops"] == 2 * 2 * 2


@pytest.mark.usefixtures("brief")
def test_nets_that_train_in_less_are_told_apart_from_what_is_evaluated(tmp_path: Path) -> None:
    root = write_table(tmp_path, half=HALF)
    found = run(load("tiny/half", "digits", root=root), root=root, device="cpu")
    assert found.provenance["precision"] == "float32, nets in bfloat16, matmul precision medium"
    speeds = measure_run("tiny/half/digits", root=root, device="cpu").speed
    assert speeds["precision"] == "float32"
    assert speeds["training_precision"] == "float32, nets in bfloat16, matmul precision medium"


@pytest.mark.usefixtures("brief")
def test_weights_without_a_record_of_theirs_are_printed_alone(root: Path, tmp_path: Path) -> None:
    kept = path_of(root).read_bytes()
    other = shutil.copy(root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "best.pt", tmp_path)
    shown = nfbench("speed", str(other), "--device", "cpu")
    assert shown.exit_code == 0
    assert "stored in no record" in shown.output
    assert "FLOPs an example: density 192, sample" in shown.output
    assert f"parameters: {record.read(path_of(root)).model['n_parameters']}\n" in shown.output
    assert path_of(root).read_bytes() == kept


@pytest.mark.usefixtures("brief")
def test_the_command_prints_what_it_stores(root: Path) -> None:
    shown = nfbench("speed", "tiny/maf/pinwheel", "--device", "cpu", "--threads", "1")
    assert shown.exit_code == 0
    rows = [line.split() for line in shown.output.splitlines()]
    kinds = [row[0] for row in rows if len(row) == 8 and row[1].isdigit()]
    assert kinds == ["density"] * 3 + ["sample"] * 3 + ["training"] * 2
    assert "threads 1, float32, torch " in shown.output
    assert "passes: 2 for a density, 4 for a sample" in shown.output
    assert f"stored in {path_of(root)}" in shown.output


def test_measured_under_the_same_conditions(root: Path) -> None:
    kept, cpu = record.read(path_of(root)), torch.device("cpu")
    assert not is_measured(kept, cpu, 1)  # the quick figures of a run
    speeds = throughput.conditions(cpu, 3)
    record.amend(kept, root, speed={**kept.speed, **speeds})
    kept = record.read(path_of(root))
    assert not is_measured(kept, cpu, torch.get_num_threads())  # the samples failed
    record.amend(kept, root, speed={**kept.speed, "samples_per_second": 3.0})
    kept = record.read(path_of(root))
    assert is_measured(kept, cpu, torch.get_num_threads())
    assert not is_measured(kept, cpu, torch.get_num_threads() + 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny/maf/nothing"], "expected a checkpoint, or a run that has kept one"),
        (["tiny/maf/pinwheel/3"], "expected a checkpoint, or a run that has kept one"),
        (["nothing"], "expected a checkpoint, or a run that has kept one"),
        (["nothing", "--row", "maf"], "expected a table with --row, --cell and --again"),
        (["tiny/maf/pinwheel", "--again"], "expected a table with --row, --cell and --again"),
        (["tiny", "--row", "mfa"], "unknown row 'mfa' of tiny; did you mean 'maf'?"),
        (["tiny", "--cell", "moons"], "unknown cell 'moons'"),
        (["tiny/maf/pinwheel", "--device", "tpu"], "--device: expected one of auto, cpu, cuda"),
    ],
)
@pytest.mark.usefixtures("root")
def test_what_cannot_be_measured_is_told(words: list[str], message: str) -> None:
    shown = nfbench("speed", *words)
    assert shown.exit_code == 2
    assert message in shown.output


def test_a_table_is_measured_run_by_run_and_once(root: Path) -> None:
    """In processes of their own, with a page and a figure at the end."""
    words = ["speed", "tiny", "--row", "gaussian", "--row", "other", "--device", "cpu"]
    shown = nfbench(*words)
    assert shown.exit_code == 0, shown.output
    assert "tiny/other/pinwheel/0: left out: its run is missing" in shown.output
    assert "tiny/gaussian/pinwheel/0: done" in shown.output
    assert "figure: results/tiny_speed.png" in shown.output
    assert imread(root / "results" / "tiny_speed.png")[..., :3].std() > 0.02
    kept = record.read(path_of(root, "gaussian"))
    assert is_measured(kept, torch_device("cpu"), 1)
    shown_there = tables.lines(tables.build("tiny", root))
    rates = {line["row"]: line["Samples/s"] for line in shown_there}
    assert rates == {"gaussian": f"{kept.speed['samples_per_second']:.0f}", "maf": "", "other": ""}
    assert "| Samples/s" in " ".join((root / "results" / "tiny.md").read_text().split())
    again = nfbench(*words)
    assert again.exit_code == 0
    assert "tiny/gaussian/pinwheel/0: measured already, on 2" in again.output
    assert "done" not in again.output
    (root / "runs" / "tiny" / "gaussian" / "pinwheel" / "0" / "best.pt").unlink()
    gone = nfbench(*words)
    assert "its record is here, its weights are not" in gone.output


def test_a_figure_needs_a_measurement(root: Path) -> None:
    shown = nfbench("plot", "tiny", "--speed")
    assert shown.exit_code == 2
    assert "measure them first: nfbench speed tiny" in shown.output
    with pytest.raises(UsageError, match="unknown table 'nope'"):
        tables.build("nope", root)


def test_the_quick_figures_of_a_run_are_keys_of_the_whole(root: Path) -> None:
    kept = record.read(path_of(root)).speed
    assert {"log_prob_ms", "sample_ms", "batch", "device", "threads"} <= set(kept)
    assert not set(WHOLE) & set(kept)
    assert kept["batch"] == speed.BATCH
