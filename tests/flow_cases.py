"""Every flow of FLOWS at a size that a test can afford."""

import inspect
from typing import Any

import pytest
import torch
from oracles import randomize
from torch import Tensor

from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow

N_CONTEXT = 2
SMALL: dict[str, Any] = {"layers": 3, "hidden": (16, 17), "components": 3}
NEEDS_TWO_DIMENSIONS = {"realnvp"}
UNCONDITIONAL = {"gaussian"}
WITHOUT_GRADIENTS = {"gaussian"}


def cases(*features: int, contexts: tuple[int, ...] = (0, N_CONTEXT)) -> pytest.MarkDecorator:
    """Every flow at these dimensions, without and with a context, as far as it takes them."""
    chosen = [
        pytest.param(name, d, n_context, id=f"{name}-{d}d{'-context' * bool(n_context)}")
        for name in FLOWS
        for d in features
        for n_context in contexts
        if not (d == 1 and name in NEEDS_TWO_DIMENSIONS)
        if not (n_context and name in UNCONDITIONAL)
    ]
    return pytest.mark.parametrize(("name", "features", "n_context"), chosen)


def small(name: str, features: int, n_context: int = 0, **arguments: Any) -> Flow:
    """A flow of few and narrow layers, as its recipe starts it."""
    accepted = inspect.signature(FLOWS[name]).parameters
    chosen = {key: value for key, value in (SMALL | arguments).items() if key in accepted}
    return FLOWS[name]([features], context_features=n_context, **chosen)


def random_flow(
    name: str, features: int, n_context: int = 0, *, spread: float = 0.7, **arguments: Any
) -> Flow:
    """The same with random parameters and the statistics of random data, in evaluation mode."""
    flow = small(name, features, n_context, **arguments).eval()
    randomize(flow, spread)
    flow.calibrate(torch.randn(256, features).cumsum(1) + 1, context(256, n_context))
    return flow


def context(n: int, n_context: int) -> Tensor | None:
    return torch.randn(n, n_context) if n_context else None
