"""A training step as it is, compiled, in less precision, and of three seeds at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.timing import Comparison, Pace, command, interleave
from nfbench.build import build_model
from nfbench.config import Experiment, load
from nfbench.data import DATA
from nfbench.flat import flatten, tie_gradients
from nfbench.gradient import loss_of_weights
from nfbench.machine import torch_device
from nfbench.module import DensityModule
from nfbench.objectives.likelihood import maximum_likelihood
from nfbench.training import build_module, build_schedule

SEEDS = 3
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


def rows(experiment: Experiment, *sizes: int) -> Tensor:
    """Noise of the data's shape, grey levels where they are such."""
    dataset = DATA[experiment.data.name]
    if dataset.levels is not None:
        return torch.randint(dataset.levels, (*sizes, *dataset.event_shape)).float()
    return torch.randn(*sizes, *dataset.event_shape)


def module_of(experiment: Experiment, *, compile: bool = False) -> DensityModule:
    """A module with fresh weights."""
    model = build_model(experiment, DATA[experiment.data.name]).train()
    return build_module(experiment, model, build_schedule(experiment, 100), compile=compile)


def alone(experiment: Experiment, batch: int, *, compile: bool) -> Callable[[], object]:
    """A step of one seed, as runs take them."""
    module = module_of(experiment, compile=compile)
    optimizer = module.configure_optimizers()
    tie_gradients(module.weights, module.trained)
    x = rows(experiment, batch)
    return lambda: module.optimize(optimizer, x)


def together(experiment: Experiment, batch: int) -> Callable[[], object]:
    """A step of several seeds, whose gradients are one batched computation."""
    modules = [module_of(experiment) for _ in range(SEEDS)]
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
    compiled = torch.no_grad()(torch.compile(gradients, dynamic=False))
    x = rows(experiment, SEEDS, batch)

    def step() -> None:
        weights.grad, _ = compiled(weights, x, None)
        optimizer.step()

    return step


def measure(row: str, cell: str, batch: int, quick: bool) -> Comparison:
    """The ways to take a step of one cell, in turn."""
    full = [f"data.batch_size={batch}"]
    less = [*full, "training.matmul_precision=medium"]
    own = load(row, cell, overrides=full)
    calls = {
        PLAIN: alone(own, batch, compile=False),
        "compiled": alone(own, batch, compile=True),
        "medium precision": alone(load(row, cell, overrides=less), batch, compile=False),
        "compiled, medium precision": alone(load(row, cell, overrides=less), batch, compile=True),
    }
    packed = together(own, batch)
    pace = Pace.of(quick, rounds=15)
    seconds = interleave(calls | {PACKED: packed}, pace)
    seconds[PACKED] = [each / SEEDS for each in seconds[PACKED]]
    dimensions = DATA[own.data.name].n_dims
    title = f"{row}, {cell} (D = {dimensions}), batches of {batch}, one step of one seed"
    remarks = {PACKED: "a third of the time of a step of all; no gradient is clipped"}
    return Comparison(title, PLAIN, "ms", seconds, remarks)


def compare(quick: bool) -> list[Comparison]:
    """Time each workload."""
    torch_device("cpu")
    return [measure(*workload, quick) for workload in WORKLOADS]


if __name__ == "__main__":
    command("compiled", "Cheaper training steps", compare)()
