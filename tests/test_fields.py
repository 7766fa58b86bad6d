"""Velocity fields: layers against their formulas, divergences against autograd's Jacobian."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from ode_cases import Generic
from oracles import close, jacobians, randomize
from torch import Tensor, nn

import nfbench.nets.mlp_field
from nfbench.nets.field import Field
from nfbench.nets.mlp_field import SLOPES, MLPField, softplus
from nfbench.nets.time_layers import LAYERS

pytestmark = pytest.mark.usefixtures("float64")

D, B, N_CONTEXT = 4, 3, 2
DEPTHS = [(), (5,), (5, 6), (5, 6, 7), (5, 6, 7, 8)]
KINDS = pytest.mark.parametrize("layer", LAYERS)


def field(layer: str = "concatsquash", **options: object) -> MLPField:
    built = MLPField(D, **{"hidden": (5, 6), "layer": layer, **options})
    randomize(built)
    return built


def inputs(context: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    return torch.rand(()), torch.randn(B, D), torch.randn(B, context) if context else None


def layer_by_layer(net: MLPField, t: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
    """The same network, each layer as its paper's formula has it."""
    layers, h = net.layers, x
    splits = [0, *torch.tensor(layers.sizes).cumsum(0).tolist()]
    for i, (first, last) in enumerate(pairwise(splits)):
        part = slice(first, last)
        linear = F.linear(h, layers.weights[i], layers.bias[part])
        match net.layers.__class__.__name__:
            case "Ignore":
                out = linear
            case "Concat":
                weight = torch.cat([layers.time[part, None], layers.weights[i]], 1)
                out = F.linear(F.pad(h, (1, 0), value=t.item()), weight, layers.bias[part])
            case "Squash":
                out = linear * torch.sigmoid(layers.gate_time[part] * t + layers.gate_bias[part])
            case "ConcatSquash":
                gate = torch.sigmoid(layers.gate_time[part] * t + layers.gate_bias[part])
                out = linear * gate + layers.time[part] * t
            case "Blend":
                other = F.linear(h, layers.last_weights[i], layers.last_bias[part])
                out = linear + (other - linear) * t
            case "Hyper":
                unit = torch.tanh(layers.unit_time[i] * t + layers.unit_bias[i])
                weight = layers.weights[i] + layers.weight_units[i] @ unit
                out = F.linear(h, weight, layers.bias[part] + layers.bias_units[part] @ unit)
        if context is not None:
            out = out + F.linear(context, net.context_weight[part])
        h = out if i == len(layers.sizes) - 1 else getattr(F, net.activation)(out)
    return h


@KINDS
@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("context", [0, N_CONTEXT])
def test_velocities_are_those_of_the_formulas(layer: str, activation: str, context: int) -> None:
    net = field(layer, activation=activation, context_features=context)
    t, x, given = inputs(context)
    expected = layer_by_layer(net, t, x, given)
    close(net(t, x, given), expected)
    close(net.vjp(t, x, torch.randn(2, B, D), given)[0], expected)
    close(net.divergence(t, x, None, given)[0], expected)


@KINDS
@pytest.mark.parametrize("context", [0, N_CONTEXT])
@pytest.mark.parametrize("way", [lambda net: net, Generic], ids=["by hand", "any field"])
def test_each_row_has_the_velocity_of_its_own_time(
    layer: str, context: int, way: type[Generic]
) -> None:
    net = field(layer, context_features=context)
    times, (_, x, given) = torch.rand(B), inputs(context)
    expected = [
        layer_by_layer(net, times[i], x[i, None], None if given is None else given[i, None])
        for i in range(B)
    ]
    found = way(net).at_times(times, x, given)
    close(found, torch.cat(expected))
    leaves, loss = list(net.parameters()), torch.randn(B, D)
    pairs = zip(
        torch.autograd.grad((found * loss).sum(), leaves),
        torch.autograd.grad((torch.cat(expected) * loss).sum(), leaves),
        strict=True,
    )
    for mine, theirs in pairs:
        close(mine, theirs)


@pytest.mark.parametrize("layer", ["ignore", "concat", "squash", "concatsquash"])
def test_rows_with_times_of_their_own_share_the_weights(layer: str) -> None:
    """What autograd keeps grows with the rows by numbers of a layer, not by those of a weight."""
    net, n_rows = field(layer, hidden=(32, 32)), 50
    x = torch.randn(n_rows, D)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        velocity = net.at_times(torch.rand(n_rows), x)
    n_outputs = sum(net.layers.sizes)
    assert velocity.shape == (n_rows, D)
    assert sum(kept.values()) < 8 * n_rows * n_outputs < n_rows * net.layers.weights[1].numel()


@KINDS
@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("hidden", DEPTHS)
@pytest.mark.parametrize("room", [1, 2**16])
def test_divergences_are_exact(
    layer: str,
    activation: str,
    hidden: tuple[int, ...],
    room: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nfbench.nets.mlp_field, "IN_CACHE", room)
    net = field(layer, activation=activation, hidden=hidden)
    t, x, _ = inputs()
    expected = jacobians(lambda rows: net(t, rows), x).diagonal(dim1=1, dim2=2).sum(1)
    for way in (net, Generic(net)):
        close(way.divergence(t, x)[1], expected)


@KINDS
@pytest.mark.parametrize("hidden", DEPTHS)
def test_products_with_the_jacobian_are_its(layer: str, hidden: tuple[int, ...]) -> None:
    net = field(layer, hidden=hidden, context_features=N_CONTEXT)
    t, x, context = inputs(N_CONTEXT)
    probes = torch.randn(2, B, D)
    rows = torch.cat([context, x], 1)
    jacobian = jacobians(lambda r: F.pad(net(t, r[:, 2:], r[:, :2]), (2, 0)), rows)[:, 2:, 2:]
    for way in (net, Generic(net)):
        close(way.vjp(t, x, probes, context)[1], torch.einsum("kbi,bij->kbj", probes, jacobian))


@pytest.mark.parametrize("way", [lambda net: net, Generic], ids=["by hand", "autograd"])
def test_orthogonal_probes_give_the_exact_divergence(way: type[Generic]) -> None:
    """The columns of a Hadamard matrix are Rademacher vectors; D of them are a basis."""
    net = field()
    t, x, _ = inputs()
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
    probes = signs.unsqueeze(1).expand(D, B, D)
    close(way(net).divergence(t, x, probes)[1], net.divergence(t, x)[1])


@pytest.mark.parametrize("noise", [torch.randn, lambda *n: torch.randint(2, n) * 2.0 - 1])
def test_estimates_are_unbiased(noise: type[torch.Tensor]) -> None:
    net = field()
    t, x, _ = inputs()
    draws = noise(4000, B, D)
    _, rows = net.vjp(t, x, draws)
    each = (rows * draws).sum(2)
    error = (each.mean(0) - net.divergence(t, x)[1]).abs()
    assert (error < 4 * each.std(0) / len(draws) ** 0.5).all()
    close(net.divergence(t, x, draws)[1], each.mean(0))


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("n_probes", [0, 1, 3])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 6, 7)])
def test_gradients_of_a_divergence_by_hand_are_those_of_autograd(
    activation: str, hidden: tuple[int, ...], n_probes: int
) -> None:
    net = field(activation=activation, hidden=hidden, context_features=N_CONTEXT)
    t, x, context = inputs(N_CONTEXT)
    probes = torch.randn(n_probes, B, D) if n_probes else None
    leaves = [x.requires_grad_(), context.requires_grad_(), *net.parameters()]
    found = []
    for way in (net, Generic(net)):
        velocity, divergence = way.divergence(t, x, probes, context)
        loss = (velocity * torch.linspace(1, 2, D)).sum() + divergence.square().sum()
        if n_probes:
            loss = loss + way.vjp(t, x, probes, context)[1].square().sum()
        found.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    for mine, expected in zip(*found, strict=True):
        close(mine, expected)
        assert expected.any() or not hidden


@pytest.mark.parametrize("activation", SLOPES)
def test_values_and_slopes(activation: str) -> None:
    p = torch.linspace(-3, 3, 7, requires_grad=True)
    expected = getattr(F, activation)(p)
    slopes = torch.autograd.grad(expected.sum(), p, create_graph=True)[0]
    with torch.no_grad():
        fast = SLOPES[activation](p)
    for value, slope in (fast, SLOPES[activation](p)):
        close(value, expected)
        close(slope, slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_is_stable(dtype: torch.dtype) -> None:
    p = torch.tensor([-1e30, -200, -50, -1e-3, 0, 1e-3, 20, 50, 200, 1e30], dtype=dtype)
    value, slope = softplus(p)
    eps = torch.finfo(dtype).eps
    expected = torch.logaddexp(p.double(), torch.zeros_like(p.double()))
    torch.testing.assert_close(value.double(), expected, rtol=2 * eps, atol=2 * eps)
    torch.testing.assert_close(slope, torch.sigmoid(p), rtol=0, atol=0)


def test_generic_derivatives_keep_no_graph_where_none_is_wanted() -> None:
    net = Generic(field())
    t, x, _ = inputs()
    with torch.no_grad():
        for found in (*net.divergence(t, x), *net.vjp(t, x, torch.ones(1, B, D))):
            assert not found.requires_grad
    assert all(found.requires_grad for found in net.divergence(t, x))


def test_a_constant_velocity_has_no_divergence() -> None:
    class Drift(Field):
        def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.ones_like(x)

    t, x, _ = inputs()
    assert not Drift().divergence(t, x)[1].any()
    assert not Drift().divergence(t, x, torch.ones(1, B, D))[1].any()


def test_generic_divergences_of_images() -> None:
    class Convolution(Field):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.tanh(self.net(x)) * t

    net, t, x = Convolution(), torch.rand(()), torch.randn(B, 2, 3, 2)
    expected = jacobians(lambda rows: net(t, rows), x).diagonal(dim1=1, dim2=2).sum(1)
    close(net.divergence(t, x)[1], expected)


@KINDS
def test_layers_start_as_the_authors_do(layer: str) -> None:
    net = MLPField(64, hidden=(128,), layer=layer)
    first = net.layers.weights[0]
    bound = (64 + (layer == "concat")) ** -0.5
    if layer == "hyper":
        assert 0.009 < first.std() < 0.011
        assert not net.layers.weight_units[0].any()
    else:
        assert 0.95 * bound < first.abs().max() <= bound
        assert net.layers.bias[:128].abs().max() <= bound


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"layer: expected one of ignore, .*; got 'gru'"):
        MLPField(2, hidden=(3,), layer="gru")
    with pytest.raises(ValueError, match="activation: expected one of softplus, tanh; got 'relu'"):
        MLPField(2, hidden=(3,), activation="relu")
    with pytest.raises(ValueError, match="context: expected a tensor"):
        field(context_features=2)(*inputs()[:2])
    with pytest.raises(ValueError, match="unconditional"):
        field()(*inputs()[:2], torch.zeros(B, 1))
