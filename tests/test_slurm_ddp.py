"""A run of two nodes that is cut, however SLURM does it, ends in the record of an uncut one."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster, until
from harness import MAF, changed, comparable, write_table
from slurm_tables import ended, nfbench, profile
from test_processes import of

from nfbench import record
from nfbench.curve import read_curve
from nfbench.record import Record

STEPS = {"max_steps": 6000, "validate_every": 200, "chunk": 10, "eval_batch_size": 3000}
ROW = changed(MAF, flow={"batch_norm": False}, training=STEPS)
NODES = {"nodes": 2, "tasks_per_node": 1, "mem": "1G"}
SEED = {"preempted": 0, "out of time": 1, "without a node": 2}  # of the moment of the cut


def preempt(cluster: Cluster) -> None:
    """Have all nodes taken by a job of a higher partition, for a moment."""
    cluster.wait(cluster.submit("sleep 1", "--partition=high", "--nodes=4", "--exclusive"))


def wait_for_the_limit(cluster: Cluster) -> None:
    """Do nothing: SLURM looks at the limit every half a minute."""
    until(lambda: not running(cluster), 150.0, "the end of the time limit")


def take_a_node(cluster: Cluster) -> None:
    """Have a node of the job fail; it comes back by itself."""
    (node,) = cluster.call("squeue", "-h", "-t", "R", "-o", "%B").split()
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: not running(cluster), 30.0, "the end of the job on the node")


def running(cluster: Cluster) -> bool:
    """Whether a job runs."""
    return bool(cluster.call("squeue", "-h", "-t", "R", "-o", "%i").split())


CUTS: dict[str, tuple[Callable[[Cluster], None], dict[str, object]]] = {
    "preempted": (preempt, {}),
    "out of time": (wait_for_the_limit, {"time": "00:01:00", "signal_seconds": 30}),
    "without a node": (take_a_node, {}),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of two processes that nothing cut."""
    root = write_table(tmp_path_factory.mktemp("whole"), maf=ROW)
    return of(2, root, "maf", "pinwheel")


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.parametrize("cut", CUTS)
def test_a_run_of_two_nodes_that_is_cut_gives_the_record_of_one_that_was_not(
    cluster: Cluster, slurm_root: Path, whole: Record, cut: str
) -> None:
    act, keys = CUTS[cut]
    write_table(slurm_root, maf=ROW)
    sent = nfbench("reproduce", "tiny", "--slurm", profile(slurm_root, **NODES, **keys))
    assert sent.exit_code == 0, sent.output
    curve = slurm_root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "curve.jsonl"
    moment = 200 * int(np.random.default_rng(SEED[cut]).integers(1, 6))
    until(lambda: any(line["step"] >= moment for line in read_curve(curve)), 120.0, "a validation")
    act(cluster)
    ended(cluster, 240.0)
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert re.search(r"going on from step \d+ ", printed), printed[-2000:]
    found = record.read(slurm_root / "results" / "tiny" / "maf" / "pinwheel" / "0.json")
    assert found.provenance["world_size"] == 2
    assert comparable(found) == comparable(whole)
