"""Elementwise maps follow their formulas, also far out."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import close, jacobians, randomize
from torch import Tensor

from nfbench.flows.iaf import iaf
from nfbench.transforms.elementwise import SCALES, Affine, Gate
from nfbench.transforms.inverse import Inverse

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


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.0])
def test_the_gate_follows_its_formula(bias: float) -> None:
    x, m, s = torch.randn(3, 100)
    gate = 1 / (1 + math.e ** -(s + bias))
    z, log_det = Gate(bias=bias)(x, (m, s))
    close(z, gate * x + (1 - gate) * m)
    close(log_det, gate.log())
    back, log_det_back = Gate(bias=bias).inverse(z, (m, s))
    close(back, x)
    close(log_det_back, -gate.log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gate_is_finite_where_it_is_open_or_shut(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 6, dtype=dtype)
    s = torch.tensor([-1e4, -200.0, -20.0, 20.0, 200.0, 1e4], dtype=dtype, requires_grad=True)
    z, log_det = Gate()(x, (torch.ones_like(x), s))
    gradient = torch.autograd.grad(z.sum() + log_det.sum(), s)[0]
    assert z.isfinite().all() and log_det.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(z[:2].detach(), torch.ones(2, dtype=dtype))
    torch.testing.assert_close(z[4:].detach(), x[4:])


@pytest.mark.parametrize("n_context", [0, 2])
def test_iaf_with_a_gate_is_the_papers_algorithm(n_context: int) -> None:
    """Algorithm 1 written out, noise -> data; the order of the inputs is reversed in between."""
    flow = iaf(
        [4], context_features=n_context, layers=3, hidden=(9,), scale="gate", forget_bias=1.5
    )
    randomize(flow)
    z, h = torch.randn(6, 4), torch.randn(6, n_context) if n_context else None
    assert isinstance(flow.transform, Inverse)
    expected, log_det = z, torch.zeros(6)
    for layer in flow.transform.transform.parts:
        m, s = layer.made(expected, h)
        gate = torch.sigmoid(s + 1.5)
        expected = gate * expected + (1 - gate) * m
        log_det = log_det + gate.log().sum(1)
    x, found = flow.transform.inverse(z, h)
    close(x, expected)
    close(found, log_det)
    close(found, jacobians(lambda rows: flow.transform.inverse(rows, h)[0], z).det().log())
    back, log_det_back = flow.transform(x, h)
    close(back, z)
    close(log_det_back, -log_det)
    orders = [layer.made.order[0] for layer in flow.transform.transform.parts]
    assert orders == [0, 3, 0]


def test_a_fresh_gate_keeps_most_of_the_noise() -> None:
    flow = iaf([16], layers=1, hidden=(320,), scale="gate", forget_bias=2.0, init="near_zero")
    z = torch.randn(200, 16)
    x, log_det = flow.transform.inverse(z)
    kept = 1 / (1 + math.exp(-2))
    assert (x / z).median().item() == pytest.approx(kept, abs=0.02)
    assert log_det.mean().item() == pytest.approx(16 * math.log(kept), abs=0.1)


def test_a_forget_bias_without_a_gate_and_an_unknown_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"forget_bias: expected 1.0 with scale=tanh.*got 2.0"):
        iaf([3], scale="tanh", forget_bias=2.0)
    with pytest.raises(ValueError, match=r"scale: expected one of exp, .*, gate; got 'relu'"):
        iaf([3], scale="relu")
