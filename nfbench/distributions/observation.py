"""Likelihoods of integer data given what a decoder says of each dimension."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LEVELS = 256  # as many as a byte has
SCALES = ("global", "pixel")
MIN_SCALE = 0.1  # of a level; about that of Salimans et al. 2017, whose log-scales end at -7
MAX_LOG_SCALE = 5.0  # 148 times as wide as the data: flat to one part in 10^5
FLOOR = 1e-7


class Observation(nn.Module, ABC):
    """``p(x | parameters)`` of x in {0, ..., levels - 1}^D, the dimensions independent.

    Data (B, *event) is uint8, or float of whole numbers; a decoder gives ``n_parameters`` numbers
    for each dimension, (B, n_parameters, *event).

    Raises:
        ValueError: if ``levels`` is none or not from 2 to 256.
    """

    n_parameters: int

    def __init__(self, levels: int | None) -> None:
        super().__init__()
        if levels is None or not 2 <= levels <= MAX_LEVELS:
            raise ValueError(
                f"levels: expected a number from 2 to {MAX_LEVELS}, got {levels}; only data of "
                "whole numbers has this likelihood"
            )
        self.levels = levels

    @abstractmethod
    def log_terms(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log-probability of each dimension in nats, (B, *event)."""

    @abstractmethod
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw data, uint8 (B, *event), without gradient."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """The expectation of the data in levels, from 0 to levels - 1, float (B, *event)."""

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Log-probability of each row in nats, shape (B,).

        Raises:
            ValueError: if the parameters are not those of data of the shape of ``x``.
        """
        shape = (len(x), self.n_parameters, *x.shape[1:])
        if parameters.shape != shape:
            raise ValueError(
                f"parameters: expected {shape} for data {tuple(x.shape)} and "
                f"{type(self).__name__}, got {tuple(parameters.shape)}"
            )
        return self.log_terms(x, parameters).flatten(1).sum(1)


class Bernoulli(Observation):
    """``p(1) = sigmoid(l)`` with one logit l for each dimension."""

    n_parameters = 1

    def __init__(self, levels: int | None = 2) -> None:
        super().__init__(levels)
        if levels != 2:
            raise ValueError(
                f"levels: expected 2 for bernoulli, got {levels}; take binary data, or the "
                "likelihood logistic or categorical"
            )

    def log_terms(self, x: Tensor, parameters: Tensor) -> Tensor:
        """``x l - log(1 + exp l)``, (B, *event)."""
        logits = parameters[:, 0]
        return -F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none")

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw 0s and 1s, uint8 (B, *event)."""
        return self.mean(parameters).bernoulli().to(torch.uint8)

    def mean(self, parameters: Tensor) -> Tensor:
        """p(1), (B, *event)."""
        return parameters[:, 0].sigmoid()


class Categorical(Observation):
    """``p = softmax(l)`` with a logit for each level and dimension, (B, levels, *event).

    Of Frey Faces in van den Berg et al. 2018.
    """

    def __init__(self, levels: int | None = 256) -> None:
        super().__init__(levels)
        self.n_parameters = self.levels

    def log_terms(self, x: Tensor, parameters: Tensor) -> Tensor:
        """``l_x - log sum_k exp l_k``, (B, *event)."""
        return -F.cross_entropy(parameters, x.long(), reduction="none")

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw levels, uint8 (B, *event), by Gumbel noise on the logits."""
        gumbel = -torch.empty_like(parameters).exponential_().log()
        return (parameters + gumbel).argmax(1).to(torch.uint8)

    def mean(self, parameters: Tensor) -> Tensor:
        """``sum_k k p(k)``, (B, *event)."""
        levels = torch.arange(self.levels, dtype=parameters.dtype, device=parameters.device)
        return torch.tensordot(parameters.softmax(1), levels, dims=([1], [0]))


class DiscretizedLogistic(Observation):
    """What a logistic density of mean m and scale s has between the edges of a level.

    ``p(k) = sigmoid((e_{k+1} - m) / s) - sigmoid((e_k - m) / s)``, e_k = k / levels - 1/2: the
    levels tile [-1/2, 1/2], on which m lives. log s is cut so that s is at least a tenth of a
    level, and at most e^5.

    Without ``tails`` it is as in the authors' code of Kingma et al. 2016: m is cut at the middles
    of the outer levels and the likelihood is p(k) + 1e-7, so the levels have
    ``sigmoid((1/2 - m) / s) - sigmoid((-1/2 - m) / s) + 1e-7 levels`` together. With them the
    outer levels have what lies beyond them too, and the sum is 1 (Salimans et al. 2017,
    equation 2).

    Args:
        scale: ``global``, where log s is one number, trained, and 0 at first; or ``pixel``, where
            log s is a second parameter of each dimension.
        tails: whether the outer levels have the tails.
    """

    def __init__(
        self, levels: int | None = 256, *, scale: str = "global", tails: bool = False
    ) -> None:
        super().__init__(levels)
        if scale not in SCALES:
            raise ValueError(f"scale: expected one of {', '.join(SCALES)}; got {scale!r}")
        self.tails = tails
        self.n_parameters = 2 if scale == "pixel" else 1
        self.log_scale = None if scale == "pixel" else nn.Parameter(torch.tensor(0.0))

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """m, (B, *event), and s, the same or ()."""
        mean = parameters[:, 0]
        log_scale = parameters[:, 1] if self.log_scale is None else self.log_scale
        if not self.tails:
            middle = 0.5 - 0.5 / self.levels
            mean = mean.clamp(-middle, middle)
        # Cut before it is raised: a scale that overflows has no gradient.
        least = math.log(MIN_SCALE / self.levels)
        return mean, log_scale.clamp(least, MAX_LOG_SCALE).exp()

    def log_terms(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(k) as ``log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b))``, (B, *event).

        a and b are the edges, less m, in units of s: no difference of sigmoids is taken.
        """
        mean, scale = self.split(parameters)
        width = 1 / (self.levels * scale)
        lower = (x.to(mean.dtype) / self.levels - 0.5 - mean) / scale
        below, above = F.logsigmoid(lower + width), F.logsigmoid(-lower)
        inside = torch.log(-torch.expm1(-width))
        if not self.tails:
            return torch.log(torch.exp(below + above + inside) + FLOOR)
        bottom, top = x == 0, x == self.levels - 1
        total = torch.where(top, 0, below) + torch.where(bottom, 0, above)
        return total + torch.where(bottom | top, 0, inside)

    def ends(self, mean: Tensor, scale: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The distribution function where the data ends, between which all of p(k) is."""
        if self.tails:
            return 0.0, 1.0
        return torch.sigmoid((-0.5 - mean) / scale), torch.sigmoid((0.5 - mean) / scale)

    @torch.no_grad()
    def sample(self, parameters: Tensor) -> Tensor:
        """Draw levels, uint8 (B, *event), in proportion to p(k)."""
        mean, scale = self.split(parameters)
        low, high = self.ends(mean, scale)
        uniform = low + (high - low) * torch.rand_like(mean)
        # Neither end of the interval: the logit would be infinite.
        noise = torch.logit(uniform, eps=torch.finfo(mean.dtype).eps / 2)
        levels = ((mean + scale * noise + 0.5) * self.levels).floor()
        return levels.clamp(0, self.levels - 1).to(torch.uint8)

    def mean(self, parameters: Tensor) -> Tensor:
        """``sum_k k p(k) / sum_k p(k)``, (B, *event), one level after another."""
        mean, scale = self.split(parameters)
        low, high = self.ends(mean, scale)
        total = torch.zeros_like(mean)
        for level in range(1, self.levels):  # what lies at or above it
            total = total + (high - torch.sigmoid((level / self.levels - 0.5 - mean) / scale))
        return total / (high - low)


OBSERVATIONS: dict[str, type[Observation]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "logistic": DiscretizedLogistic,
}


def observation(name: str, levels: int | None, **settings: Any) -> Observation:
    """The likelihood of this name for data of so many levels; a logistic one has settings.

    Raises:
        ValueError: if there is none of that name, or none for such data.
    """
    if name not in OBSERVATIONS:
        raise ValueError(f"likelihood: expected one of {', '.join(OBSERVATIONS)}; got {name!r}")
    return OBSERVATIONS[name](levels, **settings)
