"""The flows of Lippe (2021): their nets, sizes, masks, and the noise that they learn."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracles import close, jacobians, randomize
from torch import Tensor, nn

from nfbench.build import build_model, dequantization, preprocessing
from nfbench.config import load
from nfbench.data import DATA
from nfbench.flows.flow import Flow
from nfbench.flows.lippe2021 import lippe_image
from nfbench.nets.gated import GatedNet
from nfbench.sections import Preprocess
from nfbench.transforms.logit import Logit
from nfbench.transforms.masked import MaskedCoupling, first_half
from nfbench.transforms.variational import VariationalDequantize, noise_flow

pytestmark = pytest.mark.usefixtures("float64")

ROOT = Path(__file__).parents[1]
ROWS = ("simple", "vardeq", "multiscale")
D = 784
ALPHA = 1e-5


def small(**arguments: object) -> Flow:
    return lippe_image((1, 4, 8), **({"hidden": (3, 4, 5), "blocks": 1} | arguments))


def convolution(n_in: int, n_out: int, kernel: int) -> int:
    """Weights and biases."""
    return n_out * (n_in * kernel**2 + 1)


def coupling(n_in: int, hidden: int, channels: int) -> int:
    """Parameters of a coupling with a net of three blocks, and a bound for each channel."""
    block = convolution(hidden, hidden, 3) + convolution(2 * hidden, 2 * hidden, 1) + 2 * hidden
    ends = convolution(n_in, hidden, 3) + convolution(2 * hidden, 2 * channels, 3)
    return ends + 3 * block + channels


def test_the_models_of_the_table_have_the_parameters_that_their_layers_add_up_to() -> None:
    noise, simple = 4 * coupling(2, 16, 1), 8 * coupling(1, 32, 1)
    multiscale = 2 * coupling(1, 32, 1) + 2 * coupling(4, 48, 4) + 4 * coupling(8, 64, 8)
    expected = dict(zip(ROWS, (simple, noise + simple, noise + multiscale), strict=True))
    for row, n_parameters in expected.items():
        model = build_model(load(f"lightning_tutorial9/{row}", "mnist", root=ROOT), DATA["mnist"])
        assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution of the same size as a product of matrices."""
    kernel = conv.kernel_size[0]
    patches = F.unfold(x, kernel, padding=kernel // 2)  # (B, n_in kernel^2, H W)
    weight, bias = conv.weight.flatten(1), conv.bias
    assert bias is not None
    return (weight @ patches + bias[:, None]).unflatten(2, x.shape[2:])


def both_signs(x: Tensor) -> Tensor:
    return torch.cat([torch.where(y > 0, y, y.exp() - 1) for y in (x, -x)], dim=1)


def test_the_net_is_its_formula() -> None:
    net = GatedNet(3, 2, hidden=5, blocks=2)
    randomize(net)
    x = torch.randn(4, 3, 6, 5)
    h = convolved(x, net.first)
    for block in net.blocks:
        v = convolved(both_signs(convolved(h, block.first)), block.second)
        h = h + v[:, :5] / (1 + torch.exp(-v[:, 5:]))
        center = h - h.mean(1, keepdim=True)
        h = center / torch.sqrt(center.square().mean(1, keepdim=True) + block.norm.eps)
        h = h * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
    out = convolved(both_signs(h), net.last)
    bound = torch.exp(net.log_bound)[:, None, None]
    shift, log_scale = net(x)
    close(shift, out[:, :2])
    close(log_scale, bound * torch.tanh(out[:, 2:] / bound))
    assert (log_scale.abs() <= bound).all()


def test_the_net_starts_at_zero_with_bounds_of_one() -> None:
    net = GatedNet(2, 2)
    assert all(not each.any() for each in net(torch.randn(2, 2, 4, 4)))
    assert torch.equal(net.log_bound.exp(), torch.ones(2))


def couplings(flow: Flow) -> list[MaskedCoupling]:
    return [part for part in flow.modules() if isinstance(part, MaskedCoupling)]


def test_the_parts_that_are_kept_alternate() -> None:
    masks = [part.fixed for part in couplings(small())]
    assert [tuple(mask.shape) for mask in masks] == [(4, 8)] * 2 + [(4, 1, 1)] * 2 + [
        (8, 1, 1)
    ] * 4
    color = torch.tensor([[(i + j) % 2 for j in range(8)] for i in range(4)]).double()
    assert torch.equal(masks[0], color)
    assert masks[2].flatten().tolist() == [1, 1, 0, 0]
    assert masks[4].flatten().tolist() == [1] * 4 + [0] * 4
    for group in (masks[:2], masks[2:4], masks[4:]):
        assert all(torch.equal(one, 1 - other) for one, other in pairwise(group))
    plain = [part.fixed for part in couplings(small(multiscale=False))]
    assert len(plain) == 8
    assert all(
        torch.equal(mask, color if i % 2 == 0 else 1 - color) for i, mask in enumerate(plain)
    )


def test_an_odd_number_of_channels_has_a_smaller_first_half() -> None:
    assert first_half(3).flatten().tolist() == [1, 0, 0]
    assert first_half(3, swap=True).flatten().tolist() == [0, 1, 1]


@pytest.mark.parametrize("index", range(8))
def test_a_coupling_maps_what_its_mask_leaves_given_the_rest(index: int) -> None:
    part = couplings(small())[index]
    randomize(part)
    c, h, w = [(1, 4, 8), (4, 2, 4), (8, 1, 2)][[0, 0, 1, 1, 2, 2, 2, 2][index]]
    x = torch.randn(3, c, h, w)
    shift, log_scale = part.conditioner(x * part.fixed)
    z, log_det = part(x)
    close(z, part.fixed * x + (1 - part.fixed) * (x - shift) * log_scale.exp())
    close(log_det, ((1 - part.fixed) * log_scale).sum((1, 2, 3)))
    kept = part.fixed.expand(c, h, w) > 0
    other, _ = part(torch.where(kept, x, torch.randn_like(x)))
    assert torch.equal(other[:, kept], x[:, kept])


def test_before_training_noise_is_the_image_with_half_of_its_pixels_first() -> None:
    """The lower pixels of each 2 x 2 block leave; of the rest come blocks in reading order."""
    x = torch.randn(2, 1, 4, 8)
    z, log_det = small().transform(x)
    left = torch.cat([x[:, 0, 1::2, 0::2].flatten(1), x[:, 0, 1::2, 1::2].flatten(1)], dim=1)
    upper = x[:, 0, 0::2]  # (2, 2, 8): rows 0 and 2; channel j of the rest is every other column
    rest = [upper[:, i, j + k :: 4] for j in (0, 1) for i in (0, 1) for k in (0, 2)]
    close(z, torch.cat([left, torch.cat(rest, dim=1)], dim=1))
    assert not log_det.any()
    z, log_det = small(multiscale=False).transform(x)
    close(z, x.flatten(1))
    assert not log_det.any()


def test_every_scale_needs_its_size() -> None:
    with pytest.raises(ValueError, match=r"expected 3 numbers, one for each scale, got \[4\]"):
        small(hidden=[4])


def gated(levels: int = 7, shape: tuple[int, ...] = (2, 3, 4)) -> VariationalDequantize:
    flow = noise_flow(shape, layers=3, hidden=4, net="gated")
    return VariationalDequantize(levels, flow, noise="logistic")


def test_the_density_of_the_gated_noise_is_that_of_autograd() -> None:
    """``q(u) = 1 / |det du/dw|`` for the uniform w that u is made of."""
    dequantize, x = gated(), torch.randint(7, (3, 2, 3, 4))
    randomize(dequantize, 0.5)

    def noise(w: Tensor) -> Tensor:
        s = (1 - ALPHA) * w + ALPHA / 2
        return 1 / (1 + torch.exp(-dequantize.flow(torch.log(s / (1 - s)), x / 6 - 0.5)[0]))

    torch.manual_seed(2)
    w = torch.rand(3, 2, 3, 4)
    torch.manual_seed(2)
    z, log_det = dequantize(x)
    close(z, (x + noise(w)) / 7)
    log_q = -torch.linalg.slogdet(jacobians(noise, w)).logabsdet
    close(log_det, -log_q - 24 * math.log(7))


def test_gated_noise_starts_as_uniform_and_gives_the_integers_back() -> None:
    dequantize = gated(256, (1, 28, 28)).float()
    x = torch.randint(256, (50, 1, 28, 28), dtype=torch.uint8)
    torch.manual_seed(3)
    w = torch.rand(50, 1, 28, 28, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        u, log_q = dequantize.noise(x.float())
        z, log_det = dequantize(x)
    torch.testing.assert_close(u, (1 - ALPHA) * w + ALPHA / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_q.double(), torch.full((50,), D * ALPHA), rtol=0, atol=2e-3)
    assert log_det.isfinite().all()
    assert torch.equal(dequantize.inverse(z)[0], x.float())


def test_the_gated_net_sees_the_image_from_minus_one_to_one() -> None:
    dequantize, seen = gated(levels=3, shape=(1, 2, 4)), []
    first = next(part for part in dequantize.modules() if isinstance(part, GatedNet))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randint(3, (5, 1, 2, 4))
    dequantize(x)
    noise, image = seen[0].chunk(2, dim=1)
    close(image, x.double() - 1)
    kept = torch.tensor([[False, True, False, True], [True, False, True, False]])
    assert torch.equal(noise[:, 0] != 0, kept.expand(5, 2, 4))


def test_the_gated_dequantizer_is_for_images() -> None:
    settings = Preprocess(dequantize="variational", dequantizer="gated", dequantizer_hidden=16)
    (part,) = dequantization(settings, DATA["mnist"])
    assert isinstance(part, VariationalDequantize)
    nets = [each for each in part.modules() if isinstance(each, GatedNet)]
    assert [net.first.weight.shape[:2] for net in nets] == [(16, 2)] * 4
    with pytest.raises(ValueError, match=r"expected images .* 'gated', got \(5,\); 'conv' takes"):
        noise_flow((5,), layers=1, hidden=4, net="gated")


@pytest.mark.parametrize("row", ROWS)
def test_the_rows_are_trained_as_the_tutorial_trains(row: str) -> None:
    """Its loss is in bits per dimension: gradients, and what they are compared to, are smaller."""
    experiment = load(f"lightning_tutorial9/{row}", "mnist", root=ROOT)
    training, nats = experiment.training, D * math.log(2)
    assert training.clip_norm == pytest.approx(1.0 * nats, rel=1e-3)
    assert training.adam_eps == pytest.approx(1e-8 * nats, rel=1e-3)
    assert (training.max_epochs, training.learning_rate) == (200, 1e-3)
    assert (training.schedule, training.decay_per_epoch) == ("exponential", 0.99)
    assert (experiment.data.batch_size, training.importance_draws) == (128, 8)
    logit = preprocessing(experiment.preprocess, DATA["mnist"])[-1]
    assert isinstance(logit, Logit)
    v = torch.rand(3, 1, 28, 28)
    s = v * (1 - ALPHA) + ALPHA / 2
    close(logit(v)[0], s.log() - (1 - s).log())
    close(logit(v)[1], (math.log(1 - ALPHA) - s.log() - (1 - s).log()).sum((1, 2, 3)))
