"""A normalizing flow: a base distribution behind one composed transform."""

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.distributions.base import Distribution
from nfbench.transforms.base import Transform


class Flow(DensityModel):
    """``log p(x) = log p_base(z) + log|det dz/dx|``, ``z = transform(x)``; sampling inverts it."""

    event_shape: tuple[int, ...] | None = None  # of rows of data, where a recipe built it

    def __init__(self, base: Distribution, transform: Transform) -> None:
        super().__init__()
        self.base, self.transform = base, transform

    @property
    def likelihood(self) -> str:
        """What ``log_prob`` is: exact, an estimate, or a lower bound."""
        return self.transform.likelihood

    @property
    def anchor(self) -> Tensor:
        """A tensor that tells the precision and the device of the flow."""
        return next(chain(self.parameters(), self.base.buffers()))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-likelihood of each row of data (B, *event) in nats, shape (B,).

        Scales without a bound, which are those of the papers, can overflow at rows far from the
        training data: there it is NaN or infinite, which a bounded scale, as "tanh", prevents.

        Raises:
            ValueError: if data are no rows, or not of the shape and type that a recipe built the
                flow for, or they or the flow in half precision, or a context has not as many rows;
                in evaluation, if a row of data or context is not finite; names the first.
        """
        if x.dim() < 2:
            raise ValueError(f"data: expected rows (B, *event), got a tensor {tuple(x.shape)}")
        check_precision(data=x, flow=next(self.parameters(), x))
        self.check_events(x, context)
        check_rows(len(x), context)
        if not self.training:
            check_finite(data=x, context=context)
        with without_autocast(x.device):
            z, log_det = self.transform(x, context)
            return self.base.log_prob(z, context) + log_det

    def check_events(self, x: Tensor, context: Tensor | None) -> None:
        """Refuse rows that the recipe did not build the flow for, of which nets would not tell."""
        if self.event_shape is None:
            return
        if x.shape[1:] != self.event_shape:
            rows = ", ".join(["B", *map(str, self.event_shape)])
            flat = (prod(x.shape[1:]),) == self.event_shape
            raise ValueError(
                f"data: expected rows of shape ({rows}), as the flow was built for, got "
                f"{tuple(x.shape)}{'; flatten them with x.flatten(1)' if flat else ''}"
            )
        dtype = self.anchor.dtype
        for what, given in {"data": x, "context": context}.items():
            if given is not None and given.dtype != dtype:
                convert = f"convert the {what} or the flow with .to(...)"
                advice = convert if given.is_floating_point() else "dequantize integers first"
                raise ValueError(
                    f"{what}: expected {dtype}, as the flow is, got {given.dtype}; {advice}"
                )

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        """Draw n rows of data (n, *event) from noise T z; a context has n rows.

        T is the temperature, z of the base. Where priors of levels are maps of standard normal
        noise, as in ``glow_image``, that scales their standard deviations by T too, which is the
        temperature of Glow (Kingma & Dhariwal 2018, section 6).

        Raises:
            ValueError: if the flow is in half precision, the base has no samples of this
                temperature, or a context has not n rows; in evaluation, if a row of the context is
                not finite.
        """
        check_precision(flow=self.anchor)
        check_rows(n, context)
        if not self.training:
            check_finite(context=context)
        with without_autocast(self.anchor.device):
            noise = self.base.sample(n, context, temperature=temperature)
            return self.transform.generate(noise, context)

    def sample_with_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw n rows (n, *event) and tell their log-densities (n,) in nats, by one pass.

        ``log p(x) = log p_base(z) - log|det dx/dz|``, x = inverse(z): both can be differentiated
        by the parameters, which is what divergences from samples are trained by.

        Raises:
            ValueError: if the flow is in half precision, or a context has not n rows; in
                evaluation, if a row of the context is not finite.
        """
        check_precision(flow=self.anchor)
        check_rows(n, context)
        if not self.training:
            check_finite(context=context)
        with without_autocast(self.anchor.device):
            noise = self.base.sample(n, context)
            x, log_det = self.transform.inverse(noise, context)
            return x, self.base.log_prob(noise, context) - log_det

    @property
    def needs_calibration(self) -> bool:
        """Whether statistics of the training set must be set before evaluation."""
        return self.transform.needs_calibration

    @torch.no_grad()
    def calibrate(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set the statistics that the transform takes from the training set (N, *event).

        Raises:
            ValueError: if data are not of the shape and type that a recipe built the flow for, a
                context has not N rows, or a row is not finite; names the first.
        """
        self.check_events(x, context)
        check_rows(len(x), context)
        check_finite(data=x, context=context)
        training = self.training
        self.eval()
        try:
            with without_autocast(x.device):
                self.transform.calibrate(x, context)
        finally:
            self.train(training)


def check_precision(**tensors: Tensor) -> None:
    """Refuse a precision in which likelihoods would be off by whole nats."""
    for what, tensor in tensors.items():
        if tensor.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"{what}: expected float32 or float64, got {tensor.dtype}, in which no likelihood "
                "is computed; convert data and flow with .float()"
            )


def check_rows(n: int, context: Tensor | None) -> None:
    """Refuse a context that is not one row for each row of data."""
    if context is not None and len(context) != n:
        raise ValueError(
            f"context: expected {n} rows, one for each row of data, got {len(context)}"
        )


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Full precision, whatever is cast around the call."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_finite(**inputs: Tensor | None) -> None:
    """Refuse rows (B, ...) with NaN or infinity, and name the first of them."""
    for what, x in inputs.items():
        if x is None or x.is_meta or torch.isfinite(x).all():
            continue
        bad = torch.nonzero(~torch.isfinite(x.flatten(1)).all(1)).flatten()
        raise ValueError(
            f"{what}: expected finite values, got NaN or infinity in {len(bad)} of {len(x)} rows, "
            f"the first of them row {int(bad[0])}"
        )
