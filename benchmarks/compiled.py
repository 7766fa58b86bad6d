"""A training step as it is, compiled, in less precision, and of three seeds at once."""

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn

from benchmarks.timing import CLOCKS, Comparison, Pace, interleave, publish
from nfbench.build import build_model
from nfbench.config import Experiment, load
from nfbench.data import DATA
from nfbench.flat import flatten, tie_gradients
from nfbench.gradient import OPTIONS, loss_of_weights
from nfbench.machine import torch_device
from nfbench.module import DensityModule
from nfbench.objectives.likelihood import maximum_likelihood
from nfbench.training import build_module, build_schedule

TITLE = "Cheaper training steps"
SEEDS = 3
LAUNCHED = "compiled, kernels launched one by one"
PLAIN, PACKED = "as it is", f"{SEEDS} seeds in one step, compiled"
# What is timed: where it stands, and its batch if that is another.
WORKLOADS = (
    ("maf2017_table1/maf_5", "power", 100),
    ("maf2017_table1/realnvp_10", "power", 100),
    ("maf2017_table1/maf_10_bounded", "power", 512),
    ("toy2d/planar", "rings", 512),
    ("maf2017_table2/made", "mnist", 100),
    ("maf2017_table2/made", "mnist", 500),
)
# On a GPU, where launching kernels takes most of a step.
WORKLOADS_OF_GPUS = (
    *WORKLOADS[:5],
    ("maf2017_table2/maf_5", "mnist", 100),
    ("nsf2019_table1/rq_nsf_c", "power", 512),
)


def rows(experiment: Experiment, *sizes: int, device: str) -> Tensor:
    """Noise of the data's shape, grey levels where they are such."""
    dataset = DATA[experiment.data.name]
    shape = (*sizes, *dataset.event_shape)
    if dataset.levels is not None:
        return torch.randint(dataset.levels, shape, device=device).float()
    return torch.randn(shape, device=device)


def module_of(experiment: Experiment, *, compile: bool = False) -> DensityModule:
    """A module with fresh weights."""
    model = build_model(experiment, DATA[experiment.data.name]).train()
    return build_module(experiment, model, build_schedule(experiment, 100), compile=compile)


def alone(
    experiment: Experiment, batch: int, *, compile: bool, device: str
) -> Callable[[], object]:
    """A step of one seed, as runs take them."""
    module = module_of(experiment, compile=compile).to(device)
    optimizer = module.configure_optimizers()
    tie_gradients(module.weights, module.trained)
    x = rows(experiment, batch, device=device)
    return lambda: module.optimize(optimizer, x)


def together(experiment: Experiment, batch: int, *, device: str) -> Callable[[], object]:
    """A step of several seeds, whose gradients are one batched computation."""
    modules = [module_of(experiment).to(device) for _ in range(SEEDS)]
    first = modules[0]
    loss = loss_of_weights(first.model, maximum_likelihood, first.trained)
    weights = nn.Parameter(torch.stack([flatten(each.trained).detach() for each in modules]))
    optimizer = torch.optim.Adam(
        [weights],
        lr=first.schedule.learning_rate,
        betas=first.adam_betas,
        eps=first.adam_eps,
        weight_decay=first.weight_decay,
        fused=True,
    )
    gradients = torch.vmap(torch.func.grad_and_value(loss), (0, 0, None), randomness="different")
    options = dict(OPTIONS["inductor"])
    compiled = torch.no_grad()(torch.compile(gradients, dynamic=False, options=options))
    x = rows(experiment, SEEDS, batch, device=device)

    def step() -> None:
        weights.grad, _ = compiled(weights, x, None)
        optimizer.step()

    return step


def on_cpu(row: str, cell: str, batch: int) -> dict[str, Callable[[], object]]:
    """The ways to take a step of one seed on a CPU."""
    full = [f"data.batch_size={batch}"]
    less = [*full, "training.matmul_precision=medium"]
    own, cheap = load(row, cell, overrides=full), load(row, cell, overrides=less)
    step = partial(alone, batch=batch, device="cpu")
    return {
        PLAIN: step(own, compile=False),
        "compiled": step(own, compile=True),
        "medium precision": step(cheap, compile=False),
        "compiled, medium precision": step(cheap, compile=True),
    }


def on_gpu(row: str, cell: str, batch: int) -> dict[str, Callable[[], object]]:
    """The ways to take a step of one seed on a GPU."""
    own = load(row, cell, overrides=[f"data.batch_size={batch}"])
    step = partial(alone, own, batch, device="cuda")
    with patch.dict(OPTIONS, clear=True):
        launched = step(compile=True)
    return {
        PLAIN: step(compile=False),
        LAUNCHED: launched,
        "compiled, kernels replayed": step(compile=True),
    }


WAYS = {"cpu": on_cpu, "cuda": on_gpu}


def measure(row: str, cell: str, batch: int, quick: bool, device: str) -> Comparison:
    """The ways to take a step of one cell, in turn."""
    own = load(row, cell, overrides=[f"data.batch_size={batch}"])
    calls = WAYS[device](row, cell, batch) | {PACKED: together(own, batch, device=device)}
    seconds = interleave(calls, Pace.of(quick, rounds=15), device=device)
    seconds[PACKED] = [each / SEEDS for each in seconds[PACKED]]
    dimensions = DATA[own.data.name].n_dims
    title = f"{row}, {cell} (D = {dimensions}), batches of {batch}, one step of one seed"
    remarks = {PACKED: "a third of the time of a step of all; no gradient is clipped"}
    return Comparison(title, PLAIN, "ms", seconds, remarks)


@click.command(help=TITLE)
@click.option("--quick", is_flag=True, help="A smoke test: short bursts; prints, writes nothing.")
@click.option("--device", type=click.Choice(sorted(CLOCKS)), default="cpu", show_default=True)
def run(quick: bool, device: str) -> None:
    """Time each workload."""

    def compare() -> list[Comparison]:
        torch_device(device)
        workloads = WORKLOADS if device == "cpu" else WORKLOADS_OF_GPUS
        return [measure(*workload, quick, device) for workload in workloads]

    publish("compiled", TITLE, compare, quick=quick, device=device)


if __name__ == "__main__":
    run()
