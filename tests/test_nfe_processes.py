"""Evaluations of several processes of one run are counted together."""

from pathlib import Path

import torch
from harness import begin, exit_code
from torch import distributed

from nfbench.distributions.base import StandardNormal
from nfbench.flows.flow import Flow
from nfbench.nets.mlp_field import MLPField
from nfbench.nfe import NfeMeter
from nfbench.transforms.ode import ODE

WORLD, SOLVES = 2, (1, 3)  # batches of each process
EVALUATIONS = 8  # of two steps of the classical Runge-Kutta method


def count(rank: int, folder: Path) -> None:
    """Train and evaluate on as many batches as the process has, and keep the counts."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    ode = ODE(MLPField(2, hidden=(4,)), solver="rk4", step_size=0.5, gradient="autograd")
    model = Flow(StandardNormal([2]), ode)
    meter = NfeMeter(model)
    for _ in range(SOLVES[rank]):
        model.log_prob(torch.zeros(5, 2)).sum().backward()
        meter.end_chunk()
    meter.end_interval()
    model.eval()
    meter.begin_evaluation()
    for _ in range(SOLVES[rank]):
        model.log_prob(torch.zeros(5, 2))
        meter.end_batch(5)
    meter.end_evaluation()
    torch.save([meter.finished, meter.evaluation, meter.interval], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_the_counts_are_those_of_all_processes(tmp_path: Path) -> None:
    processes = [begin(count, rank, tmp_path) for rank in range(WORLD)]
    assert [exit_code(process) for process in processes] == [0, 0]
    n = sum(SOLVES)
    for rank in range(WORLD):
        finished, evaluation, interval = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert finished["forward"] == (n, EVALUATIONS * n)
        assert evaluation["evaluation"] == (n, EVALUATIONS * n)
        assert interval["forward"] == (0, 0)
