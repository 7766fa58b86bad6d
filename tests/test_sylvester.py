"""Sylvester flows: bases, constraint, inverse, gradients, and planar flows as a special case."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import check_contract, close, randomize, two_ways
from torch import Tensor

from nfbench.flows import FLOWS
from nfbench.transforms.base import Transform
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.planar import Planar
from nfbench.transforms.sylvester import KINDS, Sylvester

pytestmark = pytest.mark.usefixtures("float64")

EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def sylvester(features: int, kind: str, *, layers: int = 3, spread: float = 0.7, **more: int):
    transform = Sylvester(features, layers=layers, kind=kind, **more)
    if layers:
        randomize(transform, spread)
    return transform


@EVERY_KIND
@pytest.mark.parametrize("features", [1, 2, 6])
@pytest.mark.parametrize("layers", [0, 1, 8])
@pytest.mark.parametrize("n_context", [0, 3])
def test_contract(kind: str, features: int, layers: int, n_context: int) -> None:
    given = torch.randn(3, n_context) if n_context else None
    transform = sylvester(features, kind, layers=layers, context_features=n_context)
    check_contract(transform, torch.randn(3, features), torch.randn(3, features), given)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("n_context", [0, 3])
def test_contract_with_few_columns(columns: int, n_context: int) -> None:
    given = torch.randn(3, n_context) if n_context else None
    transform = sylvester(5, "orthogonal", columns=columns, context_features=n_context)
    check_contract(transform, torch.randn(3, 5), torch.randn(3, 5), given)


@EVERY_KIND
@pytest.mark.parametrize("n_context", [0, 3])
def test_basis_is_orthonormal(kind: str, n_context: int) -> None:
    transform = sylvester(5, kind, context_features=n_context)
    q = transform.basis(torch.randn(4, n_context) if n_context else None)
    close(q.mT @ q, torch.eye(5).expand_as(q))


def test_orthogonal_basis_is_continuous_where_a_first_coordinate_changes_sign() -> None:
    bases = []
    for first in (-1e-9, 1e-9):
        transform = Sylvester(3, layers=1, columns=1)
        with torch.no_grad():
            transform.vectors.value.copy_(torch.tensor([[[first, 0.6, 0.8]]]))
        bases.append(transform.basis(None))
    torch.testing.assert_close(*bases, rtol=0, atol=1e-8)


def test_triangular_layers_turn_the_dimensions_round_alternately() -> None:
    basis = Sylvester(3, layers=3, kind="triangular").basis(None)
    assert torch.equal(basis[0], torch.eye(3))
    assert torch.equal(basis[1], torch.eye(3).flip(0))
    assert torch.equal(basis[2], torch.eye(3))


def test_one_layer_is_the_formula() -> None:
    transform = sylvester(4, "orthogonal", layers=1, columns=3)
    ((q, r, r_tilde, b, _),) = transform.maps(None)
    assert torch.equal(r, r.triu())
    assert torch.equal(r_tilde, r_tilde.triu())
    x = torch.randn(4)
    h = torch.tanh(r_tilde @ q.T @ x + b)
    close(transform(x[None])[0][0], x + q @ r @ h)


def test_one_column_is_a_planar_flow() -> None:
    """Q R becomes u_hat, R~ Q^T becomes w."""
    ours, planar = sylvester(4, "orthogonal", layers=1, columns=1), Planar(4, layers=1)
    ((q, _, r_tilde, b, slack),) = ours.maps(None)
    w = (q @ r_tilde.T)[:, 0]
    dot = slack.expm1().log()  # whose softplus is the slack
    with torch.no_grad():
        planar.w.value.copy_(w[None])
        planar.u.value.copy_((dot / w.square().sum() * w)[None])
        planar.b.value.copy_(b)
    x = torch.randn(7, 4)
    for way, same_way in zip(two_ways(ours), two_ways(planar), strict=True):
        for tensor, same in zip(way(x), same_way(x), strict=True):
            close(tensor, same)


@EVERY_KIND
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_any_parameters_are_invertible(kind: str, seed: int, magnitude: float) -> None:
    torch.manual_seed(seed)
    transform = Sylvester(3, layers=1, kind=kind)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.normal_(0, 10**magnitude)
        ((_, r, r_tilde, _, slack),) = transform.maps(None)
    assert (slack > 0).all()
    assert (r.diagonal().abs() <= 1).all() and (r_tilde.diagonal().abs() <= 1).all()
    z = 3 * torch.randn(5, 3)
    x, log_det = transform.inverse(z)
    again, _ = transform(x)
    assert log_det.isfinite().all()
    # What R and R~ multiply, they multiply the rounding of, once for each coordinate.
    size = 1 + float(r.abs().sum() * r_tilde.abs().sum())
    assert (again - z).abs().max() <= 1e-13 * size**2


@EVERY_KIND
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_round_trips_are_exact_also_far_out(
    kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    transform = sylvester(4, kind, layers=4, spread=0.5).to(dtype)
    near = torch.randn(200, 4)
    far = torch.tensor([-1e4, 1e4, 0.0])[torch.randint(3, (50, 4))]
    for start in (near.to(dtype), far.to(dtype)):
        for way, back in (two_ways(transform), two_ways(transform)[::-1]):
            with torch.no_grad():
                image, log_det = way(start)
                again, _ = back(image)
            assert log_det.isfinite().all()
            assert (again - start).abs().max() <= 3 * tolerance * (1 + start.abs().max())


@EVERY_KIND
@pytest.mark.parametrize("n_context", [0, 2])
def test_gradients_both_ways_are_those_of_finite_differences(kind: str, n_context: int) -> None:
    transform = sylvester(3, kind, layers=2, context_features=n_context, reflections=2)
    names, values = zip(*transform.named_parameters(), strict=True)
    context = (torch.randn(2, n_context),) if n_context else ()
    for wrapped, prefix in ((transform, ""), (Inverse(transform), "transform.")):

        def run(x: Tensor, *parts: Tensor, wrapped: Transform = wrapped, prefix: str = prefix):
            state = {prefix + name: part for name, part in zip(names, parts, strict=True)}
            return torch.func.functional_call(wrapped, state, (x, *context))

        inputs = [torch.randn(2, 3), *(value.detach() for value in values)]
        inputs = [each.requires_grad_() for each in inputs]
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@EVERY_KIND
def test_gradients_pass_through_torch_func(kind: str) -> None:
    transform, x = sylvester(3, kind), torch.randn(1, 3)
    for way in two_ways(transform):
        expected = torch.autograd.functional.jacobian(lambda rows, way=way: way(rows)[0], x)
        close(torch.func.jacrev(lambda rows, way=way: way(rows)[0])(x), expected)


@EVERY_KIND
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("n_context", [0, 3])
def test_batches_of_one_and_none(kind: str, n: int, n_context: int) -> None:
    transform = sylvester(4, kind, context_features=n_context)
    for way in two_ways(transform, torch.randn(n, n_context) if n_context else None):
        image, log_det = way(torch.randn(n, 4))
        assert image.shape == (n, 4)
        assert log_det.shape == (n,)


@EVERY_KIND
def test_recipe_starts_near_the_identity(kind: str) -> None:
    flow = FLOWS["sylvester"]([6], kind=kind)
    x = torch.randn(500, 6)
    z, log_det = flow.transform(x)
    assert (z - x).norm(dim=1).mean() < 0.3 * x.norm(dim=1).mean()
    assert 0.01 < log_det.abs().mean() < 1


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of orthogonal, householder"):
        Sylvester(3, layers=1, kind="diagonal")
    with pytest.raises(ValueError, match=r"columns: expected 1 to 3 \(dimensions\), got 4"):
        Sylvester(3, layers=1, columns=4)
    with pytest.raises(ValueError, match="columns: expected null for kind 'triangular'"):
        Sylvester(3, layers=1, kind="triangular", columns=2)
