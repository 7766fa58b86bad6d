"""From a trained module to the metrics of a record."""

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.errors import FailedRunError
from nfbench.flows.preprocessed import Preprocessed
from nfbench.metrics import bits_per_dim, log_mean_exp, summarize
from nfbench.module import TEST, VALIDATION, DensityModule

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
        values = torch.cat(module.log_probs).cpu()
        check(split, values, len(rows), module.step)
        metrics |= likelihood_metrics(split, values, data) | {f"{split}/n": len(values)}
        if isinstance(module.model, Preprocessed):
            module.to(rows.device).eval()  # Lightning has left it on the CPU
            module.draw_from(phase, 0)
            log_dets = preprocessing_log_dets(module.model, rows, data.eval_batch_size)
            density = summarize(values - log_dets.cpu())
            metrics |= {
                f"{split}/log_density": density.mean,
                f"{split}/log_density_se": density.se,
            }
        if data.dataset.density_known:
            truth = torch.from_numpy(data.dataset.log_density(rows.cpu().numpy()))
            gap = summarize(truth - values)
            metrics |= {f"{split}/kl": gap.mean, f"{split}/kl_se": gap.se}
    if isinstance(module.model, Preprocessed) and module.model.importance_draws > 1:
        metrics |= importance_metrics(module, module.model, data)
    return metrics, values


@torch.no_grad()
def preprocessing_log_dets(model: Preprocessed, rows: Tensor, batch_size: int) -> Tensor:
    """The log-determinant (n,) of the preprocessing of each row, in the same batches and noise."""
    return torch.cat([model.preprocessing(each)[1].double() for each in rows.split(batch_size)])


def importance_metrics(module: DensityModule, model: Preprocessed, data: DataModule) -> Metrics:
    """The importance-weighted bound on the test split, with noise of its own."""
    module.draw_from(TEST, 1)
    values = importance_log_prob(model, data.test, data.eval_batch_size, model.importance_draws)
    check("test, importance-weighted", values.cpu(), len(data.test), module.step)
    bound = likelihood_metrics("test", values, data, suffix="_iw")
    return bound | {"test/importance_draws": model.importance_draws}


@torch.no_grad()
def importance_log_prob(model: DensityModel, rows: Tensor, batch_size: int, draws: int) -> Tensor:
    """``log (1/K) sum_k exp log_prob_k`` (n,) of each row over K draws of a model's noise."""
    return torch.cat(
        [
            log_mean_exp(model.log_prob(each) for _ in range(draws))
            for each in rows.split(batch_size)
        ]
    )


def describe_likelihood(module: DensityModule) -> dict[str, object]:
    """The section of a record on its likelihoods.

    It has the draws of an importance-weighted one, and how ODEs were solved, at what cost.
    """
    model = module.model
    draws = model.importance_draws if isinstance(model, Preprocessed) else 1
    found: dict[str, object] = {"kind": model.likelihood}
    if draws > 1:
        found["draws"] = draws
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
