"""Profiles: what stands in them is checked before it goes into a script, and stays one word."""

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import ROOT, Cluster

from nfbench.errors import UsageError
from nfbench.launch.profile import (
    Profile,
    directives,
    inside,
    load_profile,
    preamble,
    profile_names,
)

FULL = {
    "partition": "gpu,long",
    "account": "me@lab",
    "qos": "normal",
    "constraint": "[a100|h100]&nvlink",
    "gpus": 2,
    "gpu_type": "a100",
    "cpus": 3,
    "mem": "8G",
    "time": "1-02:03:04",
    "nodes": 2,
    "tasks_per_node": 2,
    "throttle": 5,
    "signal_seconds": 60,
    "max_restarts": 1,
    "setup": ["module load cuda", "source 'my env/bin/activate'"],
    "container": "apptainer exec --nv 'my image.sif'",
    "env": {"NFBENCH_DATA": "/a b/$HOME; rm", "N": 3},
    "sbatch": ["--nice=100", "--exclusive"],
}
TIME = {"time": "00:10:00"}


def profile(folder: Path, **keys: Any) -> Profile:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(TIME | keys, sort_keys=False))
    return load_profile(str(file))


def test_all_that_is_asked_for_stands_in_the_directives(tmp_path: Path) -> None:
    found = directives(profile(tmp_path, **FULL))
    assert all(line.startswith("#SBATCH --") for line in found)
    assert {line.removeprefix("#SBATCH ") for line in found} == {
        "--partition=gpu,long",
        "--account=me@lab",
        "--qos=normal",
        "--constraint=[a100|h100]&nvlink",
        "--gres=gpu:a100:2",
        "--cpus-per-task=3",
        "--mem=8G",
        "--time=1-02:03:04",
        "--nodes=2",
        "--ntasks-per-node=2",
        "--signal=B:USR1@60",
        "--open-mode=append",
        "--requeue",
        "--nice=100",
        "--exclusive",
    }


def test_what_is_not_asked_for_is_left_to_the_cluster(tmp_path: Path) -> None:
    text = "\n".join(directives(profile(tmp_path)))
    absent = ("partition", "account", "qos", "constraint", "gres", "mem")
    assert [key for key in absent if f"--{key}" in text] == []
    assert "--signal=B:USR1@120" in text


def test_cells_packed_into_a_job_have_their_cpus_each(tmp_path: Path) -> None:
    packed = profile(tmp_path, cpus=2, pack=3)
    assert "#SBATCH --cpus-per-task=6" in directives(packed)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("00:00:01", 1), ("100:00:00", 360_000), ("1-02:03:04", 93_784), ("10-00:00:00", 864_000)],
)
def test_a_time_is_read_as_slurm_reads_it(time: str, seconds: int, tmp_path: Path) -> None:
    assert profile(tmp_path, time=time).seconds == seconds


def test_variables_and_words_reach_a_shell_as_they_are(tmp_path: Path) -> None:
    full = profile(tmp_path, **FULL | {"setup": ["cd /"]})
    script = "\n".join([*preamble(full), 'printf "%s\\n" "$NFBENCH_DATA" "$N" "$PWD"'])
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["/a b/$HOME; rm", "3", "/"]
    words = ["apptainer", "exec", "--nv", "my image.sif", "python", "-m", "x", "a b; $c"]
    assert shlex.split(inside(full, "-m", "x", "a b; $c")) == words


def test_the_interpreter_is_the_one_that_submits_unless_said(tmp_path: Path) -> None:
    assert shlex.split(inside(profile(tmp_path), "-V")) == [sys.executable, "-V"]
    other = profile(tmp_path, python="/my env/python", container="env")
    assert shlex.split(inside(other, "-V")) == ["env", "/my env/python", "-V"]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"partitoin": "main"}, "partitoin: unknown key; did you mean 'partition'?"),
    ({"name": "x"}, "name: unknown key"),
    ({"time": None}, "time: expected str, got null"),
    ({"time": 43200}, "time: expected a quoted 'HH:MM:SS' or 'D-HH:MM:SS' (YAML reads"),
    ({"time": "10"}, "time: expected a quoted"),
    ({"time": "00:60:00"}, "time: expected a quoted"),
    ({"time": "1-24:00:00"}, "time: expected a quoted"),
    ({"time": "00:00:00"}, "time: expected more than none"),
    ({"partition": "main\n#SBATCH --uid=0"}, "partition: expected names of partitions"),
    ({"partition": ""}, "partition: expected names of partitions"),
    ({"account": "a b"}, "account: expected a name"),
    ({"constraint": "a # b"}, "constraint: expected features"),
    ({"mem": "8000"}, "mem: expected a number and its unit, as in '8G', got '8000'"),
    ({"gpus": -1}, "gpus: expected 0 to 1024, got -1"),
    ({"gpus": 1.5}, "gpus: expected int, got 1.5"),
    ({"cpus": 0}, "cpus: expected 1 to 4096, got 0"),
    ({"throttle": 0}, "throttle: expected 1 to"),
    ({"signal_seconds": 65536}, "signal_seconds: expected 1 to 65535, got 65536"),
    ({"pack": 2, "nodes": 2}, "pack: expected 1 for cells of 2 processes, got 2"),
    ({"gpus": 1, "tasks_per_node": 2}, "tasks_per_node: expected at most gpus, 1, got 2"),
    ({"gpu_type": "a100"}, "gpu_type: expected gpus above 0"),
    ({"sbatch": ["-t 5"]}, "sbatch: expected --key=value or --key"),
    ({"sbatch": ["--comment=a b"]}, "sbatch: expected --key=value or --key"),
    ({"sbatch": ["--mem=3G"]}, "sbatch: --mem is set by nfbench or by a key of its own"),
    ({"sbatch": ["--gres=gpu:1"]}, "sbatch: --gres is set by nfbench or by a key of its own"),
    ({"sbatch": ["--clusters=b"]}, "sbatch: --clusters is set by nfbench"),
    ({"sbatch": ["--array=0-3"]}, "sbatch: --array is set"),
    ({"setup": ["a\nb"]}, "expected single lines, got 'a\\nb'"),
    ({"setup": "module load"}, "setup: expected list of str, got 'module load'"),
    ({"setup": ["${HOME}"]}, "nothing is filled in"),
    ({"container": "run 'x"}, "container: expected the words before a command"),
    ({"env": {"A-B": "1"}}, "env.A-B: expected a variable's name"),
    ({"env": {"A": "1\n2"}}, "env.A: expected a single line"),
    ({"env": {"WANDB_API_KEY": "1"}}, "env.WANDB_API_KEY: a secret does not belong"),
    ({"cells": {"a/*": {"gpsu": 1}}}, "cells.a/*.gpsu: unknown key; did you mean 'gpus'?"),
    ({"cells": {"a/*": {"gpus": "two"}}}, "cells.a/*.gpus: expected int, got 'two'"),
    ({"cells": {"a/*": {"setup": []}}}, "cells.a/*.setup: unknown key"),
    ({"cells": {"a/*": {"pack": 2}}, "nodes": 2}, "cells.a/*.pack: expected 1 for cells of 2"),
    ({"cells": {"a/*": 3}}, "cells.a/*: expected a mapping, got 3"),
]


def test_cells_ask_for_what_the_first_pattern_says(tmp_path: Path) -> None:
    cells = {"t/big/*": {"gpus": 4, "time": "02:00:00"}, "t/*": {"pack": 3}, "*": {"cpus": 2}}
    mine = profile(tmp_path, cells=cells, gpus=1)
    big, small, other = (mine.of(f"{name}/0") for name in ("t/big/moons", "t/maf/moons", "u/a/b"))
    assert (big.gpus, big.time, big.pack, big.cpus) == (4, "02:00:00", 1, 1)
    assert (small.gpus, small.pack) == (1, 3)
    assert (other.cpus, other.pack) == (2, 1)
    assert mine.of("t/maf/rings/7") == small, "the same request"


@pytest.mark.parametrize(("keys", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_key(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as raised:
        profile(tmp_path, **keys)
    assert str(raised.value).startswith("mine.yaml: ")
    assert message in str(raised.value)


def test_an_unknown_profile_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown profile 'locl'; did you mean 'local'"):
        load_profile("locl", ROOT)
    with pytest.raises(UsageError, match=r"unknown profile 'no\.yaml'"):
        load_profile("no.yaml", ROOT)


def test_the_profiles_of_the_repository_are_read_and_the_example_has_every_key() -> None:
    assert {"example", "local"} <= set(profile_names(ROOT))
    for name in profile_names(ROOT):
        assert load_profile(name, ROOT).name == name
    example = yaml.safe_load((ROOT / "slurm" / "example.yaml").read_text())
    assert set(example) == {field.name for field in fields(Profile)} - {"name"}


@pytest.mark.slurm
def test_slurm_reads_the_directives_as_they_are_meant(cluster: Cluster, tmp_path: Path) -> None:
    asked = FULL | {"partition": "main", "gpu_type": None, "constraint": None, "qos": None}
    lines = directives(profile(tmp_path, **asked | {"sbatch": ["--nice=100"], "account": None}))
    script = "\n".join(["#!/bin/bash", *lines, "sleep 60"])
    (fields,) = cluster.jobs(cluster.submit(script, "--hold"))
    assert fields["Partition"] == "main"
    assert fields["TimeLimit"] == "1-02:04:00"  # which it counts in whole minutes
    assert (fields["NumNodes"], fields["NumTasks"], fields["CPUs/Task"]) == ("2-2", "4", "3")
    assert fields["MinMemoryNode"] == "8G"
    assert fields["TresPerNode"].endswith("gpu:2")
    assert (fields["Requeue"], fields["Nice"]) == ("1", "100")
