"""What sites do differently: greetings, hidden partitions, limits, variables in a shell."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from cluster import Cluster, installed, running
from slurm_tables import ended, fake, nfbench, profile

from nfbench.launch.commands import most_tasks, records
from nfbench.launch.queue import queue


@pytest.mark.slurm
def test_variables_of_a_shell_for_slurms_commands_change_nothing(
    slurm_root: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, "sleep 60"))
    with monkeypatch.context() as shell:
        shell.setenv("SBATCH_PARTITION", "high")
        shell.setenv("SQUEUE_STATES", "SUSPENDED")
        shell.setenv("SCANCEL_INTERACTIVE", "1")
        sent = nfbench("reproduce", "tiny", "--slurm", mine)
        again = nfbench("reproduce", "tiny", "--slurm", mine)
        (job,) = re.findall(r"array (\d+) ", sent.output)
        (fields,) = cluster.jobs(job)
        nfbench("cancel", "tiny")
    assert fields["Partition"] == "main"
    assert "1 in the queue, 0 to send" in again.output
    ended(cluster, 20.0)


@pytest.mark.slurm
def test_a_site_may_greet_who_submits(
    slurm_root: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, wrapper = shutil.which("sbatch"), tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "Welcome to node 7"\necho\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    mine = profile(slurm_root, python=fake(slurm_root, "true"))
    sent = nfbench("reproduce", "tiny", "--slurm", mine)
    assert sent.exit_code == 0, sent.output
    assert re.search(r"^submitted: array \d+ of 1 tasks", sent.output, re.MULTILINE)
    assert re.search(r"^submitted: job \d+ renders", sent.output, re.MULTILINE)
    ended(cluster)


@pytest.mark.slurm
def test_jobs_in_a_hidden_partition_are_seen(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user, from whom anything is hidden")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for name in ("squeue", "scontrol"):
        file = tmp_path / name
        file.write_text(f'#!/bin/sh\nexec {shlex.join(nobody)} {shutil.which(name)} "$@"\n')
        file.chmod(0o755)
    cluster.folder.chmod(0o755)
    words = ["sbatch", "--partition=high", "--array=0-0", "--chdir=/", "--output=/dev/null"]
    with cluster.changed("partitionname=high hidden=yes", "partitionname=high hidden=no"):
        cluster.call(*nobody, *words, "--mem=100M", "--wrap=sleep 60")
        with monkeypatch.context() as other:
            other.setenv("PATH", str(tmp_path), prepend=os.pathsep)
            found, partitions = queue(), records("partition")
    cluster.call("scancel", "--user=65534")
    assert [task.index for task in found[Path("/")]] == [0]
    assert "high" in [fields["PartitionName"] for fields in partitions]


@pytest.mark.slurm
@pytest.mark.skipif(not installed(), reason="needs SLURM: slurm/local-cluster install")
def test_the_scheduler_may_allow_fewer_tasks_than_an_array_can_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(1) as own:
        monkeypatch.setenv("SLURM_CONF", own.conf)
        assert most_tasks() == 10001
        conf, key = Path(own.conf), "\nSchedulerParameters="
        conf.write_text(conf.read_text().replace(key, f"{key}max_array_tasks=7,"))
        own.call("scontrol", "reconfigure")
        assert most_tasks() == 7
