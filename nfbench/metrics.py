"""From per-example log-likelihoods to the numbers a table shows; sums in float64."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Summary:
    """A mean over ``n`` examples with its standard error, in nats."""

    mean: float
    se: float
    n: int


def summarize(values: Tensor) -> Summary:
    """Mean and standard error (ddof 1) of ``values`` (n,), summed in float64.

    Not finite if one value is not.

    Raises:
        ValueError: if there are no values.
    """
    values = values.double()
    n = len(values)
    if n == 0:
        raise ValueError("log-likelihoods: expected at least one example, got none")
    se = values.std(correction=1).item() / math.sqrt(n) if n > 1 else math.nan
    return Summary(values.mean().item(), se, n)


def log_mean_exp(draws: Iterable[Tensor]) -> Tensor:
    """``log (1/K) sum_k exp(draw_k)`` of K tensors (n,), in float64; only one is kept at a time.

    Of log-likelihoods with K draws of noise this is the importance-weighted bound (Burda et al.
    2015, equation 8; for dequantization Hoogeboom et al. 2020): in expectation it rises with K.

    Raises:
        ValueError: if there are no draws.
    """
    total, n = None, 0
    for draw in draws:
        total = draw.double() if total is None else torch.logaddexp(total, draw.double())
        n += 1
    if total is None:
        raise ValueError("draws: expected at least one, got none")
    return total - math.log(n)


def bits_per_dim(nats: float, n_dims: int) -> float:
    """Bits per dimension of a log-likelihood of discrete data: -nats / (D log 2).

    No constant is added: dequantization and scaling carry their own log-determinants.
    """
    return -nats / (n_dims * math.log(2))
