"""Every flow of vectors in FLOWS at a size that a test can afford."""

from typing import Any, get_type_hints

import pytest
import torch
from oracles import randomize
from torch import Tensor

from nfbench.flows import FLOWS, VECTOR_FLOWS
from nfbench.flows.flow import Flow
from nfbench.kinds import fits

N_CONTEXT = 2
VECTORS = [name for name in FLOWS if name in VECTOR_FLOWS]
SMALL: dict[str, Any] = {"layers": 3, "hidden": (16, 17), "components": 3}
SMALLER: dict[str, Any] = {
    "nsf": {"hidden": 16, "blocks": 1, "bins": 4, "layers": 2, "tail_bound": 6.0},
    # Solved to rounding, for a time that leaves no long way back from extreme rows.
    "ffjord": {
        "hidden": (5, 4),
        "blocks": 1,
        "T": 0.2,
        "atol": 1e-11,
        "rtol": 1e-11,
        "gradient": "replay",
        "trace": "exact",
    },
}
# Flows of FLOWS with other arguments than their defaults, under names of their own.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "nsf_autoregressive": ("nsf", {"kind": "autoregressive"}),
    "nsf_unconditional": ("nsf", {"unconditional": True}),
    "nice_gaussian_orthogonal": ("nice", {"prior": "gaussian", "mixing": "orthogonal"}),
    "nsf_affine": ("nsf", {"elementwise": "affine"}),
    "nsf_affine_autoregressive": ("nsf", {"elementwise": "affine", "kind": "autoregressive"}),
    "realnvp_shared": ("realnvp", {"scale_net": "shared"}),
    "iaf_gate": ("iaf", {"scale": "gate"}),
    "glow_lu": ("glow", {"mixing": "lu"}),
    "glow_permutation": ("glow", {"mixing": "permutation"}),
    "planar_sampling": ("planar", {"fast": "sampling"}),
    "radial_sampling": ("radial", {"fast": "sampling"}),
    "sylvester_householder": ("sylvester", {"kind": "householder"}),
    "sylvester_triangular": ("sylvester", {"kind": "triangular"}),
}
NEEDS_TWO_DIMENSIONS = {
    "realnvp",
    "realnvp_shared",
    "nice",
    "nice_gaussian_orthogonal",
    "glow",
    "glow_lu",
    "glow_permutation",
    "nsf",
    "nsf_unconditional",
    "nsf_affine",
}
WITHOUT_GRADIENTS = {"gaussian", "identity"}
IGNORES_CONTEXT = {"identity"}


def cases(*features: int, contexts: tuple[int, ...] = (0, N_CONTEXT)) -> pytest.MarkDecorator:
    """Every flow at these dimensions, without and with a context, as far as it takes them."""
    chosen = [
        pytest.param(name, d, n_context, id=f"{name}-{d}d{'-context' * bool(n_context)}")
        for name in [*VECTORS, *VARIANTS]
        for d in features
        for n_context in contexts
        if not (d == 1 and name in NEEDS_TWO_DIMENSIONS)
    ]
    return pytest.mark.parametrize(("name", "features", "n_context"), chosen)


def small(name: str, features: int, n_context: int = 0, **arguments: Any) -> Flow:
    """A flow of few and narrow layers, as its recipe starts it."""
    name, chosen_here = VARIANTS.get(name, (name, {}))
    kinds = get_type_hints(FLOWS[name])
    wanted = SMALL | SMALLER.get(name, {}) | chosen_here | arguments
    # A mixture has scales, too, but not every one of those that couplings have.
    chosen = {k: value for k, value in wanted.items() if k in kinds and fits(kinds[k], value)}
    return FLOWS[name]([features], context_features=n_context, **chosen)


def random_flow(
    name: str, features: int, n_context: int = 0, *, spread: float = 0.7, **arguments: Any
) -> Flow:
    """The same with random parameters and the statistics of random data, in evaluation mode."""
    flow = small(name, features, n_context, **arguments)
    with torch.no_grad():  # what is set by the first batch is set before the parameters are drawn
        flow.train().log_prob(torch.randn(4, features), context(4, n_context))
    randomize(flow.eval(), spread)
    flow.calibrate(torch.randn(256, features).cumsum(1) + 1, context(256, n_context))
    return flow


def context(n: int, n_context: int) -> Tensor | None:
    return torch.randn(n, n_context) if n_context else None
