"""A real SLURM for the tests: slurm/local-cluster in a folder of its own."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "slurm" / "local-cluster"
POLL_SECONDS = 0.25  # each look costs tens of milliseconds of a core that the jobs need
PATIENCE = 240.0  # seconds; each job starts Python with torch, which takes a busy machine a minute
# What a test's own process may have, and must not go with its jobs.
STRAY = re.compile(r"(SLURM|SBATCH|SRUN|MASTER|WANDB)_\w+|((LOCAL|NODE|GROUP)_)?RANK|WORLD_SIZE")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}


def installed() -> bool:
    """Whether this machine has SLURM's daemons."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return all(shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "munged"))


def strays() -> list[str]:
    """The variables of this process that its jobs must not have."""
    return [name for name in os.environ if STRAY.fullmatch(name)]


def environment(**more: str) -> dict[str, str]:
    """This process's variables without the strays, with this repository's package and `more`."""
    kept = {name: value for name, value in os.environ.items() if not STRAY.fullmatch(name)}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def local_cluster(
    *words: object, seconds: float = 120.0, **more: str
) -> subprocess.CompletedProcess[str]:
    """`slurm/local-cluster ...`, whatever it exits with."""
    return subprocess.run(
        [SCRIPT, *map(str, words)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )


def until(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Wait until a condition holds; TimeoutError with `what` if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what or condition} in {seconds} s")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its folder is below /tmp, since SLURM's sockets need short paths."""

    folder: Path

    @property
    def conf(self) -> str:
        return f"{self.folder}/etc/slurm.conf"

    def environment(self, **more: str) -> dict[str, str]:
        return environment(SLURM_CONF=self.conf, **more)

    def call(
        self, *words: object, text: str | None = None, cwd: Path | None = None, **more: str
    ) -> str:
        """What a command of SLURM prints; RuntimeError with its errors if it fails."""
        done = subprocess.run(
            [*map(str, words)],
            env=self.environment(**more),
            input=text or "",
            capture_output=True,
            text=True,
            timeout=60,
            cwd=cwd,
        )
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout} {done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: object, cwd: Path | None = None, **more: str) -> str:
        """Submit a shell script; its job id."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
        words = ("sbatch", "--parsable", "--output=/dev/null", *options)
        return self.call(*words, text=text, cwd=cwd, **more).strip()

    def jobs(self, job: str) -> list[dict[str, str]]:
        """The fields of a job, or of every task of an array that has a record of its own."""
        lines = self.call("scontrol", "show", "job", "-o", job).splitlines()
        return [dict(re.findall(r"([\w/:]+)=(\S*)", line)) for line in lines if line.strip()]

    def state(self, job: str) -> str:
        """The state of a job of one task."""
        (fields,) = self.jobs(job)
        return fields["JobState"]

    def wait(self, job: str, *states: str, seconds: float = PATIENCE) -> list[dict[str, str]]:
        """Wait until all tasks of a job are in one of these states, by default over."""
        wanted = set(states) or OVER

        def there() -> bool:
            return all(fields["JobState"] in wanted for fields in self.jobs(job))

        until(there, seconds, f"{job} {states}: {self.folder}")
        return self.jobs(job)

    def queue(self) -> list[str]:
        """The ids of the jobs that wait or run."""
        return self.call("squeue", "-h", "-o", "%i").split()

    def cancel_all(self) -> None:
        """End every job at once."""
        if self.queue():
            self.call("scancel", "--quiet", "--full", "--signal=KILL", "--state=RUNNING")
            self.call("scancel", "--quiet", "--user", str(os.geteuid()))
            until(lambda: not self.queue(), 30.0, "an empty queue")

    @contextmanager
    def changed(self, change: str, back: str) -> Iterator[None]:
        """`scontrol update` in a block, and back after it."""
        self.call("scontrol", "update", *change.split())
        try:
            yield
        finally:
            self.call("scontrol", "update", *back.split())

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        files = sorted(self.folder.glob("log/*.log"))
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-2000:]}" for f in files)


def ports(worker: str) -> Iterator[int]:
    """First ports to try, others for each worker of pytest-xdist ("gw0", ...) and session."""
    own = int(worker.removeprefix("gw") or 0) if worker.startswith("gw") else 0
    for i in range(100):
        yield 20_000 + 100 * ((own * 7 + os.getppid() + i) % 120)


@contextmanager
def running(n_nodes: int = 4, **more: str) -> Iterator[Cluster]:
    """A cluster for a while, on ports that no other one has."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    folder = Path(tempfile.mkdtemp(prefix="nfbench-slurm-", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        for port in ports(worker):
            done = local_cluster("up", folder, n_nodes, CLUSTER_PORT=str(port), **more)
            if "is taken" not in done.stderr:
                break
        if done.returncode:
            raise RuntimeError(f"local-cluster up: {done.stderr}")
        yield cluster
    finally:
        down = local_cluster("down", folder)
        shutil.rmtree(folder, ignore_errors=True)
    if down.returncode:
        raise RuntimeError(f"local-cluster down: {down.stderr}")
