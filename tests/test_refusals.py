"""What a transform cannot take it refuses, and says what would work."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nfbench.flows import FLOWS
from nfbench.flows.maf import maf
from nfbench.flows.nsf import nsf
from nfbench.flows.realnvp import realnvp
from nfbench.flows.sylvester import sylvester
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.logit import Logit
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.permute import Permute
from nfbench.transforms.rescale import Rescale
from nfbench.transforms.running_norm import RunningNorm
from nfbench.transforms.sylvester import Sylvester
from nfbench.transforms.whiten import Whiten

ROWS = torch.arange(18.0).view(9, 2) ** 2
FIRST = torch.tensor([[1.0, 0.0]]).expand(9, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Permute([0, 0, 2]), "permutation of 0..2"),
        (lambda: Permute([1, 0])(torch.zeros(1, 3)), "expected rows of 2 dimensions or channels"),
        (lambda: Logit(0.5), r"alpha in \[0, 0.5\)"),
        (lambda: Rescale(math.inf), "preprocess.scale: expected a positive number, got inf"),
        (lambda: Affine(scale="tan"), "one of exp, .*got 'tan'"),
        (lambda: Affine(bound=0), "scale_bound: expected a positive number, got 0"),
        (lambda: Affine(bound=math.nan), "scale_bound: expected a positive number, got nan"),
        (lambda: Inverse(BatchNorm(2)), "without data statistics, got one with BatchNorm"),
        (lambda: Inverse(Compose([ActNorm(2)])), "got one with ActNorm"),
        (lambda: Inverse(RunningNorm(2, torch.ones(1, 2, 2))), "got one with RunningNorm"),
        (lambda: BatchNorm(2)(torch.zeros(1, 2)), "at least 2 rows, got 1; .*batch_size"),
        (lambda: Whiten(2).calibrate(torch.ones(9, 2)), "singular"),
        (lambda: Whiten(2, context_features=2).calibrate(ROWS, FIRST), "class 1: .* none of 9"),
        (lambda: MADE(2, dropout=1.0), r"dropout: expected a number in \[0, 1\), got 1.0"),
        (lambda: MADE(2, dropout=-0.5), r"dropout: expected a number in \[0, 1\), got -0.5"),
        (lambda: MLP(2, 2, dropout=0.1), "dropout: expected 0 without residual blocks"),
        (lambda: MADE(2, dropout=0.1), "dropout: expected 0 without residual blocks"),
        (lambda: realnvp([2], scale_net="shard"), "realnvp: scale_net: expected 'own' or 'share"),
        (lambda: maf([2], layers=-3), "maf: layers: expected at least 1, got -3"),
        (lambda: maf([2], layers=3.0), "maf: layers: expected int, got 3.0"),
        (lambda: maf([2], layers=True), "maf: layers: expected int, got True"),
        (lambda: maf([2], hidden=64), "maf: hidden: expected list of int, got 64"),
        (lambda: maf([2], hidden=[8, 0]), r"maf: hidden: expected at least 1, got \[8, 0\]"),
        (lambda: maf([2], batch_norm="yes"), "maf: batch_norm: expected bool, got 'yes'"),
        (lambda: maf([2], scale_bound=math.nan), "maf: scale_bound: expected float, got nan"),
        (lambda: maf([0]), r"maf: event_shape: expected at least 1, got \[0\]"),
        (lambda: maf([]), "maf: event_shape: expected at least 1 side"),
        (lambda: maf(2), "maf: event_shape: expected list of int, got 2"),
        (lambda: maf([2], context_features=-1), "context_features: expected at least 0, got -1"),
        (lambda: sylvester([2], columns=0), "sylvester: columns: expected at least 1, got 0"),
        (lambda: nsf([2], kind="autoregressive", unconditional=True), "unconditional: .* false"),
        (lambda: nsf([2], elementwise="affine", unconditional=True), "unconditional: .* false"),
        (lambda: Sylvester(2, layers=1, kind="householder", reflections=0), "reflections: .* 1,"),
        (
            lambda: MADE(2, context_features=1)(torch.zeros(1, 2)),
            "got none; this flow is conditional",
        ),
    ],
)
def test_errors_say_what_was_expected(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("ffjord", [2], {"gradient": "adjoint"}),
        ("ffjord", [2], {"gradient": "replay"}),
        ("glow_image", [1, 4, 4], {"levels": 1, "steps": 2, "hidden": 4, "reversible": True}),
    ],
)
def test_second_derivatives_through_gradients_by_hand_are_refused(
    name: str, shape: list[int], arguments: dict[str, Any]
) -> None:
    """However they are asked for: `torch.autograd.grad` of some inputs would leave them out."""
    flow, x = FLOWS[name](shape, **arguments).eval(), torch.randn(2, *shape, requires_grad=True)
    loss = flow.log_prob(x).sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(loss, x, create_graph=True)
