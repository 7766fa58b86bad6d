"""Every flow of images in FLOWS at a size that a test can afford."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from image_cases import settled
from torch import Tensor
from transform_case import disturb

from nfbench.flows import FLOWS, IMAGE_FLOWS
from nfbench.flows.flow import Flow

SHAPE = (1, 4, 8)
N_CONTEXT = 2
SMALL: dict[str, dict[str, Any]] = {
    "glow_image": {"levels": 2, "steps": 2, "hidden": 5},
    "realnvp_image": {"scales": 2, "blocks": 1, "features": 3},
    "lippe_image": {"hidden": [3, 4, 4], "blocks": 1},
    "nsf_image": {"levels": 2, "steps": 1, "hidden": 4, "blocks": 1, "tail_bound": 6.0},
    # Steps of a fixed size, whose error is that of rounding in so short a time.
    "ffjord_image": {
        "scales": 2,
        "blocks": 1,
        "hidden": (3,),
        "T": 0.05,
        "solver": "rk4",
        "step_size": 0.04,
        "gradient": "autograd",
        "trace": "exact",
    },
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "glow_image_additive": ("glow_image", {"coupling": "additive"}),
    "glow_image_lu": ("glow_image", {"mixing": "conv1x1_lu"}),
    "glow_image_permutation": ("glow_image", {"mixing": "permutation"}),
    "glow_image_reverse": ("glow_image", {"mixing": "reverse", "edges": False}),
    "glow_image_plain": (
        "glow_image",
        {"split_prior": False, "top_prior": False, "normalize_nets": False},
    ),
    "glow_image_reversible": ("glow_image", {"reversible": True}),
    "glow_image_bfloat16": ("glow_image", {"net_dtype": "bfloat16"}),
    "realnvp_image_bfloat16": ("realnvp_image", {"net_dtype": "bfloat16"}),
    "nsf_image_bfloat16": ("nsf_image", {"net_dtype": "bfloat16"}),
    "realnvp_image_no_norm": ("realnvp_image", {"batch_norm": False}),
    "lippe_image_one_scale": ("lippe_image", {"multiscale": False}),
    "nsf_image_affine": ("nsf_image", {"elementwise": "affine"}),
}
NAMES = [*sorted(IMAGE_FLOWS), *VARIANTS]
EVERY = pytest.mark.parametrize("name", NAMES)
# The exact divergence of convolutions is differentiated for each entry of a Jacobian: a minute for
# images of this size. test_ffjord.py holds the smaller ones to the same.
COSTLY_JACOBIANS = {"ffjord_image"}


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """These flows, without and with a context."""
    chosen = [
        pytest.param(name, n, id=f"{name}{'-context' * bool(n)}")
        for name in names
        for n in (0, N_CONTEXT)
    ]
    return pytest.mark.parametrize(("name", "n_context"), chosen)


ALL = each(NAMES)
WITH_JACOBIANS = each(name for name in NAMES if name not in COSTLY_JACOBIANS)


def small(name: str, n_context: int = 0, shape: tuple[int, int, int] = SHAPE) -> Flow:
    """A flow of few layers, as its recipe starts it."""
    recipe, arguments = VARIANTS.get(name, (name, {}))
    return FLOWS[recipe](shape, context_features=n_context, **SMALL[recipe], **arguments)


def random_flow(name: str, n_context: int = 0) -> Flow:
    """The same with other parameters and running statistics, in evaluation mode."""
    flow = small(name, n_context)
    settled(flow.transform)
    disturb(flow, 0.1)
    for buffer_name, buffer in flow.named_buffers():
        if buffer_name.endswith("mean"):
            buffer.normal_(0, 0.2)
        elif buffer_name.endswith("var"):
            buffer.uniform_(0.5, 2)
    return flow.eval()


def context(n: int, n_context: int) -> Tensor | None:
    return torch.randn(n, n_context) if n_context else None
