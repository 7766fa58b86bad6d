"""Real NVP for images: its nets, its batch norm, which pixels go where, and its density."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import write_table
from oracles import check_contract, check_gradients, close, randomize, through_file
from torch import Tensor, nn

from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.flows.flow import Flow
from nfbench.flows.realnvp import realnvp_image
from nfbench.nets.channel_norm import ChannelNorm
from nfbench.nets.realnvp_net import RealNVPNet
from nfbench.nets.weight_norm import WeightNormConv
from nfbench.training import build_module, build_schedule
from nfbench.transforms.base import Transform
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.masked import MaskedCoupling, checkerboard
from nfbench.transforms.multiscale import MultiScale
from nfbench.transforms.running_norm import RunningNorm

pytestmark = pytest.mark.usefixtures("float64")

N_CONTEXT = 2
EPS = 1e-4
ODD_CHANNELS = torch.tensor([False, True, False, True]).view(-1, 1, 1)
BOTH_MASKS = pytest.mark.parametrize(
    "mapped", [checkerboard((3, 4)), ODD_CHANNELS], ids=["checkerboard", "channels"]
)
WITH_AND_WITHOUT_NORM = pytest.mark.parametrize("batch_norm", [True, False])


@torch.no_grad()
def randomize_all(module: nn.Module) -> None:
    """Random parameters and running statistics, evaluation mode."""
    randomize(module.eval())
    for part in module.modules():
        if isinstance(part, ChannelNorm | RunningNorm):
            part.mean.normal_()
            part.var.uniform_(0.5, 2)


def small(shape: tuple[int, ...] = (1, 4, 4), **arguments: object) -> Flow:
    return realnvp_image(shape, **({"scales": 2, "blocks": 1, "features": 3} | arguments))


def random_flow(shape: tuple[int, ...] = (1, 4, 4), **arguments: object) -> Flow:
    flow = small(shape, **arguments)
    randomize_all(flow)
    return flow


def levels(flow: Flow) -> list[list[Transform]]:
    assert isinstance(flow.transform, MultiScale)
    return [list(level.transforms) for level in flow.transform.levels]


@BOTH_MASKS
def test_the_norm_keeps_the_contract_of_transforms(mapped: Tensor) -> None:
    norm = RunningNorm(4, mapped, eps=EPS)
    randomize_all(norm)
    check_contract(norm, torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3, 4))


@BOTH_MASKS
def test_in_training_the_norm_takes_statistics_of_the_batch_with_zeros_for_what_is_fixed(
    mapped: Tensor,
) -> None:
    norm, x = RunningNorm(4, mapped, eps=EPS), 3 * torch.randn(5, 4, 3, 4) + 2
    z, log_det = norm(x)
    where = (mapped > 0).expand(4, 3, 4)
    expected, expected_log_det = x.clone(), torch.zeros(())
    for c in range(4):
        values = torch.where(where[c], x[:, c], torch.zeros(())).flatten().tolist()
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / len(values)
        normalized = (x[:, c] - mean) / (var + EPS) ** 0.5
        expected[:, c] = torch.where(where[c], normalized, x[:, c])
        expected_log_det -= 0.5 * int(where[c].sum()) * torch.tensor(var + EPS).log()
    close(z, expected)
    close(log_det, expected_log_det.expand(5))
    assert torch.equal(z[:, ~where], x[:, ~where])


def test_the_zeros_of_a_checkerboard_count() -> None:
    norm = RunningNorm(1, checkerboard((4, 4)), eps=0.0, rate=1.0)
    norm(torch.full((2, 1, 4, 4), 6.0))
    close(norm.mean.flatten(), torch.tensor([3.0]))
    close(norm.var.flatten(), torch.tensor([9.0]))


@BOTH_MASKS
def test_running_statistics_follow_the_batches_and_serve_evaluation(mapped: Tensor) -> None:
    norm, mean, var = RunningNorm(4, mapped), torch.zeros(4), torch.ones(4)
    for scale in (1.0, 2.0, 5.0):
        x = scale * torch.randn(6, 4, 3, 4) + scale
        norm(x)
        rows = (x * mapped).transpose(0, 1).flatten(1)
        mean += 0.1 * (rows.mean(1) - mean)
        var += 0.1 * (rows.var(1, correction=0) - var)
    close(norm.mean.flatten(), mean)
    close(norm.var.flatten(), var)
    in_training, _ = norm.inverse(x)
    norm.eval()
    z, _ = norm(x)
    gain = (var + EPS).rsqrt().view(-1, 1, 1)
    close(z, torch.where(mapped > 0, (x - mean.view(-1, 1, 1)) * gain, x))
    assert torch.equal(norm.inverse(x)[0], in_training)
    close(norm.inverse(z)[0], x)
    close(norm.mean.flatten(), mean)


@pytest.mark.parametrize("magnitude", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_weights_are_normalized_for_each_output_channel(kernel: int, magnitude: bool) -> None:
    conv = WeightNormConv(4, 3, kernel, magnitude=magnitude)
    randomize(conv)
    x = torch.randn(2, 4, 5, 6)
    norms = torch.stack([v.flatten().norm() for v in conv.weight])
    gain = (conv.magnitude if magnitude else torch.ones(3)) / norms
    patches = F.unfold(x, kernel, padding=kernel // 2)  # (B, 4 k^2, 30)
    expected = conv.weight.flatten(1) @ patches * gain.view(-1, 1) + conv.bias.view(-1, 1)
    close(conv(x), expected.view(2, 3, 5, 6))


def test_weights_start_uniform_and_magnitudes_from_their_bound() -> None:
    conv = WeightNormConv(8, 50, 3, magnitude=True)
    bound = (2 / 8) ** 0.5
    assert 0.98 * bound < conv.weight.abs().max() <= bound
    assert abs(conv.weight.square().mean() / (bound**2 / 3) - 1) < 0.1
    close(conv.magnitude, torch.full((50,), bound * (8 * 9 / 12) ** 0.5))
    assert not conv.bias.any()


def written_out(net: RealNVPNet, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
    """m and s of a net in evaluation, layer for layer."""
    state = dict(net.named_parameters()) | dict(net.named_buffers())

    def norm(name: str, h: Tensor) -> Tensor:
        if f"{name}.mean" not in state:
            return h
        mean, var, bias = (state[f"{name}.{k}"].view(-1, 1, 1) for k in ("mean", "var", "bias"))
        return (h - mean) / (var + EPS).sqrt() + bias

    def conv(name: str, h: Tensor) -> Tensor:
        v = state[f"{name}.weight"]
        gain = state.get(f"{name}.magnitude", torch.ones(len(v))) / v.flatten(1).norm(dim=1)
        weight = v * gain.view(-1, 1, 1, 1)
        return F.conv2d(h, weight, state.get(f"{name}.bias"), padding=v.shape[-1] // 2)

    h = norm("norm", x)
    if mask is not None and net.norm is not None:
        h = 2 * h
    h = torch.cat([h, -h] + ([] if mask is None else [mask.expand(len(x), 1, -1, -1)]), dim=1)
    h = conv("first", h.relu())
    if context is not None:
        h = h + (context @ state["embed.weight"].t() + state["embed.bias"])[:, :, None, None]
    total = conv("skips.0", h)
    for block in range(len(net.blocks)):
        name = f"blocks.{block}"
        inner = conv(f"{name}.first", norm(f"{name}.activate_first.norm", h).relu())
        h = h + conv(f"{name}.second", norm(f"{name}.activate_second.norm", inner).relu())
        total = total + conv(f"skips.{block + 1}", h)
    shift, raw = conv("last", norm("activate.norm", total).relu()).split(x.shape[1], dim=1)
    offset = state.get("rescaling_shift", torch.zeros(()))
    return torch.stack([shift, state["rescaling"] * raw.tanh() + offset])


@WITH_AND_WITHOUT_NORM
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("n_context", [0, N_CONTEXT])
def test_the_net_is_what_its_layers_make(batch_norm: bool, masked: bool, n_context: int) -> None:
    mask = checkerboard((4, 5)) if masked else None
    net = RealNVPNet(
        2, features=4, blocks=2, mask=mask, batch_norm=batch_norm, context_features=n_context
    )
    randomize_all(net)
    x = torch.randn(3, 2, 4, 5)
    context = torch.randn(3, n_context) if n_context else None
    close(torch.stack(net(x, context)), written_out(net, x, context, mask))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"batch_norm": False}, {"context_features": N_CONTEXT}, {"scales": 3}, {"scales": 1}],
    ids=["default", "no batch norm", "context", "three scales", "one scale"],
)
def test_the_flow_keeps_the_contract_of_transforms(arguments: dict[str, object]) -> None:
    flow = random_flow(**arguments)
    context = torch.randn(2, N_CONTEXT) if "context_features" in arguments else None
    check_contract(flow.transform, torch.randn(2, 1, 4, 4), torch.randn(2, 16), context)


def test_images_of_several_channels_that_are_not_square() -> None:
    check_contract(random_flow((2, 2, 4)).transform, torch.randn(2, 2, 2, 4), torch.randn(2, 16))


def test_odd_sides_of_the_last_scale() -> None:
    flow = random_flow((1, 6, 2))
    check_contract(flow.transform, torch.randn(2, 1, 6, 2), torch.randn(2, 12))


@WITH_AND_WITHOUT_NORM
def test_gradients_reach_every_parameter(batch_norm: bool) -> None:
    flow = random_flow((2, 4, 4), batch_norm=batch_norm, context_features=N_CONTEXT)
    loss = -flow.log_prob(torch.randn(4, 2, 4, 4), torch.randn(4, N_CONTEXT)).mean()
    check_gradients(flow, loss)


def test_pixels_leave_by_color_of_the_checkerboard() -> None:
    flow = small((2, 4, 8), batch_norm=False, scales=3)
    for net in flow.modules():
        if isinstance(net, RealNVPNet):
            nn.init.zeros_(net.last.magnitude)
    x = torch.randn(3, 2, 4, 8)
    noise, rest = [], x
    for _ in range(2):
        noise.append(torch.cat([rest[..., 0::2, 1::2], rest[..., 1::2, 0::2]], 1).flatten(1))
        rest = torch.cat([rest[..., 0::2, 0::2], rest[..., 1::2, 1::2]], 1)
    z, log_det = flow.transform(x)
    close(z, torch.cat([*noise, rest.flatten(1)], dim=1))
    assert not log_det.any()


@WITH_AND_WITHOUT_NORM
def test_couplings_alternate(batch_norm: bool) -> None:
    """Odd pixels, even, odd (even at the last scale); second half of channels, first, second."""
    changed: list[str] = []
    for level, parts in enumerate(levels(random_flow((2, 4, 4), batch_norm=batch_norm))):
        x = torch.randn(3, *((2, 4, 4), (4, 2, 2))[level])
        image = x
        for part in parts:
            z, _ = part(image)
            if isinstance(part, Coupling | MaskedCoupling):
                before = image
            is_last = isinstance(part, RunningNorm) or not batch_norm
            if isinstance(part, Coupling | MaskedCoupling | RunningNorm) and is_last:
                changed.append(describe((z != before).all(0)))
            image = z
    expected = "odd even odd, second first second, odd even odd even"
    assert changed == expected.replace(",", "").split()


def describe(changed: Tensor) -> str:
    c, h, w = changed.shape
    odd = (torch.arange(h).view(-1, 1) + torch.arange(w)) % 2 == 1
    first = torch.arange(c).view(-1, 1, 1) < c // 2
    names = {"odd": odd, "even": ~odd, "first": first, "second": ~first}
    return next(name for name, want in names.items() if torch.equal(changed, want.expand(c, h, w)))


def test_couplings_start_as_shifts_on_checkerboards_and_not_on_channels() -> None:
    for part in [part for parts in levels(small((2, 4, 4))) for part in parts]:
        if isinstance(part, Coupling | MaskedCoupling):
            channels = 8 if isinstance(part, Coupling) else part.conditioner.last.bias.numel() // 2
            x = torch.randn(3, channels, *((2, 2) if channels > 2 else (4, 4)))
            assert part(x)[1].any() == isinstance(part, Coupling)


def n_parameters(c: int, scales: int, blocks: int, features: int, batch_norm: bool) -> int:
    """Counted net by net, after the authors' code."""
    bn = int(batch_norm)

    def net(c: int, d: int, extra: int) -> int:
        block = 2 * 9 * d * d + bn * 2 * d + (1 - bn) * d + 2 * d
        into = bn * c + 9 * (2 * c + extra) * d + d
        skips = (blocks + 1) * (d * d + 2 * d)
        return into + blocks * block + skips + bn * d + 2 * c * (d + 2) + 1 + (1 - bn)

    total = 0
    for i in range(scales):
        d = features * 2**i
        total += (4 if i == scales - 1 else 3) * net(c, d, 1)
        if i < scales - 1:
            total += 3 * net(2 * c, 2 * d, 0)
        c *= 2
    return total


@WITH_AND_WITHOUT_NORM
@pytest.mark.parametrize(("scales", "blocks", "features"), [(2, 2, 5), (3, 1, 4)])
def test_the_number_of_parameters(
    scales: int, blocks: int, features: int, batch_norm: bool
) -> None:
    flow = realnvp_image(
        (3, 8, 8), scales=scales, blocks=blocks, features=features, batch_norm=batch_norm
    )
    n = sum(parameter.numel() for parameter in flow.parameters())
    assert n == n_parameters(3, scales, blocks, features, batch_norm)


def test_training_normalizes_by_the_batch_and_evaluation_by_what_ran() -> None:
    flow, x = small((1, 8, 8), features=4), 3 * torch.randn(16, 1, 8, 8) + 1
    alone = flow.log_prob(x)[:8]
    assert not torch.allclose(flow.log_prob(x[:8]), alone)
    for _ in range(50):
        flow.log_prob(x)
    in_training = flow.log_prob(x)
    flow.eval()
    close(flow.log_prob(x)[:8], flow.log_prob(x[:8]))
    # Variances inside the nets are unbiased as they run: not quite those of the batch.
    torch.testing.assert_close(flow.log_prob(x), in_training, rtol=0.02, atol=0.5)
    close(flow.transform.inverse(flow.transform(x)[0])[0], x)


def test_running_statistics_are_in_checkpoints() -> None:
    flow, x = small(), 2 * torch.randn(8, 1, 4, 4)
    flow.log_prob(x)
    other = small()
    other.load_state_dict(through_file(flow))
    close(other.eval().log_prob(x), flow.eval().log_prob(x))


def test_steps_raise_the_likelihood_and_samples_have_the_shape_of_the_data() -> None:
    flow = small((1, 8, 8), features=4)
    x = torch.randn(32, 1, 1, 1) + 0.1 * torch.randn(32, 1, 8, 8)  # pixels that go together
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    values = []
    for _ in range(15):
        loss = -flow.log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 20
    assert flow.sample(3).shape == (3, 1, 8, 8)
    assert flow.eval().log_prob(x).isfinite().all()


def test_images_stay_channels_last() -> None:
    flow, seen = small((2, 8, 8), features=4), 0
    like = torch.randn(3, 2, 8, 8).contiguous(memory_format=torch.channels_last)
    norm = RunningNorm(2, checkerboard((8, 8)))
    assert norm(like)[0].is_contiguous(memory_format=torch.channels_last)

    def check(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        seen += 1
        for image in (arguments[0], output):
            assert image.is_contiguous(memory_format=torch.channels_last)

    for module in flow.modules():
        if isinstance(module, WeightNormConv):
            module.register_forward_hook(check)
    flow.log_prob(torch.randn(3, 2, 8, 8))
    flow.sample(2)
    assert seen == 2 * 10 * 4  # the 1x1 convolutions of skips are products of their own


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 8, 6), (1, 9, 9), (64,), (8, 8)], ids=str)
def test_sides_that_cannot_be_halved_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"realnvp_image: expected .* that 4 divides, got"):
        realnvp_image(shape, scales=3, blocks=1, features=2)


def test_a_context_is_checked() -> None:
    flow, x = random_flow(context_features=N_CONTEXT), torch.randn(2, 1, 4, 4)
    with pytest.raises(ValueError, match="this flow is conditional"):
        flow.log_prob(x)
    assert not torch.allclose(*(flow.log_prob(x, torch.full((2, 2), c)) for c in (0.0, 1.0)))


def test_averaged_weights_beside_running_statistics_are_refused(tmp_path: Path) -> None:
    row = {
        "title": "Real NVP",
        "flow": {"name": "realnvp_image", "scales": 2, "blocks": 1, "features": 2},
        "preprocess": {"dequantize": "uniform"},
        "training": {"max_steps": 1, "ema_decay": 0.9},
        "cells": {"digits": {}},
    }
    experiment = load("tiny/row", "digits", root=write_table(tmp_path, row=row))
    model = build_model(experiment, DATA["digits"])
    with pytest.raises(UsageError, match=r"ema_decay: expected null.*running statistics"):
        build_module(experiment, model, build_schedule(experiment, 10))
