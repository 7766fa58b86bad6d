"""Costs of cells: measured in processes of their own, kept, extrapolated, and shown on a page."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from click.testing import CliRunner, Result
from harness import GAUSSIAN, MAF, changed, finished_runs, write_table

from nfbench import cost_page, costs
from nfbench.cli import main
from nfbench.config import load
from nfbench.costs import Timing, settings_hash
from nfbench.errors import UsageError
from nfbench.launch import estimate
from nfbench.launch.apart import ApartError, Worker
from nfbench.launch.costs import Bench, measure
from nfbench.units import duration, memory

PATIENT = changed(MAF, training={"max_steps": None, "validate_every": None, "patience": 4})
EITHER = changed(MAF, training={"patience": 4})
BROKEN = MAF | {"flow": {"name": "glow_image"}}  # points of the plane are no images
SLOW = changed(MAF, flow={"layers": 4, "hidden": [512, 512]}, data={"batch_size": 20000})
Nfbench = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table without data: a row that cannot be built between rows that can."""
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))
    cells: dict[str, Any] = {"cells": {"pinwheel": {}, "power": {}}}
    return write_table(tmp_path, maf=MAF | cells, broken=BROKEN, gaussian=GAUSSIAN)


@pytest.fixture
def nfbench() -> Nfbench:
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def kept(root: Path) -> dict[str, Any]:
    """The plain content of the one file of costs."""
    (path,) = (root / "results" / "costs").iterdir()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def timing(**changes: Any) -> Timing:
    """A timing whose sums can be done in the head: an epoch is 100 steps, a second each."""
    values: dict[str, Any] = {
        "seconds_per_step": 1.0,
        "timed_steps": 10,
        "steps": 250,
        "steps_per_epoch": 100,
        "ends": "steps",
        "validate_every": 100,
        "seconds_per_validation": 10.0,
        "seconds_of_test": 5.0,
        "peak_memory_bytes": 2**30,
    }
    return Timing(**values | changes)


def words(line: str) -> list[str]:
    """The texts of a line of a table of Markdown."""
    return [word.strip() for word in line.strip("|").split("|")]


def overview(root: Path) -> list[str]:
    """The texts of the line of the tiny table on the page."""
    (line,) = [line for line in cost_page.markdown(root).splitlines() if line.startswith("| tiny")]
    return words(line)


def test_what_is_measured_adds_up_and_a_broken_row_stops_nothing(
    nfbench: Nfbench, root: Path
) -> None:
    shown = nfbench("costs", "--measure", "--device", "cpu")
    assert shown.exit_code == 1
    assert "4 cells, 4 to measure" in shown.output
    found = kept(root)
    assert found["device"].startswith("CPU ")
    assert found["threads"] == 1
    cells = found["cells"]
    assert list(cells) == sorted(
        f"tiny/{c}" for c in ("maf/pinwheel", "maf/power", "broken/pinwheel", "gaussian/pinwheel")
    )
    assert cells["tiny/broken/pinwheel"]["timing"] is None
    assert "tiny/broken" in cells["tiny/broken/pinwheel"]["failure"]
    for name in ("maf/pinwheel", "maf/power"):
        found = cells[f"tiny/{name}"]["timing"]
        assert min(value for key, value in found.items() if key != "ends") > 0
        assert (found["steps"], found["validate_every"], found["timed_steps"]) == (100, 20, 10)
        evaluated = 6 * found["seconds_per_validation"] + found["seconds_of_test"]
        assert found["evaluation_seconds"] == pytest.approx(evaluated, rel=1e-4)
        total = 100 * found["seconds_per_step"] + evaluated
        assert found["seconds"] == pytest.approx(total, rel=1e-4)
        assert found["seconds_per_step"] < 1
        assert 2**26 < found["peak_memory_bytes"] < 2**36
    untrained = cells["tiny/gaussian/pinwheel"]["timing"]
    assert (untrained["steps"], untrained["seconds_per_step"]) == (0, 0)
    assert untrained["seconds"] == untrained["evaluation_seconds"] > 0
    # Six-dimensional rows, ten times as many in validation and test, take longer than two.
    assert (
        cells["tiny/maf/power"]["timing"]["seconds_per_validation"]
        > cells["tiny/maf/pinwheel"]["timing"]["seconds_per_validation"]
    )


def test_cells_that_were_measured_are_skipped_until_their_settings_change(
    nfbench: Nfbench, root: Path
) -> None:
    options = ("--measure", "tiny/maf/pinwheel", "tiny/broken", "--device", "cpu")
    nfbench("costs", *options)
    before = kept(root)["cells"]
    assert "2 cells, 1 to measure" in nfbench("costs", *options).output  # what failed before
    again = kept(root)["cells"]
    assert again["tiny/maf/pinwheel"] == before["tiny/maf/pinwheel"]
    assert "2 cells, 2 to measure" in nfbench("costs", *options, "--again").output
    assert kept(root)["cells"]["tiny/maf/pinwheel"] != before["tiny/maf/pinwheel"]
    write_table(root, maf=changed(MAF, flow={"layers": 3}), broken=BROKEN)
    assert overview(root)[1] == "0 of 2"
    assert measure(["tiny/maf"], device="cpu", root=root)
    cells = kept(root)["cells"]
    assert cells["tiny/maf/pinwheel"]["settings"] != before["tiny/maf/pinwheel"]["settings"]
    assert overview(root)[1] == "1 of 2"


def test_cells_of_the_same_work_are_measured_once(nfbench: Nfbench, root: Path) -> None:
    """Two toys are the same to it, and a third in larger batches is not."""
    cells = {"pinwheel": {}, "moons": {}, "rings": {"data": {"batch_size": 64}}}
    write_table(root, maf=MAF | {"cells": cells})
    options = ("--measure", "--device", "cpu")
    assert nfbench("costs", *options, "tiny/maf/moons").exit_code == 0
    assert "3 cells, 2 to measure" in nfbench("costs", *options).output
    moons, pinwheel, rings = (kept(root)["cells"][f"tiny/maf/{c}"] for c in sorted(cells))
    assert pinwheel["timing"] == moons["timing"] != rings["timing"]
    assert pinwheel["provenance"] == moons["provenance"]
    assert pinwheel["settings"] != moons["settings"]


def test_the_end_of_a_run_is_its_last_step_or_the_soonest_that_patience_allows(
    root: Path,
) -> None:
    write_table(root, maf=MAF, patient=PATIENT, either=EITHER)
    assert measure(device="cpu", root=root)
    cells = kept(root)["cells"]
    found = {name: cells[f"tiny/{name}/pinwheel"]["timing"] for name in ("patient", "either")}
    epoch = found["patient"]["steps_per_epoch"]
    assert (found["patient"]["ends"], found["patient"]["steps"]) == ("patience", 5 * epoch)
    assert (found["either"]["ends"], found["either"]["steps"]) == ("either", 100)
    page = cost_page.markdown(root)
    assert f"≥ {duration(sum(cell['timing']['seconds'] for cell in cells.values()))} |" in page


def test_seconds_are_those_of_steps_validations_and_the_test() -> None:
    assert timing().evaluation_seconds(250) == (3 + 1) * 10 + 5
    assert timing().seconds(250) == 250 + 45
    assert timing().seconds(300) == 300 + 45
    assert timing().seconds(0) == 10 + 5


def test_settings_with_their_defaults_do_not_matter() -> None:
    config = load("maf_5", "power").config()
    older = {key: dict(values) for key, values in config.items() if key != "vae"}
    del older["training"]["importance_draws"]
    assert settings_hash(older) == settings_hash(config)
    assert settings_hash(config | {"flow": config["flow"] | {"layers": 7}}) != settings_hash(
        config
    )
    other = config | {"data": config["data"] | {"name": "gas"}}
    assert settings_hash(other) != settings_hash(config)


def test_the_page_shows_what_the_files_hold_beside_what_runs_took(root: Path) -> None:
    finished_runs(root, maf=MAF, gaussian=GAUSSIAN)
    assert measure(device="cpu", root=root)
    found = kept(root)
    page = cost_page.render(root).read_text()
    took = json.loads((root / "results/tiny/maf/pinwheel/0.json").read_text())["provenance"]
    cell = found["cells"]["tiny/maf/pinwheel"]["timing"]
    seconds = sum(each["timing"]["seconds"] for each in found["cells"].values())
    first, _, second = page.partition("## Runs that were made")
    longest = ["maf/pinwheel", duration(cell["seconds"])]
    assert overview(root)[:5] == ["tiny", "2 of 2", duration(seconds), *longest]
    assert f"### {found['device']}, 1 thread\n" in first
    (run,) = [line for line in second.splitlines() if line.startswith("| maf")]
    assert words(run) == [
        *("maf", "pinwheel", "0", "100", duration(took["seconds"]), duration(cell["seconds"])),
        *(memory(took["peak_memory_bytes"]), memory(cell["peak_memory_bytes"])),
        f"{found['device']}, 1 thread",
    ]
    # Other settings, or another device: the run is shown without an estimate.
    (path,) = costs.files(root)
    known = costs.read(path)
    path.unlink()
    costs.write(costs.Costs("NVIDIA H100 80GB HBM3", 1, known.cells), root)
    assert costs.files(root)[0].name == "nvidia_h100_80gb_hbm3.json"
    (run,) = [line for line in cost_page.markdown(root).splitlines() if line.startswith("| maf")]
    assert words(run)[4:6] == [duration(took["seconds"]), ""]


def test_tables_are_checked_with_the_page_of_costs(nfbench: Nfbench, root: Path) -> None:
    assert nfbench("table", "--all").exit_code == 0
    assert not (root / "results/costs.md").exists()  # nothing to show
    measure(["tiny/gaussian"], device="cpu", root=root)
    refused = nfbench("table", "--all", "--check")
    assert refused.exit_code == 2
    assert "run `nfbench costs`" in refused.output
    assert nfbench("costs").exit_code == 0
    checked = nfbench("table", "--all", "--check")
    assert checked.exit_code == 0, checked.output
    assert "costs: the committed page is what the records give" in checked.output
    page = root / "results/costs.md"
    page.write_text(page.read_text().replace("1 of 4", "4 of 4"))
    refused = nfbench("table", "--all", "--check")
    assert refused.exit_code == 2
    assert any(line.startswith("-| tiny") for line in refused.output.splitlines())
    nfbench("table", "--all")
    (path,) = costs.files(root)
    path.write_text(path.read_text().replace('"timed_steps": 0', '"timed_steps": 1'))
    refused = nfbench("table", "--all", "--check")
    assert refused.exit_code == 2
    assert "its content was changed" in refused.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds_per_step": -1.0}, "seconds_per_step: expected a number >= 0, got -1"),
        ({"seconds_of_test": math.inf}, "not JSON compliant"),
        ({"ends": "never"}, "ends: expected one of"),
    ],
)
def test_costs_that_cannot_be_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source: dict[str, Any] = {"git": None, "dirty": None, "versions": {}, "measured": "2026-01-01"}
    cell = costs.Cost("0" * 12, timing(**changes), None, source)
    with pytest.raises((UsageError, ValueError), match=message):
        costs.read(costs.write(costs.Costs("CPU", 1, {"a/b/c": cell}), tmp_path))


def test_a_cell_that_takes_too_long_is_given_up(nfbench: Nfbench, root: Path) -> None:
    write_table(root, slow=SLOW)
    shown = nfbench("costs", "--measure", "--device", "cpu", "--limit", "0.2")
    assert shown.exit_code == 1
    assert "tiny/slow/pinwheel: no end in 0.2 s" in shown.output
    page = (root / "results/costs.md").read_text()
    assert "- tiny/slow/pinwheel: no end in 0.2 s" in page


def test_a_density_is_timed_on_as_many_rows_as_are_not_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a device where a call takes 50 ms, and a row 0.1 ms."""
    sizes: list[int] = []

    def seconds(call: Any, device: torch.device) -> float:
        sizes.append(len(call.args[0]))
        return 0.05 + 1e-4 * sizes[-1]

    monkeypatch.setattr(estimate, "clock", seconds)
    module = SimpleNamespace(model=torch.nn.Module())
    module.model.log_prob = len
    found = estimate.seconds_per_row(cast(Any, module), torch.zeros(8000, 2), 100)
    assert found == pytest.approx(0.05 / 8000 + 1e-4)
    assert sorted(set(sizes)) == [100, 400, 1600, 6400, 8000]
    sizes.clear()
    found = estimate.seconds_per_row(cast(Any, module), torch.zeros(80000, 2), 100)
    assert found == pytest.approx(0.05 / 6400 + 1e-4)
    assert max(sizes) == 6400


def test_a_call_apart_ends_alone(tmp_path: Path) -> None:
    worker = Worker(log=tmp_path / "log.txt", preload="nfbench.launch.estimate")
    call = partial(worker.call, seconds=20)
    assert call(math.sqrt, 9) == 3
    with pytest.raises(ApartError, match="its process was ended by SIGKILL"):
        call(kill_itself)
    with pytest.raises(ApartError, match="its process ended with code 7"):
        call(os._exit, 7)
    with pytest.raises(ApartError, match="ZeroDivisionError: "):
        call(divmod, 1, 0)
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    worker.end()


def test_a_worker_answers_until_a_call_breaks_it(tmp_path: Path) -> None:
    worker = Worker(log=tmp_path / "log.txt", preload="nfbench.launch.estimate")
    first = worker.call(os.getpid, seconds=20)
    assert worker.call(os.getpid, seconds=20) == first
    with pytest.raises(ApartError, match=r"no end in 0\.1 s"):
        worker.call(time.sleep, 5, seconds=0.1)
    second = worker.call(os.getpid, seconds=20)
    assert second not in (first, os.getpid())
    os.kill(second, signal.SIGKILL)  # between two calls, which is no fault of either
    assert worker.running
    worker.running[0].join()
    assert worker.call(os.getpid, seconds=20) not in (first, second)
    with pytest.raises(ApartError, match="pickle"):
        worker.call(threading.Lock, seconds=20)
    worker.end()
    worker.end()  # of what has ended already


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_each_cell_has_a_process_of_its_own_where_memory_is_that_of_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bench = Bench(root, "cpu", 1, 60.0)
    bench.here["kind"] = kind
    seen = [bench.worker.call(os.getpid, seconds=20)]
    experiment = load("tiny/maf", "pinwheel", root=root)
    for _ in range(2):
        assert bench.cost(experiment).timing
        seen.append(bench.worker.call(os.getpid, seconds=20))
    assert len(set(seen)) == (3 if kind == "cpu" else 1)
    bench.worker.end()


def kill_itself() -> None:
    """What the kernel does to a process for which memory does not suffice."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_interrupt_keeps_what_was_measured(root: Path) -> None:
    write_table(root, gaussian=GAUSSIAN, slow=SLOW)
    command = [sys.executable, "-m", "nfbench", "costs", "--measure", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder, end = root / "results" / "costs", time.monotonic() + 60
    while not list(folder.glob("[!.]*.json")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert b"The same command goes on" in output
    assert list(kept(root)["cells"]) == ["tiny/gaussian/pinwheel"]


def test_an_interrupt_while_the_processes_start_is_one_line(root: Path) -> None:
    """A terminal sends it to all of them, and one is importing torch."""
    command = [sys.executable, "-m", "nfbench", "costs", "--measure", "--device", "cpu"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    children, end = Path(f"/proc/{process.pid}/task/{process.pid}/children"), time.monotonic() + 60
    while len(children.read_text().split()) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.decode().startswith("interrupted; what was measured is kept"), output
    assert b"Traceback" not in output


def test_words_for_seconds_and_bytes() -> None:
    seconds = [0.04, 9.96, 59, 100, 5999, 6000, 360000 * 2]
    assert [duration(each) for each in seconds] == [
        *("0.0 s", "10.0 s", "59 s", "2 min", "100 min", "1.7 h", "200 h")
    ]
    assert [memory(2**20 * n) for n in (512, 1024, 1536)] == ["512 MiB", "1.0 GiB", "1.5 GiB"]
