"""From a trained module to the metrics of a record."""

import logging
import time
from functools import partial

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from nfbench.data.base import DataModule
from nfbench.data.energies import Energy
from nfbench.errors import FailedRunError
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.metrics import bits_per_dim, summarize
from nfbench.module import DIVERGENCE, IMPORTANCE, LATENTS, TEST, VALIDATION, DensityModule
from nfbench.objectives.reverse_kl import excess
from nfbench.processes import over_batches
from nfbench.vae import LatentVariableModel, active_units

log = logging.getLogger("nfbench")
SECONDS_BETWEEN_LINES = 30.0

Metrics = dict[str, float | int | None]


def evaluate(module: DensityModule, data: DataModule, trainer: Trainer) -> tuple[Metrics, Tensor]:
    """Metrics on validation and test split, and the log-likelihood of each test row in nats.

    Of preprocessed data ``log_density`` is that of what the flow is given, which is what papers
    quote where they dequantize: the log-likelihood less the preprocessing's log-determinant.

    Raises:
        FailedRunError: if a log-likelihood is not finite.
    """
    metrics: Metrics = {}
    values = torch.empty(0)
    for split, phase, loop, rows in (
        ("val", VALIDATION, trainer.validate, data.val),
        ("test", TEST, trainer.test, data.test),
    ):
        loop(module, datamodule=data, verbose=False)
        module.to(rows.device).eval()  # Lightning has left it on the CPU
        values = module.log_probs.cpu()
        check(split, values, len(rows), module.step)
        metrics |= likelihood_metrics(split, values, data) | {f"{split}/n": len(values)}
        metrics[f"{split}/log_likelihood_min"] = values.min().item()
        if isinstance(module.model, Preprocessed):
            log_dets = preprocessing_log_dets(module, phase, rows, data.eval_batch_size)
            density = summarize(values - log_dets.cpu())
            metrics |= {
                f"{split}/log_density": density.mean,
                f"{split}/log_density_se": density.se,
            }
        if data.dataset.density_known:
            truth = torch.from_numpy(data.dataset.log_density(rows.cpu().numpy()))
            gap = summarize(truth - values)
            metrics |= {f"{split}/kl": gap.mean, f"{split}/kl_se": gap.se}
    for more in (importance_metrics, latent_metrics, divergence_metrics):
        metrics |= more(module, data)
    return metrics, values


@torch.no_grad()
def preprocessing_log_dets(
    module: DensityModule, phase: int, rows: Tensor, batch_size: int
) -> Tensor:
    """The log-determinant (n,) of the preprocessing of each row, in the same batches and noise."""
    model = module.model
    assert isinstance(model, Preprocessed)

    def log_det(i: int, batch: Tensor) -> Tensor:
        module.draw_for(phase, i)
        return model.preprocessing(batch)[1]

    return over_batches(rows, batch_size, log_det)


@torch.no_grad()
def importance_metrics(module: DensityModule, data: DataModule) -> Metrics:
    """The importance-weighted bound on the test split, if one is asked for, with its own noise."""
    model, size = module.model, data.eval_batch_size
    if model.importance_draws == 1:
        return {}
    say = Progress(
        f"importance-weighted bound, {model.importance_draws} draws", -(-len(data.test) // size)
    )

    def bound(i: int, batch: Tensor) -> Tensor:
        say(i)
        module.draw_for(IMPORTANCE, i)
        return model.bound(batch, model.importance_draws)

    values = over_batches(data.test, size, bound)
    check("test, importance-weighted", values.cpu(), len(data.test), module.step)
    found = likelihood_metrics("test", values, data, suffix="_iw")
    return found | {"test/importance_draws": model.importance_draws}


class Progress:
    """Where batches take minutes, a line of the log tells how many are done."""

    def __init__(self, label: str, count: int) -> None:
        self.label, self.count, self.told = label, count, time.monotonic()

    def __call__(self, done: int) -> None:
        """Say so, if it was not said in the last half a minute."""
        if time.monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            log.info("%s: batch %d of %d", self.label, done, self.count)


@torch.no_grad()
def latent_metrics(module: DensityModule, data: DataModule) -> Metrics:
    """What the test bound of an autoencoder is made of, and how many of its latents are used.

    ``test/rate`` is the mean divergence of posterior from prior, ``test/distortion`` the mean of
    -log p(x | z), both in nats; ``test/active_units`` is by Burda et al. (2015).
    """
    model = module.model
    if not isinstance(model, LatentVariableModel):
        return {}

    def parts(i: int, batch: Tensor) -> Tensor:
        module.draw_for(LATENTS, i)
        terms = model.terms(batch)
        return torch.stack((terms.rates.sum(1), -terms.log_likelihood), 1)

    found = over_batches(data.test, data.eval_batch_size, parts, [2])
    rates, distortions = found.unbind(1)
    for name, values in (("rate", rates), ("distortion", distortions)):
        check(f"test, {name}", values.cpu(), len(data.test), module.step)
    module.draw_for(LATENTS, 0)
    return {
        "test/rate": summarize(rates).mean,
        "test/distortion": summarize(distortions).mean,
        "test/active_units": active_units(model, data.test, data.eval_batch_size),
    }


@torch.no_grad()
def divergence_metrics(module: DensityModule, data: DataModule) -> Metrics:
    """``KL(q | p)`` of a flow q from data that are defined by an energy, by the flow's samples.

    As many as there are test rows; p is normalized by quadrature.
    """
    dataset = data.dataset
    if not isinstance(dataset, Energy) or not isinstance(module.model, Flow):
        return {}
    module.draw_for(DIVERGENCE, 0)
    found = excess(module.model, len(data.test), partial(dataset.energy, xp=torch))
    check("test, reverse divergence", found.cpu(), len(data.test), module.step)
    gap = summarize(found.double() + dataset.log_normalizer)
    return {"test/reverse_kl": gap.mean, "test/reverse_kl_se": gap.se}


def describe_likelihood(module: DensityModule) -> dict[str, object]:
    """The section of a record on its likelihoods.

    It has the draws of an importance-weighted one, and how ODEs were solved, at what cost.
    """
    model = module.model
    found: dict[str, object] = {"kind": model.likelihood}
    if model.importance_draws > 1:
        found["draws"] = model.importance_draws
    return found if module.nfe is None else found | module.nfe.describe()


def check(split: str, values: Tensor, n: int, step: int) -> None:
    """Refuse log-likelihoods that are not as many as rows, or not finite; name the first row."""
    if len(values) != n:
        raise RuntimeError(f"{split}: expected {n} log-likelihoods, got {len(values)}")
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        first = int(bad[0])
        message = f"{split}: log-likelihood is {values[first].item()} at row {first}"
        raise FailedRunError(
            "non-finite log-likelihood", f"{message} ({len(bad)} such rows)", step=step
        )


def likelihood_metrics(
    split: str, values: Tensor, data: DataModule, *, suffix: str = ""
) -> Metrics:
    """Mean and standard error of the log-likelihood; bits per dimension for discrete data.

    The suffix names another bound than that of one draw.
    """
    summary = summarize(values)
    bits = bits_se = None
    if data.dataset.levels is not None:
        n_dims = data.dataset.n_dims
        bits, bits_se = bits_per_dim(summary.mean, n_dims), bits_per_dim(-summary.se, n_dims)
    return {
        f"{split}/log_likelihood{suffix}": summary.mean,
        f"{split}/log_likelihood{suffix}_se": summary.se,
        f"{split}/bits_per_dim{suffix}": bits,
        f"{split}/bits_per_dim{suffix}_se": bits_se,
    }
