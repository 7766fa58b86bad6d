"""What moves the number of a trained model that stays as it is: test points, and batch norm.

    NFBENCH_ROOT=... python -m benchmarks.numbers maf2017_table1/maf_10_bounded/power ...

takes the best weights of runs that are there, and writes results/numbers.md and numbers.json.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click
import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.timing import RESULTS, machine
from nfbench.density import DensityModel
from nfbench.flows.flow import Flow
from nfbench.inspection import Trained, load_trained
from nfbench.record import find_root
from nfbench.transforms.normalize import BatchNorm

TITLE = "What moves the number of a trained model"
ROWS = 20_000  # of an evaluation batch
MOMENTUM, LAST = 0.1, 2000  # of running averages, over so many minibatches of training
BATCHES = (100, 1000)


@dataclass(frozen=True)
class Points:
    """Mean test log-likelihoods, in nats, with and without the least likely points."""

    run: str
    step: int  # of the weights: those of a run that goes on are not its record's
    n: int
    mean: float
    se: float
    without_one: float
    without_ten: float
    median: float
    least: float
    least_float64: float
    largest: float  # number on the way of the least likely point to noise, float64


@dataclass(frozen=True)
class Norms:
    """Mean test log-likelihoods, in nats, by the statistics that batch normalization takes."""

    run: str
    training_set: float
    running_averages: float
    of_each_batch: dict[int, float]


def log_probs(model: DensityModel, rows: Tensor, size: int = ROWS) -> Tensor:
    """The log-likelihood (n,) of each row, in float64, in batches of a size."""
    with torch.no_grad():
        return torch.cat([model(batch, None).double() for batch in rows.split(size)])


def points(name: str, trained: Trained) -> Points:
    """How much single test points weigh."""
    rows = trained.data.test
    values = log_probs(trained.model.eval(), rows)
    ranked, order = values.sort()
    worst = rows[order[:1]].double()
    exact = trained.model.double()
    with torch.no_grad():
        least_float64 = float(exact(worst, None))
        sizes = [z.abs().max().item() for z in way(exact, worst)]
    trained.model.float()
    return Points(
        run=name,
        step=trained.step,
        n=len(values),
        mean=values.mean().item(),
        se=(values.std() / len(values) ** 0.5).item(),
        without_one=ranked[1:].mean().item(),
        without_ten=ranked[10:].mean().item(),
        median=values.median().item(),
        least=ranked[0].item(),
        least_float64=least_float64,
        largest=max(sizes, default=worst.abs().max().item()),  # a base alone has no way
    )


def way(model: DensityModel, x: Tensor) -> Iterator[Tensor]:
    """A point after each transform of a flow."""
    assert isinstance(model, Flow)
    for transform in model.transform.transforms:  # type: ignore[union-attr]
        x, _ = transform(x)
        yield x


def norms(name: str, trained: Trained) -> Norms:
    """The same weights with statistics of the training set, running averages, or of each batch."""
    model, data = trained.model, trained.data
    training_set = log_probs(model.eval(), data.test).mean().item()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    of_batches = {size: log_probs(model, data.test, size).mean().item() for size in BATCHES}
    follow(model, data.train, trained.experiment.data.batch_size)
    running = log_probs(model.eval(), data.test).mean().item()
    model.load_state_dict(kept)
    return Norms(name, training_set, running, of_batches)


def follow(model: nn.Module, rows: Tensor, batch_size: int) -> None:
    """Give batch norms the running averages that torch's own would have after training."""

    def note(norm: BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], 0, correction=1)
        norm.mean.lerp_(mean, MOMENTUM)
        norm.var.lerp_(var, MOMENTUM)

    parts = [part for part in model.modules() if isinstance(part, BatchNorm)]
    hooks = [part.register_forward_pre_hook(partial(note)) for part in parts]
    draws = torch.randint(
        len(rows), (LAST, batch_size), generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        for batch in draws:
            model(rows[batch], None)
    for hook in hooks:
        hook.remove()


def has_norms(model: nn.Module) -> bool:
    """Whether a model normalizes batches."""
    return any(isinstance(part, BatchNorm) for part in model.modules())


def tables(found: Sequence[Points], normed: Sequence[Norms]) -> str:
    """Both tables in Markdown."""
    heads = ["run", "step", "n", "mean", "± 2 se", "without 1 point", "without 10", "median"]
    heads += ["least likely", "in float64", "largest |number|"]
    lines = [
        [
            *[each.run, f"{each.step:,}", f"{each.n:,}", f"{each.mean:.3f}", f"{2 * each.se:.3f}"],
            *[f"{v:.3f}" for v in (each.without_one, each.without_ten, each.median)],
            *[f"{v:.4g}" for v in (each.least, each.least_float64, each.largest)],
        ]
        for each in found
    ]
    text = f"# {TITLE}\n\n## Single test points\n\nTest log-likelihood in nats.\n\n"
    text += tabulate(lines, heads, tablefmt="github", disable_numparse=True)
    if normed:
        heads = ["run", "whole training set", f"running averages ({MOMENTUM})"]
        heads += [f"of each batch of {size}" for size in BATCHES]
        rows = [
            [n.run, *(f"{v:.3f}" for v in (n.training_set, n.running_averages))]
            + [f"{n.of_each_batch[size]:.3f}" for size in BATCHES]
            for n in normed
        ]
        text += "\n\n## The statistics of batch normalization\n\nThe same weights, in nats.\n\n"
        text += tabulate(rows, heads, tablefmt="github", disable_numparse=True)
    return text


@click.command(help=TITLE)
@click.argument("runs", nargs=-1, required=True, metavar="TABLE/ROW/CELL[/SEED]...")
def main(runs: tuple[str, ...]) -> None:
    """Evaluate, print and write."""
    torch.set_num_threads(1)
    found, normed = list[Points](), list[Norms]()
    for name in runs:
        trained = load_trained(name, seed=None, root=find_root())
        found.append(points(name, trained))
        if has_norms(trained.model):
            normed.append(norms(name, trained))
    about: dict[str, Any] = machine("cpu")
    text = tables(found, normed)
    click.echo(text)
    footer = f"{about['machine']}; commit {about['git']}; {about['date']}."
    (RESULTS / "numbers.md").write_text(f"{text}\n\n{footer}\n")
    values = {"points": [asdict(p) for p in found], "norms": [asdict(n) for n in normed]}
    (RESULTS / "numbers.json").write_text(json.dumps(about | values, indent=1) + "\n")


if __name__ == "__main__":
    main()
