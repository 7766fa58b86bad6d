"""measure(table): the speed of every run of a table that is here, one process after another.

Imports no torch itself.
"""

from collections.abc import Sequence
from pathlib import Path

from nfbench import record, rendering, tables, tradeoff
from nfbench.console import new_console

from .plan import DONE, Job, plan
from .reproduce import launch_with_bar


def measure_table(
    table: str,
    *,
    rows: Sequence[str] = (),
    cells: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    again: bool = False,
    root: Path | None = None,
) -> bool:
    """Measure what is not measured yet under these conditions; tell whether nothing failed.

    Never two at once, which would slow each other down. Then the table and its figure of accuracy
    against cost are made anew.

    Raises:
        UsageError: if a table, row, cell or device is unknown.
    """
    console = new_console()
    root = root or record.find_root()
    jobs = plan(table, rows=rows, cells=cells, seeds=(seed,), root=root)
    reasons = {job.name: reason(job, device, threads, again) for job in jobs}
    for name, why in reasons.items():
        if why:
            console.print(f"{name}: {why}", soft_wrap=True)
    todo = [job for job in jobs if not reasons[job.name]]
    options = ["--device", device, "--threads", str(threads)]
    outcomes = launch_with_bar(console, todo, 1, options, command=command) if todo else []
    path = rendering.write(tables.build(table, root))
    console.print(f"table: {path.relative_to(root)}")
    if figure := tradeoff.draw(table, root):
        console.print(f"figure: {figure.relative_to(root)}")
    return not any(outcome.exit_code for outcome in outcomes)


def command(job: Job) -> list[str]:
    """The words that measure one run."""
    return ["nfbench", "speed", job.name]


def reason(job: Job, device: str, threads: int, again: bool) -> str:
    """Why a run is not measured, in words; empty if it is to be."""
    if job.state != DONE:
        return f"left out: its run is {job.state}"
    if not (record.run_dir(job.experiment, job.root) / "best.pt").is_file():
        return "left out: its record is here, its weights are not"
    from nfbench.machine import torch_device
    from nfbench.throughput import is_measured

    kept = record.read(record.record_path(job.experiment, job.root))
    if is_measured(kept, torch_device(device), threads) and not again:
        return f"measured already, on {kept.speed['measured']}; --again measures it anew"
    return ""
