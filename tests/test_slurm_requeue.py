"""Cut short on a real cluster: what was begun goes on, as often as it may; the rest is told."""

import os
import re
import time
from pathlib import Path

import pytest
from cluster import Cluster, until
from harness import MAF, changed, write_sweep, write_table
from slurm_tables import ended, fake, nfbench, profile, told

from nfbench import record
from nfbench.curve import read_curve
from nfbench.launch.standing import seconds_left

# Ends by itself after 20 s; asked to stop it leaves a sign, as a run does that has saved.
PATIENT = """\
if [ "$3" != run ]; then exit; fi
trap 'sleep 0.3; touch "$NFBENCH_INTERRUPTED"; exit 130' USR1 TERM
if [ -e "$here/short" ]; then exit; fi
sleep 20 & wait
"""
# Never saves.
STUBBORN = """\
if [ "$3" != run ]; then exit; fi
trap '' USR1 TERM
sleep 20
"""
MAIN = "partitionname=main preemptmode"


def runs(root: Path) -> int:
    """How often a cell was begun."""
    return sum(words[2] == "run" for words in told(root))


@pytest.mark.slurm
def test_a_task_that_is_told_to_stop_is_requeued_and_ends(
    cluster: Cluster, slurm_root: Path
) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, PATIENT), pack=2)
    nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", 2)
    until(lambda: runs(slurm_root) == 2, 20.0, "two cells that run")
    job = re.search(r"(\d+)_0", nfbench("status", "tiny").output)
    assert job is not None
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job[1]}_0")
    until(lambda: "2 requeued" in nfbench("status", "tiny").output, 20.0, "a requeue")
    assert "requeued once" in nfbench("status", "tiny").output
    (slurm_root / "fake" / "short").touch()
    ended(cluster)
    assert runs(slurm_root) == 4
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert printed.count(": interrupted; requeued\n") == 1
    assert ": start 2 of at most 11\n" in printed
    assert not list((slurm_root / "runs").rglob("*.sign"))
    assert {fields["JobState"] for fields in cluster.jobs(job[1])} == {"COMPLETED"}


@pytest.mark.slurm
def test_restarts_have_an_end_with_a_clear_line(cluster: Cluster, slurm_root: Path) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, PATIENT), max_restarts=0)
    nfbench("reproduce", "tiny", "--slurm", mine)
    until(lambda: runs(slurm_root) == 1, 20.0, "a cell that runs")
    (job,) = {name.partition("_")[0] for name in cluster.queue() if "_" in name}
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_0")
    ended(cluster)
    assert cluster.state(job) == "FAILED"
    shown = " ".join(nfbench("status", "tiny").output.split())
    assert "1 failed" in shown
    assert "no restart is left" in shown


@pytest.mark.slurm
def test_what_is_cancelled_stays_so_and_is_sent_anew_when_asked(
    cluster: Cluster, slurm_root: Path
) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, PATIENT), throttle=2)
    nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", 4)
    until(lambda: runs(slurm_root) == 2, 20.0, "two cells that run")
    shown = nfbench("status", "tiny").output
    assert len(re.findall(r"queued +\d+_[23], JobArrayTaskLimit", shown)) == 2, shown
    one = nfbench("cancel", "tiny/gaussian/pinwheel/0")
    assert re.search(r"cancelled: \d+_0 tiny/gaussian/pinwheel/0\n$", one.output)
    until(lambda: runs(slurm_root) == 3, 20.0, "the next cell")
    until(lambda: not any(name.endswith("_0") for name in cluster.queue()), 20.0, "its end")
    rest = nfbench("cancel", "tiny")
    assert rest.output.count("cancelled: ") == 4  # and the job that renders
    ended(cluster)
    time.sleep(1.0)
    assert cluster.queue() == []
    assert runs(slurm_root) == 3
    again = nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", 4)
    assert "0 in the queue, 4 to send" in again.output


@pytest.mark.slurm
def test_what_is_cancelled_while_it_saves_stays_so(cluster: Cluster, slurm_root: Path) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, PATIENT.replace("0.3", "3")))
    nfbench("reproduce", "tiny", "--slurm", mine)
    until(lambda: runs(slurm_root) == 1, 20.0, "a cell that runs")
    (job,) = {name.partition("_")[0] for name in cluster.queue() if "_" in name}
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_0")
    time.sleep(1.0)
    assert "cancelled: " in nfbench("cancel", "tiny").output
    cluster.wait(f"{job}_0", "CANCELLED", seconds=20.0)
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert printed.endswith(": interrupted; what it had done is saved\n")
    assert cluster.queue() == []
    assert "1 missing" in nfbench("status", "tiny").output, "and not failed"


@pytest.mark.slurm
def test_a_cell_that_does_not_save_in_time_goes_on_in_the_next_job(
    cluster: Cluster, slurm_root: Path
) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, STUBBORN))
    nfbench("reproduce", "tiny", "--slurm", mine)
    until(lambda: runs(slurm_root) == 1, 20.0, "a cell that runs")
    with cluster.changed(f"{MAIN}=CANCEL", f"{MAIN}=REQUEUE"):  # as at the limit, but at once
        cluster.wait(cluster.submit("true", "--partition=high", "--nodes=4", "--exclusive"))
    until(lambda: runs(slurm_root) == 2, 30.0, "a restart")
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert printed.count(": interrupted; requeued\n") == 1
    cluster.cancel_all()


@pytest.mark.slurm
def test_a_process_that_is_killed_is_no_reason_to_go_on_for_ever(
    cluster: Cluster, slurm_root: Path
) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, '[ "$3" != run ] || kill -9 $$'))
    nfbench("reproduce", "tiny", "--slurm", mine)
    ended(cluster)
    assert runs(slurm_root) == 1
    shown = " ".join(nfbench("status", "tiny").output.split())
    assert "exit code 137 of: nfbench run tiny/gaussian pinwheel --seed 0" in shown
    logs = nfbench("logs", "tiny/gaussian/pinwheel")
    assert "exit code 137" in logs.output


@pytest.mark.slurm
def test_a_preempted_cell_saves_in_time_and_goes_on_from_there(
    cluster: Cluster, slurm_root: Path
) -> None:
    steps = {"max_steps": 2000, "validate_every": 200, "chunk": 10}
    row = changed(MAF, training=steps, flow={"layers": 1, "batch_norm": False})
    write_table(slurm_root, maf=row)
    nfbench("reproduce", "tiny", "--slurm", profile(slurm_root))
    folder = slurm_root / "runs" / "tiny" / "maf" / "pinwheel" / "0"
    until(lambda: len(read_curve(folder / "curve.jsonl")) >= 2, 60.0, "a validation")
    shown = nfbench("status", "tiny").output
    assert re.search(r"1 running.*step \d+ of 2000, best val -\d\S+ nats", " ".join(shown.split()))
    high = cluster.submit("sleep 1", "--partition=high", "--nodes=4", "--exclusive")
    cluster.wait(high)
    shown = nfbench("status", "tiny").output
    assert "requeued once" in shown
    ended(cluster, 120.0)
    found = record.read(slurm_root / "results" / "tiny" / "maf" / "pinwheel" / "0.json")
    assert (found.status, found.model["steps"]) == ("done", 2000)
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert ": start 2 of at most 11\n" in printed
    saved = re.search(r"stopped by SIG\w+ at step (\d+)", printed)
    assert saved is not None
    assert f"going on from step {saved[1]} " in printed
    assert (slurm_root / "results" / "tiny.md").exists()


@pytest.mark.parametrize("zone", [0, 2])  # hours by which the node's clock is ahead of ours
def test_the_time_left_is_told_from_the_validations_since_the_last_start(
    tmp_path: Path, zone: int
) -> None:
    now = time.time()

    def line(seconds: float, step: int) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now + seconds + zone * 3600))
        return f"{when} tiny/maf: step {step}, val -1.0 nats\n"

    log, curve = tmp_path / "log.txt", tmp_path / "curve.jsonl"
    assert seconds_left(tmp_path, 100) is None
    log.write_text(line(-1000, 10) + line(-990, 50) + line(-30, 20))
    assert seconds_left(tmp_path, 100) is None
    log.write_text(log.read_text() + line(-10, 40))
    curve.touch()
    os.utime(curve, (now - 10, now - 10))
    assert seconds_left(tmp_path, 100) == pytest.approx(50, abs=2)
    assert seconds_left(tmp_path, 40) == 0.0


@pytest.mark.slurm
def test_a_cell_of_several_nodes_is_told_through_srun(cluster: Cluster, slurm_root: Path) -> None:
    mine = profile(slurm_root, python=fake(slurm_root, PATIENT), nodes=2, max_restarts=0)
    nfbench("reproduce", "tiny", "--slurm", mine)
    until(lambda: runs(slurm_root) == 2, 20.0, "two processes of a cell")
    (job,) = {name.partition("_")[0] for name in cluster.queue() if "_" in name}
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_0")
    ended(cluster)
    printed = (slurm_root / "runs" / "slurm" / "tiny" / "0001" / "0.out").read_text()
    assert "interrupted, and no restart is left" in printed


@pytest.mark.slurm
def test_the_processes_of_a_sweep_are_sent_until_there_are_enough(
    cluster: Cluster, slurm_root: Path
) -> None:
    write_sweep(slurm_root)
    mine = profile(
        slurm_root, python=fake(slurm_root, 'touch "$here/$SLURM_ARRAY_TASK_ID"; sleep 3')
    )
    sent = nfbench("sweep", "small", "--slurm", mine, "--workers", 2)
    assert "0 in the queue, 2 to send" in sent.output
    more = nfbench("sweep", "small", "--slurm", mine, "--workers", 3)
    assert "2 in the queue, 1 to send" in more.output
    assert "sweeps/small: " in nfbench("status").output

    ended(cluster)
    words = ["-m", "nfbench", "sweep", "small", "--jobs", "1", "--device", "auto"]
    assert [found[:8] for found in told(slurm_root)] == [words] * 3
