"""Glow for images: the first batch, sizes, memory, precision."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from image_cases import settled
from torch import Tensor
from transform_case import disturb

from nfbench.flows.flow import Flow
from nfbench.flows.glow import glow_image
from nfbench.nets.first_batch import FirstBatch
from nfbench.nets.glow_net import convolve
from nfbench.transforms.base import Compose
from nfbench.transforms.conv1x1 import NormalizedConv1x1
from nfbench.transforms.multiscale import MultiScale, Split
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.per_pixel import PerPixel
from nfbench.transforms.reversible import Reversible
from nfbench.transforms.running_norm import RunningNorm
from nfbench.transforms.squeeze import Squeeze

SHAPE = (3, 16, 16)


def small(**arguments: Any) -> Flow:
    return glow_image(SHAPE, **({"levels": 2, "steps": 2, "hidden": 8} | arguments))


def test_the_first_batch_sets_every_activation_norm_one_after_another() -> None:
    flow, x = small().train(), 3 * torch.randn(32, *SHAPE) + 5
    flow.log_prob(x)
    seen: list[Tensor] = []

    def keep(module: NormalizedConv1x1, inputs: tuple[Tensor, ...], output: object) -> None:
        seen.append(module.norm(inputs[0])[0])

    for part in flow.modules():
        if isinstance(part, NormalizedConv1x1):
            part.register_forward_hook(keep)
    flow.log_prob(x)
    assert len(seen) == 4
    for z in seen:
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(z.shape[1]))


def test_norm_and_convolution_as_one_are_what_they_are_one_after_another() -> None:
    both = NormalizedConv1x1(3, rate=3.0).double().train()
    both(torch.randn(9, 3, 4, 4, dtype=torch.float64) * 2 + 1)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = Compose([both.norm, both.conv])
    for actual, wanted in ((both(x), expected(x)), (both.inverse(x), expected.inverse(x))):
        torch.testing.assert_close(actual, wanted)


def test_the_first_batch_sets_the_hidden_layers_of_the_nets() -> None:
    flow, x = small().train(), torch.randn(32, *SHAPE)
    flow.log_prob(x)
    norms = [each for each in flow.modules() if type(each) is FirstBatch]
    assert len(norms) == 2 * 4
    assert all(bool(norm.is_set) for norm in norms)
    net = flow.transform.levels[0].transforms[2].conditioner
    y = torch.randn(32, 6, 8, 8)
    net.first.norm.is_set.fill_(False)
    net.first.norm.settled = False
    h = net.first(y)
    torch.testing.assert_close(h.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(h.var((0, 2, 3), correction=0), torch.ones(8))


def test_what_the_first_batch_set_stays_after_a_checkpoint() -> None:
    flow, x = small().train(), torch.randn(16, *SHAPE)
    flow.log_prob(x)
    other = small().train()
    other.load_state_dict(flow.state_dict())
    rows = 10 * torch.randn(16, *SHAPE)
    torch.testing.assert_close(other.log_prob(rows), flow.log_prob(rows))


@pytest.mark.parametrize("n_out", [2, 7])
def test_an_edge_channel_is_one_beyond_the_edges(n_out: int) -> None:
    """Against an image that is enlarged by such a channel."""
    x = torch.randn(2, 3, 5, 4)
    weight, edge = torch.randn(n_out, 3, 3, 3), torch.randn(n_out, 1, 3, 3)
    beyond = torch.ones(2, 1, 7, 6)
    beyond[:, :, 1:-1, 1:-1] = 0
    enlarged = torch.cat([torch.nn.functional.pad(x, (1, 1, 1, 1)), beyond], dim=1)
    expected = torch.nn.functional.conv2d(enlarged, torch.cat([weight, edge], dim=1))
    torch.testing.assert_close(convolve(x, weight, None, edge), expected, rtol=1e-4, atol=1e-4)


def expected_parameters(levels: int, steps: int, hidden: int) -> int:
    """Of the authors' CIFAR-10 model, layer by layer, written down from their description."""
    total, channels = 0, 3
    for level in range(levels):
        channels *= 4
        half = channels // 2
        first = 9 * (half + 1) * hidden + 2 * hidden  # edge channel; scale and shift
        second = hidden * hidden + 2 * hidden
        last = 9 * (hidden + 1) * channels + 2 * channels
        total += steps * (2 * channels + channels**2 + first + second + last)
        if level < levels - 1:
            total += 9 * (half + 1) * channels + 2 * channels  # prior of the half that leaves
            channels = half
    return total + 9 * 2 * channels + 2 * 2 * channels  # top prior, without the weights of zeros


def test_the_model_of_cifar10_has_the_published_size() -> None:
    with torch.device("meta"):
        flow = glow_image((3, 32, 32))
    n = sum(parameter.numel() for parameter in flow.parameters())
    assert n == expected_parameters(levels=3, steps=32, hidden=512)
    assert n == 44_520_660
    with torch.device("meta"):
        plain = glow_image((3, 32, 32), edges=False)
    assert sum(parameter.numel() for parameter in plain.parameters()) == 44_052_912


def gradients(flow: Flow, x: Tensor) -> list[Tensor]:
    flow.zero_grad()
    (-flow.log_prob(x).mean()).backward()
    return [parameter.grad for parameter in flow.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_recomputed_gradients_are_those_of_autograd(coupling: str) -> None:
    flow = settled(small(coupling=coupling).double())
    disturb(flow, 0.05)
    saving = small(coupling=coupling, reversible=True).double()
    saving.load_state_dict(flow.state_dict())
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    for model in (flow, saving):
        model.train()
    expected, found = gradients(flow, x), gradients(saving, x)
    assert len(found) == len(expected) == len(list(flow.parameters()))
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)


def test_recomputed_gradients_are_close_in_float32_for_many_steps() -> None:
    flow = settled(small(steps=16)).train()
    disturb(flow, 0.02)
    saving = small(steps=16, reversible=True).train()
    saving.load_state_dict(flow.state_dict())
    x = torch.randn(4, *SHAPE)
    expected, found = (torch.cat([g.flatten() for g in gradients(m, x)]) for m in (flow, saving))
    assert (found - expected).norm() < 1e-3 * expected.norm()


def saved_bytes(flow: Flow, x: Tensor) -> int:
    """Of all tensors that autograd keeps for the backward pass, weights left out."""
    sizes: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in flow.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = flow.log_prob(x).mean()
    loss.backward()
    return sum(sizes.values())


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    x = torch.randn(8, *SHAPE)
    plain, saving = (
        [saved_bytes(small(steps=k, reversible=r, edges=False).train(), x) for k in (2, 8)]
        for r in (False, True)
    )
    assert plain[1] > 3 * plain[0]
    assert saving[1] < 1.05 * saving[0] < 0.5 * plain[0]


def test_nets_in_bfloat16_change_the_training_only() -> None:
    flow = settled(small())
    disturb(flow, 0.1)
    half = small(net_dtype="bfloat16")
    half.load_state_dict({renamed(key): value for key, value in flow.state_dict().items()})
    x = torch.randn(8, *SHAPE)
    assert torch.equal(half.eval().log_prob(x), flow.eval().log_prob(x))
    exact, rough = flow.train().log_prob(x), half.train().log_prob(x)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=1.0)


def renamed(key: str) -> str:
    return key.replace("conditioner.", "conditioner.net.")


def test_a_compiled_objective_gives_the_same() -> None:
    flow = settled(small(levels=1, steps=1)).train()
    disturb(flow, 0.1)
    x = torch.randn(4, *SHAPE)
    compiled = torch.compile(flow.log_prob, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(compiled(x), flow.log_prob(x))


def test_a_deep_model_inverts_in_float32() -> None:
    """32 steps a level, as the published one, on the first batch of its training."""
    flow = small(steps=32, hidden=16).train()
    x = torch.rand(16, *SHAPE) - 0.5
    flow.log_prob(x)
    disturb(flow, 0.01)
    with torch.no_grad():
        z, log_det = flow.eval().transform(x)
        back, log_det_back = flow.transform.inverse(z)
    assert (back - x).abs().max() < 1e-4
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("order", ["channel", "checkerboard"])
def test_squeeze_lays_out_blocks_of_pixels_as_said(order: str) -> None:
    x = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    z, _ = Squeeze(order)(x)
    pixels = [(0, 0), (0, 1), (1, 0), (1, 1)]
    diagonals = [(0, 0), (1, 1), (0, 1), (1, 0)]
    if order == "channel":
        wanted = [x[:, c, i::2, j::2] for c in range(2) for i, j in pixels]
    else:
        wanted = [x[:, c, i::2, j::2] for i, j in diagonals for c in range(2)]
    assert torch.equal(z, torch.stack(wanted, dim=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": "conv"}, "mixing: expected 'conv1x1' or 'conv1x1_lu' or"),
        ({"net_dtype": "float16"}, "net_dtype: expected 'float32' or 'bfloat16'"),
        ({"coupling": "spline"}, "coupling: expected 'affine' or 'additive'"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict[str, str], message: str) -> None:
    build: Callable[..., Flow] = small
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_parts_that_take_statistics_from_the_batch_cannot_be_recomputed() -> None:
    with pytest.raises(ValueError, match="got a RunningNorm"):
        Reversible([Compose([RunningNorm(3, torch.ones(1, 4, 4))])])


def test_passes_of_a_sample_count_the_priors_of_what_was_split_off() -> None:
    transform = small(levels=2, steps=3).transform
    assert (transform.passes, transform.inverse_passes) == (6, 7)
    assert small(levels=2, steps=3, split_prior=False).transform.inverse_passes == 6


def test_a_flow_needs_a_level() -> None:
    with pytest.raises(ValueError, match="levels: expected at least 1, got 0"):
        small(levels=0)


def test_levels_are_calibrated_on_what_is_left_of_the_data() -> None:
    first = Compose([Squeeze(), PerPixel(BatchNorm(4))])
    last = Compose([Squeeze(), PerPixel(BatchNorm(8))])
    transform = MultiScale([first, last], [(4, 4, 4), (8, 2, 2)], [Split()]).eval()
    x = 5 * torch.randn(64, 1, 8, 8) + 3
    z = transform.calibrate(x)
    torch.testing.assert_close(z, transform(x)[0])
    torch.testing.assert_close(z.mean(), torch.tensor(0.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(), torch.tensor(1.0), rtol=1e-2, atol=0)


def test_copies_are_independent() -> None:
    flow = small().train()
    other = copy.deepcopy(flow)
    flow.log_prob(torch.randn(8, *SHAPE))
    assert not any(bool(n.is_set) for n in other.modules() if isinstance(n, FirstBatch))
