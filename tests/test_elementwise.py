"""Elementwise maps follow their formulas, also far out."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import close
from torch import Tensor

from nfbench.transforms.elementwise import SCALES, Affine

pytestmark = pytest.mark.usefixtures("float64")

BOUND = 0.8  # small, so that clamp and tanh bind for some dimensions

SCALE_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda a: math.e**a,
    "log_precision": lambda a: (math.e**a).sqrt(),
    "tanh": lambda a: math.e ** (BOUND * (1 - 2 / (math.e ** (2 * a / BOUND) + 1))),
    "sigmoid": lambda a: 1 / (1 + math.e ** (-a - 2)),
    "softplus": lambda a: torch.log(1 + (math.e - 1) * math.e**a),
    "clamp": lambda a: (
        math.e ** torch.minimum(torch.maximum(a, torch.tensor(-BOUND)), torch.tensor(BOUND))
    ),
}


def test_every_scale_has_a_formula() -> None:
    assert set(SCALE_FORMULAS) == set(SCALES)


@pytest.mark.parametrize("scale", SCALES)
def test_affine_follows_its_formula(scale: str) -> None:
    x, shift, a = torch.randn(3, 100)
    factor = SCALE_FORMULAS[scale](a)
    z, log_det = Affine(scale=scale, bound=BOUND)(x, (shift, a))
    close(z, (x - shift) * factor)
    close(log_det, factor.log())


@pytest.mark.parametrize("scale", SCALES)
def test_a_zero_output_scales_by_one_but_for_the_sigmoid(scale: str) -> None:
    expected = F.logsigmoid(torch.tensor([2.0])) if scale == "sigmoid" else torch.zeros(1)
    close(Affine(scale=scale).log_scale(torch.zeros(1)), expected)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_scales_and_their_gradients_are_finite_far_out(scale: str, dtype: torch.dtype) -> None:
    far = [-1e4, -800.0, -110.0, -90.0, -37.0, -35.0, 0.0, 35.0, 110.0, 1e4]
    a = torch.tensor(far, dtype=dtype, requires_grad=True)
    log_scale = Affine(scale=scale, bound=BOUND).log_scale(a)
    (gradient,) = torch.autograd.grad(log_scale.sum(), a)
    assert log_scale.isfinite().all()
    assert gradient.isfinite().all()
    assert (log_scale.diff() >= 0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_affine_survives_extreme_inputs(scale: str) -> None:
    affine = Affine(scale=scale, bound=BOUND)
    x, a = torch.tensor([-1e4, 1e4]).repeat_interleave(7), torch.linspace(-3, 3, 7).repeat(2)
    z, log_det = affine(x, (torch.ones(14), a))
    close(affine.inverse(z, (torch.ones(14), a))[0], x)
    assert z.isfinite().all()
    assert log_det.isfinite().all()
