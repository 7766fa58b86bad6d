"""Root-finding: to rounding, whatever the function; gradients of the implicit function theorem."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nfbench.transforms.rootfind import find_root, implicit, solve_tanh, tanh_slope

pytestmark = pytest.mark.usefixtures("float64")


class Counted:
    """A function with its slope, and how often it was called."""

    def __init__(self, value: object, slope: object) -> None:
        self.value, self.slope, self.calls = value, slope, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.value(x), self.slope(x)


FUNCTIONS = {
    "line": (lambda x: 3 * x - 1, lambda x: torch.full_like(x, 3), 1 / 3),
    "cube": (lambda x: x**3 - 2, lambda x: 3 * x**2, 2 ** (1 / 3)),
    "exponential": (lambda x: x.exp() - 5, torch.exp, math.log(5)),
    "flat at its root": (lambda x: (x - 0.7) ** 3, lambda x: 3 * (x - 0.7) ** 2, 0.7),
    "newton cycles": (lambda x: x.sign() * x.abs().sqrt(), lambda x: 0.5 * x.abs().rsqrt(), 0.0),
    "newton runs away": (torch.atan, lambda x: 1 / (1 + x * x), 0.0),
    "steep": (
        lambda x: torch.tanh(1e6 * (x - 0.123)),
        lambda x: 1e6 * (1 - torch.tanh(1e6 * (x - 0.123)) ** 2),
        0.123,
    ),
    "a step": (lambda x: 2 * (x >= 0.3).to(x) - 1, torch.zeros_like, 0.3),
    "a wrong slope": (lambda x: x**3 - 2, lambda x: 1e-3 * torch.ones_like(x), 2 ** (1 / 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_root_is_found_in_every_bracket(name: str, dtype: torch.dtype) -> None:
    value, slope, root = FUNCTIONS[name]
    low = torch.tensor([root - 0.1, root - 7, root - 5, root], dtype=dtype)
    high = torch.tensor([root + 9, root + 0.2, root + 5, root + 1], dtype=dtype)
    eps = torch.finfo(dtype).eps
    function = Counted(value, slope)
    found = find_root(function, low, high)
    assert found.dtype == dtype
    # The flat one cannot be told from zero closer than this.
    error = 1e-2 * eps ** (1 / 3) if name.startswith("flat") else 4 * eps * (high - low + 1)
    assert ((found - root).abs() <= error).all()
    assert function.calls <= 2 * (1 - math.log2(eps))


def test_newton_steps_are_few_and_stop_early() -> None:
    value, slope, _ = FUNCTIONS["exponential"]
    function = Counted(value, slope)
    find_root(function, torch.full((100,), -3.0), torch.full((100,), 4.0))
    assert function.calls <= 9


def test_noise_ends_the_search() -> None:
    function = Counted(*FUNCTIONS["exponential"][:2])
    find_root(function, torch.zeros(1), torch.ones(1) * 9, start=torch.tensor([1.6]), noise=0.1)
    assert function.calls == 1


def test_nothing_to_find_is_found_at_once() -> None:
    function = Counted(*FUNCTIONS["cube"][:2])
    assert find_root(function, torch.zeros(0), torch.ones(0)).shape == (0,)
    assert function.calls == 1


def test_nan_stays_with_its_own_row() -> None:
    offset = torch.tensor([2.0, math.nan, 3.0])
    function = Counted(lambda x: x**3 - offset, lambda x: 3 * x**2)
    found = find_root(function, torch.zeros(3), torch.full((3,), 2.0))
    torch.testing.assert_close(found[[0, 2]], offset[[0, 2]] ** (1 / 3), rtol=1e-15, atol=0)
    assert function.calls < 20


def test_gradient_is_that_of_the_closed_form() -> None:
    p = torch.tensor([0.5, 2.0, 7.0], requires_grad=True)

    def cube(x: Tensor) -> tuple[Tensor, Tensor]:
        return x**3 - p, 3 * x**2

    found = find_root(cube, torch.zeros(3), torch.full((3,), 9.0))
    assert not found.requires_grad
    root = implicit(cube, found)
    assert torch.equal(root, found), "the value does not move"
    (gradient,) = torch.autograd.grad(root.sum(), p)
    torch.testing.assert_close(gradient, p.detach() ** (-2 / 3) / 3)


ANY = st.floats(-1e4, 1e4)
SLACK = st.floats(-36, 8).map(math.exp)  # from 1e-16 to 3000


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(ANY, SLACK), min_size=1, max_size=30))
def test_tanh_equation_holds_to_rounding(rows: list[tuple[float, float]]) -> None:
    for dtype in (torch.float64, torch.float32):
        q, slack = torch.tensor(rows, dtype=dtype).unbind(1)
        t = solve_tanh(q, slack)
        value = t.double() + (slack.double() - 1) * t.double().tanh()
        reach = (q.double().abs() / slack.double().clamp(max=1)).clamp(max=1)
        reach = reach.maximum(t.double().tanh().abs()).clamp(min=torch.finfo(dtype).eps)
        scale = q.double().abs() + (slack.double() - 1).abs() * reach
        slope = tanh_slope(t.double().tanh(), slack.double())
        allowed = 4 * torch.finfo(dtype).eps * (scale + slope * t.abs())
        assert ((value - q.double()).abs() <= allowed).all()


def test_small_roots_are_as_exact_as_large_ones() -> None:
    q = torch.logspace(-30, 0, 31).float()
    t = solve_tanh(q, torch.full_like(q, 2.0))  # t + tanh t = q, 2 t if t is small
    torch.testing.assert_close(t + t.tanh(), q, rtol=1e-6, atol=0)


def test_tanh_equation_needs_few_steps() -> None:
    q = torch.linspace(-50, 50, 1001)
    for slack in (1e-9, 1e-3, 0.3, 1.0, 4.0, 100.0):
        calls = 0

        def counted(x: Tensor, tanh: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
            nonlocal calls
            calls += 1
            return tanh(x)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "tanh", counted)
            solve_tanh(q, torch.tensor(slack))
        assert calls <= 35, slack


def test_tanh_solution_has_the_gradient_of_finite_differences() -> None:
    q = torch.randn(20) * 3
    slack = torch.rand(20) * 3 + 0.05
    inputs = (q.requires_grad_(), slack.requires_grad_())
    assert torch.autograd.gradcheck(solve_tanh, inputs, eps=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(solve_tanh, (q, torch.tensor(0.4).requires_grad_()), atol=1e-6)


def test_tanh_solution_has_second_derivatives() -> None:
    q, slack = torch.tensor([-3.0, 0.2, 1.5]), torch.tensor([0.3, 0.05, 2.0])
    assert torch.autograd.gradgradcheck(solve_tanh, (q.requires_grad_(), slack.requires_grad_()))


def test_tanh_solution_passes_through_functional_gradients() -> None:
    q, slack = torch.randn(5), torch.rand(5) + 0.1
    expected = 1 / tanh_slope(solve_tanh(q, slack).tanh(), slack)
    jacobian = torch.func.jacrev(solve_tanh)(q, slack)
    torch.testing.assert_close(jacobian, expected.diag())
    tangent = torch.func.jvp(lambda q: solve_tanh(q, slack), (q,), (torch.ones(5),))[1]
    torch.testing.assert_close(tangent, expected)


def test_slope_neither_cancels_nor_vanishes() -> None:
    h = torch.tensor([0.0, 1e-12, 1.0, -1.0, 0.5])
    for slack in (1e-300, 1e-20, 1.0, 1e10):
        assert (tanh_slope(h, torch.tensor(slack)) > 0).all()
    close_to_one = tanh_slope(torch.ones(1, dtype=torch.float32), torch.tensor(1e10).float())
    assert close_to_one == 1
