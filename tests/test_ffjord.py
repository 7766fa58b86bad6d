"""FFJORD: what its recipes are made of, and its densities by autograd."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import check_contract, check_gradients, check_log_det, close, jacobians, randomize
from torch import Tensor, nn

from nfbench.flows.ffjord import ffjord, ffjord_image
from nfbench.flows.flow import Flow
from nfbench.nets.conv_field import ConvField
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.multiscale import MultiScale
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.ode import ODE, count_nfe
from nfbench.transforms.squeeze import Squeeze
from nfbench.transforms.tolerance import Tolerance

pytestmark = pytest.mark.usefixtures("float64")

N_CONTEXT = 2
TIGHT = {"T": 0.2, "atol": 1e-11, "rtol": 1e-11, "gradient": "replay", "trace": "exact"}
# In so short a time the error of a step of the method of order 4 is that of rounding.
STEPS = {
    "T": 0.028,
    "solver": "rk4",
    "step_size": 0.015,
    "gradient": "autograd",
    "trace": "exact",
}
CONTEXTS = pytest.mark.parametrize("n_context", [0, N_CONTEXT], ids=["", "context"])


def odes(flow: Flow) -> list[ODE]:
    return [part for part in flow.modules() if isinstance(part, ODE)]


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def vectors(n_context: int = 0, **arguments: object) -> Flow:
    flow = ffjord([3], context_features=n_context, blocks=2, hidden=(5,), **{**TIGHT, **arguments})
    randomize(flow.eval())
    return flow


def images(n_context: int = 0, shape: tuple[int, ...] = (1, 2, 4), **arguments: object) -> Flow:
    settings = {"scales": 2, "blocks": 1, "hidden": (3,), **STEPS, **arguments}
    flow = ffjord_image(shape, context_features=n_context, **settings)
    for ode in odes(flow):
        randomize(ode.field)
    return flow.eval()


def context(n: int, n_context: int) -> Tensor | None:
    return torch.randn(n, n_context) if n_context else None


# Recipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "blocks", "hidden", "n_context"),
    [(6, 5, (60, 60, 60), 0), (43, 1, (86, 86), 0), (3, 2, (5,), 4)],
)
def test_vectors_have_as_many_odes_as_blocks_each_with_a_network_and_a_time(
    dims: int, blocks: int, hidden: tuple[int, ...], n_context: int
) -> None:
    flow = ffjord([dims], context_features=n_context, blocks=blocks, hidden=hidden)
    widths = [dims, *hidden, dims]
    # Weights; for each unit a bias, a shift by t, a gate by t with a bias, and the context's.
    layers = pairwise(widths)
    network = sum(n_out * (n_in + 4 + n_context) for n_in, n_out in layers)
    assert len(odes(flow)) == len(list(flow.transform.parts)) == blocks
    assert n_parameters(flow) == blocks * (network + 1)
    assert len({id(ode.field) for ode in odes(flow)}) == blocks


def test_the_defaults_of_vectors_are_those_of_the_code() -> None:
    (ode,) = odes(ffjord([2]))
    assert (ode.solver, ode.gradient, ode.trace, ode.noise) == (
        "dopri5",
        "adjoint",
        "hutchinson",
        "gaussian",
    )
    assert (ode.tolerance.atol, ode.tolerance.rtol) == (1e-5, 1e-5)
    assert isinstance(ode.sqrt_T, nn.Parameter) and ode.sqrt_T == 1
    assert ode.adjoint_tolerance == ode.tolerance
    (fixed,) = odes(ffjord([2], T=0.25, train_T=False))
    assert not isinstance(fixed.sqrt_T, nn.Parameter) and fixed.sqrt_T == 0.5


@pytest.mark.parametrize(
    "build", [lambda **a: ffjord([2], **a), lambda **a: ffjord_image((1, 4, 4), **a)]
)
def test_the_norm_is_that_of_all_solves(build: Callable[..., Flow]) -> None:
    for ode in odes(build(norm="max", adjoint_rtol=1e-2)):
        assert ode.tolerance == Tolerance(1e-5, 1e-5, "max")
        assert ode.adjoint_tolerance == Tolerance(1e-5, 1e-2, "max")
    assert odes(build())[0].tolerance.norm == "rms"


@pytest.mark.parametrize(
    "build", [lambda **a: ffjord([2], **a), lambda **a: ffjord_image((1, 4, 4), **a)]
)
def test_the_adjoint_can_be_solved_to_other_tolerances(build: Callable[..., Flow]) -> None:
    for ode in odes(build(atol=1e-6, rtol=1e-4, adjoint_atol=1e-3, adjoint_rtol=1e-2)):
        assert (ode.tolerance, ode.adjoint_tolerance) == (
            Tolerance(1e-6, 1e-4),
            Tolerance(1e-3, 1e-2),
        )
    (ode, *_) = odes(build(atol=1e-6, rtol=1e-4, adjoint_rtol=1e-2))
    assert ode.adjoint_tolerance == Tolerance(1e-6, 1e-2)


def test_batch_norm_stands_before_the_first_and_after_each() -> None:
    parts = ffjord([3], blocks=2, hidden=(4,), batch_norm=True).transform.parts
    assert [type(part) for part in parts] == [BatchNorm, ODE, BatchNorm, ODE, BatchNorm]
    flow = vectors(batch_norm=True)
    x = torch.randn(64, 3).cumsum(1) + 1
    flow.calibrate(x)
    assert not torch.equal(flow.transform.parts[0].mean, torch.zeros(3))
    check_log_det(flow.transform, x[:2])


def test_couplings_stand_after_each_and_map_either_half_in_turn() -> None:
    parts = ffjord([5], blocks=2, hidden=(4,), couplings=3, batch_norm=True).transform.parts
    kinds = [ODE, Coupling, Coupling, Coupling, BatchNorm]
    assert [type(part) for part in parts] == [BatchNorm, *kinds, *kinds]
    fixed = [part.split(torch.zeros(1, 5))[0].shape[1] for part in parts if type(part) is Coupling]
    assert fixed == [3, 2, 3, 2, 3, 2]
    with pytest.raises(ValueError, match="ffjord, couplings: expected at least 2 dimensions"):
        ffjord([1], couplings=1)


def test_odes_and_couplings_in_turn_keep_the_contract() -> None:
    flow = vectors(couplings=1)
    assert (flow.transform.passes, flow.transform.inverse_passes, flow.likelihood) == (
        2,
        2,
        "exact",
    )
    check_contract(flow.transform, torch.randn(2, 3), torch.randn(2, 3))


def test_evaluations_of_odes_between_couplings_are_counted() -> None:
    flow = vectors(couplings=2, atol=1e-5, rtol=1e-5).train()
    fields = [ode.field for ode in odes(flow)]
    calls: list[str] = []
    for field in fields:
        # The exact trace, and in samples the velocity alone, are one evaluation each.
        for name in ("divergence", "forward"):
            way = getattr(field, name)

            def counted(*given: object, way: object = way, name: str = name) -> object:
                calls.append(name)
                return way(*given)

            setattr(field, name, counted)
    (-flow.log_prob(torch.randn(8, 3)).mean()).backward()
    counts = count_nfe(flow, reset=True)
    assert counts["forward"][0] == counts["backward"][0] == len(fields) == 2
    assert counts["forward"][1] + counts["backward"][1] == len(calls) > 20
    # The second of the six stages of a step leads on, but its trace has no weight.
    assert 5 * calls.count("forward") < calls.count("divergence")
    calls.clear()
    with torch.no_grad():
        flow.eval().sample(8)
    assert count_nfe(flow)["sampling"] == (2, calls.count("forward"))
    assert "divergence" not in calls


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((1, 28, 28), [(1, 4), (2, 8), (4,)]),
        ((3, 32, 32), [(3, 12), (6, 24), (12, 48), (24,)]),
        ((2, 4, 8), [(2,)]),
    ],
)
def test_images_have_a_scale_for_each_halving_down_to_sides_of_4(
    shape: tuple[int, ...], channels: list[tuple[int, ...]]
) -> None:
    hidden, blocks = (64, 64, 64), 2
    flow = ffjord_image(shape, hidden=hidden, blocks=blocks)
    assert isinstance(flow.transform, MultiScale)
    expected = 0
    for level, level_channels in zip(flow.transform.levels, channels, strict=True):
        kinds = [ODE] * blocks
        kinds += [Squeeze, *kinds] if len(level_channels) == 2 else []
        assert [type(part) for part in level.parts] == kinds
        for c in level_channels:
            widths = [c, *hidden, c]
            layers = pairwise(widths)
            expected += blocks * (1 + sum(o * (9 * (i + 1) + 1) for i, o in layers))
    assert n_parameters(flow) == expected


def test_scales_can_be_chosen() -> None:
    assert len(ffjord_image((1, 8, 8), scales=1).transform.levels) == 1
    assert len(ffjord_image((1, 8, 8), scales=3).transform.levels) == 3
    assert len(odes(ffjord_image((1, 8, 8), scales=3, blocks=1))) == 5


@pytest.mark.parametrize(
    ("shape", "scales"), [((5,), None), ((1, 30, 30), None), ((1, 6, 6), 3), ((2, 3, 3, 3), 1)]
)
def test_images_whose_sides_cannot_be_halved_so_often_are_refused(
    shape: tuple[int, ...], scales: int | None
) -> None:
    with pytest.raises(ValueError, match="ffjord_image: expected images"):
        ffjord_image(shape, scales=scales)


def test_no_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a scale or more"):
        ffjord_image((1, 3, 8))
    with pytest.raises(ValueError, match="scales: expected at least 1, got 0"):
        ffjord_image((1, 8, 8), scales=0)


# Densities --------------------------------------------------------------------------------------


@CONTEXTS
def test_vectors_keep_the_contract(n_context: int) -> None:
    flow, given = vectors(n_context), context(2, n_context)
    check_contract(flow.transform, torch.randn(2, 3), torch.randn(2, 3), given)


@CONTEXTS
def test_images_keep_the_contract(n_context: int) -> None:
    flow, given = images(n_context), context(2, n_context)
    check_contract(flow.transform, torch.randn(2, 1, 2, 4), torch.randn(2, 8), given)


def test_a_single_scale_keeps_the_contract() -> None:
    flow = images(shape=(2, 1, 3), scales=1, blocks=2)
    check_contract(flow.transform, torch.randn(2, 2, 1, 3), torch.randn(2, 6))


@CONTEXTS
def test_log_prob_of_images_is_that_of_the_noise_and_autograds_log_det(n_context: int) -> None:
    flow, given, x = images(n_context), context(2, n_context), torch.randn(2, 1, 2, 4)
    z = flow.transform(x, given)[0]
    log_det = torch.linalg.slogdet(jacobians(lambda rows: flow.transform(rows, given)[0], x))[1]
    assert log_det.abs().min() > 1e-2
    normal = -0.5 * (z.square().sum(1) + 8 * math.log(2 * math.pi))
    close(flow.log_prob(x, given), normal + log_det)


def test_adaptive_steps_give_images_the_same_density_as_fixed_ones() -> None:
    fixed = images()
    adaptive = images(solver="dopri5", step_size=None, atol=1e-11, rtol=1e-11, gradient="replay")
    adaptive.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 1, 2, 4)
    with torch.no_grad():
        close(adaptive.log_prob(x), fixed.log_prob(x))


@CONTEXTS
def test_gradient_reaches_every_parameter_of_a_training_step(n_context: int) -> None:
    for flow, shape in (
        (vectors(n_context, trace="hutchinson", atol=1e-5, rtol=1e-5, couplings=1), (3,)),
        (images(n_context, trace="hutchinson"), (1, 2, 4)),
    ):
        x, given = torch.randn(8, *shape), context(8, n_context)
        check_gradients(flow.train(), -flow.log_prob(x, given).mean())
        assert count_nfe(flow)["forward"][0] == len(odes(flow))


# What is claimed of the likelihood --------------------------------------------------------------


def test_the_likelihood_is_exact_where_the_trace_is() -> None:
    assert ffjord([100]).likelihood == "exact"
    assert ffjord([101]).likelihood == "estimate"
    assert ffjord([101], exact_dims=101).likelihood == "exact"
    assert ffjord([101], trace="exact").likelihood == "exact"
    assert ffjord_image((1, 4, 4)).likelihood == "estimate"
    assert ffjord_image((1, 4, 4), trace="exact").likelihood == "exact"


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
def test_the_estimate_of_images_scatters_around_the_exact_density(noise: str) -> None:
    n = 2000
    flow = images(noise=noise, trace="hutchinson")
    exact = images()
    exact.load_state_dict(flow.state_dict())
    x = torch.randn(1, 1, 2, 4)
    with torch.no_grad():
        values, expected = flow.log_prob(x.expand(n, -1, -1, -1)), exact.log_prob(x)
    assert values.std() > 1e-3
    assert abs(values.mean() - expected) < 4 * values.std() / n**0.5


# The field --------------------------------------------------------------------------------------


@CONTEXTS
def test_a_field_of_convolutions_has_the_time_as_a_channel(n_context: int) -> None:
    """Written out: a channel t in front of each convolution, and what the context adds."""
    field = ConvField(2, hidden=(5, 4), context_features=n_context)
    randomize(field)
    t, x, given = torch.tensor(0.3), torch.randn(3, 2, 4, 5), context(3, n_context)
    h = x
    for i in range(3):
        h = F.softplus(h) if i else h
        h = torch.cat([h, torch.full((3, 1, 4, 5), 0.3)], dim=1)
        weight = torch.cat([field.weights[i], field.time_weights[i]], dim=1)
        h = F.conv2d(h, weight, field.biases[i], padding=1)
        if given is not None:
            start = sum(field.sizes[:i])
            rows = field.context_weight[start : start + field.sizes[i]]
            h = h + (given @ rows.t())[:, :, None, None]
    close(field(t, x, given), h)


def test_the_divergence_of_convolutions_is_the_trace_of_the_jacobian() -> None:
    field, t, x = ConvField(2, hidden=(4,)), torch.tensor(0.7), torch.randn(2, 2, 2, 3)
    jacobian = jacobians(lambda rows: field(t, rows), x)
    velocity, divergence = field.divergence(t, x)
    close(velocity, field(t, x))
    close(divergence, jacobian.diagonal(dim1=1, dim2=2).sum(1))
    probes = torch.randn(2, *x.shape)
    rows = field.vjp(t, x, probes)[1]
    close(rows.flatten(2), torch.einsum("kbi,bij->kbj", probes.flatten(2), jacobian))


def test_convolutions_start_as_torchs_do() -> None:
    field = ConvField(3, hidden=(64,))
    for weight, time, bias in zip(field.weights, field.time_weights, field.biases, strict=True):
        bound = (9 * (weight.shape[1] + 1)) ** -0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        assert max(time.abs().max(), bias.abs().max()) <= bound
    assert MLPField(3, hidden=(4,)).n_dims == 3 and field.n_dims is None


def test_an_activation_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="activation: expected one of"):
        ffjord_image((1, 4, 4), activation="sine")
