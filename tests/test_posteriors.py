"""Every flow of vectors as the posterior of an autoencoder: trained from noise to data."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flow_cases import IGNORES_CONTEXT, NEEDS_TWO_DIMENSIONS, SMALL, SMALLER, VARIANTS, VECTORS
from oracles import randomize
from torch import Tensor, nn

from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.flows.posterior import check_posterior
from nfbench.nets.amortized import Amortized

pytestmark = pytest.mark.usefixtures("float64")

FEATURES, B = 5, 3
STEP = 1e-5  # of the central differences
# What makes a posterior of a flow whose defaults do not.
SUITED: dict[str, dict[str, Any]] = {
    "maf": {"batch_norm": False},
    "realnvp": {"batch_norm": False},
    "realnvp_shared": {"batch_norm": False},
    "nice": {"prior": "gaussian"},
    "nice_gaussian_orthogonal": {},
}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    **VARIANTS,
    "sylvester_sampling": ("sylvester", {"fast": "sampling"}),
    "sylvester_householder": ("sylvester", {"kind": "householder", "fast": "sampling"}),
    "sylvester_triangular": ("sylvester", {"kind": "triangular", "fast": "sampling"}),
    "ffjord_low_rank": ("ffjord", {"amortized_rank": 2}),
}
ACTNORM = "got ActNorm, which starts from the first batch of data; realnvp with batch_norm=fal"
# No setting makes a posterior of these; what to take instead is said in the error.
REFUSED = {
    "gaussian": "got Whiten, which is fitted to data; flow identity",
    "made_mog": "standard normal base, .* got AutoregressiveMixture",
    "maf_mog": "standard normal base, .* got AutoregressiveMixture",
    "glow": ACTNORM,
    "glow_lu": ACTNORM,
    "glow_permutation": ACTNORM,
}
POSTERIORS = [name for name in [*VECTORS, *FURTHER] if name not in REFUSED]
EVERY = pytest.mark.parametrize("name", POSTERIORS)
SIZES = pytest.mark.parametrize("features", [4, 6])  # MADEs invert in another way above 4


def build(name: str, features: int, n_context: int = FEATURES, **more: Any) -> Flow:
    recipe, chosen = FURTHER.get(name, (name, {}))
    accepted = inspect.signature(FLOWS[recipe]).parameters
    wanted = SMALL | SMALLER.get(recipe, {}) | SUITED.get(name, {}) | chosen | more
    return FLOWS[recipe](
        [features],
        context_features=n_context,
        **{key: value for key, value in wanted.items() if key in accepted},
    )


def posterior(name: str, features: int) -> Flow:
    flow = build(name, features)
    check_posterior(flow)
    randomize(flow, 0.5)
    return flow.train()


def encoded(features: int) -> list[Tensor]:
    """mu, log sigma, noise (B, D) and the context (B, FEATURES)."""
    shapes = [features] * 3 + [FEATURES]
    return [0.7 * torch.randn(B, n) for n in shapes]


def drawn(flow: Flow, given: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """z_K and log q(z_K | x), as an autoencoder computes them."""
    mu, log_sigma, noise, context = given
    z, log_det = flow.transform.inverse(mu + log_sigma.exp() * noise, context)
    normal = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_sigma
    return z, normal.sum(1) - log_det


def value(flow: Flow, given: Sequence[Tensor]) -> Tensor:
    """E[log q(z | x) - log p(x, z)], with something in place of the decoder."""
    z, log_q = drawn(flow, given)
    weights = torch.linspace(1, 2, z.shape[1])
    return (log_q + 0.5 * z.square().sum(1) + (z.sin() * weights).sum(1)).mean()


def test_every_flow_is_a_posterior_or_refused() -> None:
    assert set(POSTERIORS) | set(REFUSED) >= set(VECTORS)
    assert set(SUITED) <= set(POSTERIORS)
    assert not set(REFUSED) & set(SUITED)


@EVERY
@SIZES
def test_gradients_are_those_of_finite_differences(name: str, features: int) -> None:
    flow, given = posterior(name, features), encoded(features)
    parameters = [p for p in flow.transform.parameters() if p.requires_grad]
    leaves = [given[i].requires_grad_() for i in (0, 1, 3)] + parameters
    gradients = torch.autograd.grad(
        value(flow, given), leaves, allow_unused=True, materialize_grads=True
    )
    named = dict(zip(map(id, flow.parameters()), dict(flow.named_parameters()), strict=True))
    for leaf, gradient in zip(leaves, gradients, strict=True):
        direction = torch.randn_like(leaf)
        with torch.no_grad():
            leaf += STEP * direction
            above = value(flow, given)
            leaf -= 2 * STEP * direction
            below = value(flow, given)
            leaf += STEP * direction
        expected = (above - below) / (2 * STEP)
        torch.testing.assert_close(
            (gradient * direction).sum(),
            expected,
            rtol=1e-5,
            atol=1e-7,
            msg=lambda m, leaf=leaf: f"{named.get(id(leaf), 'encoder')}: {m}",
        )
    assert gradients[0].any() and gradients[1].any()
    assert gradients[2].any() == (name not in IGNORES_CONTEXT)


@EVERY
@SIZES
def test_the_density_of_a_draw_and_its_gradient_are_those_of_the_other_direction(
    name: str, features: int
) -> None:
    """log q(z_K | x) = log N(z_0) + log|det dz_0/dz_K|, along the z_K that moves with all else."""
    flow, given = posterior(name, features), encoded(features)
    leaves = [given[i].requires_grad_() for i in (0, 1, 3)] + [
        p for p in flow.transform.parameters() if p.requires_grad
    ]
    mu, log_sigma, _, context = given
    z, log_q = drawn(flow, given)
    z_0, log_det = flow.transform(z, context)
    scaled = (z_0 - mu) / log_sigma.exp()
    normal = -0.5 * (scaled.square() + math.log(2 * math.pi)) - log_sigma
    other = normal.sum(1) + log_det
    torch.testing.assert_close(log_q, other, rtol=1e-7, atol=1e-7)
    found = [
        torch.autograd.grad(
            each.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for each in (log_q, other)
    ]
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)


@EVERY
def test_the_density_of_a_sample_is_that_of_the_flow(name: str) -> None:
    """With mu = 0 and sigma = 1 the posterior is the flow itself."""
    flow, context = posterior(name, 4), torch.randn(B, FEATURES)
    noise = torch.randn(B, 4)
    zeros = torch.zeros(B, 4)
    z, log_q = drawn(flow, [zeros, zeros, noise, context])
    torch.testing.assert_close(flow.log_prob(z, context), log_q, rtol=1e-7, atol=1e-7)


@EVERY
def test_a_step_of_training_moves_every_parameter(name: str) -> None:
    """All parameters are finite after it, in float32, as recipes start them."""
    torch.set_default_dtype(torch.float32)
    flow = build(name, 6, atol=1e-5, rtol=1e-5)
    given = encoded(6)
    loss = value(flow, given)
    assert loss.isfinite()
    parameters = [p for p in flow.parameters() if p.requires_grad]
    if not parameters:
        assert name in IGNORES_CONTEXT
        return
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


@pytest.mark.parametrize("name", REFUSED)
def test_a_flow_that_needs_data_or_another_base_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^posterior: expected .*{REFUSED[name]}"):
        check_posterior(build(name, 4, batch_norm=False))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("maf", {"batch_norm": True}, "got BatchNorm, .* set batch_norm=false"),
        ("realnvp", {"batch_norm": True}, "got BatchNorm, .* set batch_norm=false"),
        ("ffjord", {"batch_norm": True}, "got BatchNorm, .* set batch_norm=false"),
        ("nice", {"prior": "logistic"}, "got Logistic; nice takes prior=gaussian"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_posterior(build(name, 4, **arguments))
    check_posterior(build(name, 4, batch_norm=False, prior="gaussian"))


def test_images_with_running_statistics_are_refused() -> None:
    flow = FLOWS["realnvp_image"]((1, 4, 4), scales=1, blocks=1, features=3)
    with pytest.raises(ValueError, match="got RunningNorm, which takes statistics from data"):
        check_posterior(flow)


def test_what_is_refused_would_go_wrong() -> None:
    """Batch norm in training: the sampled density is not that which the other way gives."""
    flow = build("maf", 4, batch_norm=True)
    randomize(flow)
    noise, context = torch.randn(B, 4), torch.randn(B, FEATURES)
    z, log_det = flow.train().transform.inverse(noise, context)
    assert not torch.allclose(flow.transform(z, context)[1], -log_det)


def test_two_dimensions_are_enough_for_all_that_need_two() -> None:
    for name in NEEDS_TWO_DIMENSIONS - set(REFUSED):
        check_posterior(build(name, 2))


@pytest.mark.parametrize("n_features", [4, 256])
def test_amortized_numbers_start_alike_whatever_the_context_has(n_features: int) -> None:
    numbers = Amortized(torch.linspace(-1, 1, 50), context_features=n_features)
    added = numbers(torch.randn(2000, n_features)) - numbers.value
    assert added.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("name", ["planar", "radial", "sylvester"])
def test_a_fresh_amortized_flow_is_close_to_that_without_a_context(name: str) -> None:
    flow = FLOWS[name]([32], context_features=256, layers=8, fast="sampling")
    z, context = torch.randn(50, 32), torch.randn(50, 256)
    moved, alone = (flow.transform.inverse(z, h)[0] for h in (context, 0 * context))
    assert 0 < (moved - alone).norm() < 0.1 * z.norm()


def test_parameters_of_every_posterior_are_in_its_transform() -> None:
    """What an autoencoder trains: of the base nothing is used."""
    for name in POSTERIORS:
        flow: nn.Module = build(name, 4)
        assert list(flow.parameters()) == list(flow.transform.parameters())
