"""Tables on a real cluster: what is missing is sent once, and what cannot be sent costs a line."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, local_cluster, until
from harness import DIVERGING, GAUSSIAN, MAF, changed, write_table
from rich.console import Group
from slurm_tables import ended, fake, nfbench, profile, told

from nfbench import record
from nfbench.cli_status import look
from nfbench.launch import slurm as slurm_module
from nfbench.launch import submit
from nfbench.launch.manifest import Submission, following, home, submissions
from nfbench.launch.profile import load_profile
from nfbench.launch.slurm import submit_table


@pytest.mark.slurm
def test_a_table_on_four_nodes_one_cell_fails_and_retry_mends_it(
    cluster: Cluster, slurm_root: Path
) -> None:
    cells = {"cells": {"pinwheel": {}, "checkerboard": {}}}
    write_table(slurm_root, maf=MAF | cells, diverging=DIVERGING)
    mine = profile(slurm_root, throttle=2)
    sent = nfbench("reproduce", "tiny", "--slurm", mine)
    assert sent.exit_code == 0, sent.output
    assert "0 done, 0 in the queue, 3 to send" in sent.output
    again = nfbench("reproduce", "tiny", "--slurm", mine)
    assert "0 done, 3 in the queue, 0 to send" in again.output
    assert len(submissions(slurm_root, "tiny")) == 1
    until(lambda: "2 running, 1 queued" in nfbench("status", "tiny").output, 30.0, "two that run")
    ended(cluster)
    states = {
        path.parts[-3]: record.read(path).status
        for path in (slurm_root / "results" / "tiny").glob("*/*/0.json")
    }
    assert states == {"maf": "done", "diverging": "failed"}
    assert len(list((slurm_root / "results" / "tiny").glob("maf/*/0.json"))) == 2
    table = (slurm_root / "results" / "tiny.md").read_text()
    assert "failed: non-finite loss" in table
    shown = nfbench("status", "tiny").output
    assert "2 done, 1 failed" in shown
    assert "tiny/diverging/pinwheel/0" in shown
    assert "non-finite" in shown

    write_table(
        slurm_root, maf=MAF | cells, diverging=changed(DIVERGING, training={"learning_rate": 0.01})
    )
    path = slurm_root / "results" / "tiny" / "diverging" / "pinwheel" / "0.json"
    assert nfbench("retry", "tiny", "--failed", "--slurm", "nime").exit_code == 2
    assert path.exists()
    assert nfbench("retry", "tiny", "--failed", "--slurm", mine).exit_code == 0
    ended(cluster)
    assert record.read(path).status == "done"
    assert "failed" not in (slurm_root / "results" / "tiny.md").read_text()
    aside = slurm_root / "runs" / "failed" / "tiny" / "diverging" / "pinwheel" / "0" / "1"
    assert json.loads((aside / "record.json").read_text())["status"] == "failed"
    assert "3 done" in nfbench("status", "tiny").output


@pytest.mark.slurm
def test_nothing_in_a_path_or_an_override_is_executed(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "a 'b\" $(touch hit) %a `touch hit`; é"
    root.mkdir()
    write_table(root, gaussian=GAUSSIAN)
    monkeypatch.setenv("NFBENCH_DATA", str(root))
    value = "/x 'y\" $(touch hit) `touch hit`; touch hit & * \\ %a"
    word = f"training.teacher={json.dumps(value)}"
    mine = load_profile(profile(root, python=fake(root, "sleep 1"), pack=2), root)
    found = submit_table("tiny", mine, overrides=[word], seeds=range(3), root=root)
    assert found.sent is not None
    ended(cluster)
    runs = [words for words in told(root) if words[2] == "run"]
    assert len(runs) == 3
    assert {words[7] for words in runs} == {word}
    assert [words[:7] for words in runs] == [
        ["-m", "nfbench", "run", "tiny/gaussian", "pinwheel", "--seed", str(i)] for i in range(3)
    ]
    assert not list(tmp_path.rglob("hit"))
    (submission,) = submissions(root, "tiny")
    assert [submission.output(cell).name for cell in submission.cells] == ["0.out"] * 2 + ["1.out"]
    assert all("start 1 of" in submission.output(cell).read_text() for cell in submission.cells)


@pytest.mark.slurm
def test_a_dry_run_prints_all_and_leaves_nothing(slurm_root: Path) -> None:
    mine = profile(slurm_root, sbatch=["--nice=7"], gpus=2)
    shown = nfbench("reproduce", "tiny", "--slurm", mine, "--push", "--dry-run")
    assert shown.exit_code == 0
    assert re.findall("--gres=gpu:(.)", shown.output) == ["2", "1"]  # a cell's, the table's
    for part in (
        "#SBATCH --array=0-0\n",
        "#SBATCH --nice=7\n",
        "\nnfbench run tiny/gaussian pinwheel --seed 0 --no-bar --device auto --threads 1\n",
        "-m nfbench table tiny || exit\n",
        "-m nfbench leaderboard push tiny || exit\n",
        f"\nNFBENCH_ROOT={slurm_root}\n",
    ):
        assert part in shown.output
    assert not (slurm_root / "runs").exists()


@pytest.mark.slurm
def test_no_key_reaches_a_file(
    slurm_root: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ecre7")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:5ecre7@proxy")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    act = 'echo "$WANDB_API_KEY ${MASTER_ADDR:-none}" > "$here/env"'
    mine = profile(slurm_root, python=fake(slurm_root, act))
    assert nfbench("reproduce", "tiny", "--slurm", mine).exit_code == 0
    ended(cluster)
    assert (slurm_root / "fake" / "env").read_text() == "5ecre7 none\n"
    files = [file for file in (slurm_root / "runs").rglob("*") if file.is_file()]
    assert len(files) >= 5
    assert not [file for file in files if "5ecre7" in file.read_text()]


def test_a_submission_that_was_moved_aside_is_none(tmp_path: Path) -> None:
    for name in ("0002", "0010", "0011-old"):
        folder = home(tmp_path, "tiny") / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(Submission(folder, "mine", 1, ("a",)).text())
    assert [each.folder.name for each in submissions(tmp_path, "tiny")] == ["0002", "0010"]
    assert following(tmp_path, "tiny").name == "0011"


MISTAKES = [
    ({"partition": "gone"}, "invalid partition"),
    ({"cpus": 1000}, "sbatch: "),
]


@pytest.mark.slurm
@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_what_slurm_refuses_costs_one_line_and_leaves_no_submission(
    keys: dict[str, Any], message: str, slurm_root: Path, cluster: Cluster
) -> None:
    shown = nfbench("reproduce", "tiny", "--slurm", profile(slurm_root, **keys))
    assert shown.exit_code == 2
    assert len(shown.output.splitlines()) == 1
    assert message in shown.output.lower()
    assert submissions(slurm_root, "tiny") == []
    assert cluster.queue() == []


@pytest.mark.slurm
def test_a_full_disk_costs_one_line_and_nothing_is_sent(
    slurm_root: Path, cluster: Cluster, tmp_path: Path
) -> None:
    mine, runs = profile(slurm_root), tmp_path / "runs"
    runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=8", "none", str(runs)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        shown = nfbench("reproduce", "tiny", "--slurm", mine)
        readonly = ["mount", "-o", "remount,ro", str(runs)]
        subprocess.run(readonly, check=True)
        second = nfbench("reproduce", "tiny", "--slurm", mine)
    finally:
        subprocess.run(["umount", str(runs)], check=True)
    assert shown.exit_code == second.exit_code == 2
    assert "No space left on device" in shown.output
    assert "Read-only file system" in second.output
    assert [len(each.output.splitlines()) for each in (shown, second)] == [1, 1]
    assert cluster.queue() == []
    assert nfbench("reproduce", "tiny", "--slurm", mine).exit_code == 0


@pytest.mark.slurm
def test_a_controller_that_is_down_costs_one_line(slurm_root: Path, cluster: Cluster) -> None:
    mine = profile(slurm_root)
    pid = int((cluster.folder / "run" / "slurmctld.pid").read_text())
    cluster.call("scontrol", "shutdown", "slurmctld")
    try:
        until(lambda: not Path(f"/proc/{pid}").exists(), 20.0, "a controller that is down")
        shown = nfbench("reproduce", "tiny", "--slurm", mine)
        status, waits = look(["tiny"])
    finally:
        assert local_cluster("up", cluster.folder).returncode == 0
    assert not look(["tiny"])[1]
    assert shown.exit_code == 2
    assert len(shown.output.splitlines()) == 1
    assert "Unable to contact slurm controller" in shown.output
    assert submissions(slurm_root, "tiny") == []
    assert isinstance(status, Group)
    assert "what waits or runs is not known" in str(status.renderables[0])
    assert waits, "it may answer later"


@pytest.mark.slurm
def test_a_controller_that_stops_while_submitting_loses_and_doubles_nothing(
    slurm_root: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three arrays; the second is refused, and of the first nobody hears: still, all run once."""
    mine = profile(slurm_root, python=fake(slurm_root, "sleep 3"))
    monkeypatch.setattr(slurm_module, "most_tasks", lambda: 2)
    sbatch, calls = submit.sbatch, iter(range(9))

    def stopped(*words: Any) -> str:
        if next(calls) == 1:
            raise submit.CommandError("sbatch: Unable to contact slurm controller")
        return sbatch(*words)

    with monkeypatch.context() as patch:
        patch.setattr(submit, "sbatch", stopped)
        shown = nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", "5")
    assert shown.exit_code == 2
    assert "1 of 3 arrays are submitted" in shown.output
    again = nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", "5")
    assert "2 in the queue, 3 to send" in again.output
    ended(cluster)
    seeds = [words[6] for words in told(slurm_root) if words[2] == "run"]
    assert sorted(seeds) == list("01234")


@pytest.mark.slurm
def test_a_throttle_holds_over_arrays_and_the_table_waits_for_all(
    slurm_root: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = 'echo "{} $(date +%s%N)" >> "$here/times"'
    act = f"{note.format('$3')}; sleep 0.5; {note.format('end')}"
    mine = profile(slurm_root, python=fake(slurm_root, act), throttle=2)
    monkeypatch.setattr(slurm_module, "most_tasks", lambda: 3)
    shown = nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", "5")
    assert shown.output.count("submitted: array") == 2
    ended(cluster)
    lines = [line.split() for line in (slurm_root / "fake" / "times").read_text().splitlines()]
    running, most = 0, 0
    for what, _ in sorted(lines, key=lambda each: int(each[1])):
        running += -1 if what == "end" else 1
        most = max(most, running)
    assert most == 2
    assert [what for what, _ in sorted(lines, key=lambda each: int(each[1]))][-2] == "table"


@pytest.mark.slurm
def test_each_distinct_request_is_an_array_of_its_own(slurm_root: Path, cluster: Cluster) -> None:
    cells = {"cells": {"pinwheel": {}, "checkerboard": {}}}
    write_table(slurm_root, maf=MAF | cells, gaussian=GAUSSIAN)
    mine = profile(
        slurm_root,
        python=fake(slurm_root, 'echo "$3 $SLURM_JOB_CPUS_PER_NODE" >> "$here/cpus"'),
        throttle=1,
        cells={"tiny/maf/pin*": {"cpus": 2}, "tiny/gaussian/*": {"pack": 2}},
    )
    shown = nfbench("reproduce", "tiny", "--slurm", mine, "--seeds", "2")
    assert "6 to send" in shown.output
    sent = [(each.pack, each.cells) for each in submissions(slurm_root, "tiny")]
    assert sent == [
        (1, ("tiny/maf/pinwheel/0", "tiny/maf/pinwheel/1")),
        (1, ("tiny/maf/checkerboard/0", "tiny/maf/checkerboard/1")),
        (2, ("tiny/gaussian/pinwheel/0", "tiny/gaussian/pinwheel/1")),
    ]
    ended(cluster)
    threads = {(words[3], words[4]): words[-1] for words in told(slurm_root) if words[2] == "run"}
    assert threads == {
        ("tiny/maf", "pinwheel"): "2",
        ("tiny/maf", "checkerboard"): "1",
        ("tiny/gaussian", "pinwheel"): "1",
    }
    cpus = sorted((slurm_root / "fake" / "cpus").read_text().split("\n"))
    assert [line for line in cpus if line.startswith("run")] == ["run 1"] * 2 + ["run 2"] * 4


@pytest.mark.slurm
def test_a_thousand_cells_take_a_few_commands_of_slurm(
    slurm_root: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command for each would take minutes."""
    calls = slurm_root / "calls"
    counted(["sbatch", "squeue", "scontrol", "scancel"], slurm_root / "bin", calls, monkeypatch)
    mine = profile(slurm_root, python=fake(slurm_root, "true"), throttle=4)

    def after(*words: str) -> tuple[str, int]:
        calls.write_text("")
        done = nfbench(*words)
        assert done.exit_code == 0, done.output
        return done.output, len(calls.read_text().split())

    sent, n_to_send = after("reproduce", "tiny", "--slurm", mine, "--seeds", "1000")
    shown, n_to_show = after("status", "tiny")
    _, n_to_cancel = after("cancel", "tiny")
    ended(cluster, 20.0)
    assert "1000 to send" in sent
    assert "tiny: " in shown
    assert 2 <= n_to_send <= 10
    assert 1 <= n_to_show <= 5
    assert 1 <= n_to_cancel <= 5


def counted(
    commands: list[str], folder: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have commands write their names to a file before they do what they do."""
    folder.mkdir()
    for command in commands:
        real = shutil.which(command)
        text = f'#!/bin/sh\necho {command} >> "{calls}"\nexec {real} "$@"\n'
        (folder / command).write_text(text)
        (folder / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
