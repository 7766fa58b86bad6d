"""MADE looks only back; the fast way of generating from it gives what the plain way gives."""

from collections.abc import Callable, Sequence

import pytest
import torch
from oracles import close, randomize
from torch import Tensor

from nfbench.nets import autoregress as inversion
from nfbench.nets.activations import ACTIVATIONS, IN_PLACE
from nfbench.nets.autoregress import Solve, autoregress, full_passes, incremental
from nfbench.nets.made import MADE
from nfbench.transforms.elementwise import Additive, Affine

pytestmark = pytest.mark.usefixtures("float64")

HIDDEN = [(12,), (12, 13), (12, 11, 13), (3,), (2, 3), (1,), (3, 12)]  # also narrower than D
BLOCKS = [(12,) * 3, (12,) * 5, (3,) * 3]  # nets of one residual block and two
NETS = pytest.mark.parametrize(
    ("features", "hidden", "reverse", "n_context"),
    [
        (5, hidden, reverse, n)
        for hidden in [*HIDDEN, *BLOCKS]
        for reverse in (False, True)
        for n in (0, 2)
    ]
    + [(1, (4,), False, 0), (1, (4, 4), True, 2), (2, (4,), True, 0)]
    + [(1, (4,) * 3, False, 0), (1, (4,) * 3, True, 2)],
)


def random_made(
    features: int, hidden: Sequence[int], reverse: bool, n_context: int, activation: str = "tanh"
) -> MADE:
    made = MADE(
        features,
        n_parameters=2,
        hidden=hidden,
        residual=tuple(hidden) in [*BLOCKS, (4,) * 3],
        reverse=reverse,
        context_features=n_context,
        activation=activation,
    )
    randomize(made)
    return made


def affine_inverse(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return Affine(scale="tanh", bound=1.0).inverse(noise, parameters)


def context(n: int, n_context: int) -> Tensor | None:
    return torch.randn(n, n_context) if n_context else None


def influence(made: MADE, given: Tensor | None) -> Tensor:
    """Whether output d of either parameter varies with input i, [d, i]."""
    x = torch.randn(1, made.features)
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x, given)[:, 0], x)[:, :, 0]
    return (jacobian != 0).any(0)


@NETS
def test_outputs_see_only_the_inputs_before_them(
    features: int, hidden: Sequence[int], reverse: bool, n_context: int
) -> None:
    made = random_made(features, hidden, reverse, n_context)
    seen = influence(made, context(1, n_context))
    before = torch.ones(features, features).tril(-1).bool()
    if reverse:
        before = before.t()
    assert not (seen & ~before).any()
    if min(hidden) >= features:
        assert torch.equal(seen, before), "wide layers leave no path out"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_output_sees_the_context(hidden: Sequence[int], reverse: bool) -> None:
    made = random_made(5, hidden, reverse, 2)
    x = torch.randn(1, 5)
    jacobian = torch.autograd.functional.jacobian(
        lambda given: made(x, given)[:, 0], torch.randn(1, 2)
    )
    assert (jacobian != 0).all()


def test_order_of_generation_follows_the_masks() -> None:
    assert MADE(3, hidden=(4,)).order == [0, 1, 2]
    assert MADE(3, hidden=(4,), reverse=True).order == [2, 1, 0]


@NETS
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_fast_generation_gives_what_full_passes_give(
    features: int, hidden: Sequence[int], reverse: bool, n_context: int, activation: str
) -> None:
    made = random_made(features, hidden, reverse, n_context, activation)
    noise, given = torch.randn(7, features), context(7, n_context)
    for fast, plain in zip(
        incremental(made, affine_inverse, noise, given),
        full_passes(made, affine_inverse, noise, given),
        strict=True,
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("features", "n_context", "n"), [(1, 0, 1), (3, 0, 2), (3, 2, 3)])
def test_only_what_depends_on_something_takes_a_pass_of_the_network(
    features: int, n_context: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, given = random_made(features, (4,), False, n_context, "relu"), context(7, n_context)
    calls = []
    evaluate = MADE.evaluate
    monkeypatch.setattr(MADE, "evaluate", lambda *a, **k: calls.append(a) or evaluate(*a, **k))
    full_passes(made, affine_inverse, torch.randn(7, features), given)
    assert len(calls) == n


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fast_generation_is_accurate_at_the_size_of_bsds300(
    dtype: torch.dtype, tolerance: float
) -> None:
    made = MADE(63, hidden=(512, 512)).to(dtype)
    noise = torch.randn(16, 63, dtype=dtype)
    fast, fast_log_det = incremental(made, affine_inverse, noise)
    with torch.no_grad():
        plain, plain_log_det = full_passes(made, affine_inverse, noise)
    assert (fast - plain).abs().max() <= tolerance * plain.abs().max()
    assert (fast_log_det - plain_log_det).abs().max() <= tolerance * plain_log_det.abs().max()


def test_generated_rows_are_mapped_back_to_their_noise() -> None:
    made = random_made(6, (20, 20), True, 2)
    noise, given = torch.randn(9, 6), context(9, 2)
    x, log_det = incremental(made, affine_inverse, noise, given)
    z, back = Affine(scale="tanh", bound=1.0)(x, made(x, given))
    close(z, noise)
    close(log_det, -back.sum(1))


def test_a_gradient_is_there_where_one_is_wanted() -> None:
    made = random_made(4, (8,), False, 0)
    noise = torch.randn(3, 4)
    assert autoregress(made, affine_inverse, noise)[0].requires_grad
    with torch.no_grad():
        assert not autoregress(made, affine_inverse, noise)[0].requires_grad
    made.requires_grad_(False)
    assert not autoregress(made, affine_inverse, noise)[0].requires_grad
    assert autoregress(made, affine_inverse, noise.requires_grad_())[0].requires_grad


def test_a_frozen_net_passes_the_gradient_on_to_its_context() -> None:
    made = random_made(4, (8,), False, 2).requires_grad_(False)
    given = torch.randn(3, 2, requires_grad=True)
    autoregress(made, affine_inverse, torch.randn(3, 4), given)[0].sum().backward()
    assert given.grad is not None
    assert given.grad.all()


def gradients(way: Callable, made: MADE, solve: Solve, given: Tensor | None) -> list[Tensor]:
    """Of a loss in values and log terms, by noise, context and weights."""
    torch.manual_seed(1)
    noise = torch.randn(7, made.features, requires_grad=True)
    wanted = [noise, *made.parameters()]
    if given is not None:
        wanted.append(given.requires_grad_())
    x, total = way(made, solve, noise, given)
    loss = (x.sin() * torch.arange(1.0, made.features + 1)).sum() + total.square().sum()
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return list(found)


def additive_inverse(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return Additive().inverse(noise, parameters)


@pytest.mark.parametrize("solve", [affine_inverse, additive_inverse])
@pytest.mark.parametrize("iterations", [0, 2, 64], ids="{}_iterations".format)
@NETS
def test_the_gradient_is_that_of_full_passes(
    features: int,
    hidden: Sequence[int],
    reverse: bool,
    n_context: int,
    iterations: int,
    solve: Solve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inversion, "MAX_ITERATIONS", iterations)
    made, given = random_made(features, hidden, reverse, n_context), context(7, n_context)
    plain = gradients(full_passes, made, solve, given)
    for fast, expected in zip(gradients(autoregress, made, solve, given), plain, strict=True):
        torch.testing.assert_close(fast, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("factor", [1e300, -1.0, float("nan")])
def test_iteration_that_overflows_or_goes_round_finds_nothing(factor: float) -> None:
    assert inversion.iterate(lambda v: v * factor, torch.ones(2, 80)) is None


def test_iteration_ends_where_nothing_changes() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    found = inversion.iterate(lambda v: rows, rows)
    assert found is not None
    assert torch.equal(found, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_passes_a_weak_link_on_to_strong_ones(dtype: torch.dtype) -> None:
    """x_i = z_i + 8 x_(i-1), but the last link is close to nothing; all seems settled early."""
    n = 12
    made = MADE(n, n_parameters=1, hidden=(n - 1,)).to(dtype)
    links = torch.full((n - 1,), 8.0).to(dtype)
    links[-1] = torch.finfo(dtype).eps / 4
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
        made.weights[0][:, :-1] = torch.eye(n - 1)
        made.weights[1][1:] = links.diag()
        made.biases[0].fill_(100.0)  # keeps relu linear
        made.biases[1][1:] = -100 * links
    found = []
    for way in (full_passes, autoregress):
        noise = torch.zeros(1, n, dtype=dtype, requires_grad=True)
        x, _ = way(made, additive_inverse, noise)
        found.append(torch.autograd.grad(x[0, -1], noise)[0])
    assert found[0][0, 0] > 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=0)


def test_second_derivatives_are_refused() -> None:
    noise = torch.randn(3, 6, requires_grad=True)
    x, _ = autoregress(random_made(6, (8,), False, 0), affine_inverse, noise)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(x.square().sum(), noise, create_graph=True)


@pytest.mark.parametrize("features", [3, 4])
def test_second_derivatives_of_few_dimensions_are_those_of_differences(features: int) -> None:
    made, noise = random_made(features, (8,), False, 0), torch.randn(1, features)
    direction = 1e-5 * torch.randn(features)

    def slopes(at: Tensor) -> Tensor:
        at = at.requires_grad_()
        x, log_det = autoregress(made, affine_inverse, at)
        return torch.autograd.grad(x.square().sum() + log_det.sum(), at, create_graph=True)[0]

    bent = torch.autograd.grad((slopes(noise)[0] * direction).sum(), noise)[0][0]
    differences = (slopes(noise.detach() + direction) - slopes(noise.detach() - direction))[0] / 2
    torch.testing.assert_close(bent, differences.detach(), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_place_are_the_same(name: str) -> None:
    x = torch.linspace(-5, 5, 101)
    expected, place = ACTIVATIONS[name](x), x.clone()
    assert torch.equal(IN_PLACE[name](place), expected)
    assert torch.equal(place, expected)


def test_dropout_takes_no_part_in_generation() -> None:
    made = MADE(6, hidden=(16,) * 3, residual=True, dropout=0.5).train()
    noise = torch.randn(3, 6)
    x, _ = autoregress(made, affine_inverse, noise)
    assert torch.equal(x, autoregress(made, affine_inverse, noise)[0])
    torch.testing.assert_close(x, incremental(made, affine_inverse, noise)[0])


def test_fast_generation_computes_each_dimension_once() -> None:
    made = random_made(4, (8,), True, 0)
    calls: list[Tensor] = []

    def solve(parameters: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        assert parameters.shape == (2, 3)
        calls.append(noise)
        return affine_inverse(parameters, noise)

    noise = torch.randn(3, 4)
    counted: Solve = solve
    incremental(made, counted, noise)
    assert torch.equal(torch.stack(calls, dim=1), noise.flip(1))


def test_masks_follow_a_later_load() -> None:
    """The masks are not in the state: the architecture says them, the file does not."""
    made, other = random_made(4, (8,), False, 0), random_made(4, (8,), True, 0)
    assert not any("mask" in key for key in made.state_dict())
    other.load_state_dict(made.state_dict())
    assert torch.equal(influence(other, None), influence(other, None).triu(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": ()}, "at least one hidden layer"),
        ({"activation": "rely"}, "activation: expected one of relu.*'rely'"),
        ({"init": "zero"}, "init: expected one of paper, near_zero; got 'zero'"),
    ],
)
def test_errors_say_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MADE(3, **arguments)
