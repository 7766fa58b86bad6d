"""The cluster on one machine: it starts, it works, and nothing of it stays."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import SCRIPT, Cluster, installed, local_cluster, running, until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not installed(), reason="needs SLURM: slurm/local-cluster install"),
]
FREEZER = Path("/sys/fs/cgroup/freezer")
SLEEPER = "setsid sleep 987 & srun --nodes=2 --ntasks-per-node=1 sleep 987"


def processes(text: str) -> list[str]:
    """The processes of this machine with a text in their command line or folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            line = " ".join([*words, os.readlink(folder / "cwd")])
        except OSError:
            continue
        if text in line and int(folder.name) != os.getpid():
            found.append(line)
    return found


@pytest.fixture(scope="module", params=["cgroup", "linuxproc"])
def own(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of two nodes for this file's tests, with each way of tracking processes."""
    if request.param == "cgroup" and not os.access(FREEZER / "cgroup.procs", os.W_OK):
        pytest.skip("needs root and control groups of the first version")
    with running(2, CLUSTER_TRACK=request.param) as cluster:
        yield cluster


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for sockets, which pytest's need not be."""
    with tempfile.TemporaryDirectory(prefix="nfbench-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_healthy_cluster_says_so_and_a_second_up_changes_nothing(own: Cluster) -> None:
    job = own.submit("sleep 60", "--nodes=2")
    again = local_cluster("up", own.folder)
    assert (again.returncode, again.stdout) == (0, f"export SLURM_CONF={own.conf}\n")
    healthy = local_cluster("health", own.folder)
    assert (healthy.returncode, healthy.stdout.splitlines()[-1]) == (0, "healthy")
    own.wait(job, "RUNNING")
    own.cancel_all()


def test_a_daemon_that_died_is_missed_and_up_starts_it_again(own: Cluster) -> None:
    pid = (own.folder / "run" / "slurmctld.pid").read_text().strip()
    subprocess.run(["kill", "-KILL", pid], check=True)
    until(lambda: local_cluster("health", own.folder).returncode, 10.0)
    assert "the controller does not listen" in local_cluster("health", own.folder).stderr
    assert local_cluster("up", own.folder).returncode == 0
    assert (own.folder / "run" / "slurmctld.pid").read_text().strip() != pid
    assert local_cluster("health", own.folder).returncode == 0


def test_down_leaves_no_process_no_control_group_and_no_file(tmp_path: Path) -> None:
    with running(2) as cluster:
        log = tmp_path / "log.txt"
        job = cluster.submit(SLEEPER, "--nodes=2", f"--output={log}")
        cluster.wait(job, "RUNNING")
        until(lambda: len(processes("sleep 987")) >= 3, 20.0)
        nodes = cluster.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N").split()
    assert processes("sleep 987") == []
    assert processes(str(cluster.folder)) == []
    assert not cluster.folder.exists()
    assert [node for node in nodes if (FREEZER / f"slurm_{node}").exists()] == []


def test_down_ends_what_outlived_its_daemons(tmp_path: Path) -> None:
    with running(2) as cluster:
        job = cluster.submit(SLEEPER, "--nodes=2", f"--output={tmp_path / 'log.txt'}")
        cluster.wait(job, "RUNNING")
        until(lambda: len(processes("sleep 987")) >= 3, 20.0)
        pids = [p.read_text().strip() for p in cluster.folder.glob("run/slurm*.pid")]
        subprocess.run(["kill", "-KILL", *pids], check=True)
    assert processes("sleep 987") == []
    assert processes(str(cluster.folder)) == []
    assert not cluster.folder.exists()


def test_jobs_run_as_the_other_user_who_started_the_cluster(short_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    script = """
        cd "$1" && export CLUSTER_PORT=$2
        eval "$(./local-cluster up "$1/c" 2)"
        srun --nodes=2 --ntasks-per-node=1 id -un
        ./local-cluster down "$1/c" && ls -A "$1"
    """
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"]
    shutil.copy(SCRIPT, short_path)
    short_path.chmod(0o777)
    done = subprocess.run(
        [*words, script, "bash", str(short_path), str(32_000 + 100 * (os.getpid() % 7))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["nobody", "nobody", "local-cluster"], done.stderr


def test_what_is_no_cluster_is_left_alone(short_path: Path) -> None:
    file = short_path / "mine.txt"
    file.write_text("mine")
    for command, message in [
        ("down", "was not made by local-cluster"),
        ("up", "is neither empty nor a cluster"),
        ("health", "is no cluster"),
    ]:
        done = local_cluster(command, short_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
    assert file.read_text() == "mine"
    assert local_cluster("down", short_path / "nothing").returncode == 0


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (("up", "{folder}/c", "65"), {}, "expected 1 to 64 nodes, got 65"),
        (("up", "{folder}/c", "two"), {}, "got 'two'"),
        (("up", "{folder}/c"), {"CLUSTER_PORT": "80"}, "expected a first port from 1024"),
        (("up", "{folder}/" + 56 * "c"), {}, "expected a path of at most 56 plain characters"),
        (("up", "/tmp/a b"), {}, "expected a path of at most 56 plain characters"),
        (("up",), {}, "up: expected a folder"),
        (("start", "{folder}/c"), {}, "expected install, up, health or down, got 'start'"),
    ],
)
def test_a_mistake_costs_a_line_and_makes_nothing(
    words: tuple[str, ...], more: dict[str, str], message: str, short_path: Path
) -> None:
    done = local_cluster(*(word.format(folder=short_path) for word in words), **more)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert list(short_path.iterdir()) == []
