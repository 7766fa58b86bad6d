"""Planar and radial flows: formulas, inverses at the edge of invertibility, gradients, cost."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import check_contract, check_gradients, close, randomize, two_ways
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nfbench.flows import FLOWS
from nfbench.transforms.base import Transform
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.planar import Planar
from nfbench.transforms.radial import Chain, Radial

pytestmark = pytest.mark.usefixtures("float64")

BOTH = pytest.mark.parametrize("build", [Planar, Radial])
FAR = torch.tensor([[1e4, -1e4], [-1e4, 0.0], [1e4, 1e4], [0.0, 1e-4]], dtype=torch.float64)


@torch.no_grad()
def planar(w: list[float], u: list[float], b: float) -> Planar:
    """One layer of given parameters."""
    transform = Planar(len(w), layers=1)
    for amortized, value in ((transform.w, w), (transform.u, u), (transform.b, b)):
        amortized.value.copy_(torch.tensor([value]))
    return transform


@torch.no_grad()
def radial(center: list[float], alpha: float, beta: float) -> Radial:
    """One layer of given parameters."""
    transform = Radial(len(center), layers=1)
    for parameter, value in (("center", center), ("alpha", [alpha]), ("beta", [beta])):
        getattr(transform, parameter).value.copy_(torch.tensor([value]))
    return transform


def softplus(a: float) -> float:
    return math.log1p(math.exp(a))


def test_planar_map_is_equations_10_to_12() -> None:
    w, u, b, x = (0.5, -1.5), (0.3, 0.8), 0.4, (0.7, -0.2)
    dot = w[0] * u[0] + w[1] * u[1]
    along = (softplus(dot) - 1 - dot) / (w[0] ** 2 + w[1] ** 2)
    u_hat = (u[0] + along * w[0], u[1] + along * w[1])
    h = math.tanh(w[0] * x[0] + w[1] * x[1] + b)
    expected = [x[0] + u_hat[0] * h, x[1] + u_hat[1] * h]
    z, log_det = planar([*w], [*u], b)(torch.tensor([x]))
    close(z, torch.tensor([expected]))
    psi = 1 + (1 - h * h) * (u_hat[0] * w[0] + u_hat[1] * w[1])
    close(log_det, torch.tensor([math.log(psi)]))


def test_planar_map_of_one_dimension() -> None:
    w, u, b = 1.3, -0.6, 0.2
    u_hat = (softplus(w * u) - 1) / w
    x = torch.linspace(-4, 4, 9)[:, None]
    z, log_det = planar([w], [u], b)(x)
    close(z, x + u_hat * torch.tanh(w * x + b))
    close(log_det, (1 + w * u_hat / torch.cosh(w * x + b) ** 2).log()[:, 0])


def test_radial_map_is_equation_14() -> None:
    center, alpha, beta, x = (0.5, -1.0), 0.3, -0.7, (1.5, 0.25)
    a, b = softplus(alpha), softplus(beta) - softplus(alpha)
    r = math.hypot(x[0] - center[0], x[1] - center[1])
    h, slope = 1 / (a + r), -1 / (a + r) ** 2
    expected = [x[i] + b * h * (x[i] - center[i]) for i in range(2)]
    z, log_det = radial([*center], alpha, beta)(torch.tensor([x]))
    close(z, torch.tensor([expected]))
    close(log_det, torch.tensor([math.log(1 + b * h) + math.log(1 + b * h + b * slope * r)]))


def test_radial_map_of_one_dimension() -> None:
    x = torch.linspace(-4, 4, 9)[:, None]
    a, b = softplus(1.2), softplus(-2.0) - softplus(1.2)
    z, log_det = radial([0.3], 1.2, -2.0)(x)
    r = (x - 0.3).abs()
    close(z, x + b * (x - 0.3) / (a + r))
    close(log_det, (1 + b * a / (a + r) ** 2).log()[:, 0])


@BOTH
@pytest.mark.parametrize("features", [1, 2, 7])
@pytest.mark.parametrize("layers", [0, 1, 32])
@pytest.mark.parametrize("n_context", [0, 3])
def test_contract(build: type[Transform], features: int, layers: int, n_context: int) -> None:
    transform = build(features, layers=layers, context_features=n_context)
    given = torch.randn(3, n_context) if n_context else None
    for spread in (None, 0.3):
        if spread and layers:
            randomize(transform, spread)
        check_contract(transform, torch.randn(3, features), torch.randn(3, features), given)
    if layers == 0:
        x = torch.randn(4, features)
        for way in two_ways(transform, None if given is None else torch.randn(4, n_context)):
            assert torch.equal(way(x)[0], x)
            assert not way(x)[1].any()


@BOTH
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("n_context", [0, 3])
def test_batches_of_one_and_none(build: type[Transform], n: int, n_context: int) -> None:
    transform = build(4, layers=32, context_features=n_context)
    for way in two_ways(transform, torch.randn(n, n_context) if n_context else None):
        image, log_det = way(torch.randn(n, 4))
        assert image.shape == (n, 4)
        assert log_det.shape == (n,)
        (image.sum() + log_det.sum()).backward()


@BOTH
def test_a_row_of_context_is_a_flow_of_its_own(build: type[Transform]) -> None:
    conditional, plain = build(3, layers=4, context_features=2), build(3, layers=4)
    randomize(conditional)
    x, context = torch.randn(5, 3), torch.randn(5, 2)
    ways = zip(two_ways(conditional, context), two_ways(plain), strict=True)
    for way, own_way in ways:
        image, log_det = way(x)
        for row in range(5):
            values = {
                name: part(context[row : row + 1])[0]
                for name, part in conditional.named_children()
            }
            plain.load_state_dict({f"{name}.value": value for name, value in values.items()})
            own_image, own_log_det = own_way(x[row : row + 1])
            close(image[row : row + 1], own_image)
            close(log_det[row : row + 1], own_log_det)


# w.u_hat -> -1 as w.u -> -inf; |w| large makes tanh a step.
SATURATED: dict[str, Callable[[], Transform]] = {
    "w.u_hat near -1": lambda: planar([1.0, 0.5], [-12.0, -20.0], 0.3),
    "w.u_hat = -1 in rounding": lambda: planar([2.0, -1.0], [-40.0, 30.0], 0.3),
    "w large": lambda: planar([300.0, -200.0], [0.1, 0.2], 1.0),
    "w large, w.u_hat near -1": lambda: planar([100.0, 80.0], [-0.2, -0.3], -1.0),
    "w small": lambda: planar([1e-3, 1e-3], [0.5, 0.5], 0.1),
    "u large": lambda: planar([1.0, 1.0], [50.0, -20.0], 0.0),
    "b large": lambda: planar([1.0, 1.0], [0.5, -2.0], 40.0),
    "w = 0": lambda: planar([0.0, 0.0], [0.5, -2.0], 0.7),
    "radial, contracting": lambda: radial([0.2, 0.3], 1.0, -20.0),
    "radial, contracting to a point": lambda: radial([0.2, 0.3], 1.0, -800.0),
    "radial, expanding": lambda: radial([0.2, 0.3], -3.0, 40.0),
    "radial, a sharp": lambda: radial([0.2, 0.3], -800.0, 1.0),
}


@pytest.mark.parametrize("name", SATURATED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_saturated_maps_are_inverted_to_rounding(name: str, dtype: torch.dtype) -> None:
    transform = SATURATED[name]().to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    near = torch.cat((torch.randn(500, 2), 4 * torch.randn(500, 2)))
    for start in (near.to(dtype), FAR.to(dtype)):
        for way, back in (two_ways(transform), two_ways(transform)[::-1]):
            with torch.no_grad():
                image, log_det = way(start)
                again, log_det_back = back(image)
            assert image.isfinite().all()
            assert log_det.isfinite().all()
            # Rounding grows on the way back where the map contracts by more than this.
            kept = log_det > -1
            size = max(start.abs().max().item(), image.abs().max().item())
            torch.testing.assert_close(again[kept], start[kept], rtol=0, atol=tolerance * size)
            torch.testing.assert_close(
                log_det[kept], -log_det_back[kept], rtol=tolerance, atol=10 * tolerance
            )


@pytest.mark.parametrize("name", SATURATED)
def test_saturated_maps_have_finite_gradients(name: str) -> None:
    transform = SATURATED[name]()
    for way in two_ways(transform):
        x = torch.randn(200, 2, requires_grad=True)
        image, log_det = way(x)
        transform.zero_grad()
        (image.square().sum() + log_det.sum()).backward()
        assert all(part.grad.isfinite().all() for part in [x, *transform.parameters()])


@BOTH
def test_deep_stacks_survive_extreme_rows(build: type[Transform]) -> None:
    transform = build(2, layers=32)
    randomize(transform, spread=0.3)
    for way, back in (two_ways(transform), two_ways(transform)[::-1]):
        image, log_det = way(FAR)
        assert log_det.isfinite().all()
        torch.testing.assert_close(back(image)[0], FAR, rtol=1e-12, atol=1e-12)


def test_radial_map_is_smooth_at_its_center() -> None:
    transform = radial([0.5, -1.0], 0.3, -0.7)
    slope = softplus(-0.7) / softplus(0.3)
    for way, expected in zip(two_ways(transform), (slope, 1 / slope), strict=True):
        x = torch.tensor([[0.5, -1.0]], requires_grad=True)
        image, log_det = way(x)
        jacobian = torch.autograd.functional.jacobian(lambda rows, way=way: way(rows)[0].sum(0), x)
        close(image, x)
        close(jacobian[:, 0], expected * torch.eye(2))
        close(log_det, torch.tensor([2 * math.log(expected)]))
        (gradient,) = torch.autograd.grad(log_det.sum(), x)
        assert gradient.isfinite().all()


def test_displacement_is_free_where_w_is_zero() -> None:
    x = torch.randn(5, 2)
    z, log_det = planar([0.0, 0.0], [0.5, -2.0], 0.7)(x)
    close(z, x + torch.tensor([0.5, -2.0]) * math.tanh(0.7))
    assert not log_det.any()


NUMBER = st.floats(-100, 100)
PAIR = st.tuples(NUMBER, NUMBER).map(list)


@settings(max_examples=100, deadline=None)
@given(PAIR, PAIR, NUMBER, PAIR)
@example([4e-162, 4e-162], [0.0, 0.0], 0.0, [0.0, 0.0])
@example([0.0, 4e-162], [1.0, 2.0], 0.5, [3.0, 4.0])
@example([2e-154, 0.0], [1.0, 2.0], 0.5, [3.0, 4.0])
def test_any_parameters_give_an_invertible_planar_map(
    w: list[float], u: list[float], b: float, point: list[float]
) -> None:
    transform = planar(w, u, b)
    with torch.no_grad():
        (w_row,), (u_hat,), _, (slack,) = transform.maps(None)
    size = w_row.abs() @ (u_hat.abs() + torch.tensor(u).abs())
    assert slack > 0
    assert w_row @ u_hat >= -1 - 1e-14 * size
    z = torch.tensor([point])
    x, log_det = transform.inverse(z)
    assert log_det.isfinite().all()
    scale = sum(each.abs().max().item() for each in (z, u_hat, torch.tensor(u))) + 1
    # What rounding of w.x alone moves the image by.
    scale += (u_hat.abs().max() * (w_row.abs() @ x[0].abs())).item()
    error = (transform(x)[0] - z).abs().max().item()
    assert error <= 3e-14 * scale * (1 + slack.item())


@settings(max_examples=100, deadline=None)
@given(PAIR, NUMBER, NUMBER, PAIR)
def test_any_parameters_give_an_invertible_radial_map(
    center: list[float], alpha: float, beta: float, point: list[float]
) -> None:
    transform, z = radial(center, alpha, beta), torch.tensor([point])
    x, log_det = transform.inverse(z)
    assert log_det.isfinite().all()
    error = (transform(x)[0] - z).abs().max().item()
    assert error <= 1e-13 * (1 + softplus(beta) / max(softplus(alpha), 1e-16))


@BOTH
@pytest.mark.parametrize("n_context", [0, 2])
def test_gradients_both_ways_are_those_of_finite_differences(
    build: type[Transform], n_context: int
) -> None:
    transform = build(2, layers=3, context_features=n_context)
    randomize(transform)
    names, values = zip(*transform.named_parameters(), strict=True)
    context = (torch.randn(4, n_context),) if n_context else ()

    for wrapped in (transform, Inverse(transform)):
        prefix = "" if wrapped is transform else "transform."

        def run(x: Tensor, *parts: Tensor, wrapped: Transform = wrapped, prefix: str = prefix):
            state = {prefix + name: part for name, part in zip(names, parts, strict=True)}
            return torch.func.functional_call(wrapped, state, (x, *context))

        inputs = (torch.randn(4, 2), *(value.detach() for value in values))
        inputs = [each.requires_grad_() for each in inputs]
        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@BOTH
def test_gradients_pass_through_torch_func(build: type[Transform]) -> None:
    transform = build(3, layers=4)
    randomize(transform)
    x = torch.randn(1, 3)
    for way in two_ways(transform):
        expected = torch.autograd.functional.jacobian(lambda rows, way=way: way(rows)[0], x)
        close(torch.func.jacrev(lambda rows, way=way: way(rows)[0])(x), expected)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("layers", "n", "features"), [(3, 4, 2), (1, 3, 1), (2, 0, 3), (8, 5, 7)])
def test_radial_gradient_by_hand_is_that_of_autograd(
    backwards: bool, layers: int, n: int, features: int
) -> None:
    """First and second derivatives; the forward pass itself is what autograd sees."""
    parts = [torch.randn(n, features), torch.randn(layers, n, features)]
    parts += [torch.rand(layers, n, 1) + 0.1 for _ in range(2)]
    parts = [part.requires_grad_() for part in parts]
    results = []
    for run in (Chain.apply, Chain.forward):
        outputs = run(*parts, backwards)
        loss = sum((output * torch.cos(output)).sum() for output in outputs)
        first = torch.autograd.grad(loss, parts, create_graph=True)
        size = sum((gradient * gradient).sum() for gradient in first)
        results.append([*outputs, *first, *torch.autograd.grad(size, parts)])
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backwards", [False, True])
def test_radial_gradient_by_hand_at_a_center_and_next_to_it(
    backwards: bool, dtype: torch.dtype
) -> None:
    """The offset may be zero, or so short that its square underflows."""
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([[0.0, 0.0], [tiny, 0.0], [0.0, -(tiny**0.7)]], dtype=dtype)
    a, s = torch.full((2, 1, 3, 1), 0.7, dtype=dtype).unbind()
    s = s / 2
    inputs = [x, torch.zeros(1, 3, 2, dtype=dtype), a, s]
    image, radii, _ = Chain.apply(*(each.requires_grad_() for each in inputs), backwards)
    gradients = torch.autograd.grad(image[:, 0].sum() + 1e3 * radii.sum(), inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    slope = 2.0 if backwards else 0.5
    torch.testing.assert_close(gradients[0][0], torch.tensor([slope, 0.0], dtype=dtype))


def test_radial_gradients_are_as_accurate_in_single_precision() -> None:
    transform = Radial(2, layers=32)
    randomize(transform, 0.3)
    x = torch.randn(512, 2)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        for way in two_ways(transform.to(dtype)):
            image, log_det = way(x.to(dtype))
            loss = (log_det - image.square().sum(1) / 2).mean()
            gradients.append(torch.autograd.grad(loss, list(transform.parameters())))
    for singles, doubles in zip(gradients[:2], gradients[2:], strict=True):
        for single, double in zip(singles, doubles, strict=True):
            error = (single - double).abs().max() / double.abs().max()
            assert error < 1e-5


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.size = max(self.size, each.numel())
        return result


@BOTH
@pytest.mark.parametrize("n_context", [0, 2])
def test_nothing_is_larger_than_the_rows_and_the_parameters(
    build: type[Transform], n_context: int
) -> None:
    features, layers, n = 1000, 3, 5
    transform = build(features, layers=layers, context_features=n_context)
    for way in two_ways(transform, torch.randn(n, n_context) if n_context else None):
        with Largest() as largest:
            image, log_det = way(torch.randn(n, features))
            (image.sum() + log_det.sum()).backward()
        assert 0 < largest.size <= n * layers * features


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_recipes_start_near_the_identity_with_layers_of_their_own(name: str) -> None:
    flow = FLOWS[name]([2])
    x = torch.randn(2000, 2)
    z, log_det = flow.transform(x)
    assert (z - x).norm(dim=1).mean() < 0.6
    assert 0.01 < log_det.abs().mean() < 0.5
    for parameter in flow.parameters():
        assert len(parameter) == 32
    check_gradients(flow, flow.log_prob(x).sum())
    slopes = [part.grad.flatten(1) for part in flow.parameters() if part.dim() > 1]
    assert all(len(gradient.unique(dim=0)) == 32 for gradient in slopes)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_fast_sampling_is_the_inverse_of_fast_density(name: str) -> None:
    density, sampling = FLOWS[name]([3], layers=4), FLOWS[name]([3], layers=4, fast="sampling")
    randomize(density)
    sampling.transform.transform.load_state_dict(density.transform.state_dict())
    x = torch.randn(6, 3)
    for (image, log_det), (same, same_log_det) in zip(
        (density.transform(x), density.transform.inverse(x)),
        (sampling.transform.inverse(x), sampling.transform(x)),
        strict=True,
    ):
        assert torch.equal(image, same)
        assert torch.equal(log_det, same_log_det)
    with pytest.raises(ValueError, match="fast: expected 'density' or 'sampling', got 'both'"):
        FLOWS[name]([3], fast="both")


@pytest.mark.parametrize("name", ["planar", "radial"])
@pytest.mark.parametrize("fast", ["density", "sampling"])
def test_maximum_likelihood_learns_a_bimodal_density(name: str, fast: str) -> None:
    flow = FLOWS[name]([1], layers=8, fast=fast)
    x = torch.cat((torch.randn(200, 1), torch.randn(200, 1) + 6)) - 3
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    start = flow.log_prob(x).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    gaussian = -0.5 * math.log(2 * math.pi * math.e * float(x.var()))
    assert start < gaussian - 1
    assert -loss.item() > gaussian + 0.1
