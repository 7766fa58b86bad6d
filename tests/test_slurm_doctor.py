"""The doctor, on a real cluster: well profiles pass, each ill is named with what to do."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from cluster import Cluster

from nfbench.cli import main
from nfbench.launch import examination
from nfbench.launch.commands import CommandError, call, environment
from nfbench.launch.limits import AWAY, sizes

GOOD = {"partition": "main", "mem": "1G", "time": "00:05:00"}
Doctor = Callable[..., tuple[int, dict[str, tuple[str, str]]]]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """`nfbench slurm doctor` of a profile with these keys: exit code, check -> kind, message."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("NFBENCH_ROOT", str(tmp_path))
    monkeypatch.setenv("NFBENCH_DATA", str(tmp_path / "data"))

    def run(*options: str, **keys: Any) -> tuple[int, dict[str, tuple[str, str]]]:
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(GOOD | keys, sort_keys=False))
        shown = CliRunner().invoke(main, ["slurm", "doctor", str(file), *options])
        lines = [line.split(maxsplit=2) for line in shown.output.splitlines()]
        assert all(len(words) == 3 for words in lines), shown.output
        return shown.exit_code, {check: (kind, message) for kind, check, message in lines}

    return run


def faults(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {check: message for check, (kind, message) in found.items() if kind == "fault"}


@pytest.mark.slurm
def test_what_some_cells_ask_for_is_checked_too(cluster: Cluster, doctor: Doctor) -> None:
    big = {"t/big/*": {"partition": "nowhere"}, "t/*": {"pack": 2}}
    code, found = doctor("--no-job", cells=big)
    assert code == 1
    assert "cells t/big/*: " in faults(found)["partition"]
    assert found["submission"] == ("ok", "cells t/*: accepted")


@pytest.mark.slurm
def test_a_good_profile_passes_on_two_nodes(
    cluster: Cluster, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    for proxy in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    with listener:
        code, found = doctor(nodes=2, setup=["export SEEN=1"])
    assert (code, faults(found)) == (0, {})
    assert {check for check, (kind, _) in found.items() if kind != "ok"} <= {"disk"}
    assert " ".join(found) == (
        "commands controller partition time cpus mem nodes arrays submission job python folder"
        " names cuda threads data wandb clock disk"
    )
    assert "to all 2" in found["names"][1]
    assert cluster.queue() == []
    folder = tmp_path / "runs" / "slurm" / "doctor" / "mine"
    assert {"job.sh", "log.txt", "task-0.txt", "task-1.txt"} <= {f.name for f in folder.iterdir()}


@pytest.mark.slurm
def test_gpus_that_torch_does_not_see_are_missed(cluster: Cluster, doctor: Doctor) -> None:
    code, found = doctor(gpus=2)
    assert code == 1
    assert set(faults(found)) == {"cuda"}
    assert re.search(r"sees 0 of 2 on 127\S+ \(CUDA_VISIBLE_DEVICES=0,1\)", found["cuda"][1])


@pytest.mark.slurm
def test_a_container_without_the_folder_is_told_from_a_good_one(
    cluster: Cluster, doctor: Doctor, tmp_path: Path
) -> None:
    try:
        call("unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path))
    except CommandError:
        pytest.skip("needs the right to mount")
    hide = f'mount -t tmpfs none {tmp_path}/runs && exec "$@"'

    code, found = doctor(container=f"unshare -m bash -c '{hide}' --", python=sys.executable)
    assert code == 1
    assert set(faults(found)) == {"folder"}
    assert "bind it in a container" in found["folder"][1]


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("keys", "check", "message"),
    [
        ({"setup": ["echo no such module >&2", "exit 3"]}, "job", "exit code 3:0); no such mod"),
        ({"python": "/nowhere/python"}, "python", "task 0 did not answer: "),
        ({"setup": ["export PYTHONPATH=/nowhere"], "python": "python3 -I"}, "python", "task 0"),
        ({"setup": ["rm {tmp}/runs/slurm/doctor/mine/log.txt; exit 1"]}, "job", "nodes share?"),
    ],
)
def test_what_keeps_the_job_from_answering_is_shown(
    keys: dict[str, Any],
    check: str,
    message: str,
    cluster: Cluster,
    doctor: Doctor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examination, "FAILED_SECONDS", 1.0)
    lines = [line.format(tmp=tmp_path) for line in keys.get("setup", [])]
    code, found = doctor(**keys | {"setup": lines})
    assert code == 1
    assert message in faults(found)[check]


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("keys", "check", "message"),
    [
        ({"partition": "mian"}, "partition", "no partition 'mian'; did you mean 'main'?"),
        ({"cpus": 9}, "cpus", "asks for 9 of at most 8 a node"),
        ({"mem": "8G"}, "mem", "asks for 8192 of at most 8000 a node, in MB"),
        ({"gpus": 3}, "gpus", "asks for 3 of at most 2 a node"),
        ({"gpus": 1, "gpu_type": "a100"}, "gpus", "asks for 1 of at most 0 a node of type a100"),
        ({"nodes": 5}, "nodes", "asks for 5 of 4 that are large enough"),
        ({"constraint": "a100"}, "submission", "Invalid feature specification"),
        ({"sbatch": ["--nosuch=1"]}, "submission", "unrecognized option '--nosuch=1'"),
    ],
)
def test_what_no_node_can_give_is_a_fault_and_sends_no_job(
    keys: dict[str, Any], check: str, message: str, cluster: Cluster, doctor: Doctor
) -> None:
    code, found = doctor(**keys)
    assert code == 1
    assert message in faults(found)[check]
    assert found["job"][0] == "note"


@pytest.mark.slurm
def test_limits_of_the_partition_are_read(cluster: Cluster, doctor: Doctor) -> None:
    main = "partitionname=main"
    back = f"{main} maxtime=UNLIMITED maxnodes=UNLIMITED"
    with cluster.changed(f"{main} maxtime=4 maxnodes=1", back):
        code, found = doctor("--no-job", nodes=2)
        assert code == 1
        assert "00:05:00 is above the 00:04:00 of main" in faults(found)["time"]
        assert "2 of at most 1 a job" in faults(found)["nodes"]
        assert doctor("--no-job", time="00:04:00")[0] == 0
    with cluster.changed(f"{main} state=down", f"{main} state=up"):
        assert "main is DOWN" in faults(doctor("--no-job")[1])["partition"]
    code, found = doctor("--no-job", signal_seconds=600)
    assert (code, found["time"][0]) == (0, "warning")


@pytest.mark.slurm
def test_nodes_that_are_away_are_counted(cluster: Cluster, doctor: Doctor) -> None:
    first = cluster.call("scontrol", "show", "hostnames", nodes(cluster)).split()[0]
    away = f"nodename={first} state=drain reason=test"
    with cluster.changed(away, f"nodename={first} state=resume"):
        _, found = doctor("--no-job", nodes=4)
    assert found["nodes"][0] == "warning"
    assert "4 of 4 that are large enough, of which only 3 are up" in found["nodes"][1]


def nodes(cluster: Cluster) -> str:
    return cluster.call("sinfo", "-h", "-p", "main", "-o", "%N").strip()


@pytest.fixture
def full(cluster: Cluster) -> str:
    """A job that leaves no room for another one."""
    job = cluster.submit("sleep 600", "--nodes=4", "--exclusive")
    cluster.wait(job, "RUNNING")
    return job


@pytest.mark.slurm
def test_a_job_that_does_not_start_is_cancelled(
    cluster: Cluster, full: str, doctor: Doctor
) -> None:
    code, found = doctor("--wait", "0.5")
    assert code == 1
    assert "not started in 0.5 s (" in faults(found)["job"]
    assert cluster.queue() == [full]


@pytest.mark.slurm
def test_a_doctor_that_is_interrupted_leaves_no_job(
    cluster: Cluster, full: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    process = subprocess.Popen(
        [sys.executable, "-m", "nfbench", "slurm", "doctor", str(file)],
        env=cluster.environment(NFBENCH_ROOT=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(" is sent" in line for line in process.stdout)
    assert len(cluster.queue()) == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert cluster.queue() == [full]


@pytest.mark.slurm
def test_a_controller_that_is_down_costs_a_line(
    cluster: Cluster, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(cluster.conf).read_text()
    other = tmp_path / "slurm.conf"
    other.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", text))
    monkeypatch.setenv("SLURM_CONF", str(other))
    code, found = doctor()
    assert code == 1
    assert "is DOWN" in faults(found)["controller"]


def test_without_slurm_the_doctor_says_where_to_run_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, found = doctor()
    assert (code, list(found)) == (1, ["commands"])
    assert "run this on a login node" in found["commands"][1]


def test_what_a_shell_has_of_a_run_of_its_own_is_kept_from_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strays = ["MASTER_ADDR", "WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_JOB_ID", "SLURM_CLUSTER"]
    strays += ["SBATCH_PARTITION", "SQUEUE_STATES", "SCANCEL_INTERACTIVE"]
    for name in (*strays, "SLURM_CONF", "SLURM_CLUSTERS"):
        monkeypatch.setenv(name, "1")
    kept = environment()
    assert {"SLURM_CONF", "SLURM_CLUSTERS"} < set(kept)
    assert set(strays) & set(kept) == set()


@pytest.mark.parametrize(
    ("gres", "gpu_type", "count"),
    [
        ("gpu:2", None, 2),
        ("gpu:a100:4(S:0-1)", None, 4),
        ("gpu:a100:4(S:0-1)", "a100", 4),
        ("gpu:a100:4", "h100", 0),
        ("gpu:a100:2(S:0),gpu:1g.10gb:7(S:1)", "1g.10gb", 7),
        ("lscratch:100,gpu:v100:1", None, 1),
        ("(null)", None, 0),
    ],
)
def test_gpus_are_counted_as_sites_write_them(gres: str, gpu_type: str | None, count: int) -> None:
    assert sizes({"Gres": gres}, gpu_type)["gpus"] == count


@pytest.mark.parametrize(
    ("state", "is_away"),
    [
        ("IDLE", False),
        ("IDLE+CLOUD+POWERED_DOWN", False),
        ("MIXED+PLANNED", False),
        ("DOWN*", True),
        ("DOWN+CLOUD+POWERED_DOWN", True),
        ("ALLOCATED+DRAIN", True),
        ("IDLE+NOT_RESPONDING", True),
    ],
)
def test_states_of_nodes_are_told_apart(state: str, is_away: bool) -> None:
    assert bool(AWAY.search(state)) is is_away
