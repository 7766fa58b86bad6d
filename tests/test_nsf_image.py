"""Neural spline flows for images: their nets, their linear maps, and their density."""

import pytest
import torch
import torch.nn.functional as F
from oracles import check_contract, check_gradients, close, randomize, through_file
from torch import Tensor, nn

from nfbench.flows.flow import Flow
from nfbench.flows.nsf import nsf_image
from nfbench.nets.channel_norm import ChannelNorm
from nfbench.nets.resnet import ResNet
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.base import Compose
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.lu import LULinear
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.per_pixel import PerPixel
from nfbench.transforms.permute import Permute
from nfbench.transforms.spline import RationalQuadratic

pytestmark = pytest.mark.usefixtures("float64")

N_CONTEXT = 2
EPS = 1e-3
SMALL = {"levels": 2, "steps": 1, "hidden": 4, "blocks": 1, "bins": 3, "tail_bound": 5.0}


@torch.no_grad()
def randomize_all(module: nn.Module, spread: float = 0.7) -> None:
    """Random parameters and running statistics, evaluation mode."""
    randomize(module.eval(), spread)
    for part in module.modules():
        if isinstance(part, ChannelNorm):
            part.mean.normal_()
            part.var.uniform_(0.5, 2)


def random_flow(shape: tuple[int, ...] = (1, 4, 4), **arguments: object) -> Flow:
    flow = nsf_image(shape, **(SMALL | arguments))
    randomize_all(flow, 0.4)
    return flow


def mixing(channels: int) -> PerPixel:
    order = torch.randperm(channels).tolist()
    return PerPixel(Compose([Permute(order), LULinear(channels)]))


def test_per_pixel_keeps_the_contract_of_transforms() -> None:
    transform = mixing(3)
    randomize(transform)
    check_contract(transform, torch.randn(2, 3, 2, 4), torch.randn(2, 3, 2, 4))


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format], ids=str)
def test_per_pixel_is_the_transform_of_each_pixel(memory: torch.memory_format) -> None:
    transform = mixing(3)
    randomize(transform)
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory)
    inner = transform.transform
    for image, way in ((transform.forward, inner.forward), (transform.inverse, inner.inverse)):
        z, log_det = image(x)
        total = torch.zeros(2)
        for row in range(4):
            for column in range(5):
                pixel, each = way(x[:, :, row, column])
                close(z[:, :, row, column], pixel)
                total += each
        close(log_det, total)


def test_per_pixel_calibrates_on_the_channels_of_all_pixels() -> None:
    norm = PerPixel(BatchNorm(3))
    assert norm.needs_calibration
    z = norm.eval().calibrate(2 * torch.randn(10, 3, 4, 5) + 1)
    rows = z.transpose(0, 1).flatten(1)
    close(rows.mean(1), torch.zeros(3))
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def written_out(net: ResNet, x: Tensor, context: Tensor | None) -> Tensor:
    """The parameters that a net in evaluation gives, layer for layer."""
    state = dict(net.named_parameters()) | dict(net.named_buffers())

    def norm(name: str, h: Tensor) -> Tensor:
        if f"{name}.mean" not in state:
            return h
        mean, var, gain, bias = (
            state[f"{name}.{k}"].view(-1, 1, 1) for k in ("mean", "var", "gain", "bias")
        )
        return (h - mean) / (var + EPS).sqrt() * gain + bias

    def conv(name: str, h: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    h = conv("first", x)
    if context is not None:
        h = h + (context @ state["embed.weight"].t())[:, :, None, None]
    for block in range(len(net.blocks)):
        name = f"blocks.{block}"
        inner = conv(f"{name}.first", norm(f"{name}.norms.0", h).relu(), 1)
        h = h + conv(f"{name}.second", norm(f"{name}.norms.1", inner).relu(), 1)
    return torch.stack(conv("last", h).split(net.shape[1], dim=1))


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("n_context", [0, N_CONTEXT])
def test_the_net_is_what_its_layers_make(batch_norm: bool, n_context: int) -> None:
    net = ResNet(
        2,
        3,
        n_parameters=4,
        hidden=5,
        blocks=2,
        batch_norm=batch_norm,
        dropout=0.5,
        context_features=n_context,
    )
    randomize_all(net)
    x = torch.randn(3, 2, 4, 5)
    context = torch.randn(3, n_context) if n_context else None
    parameters = net(x, context)
    assert parameters.shape == (4, 3, 3, 4, 5)
    close(parameters, written_out(net, x, context))


def test_training_drops_out_and_takes_the_batch_and_blocks_start_near_the_identity() -> None:
    net, x = ResNet(2, 3, hidden=6, blocks=1, dropout=0.5), torch.randn(8, 2, 4, 4)
    block = net.blocks[0]
    for parameter in block.second.parameters():
        assert 0 < parameter.abs().max() <= 1e-3
    h = torch.randn(8, 6, 4, 4)
    assert (block(h) - h).abs().max() < 0.2
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    plain, normalized = (
        ResNet(2, 3, hidden=6, blocks=1, batch_norm=norm) for norm in (False, True)
    )
    close(plain(x)[:, :2], plain(x[:2]))
    assert not torch.allclose(normalized(x)[:, :2], normalized(x[:2]))


def test_running_statistics_follow_the_batches() -> None:
    norm, mean, var = ChannelNorm(3, eps=EPS), torch.zeros(3), torch.ones(3)
    for scale in (1.0, 4.0):
        x = scale * torch.randn(5, 3, 4, 4) + scale
        norm(x)
        rows = x.transpose(0, 1).flatten(1)
        mean += 0.1 * (rows.mean(1) - mean)
        var += 0.1 * (rows.var(1) - var)
    close(norm.mean, mean)
    close(norm.var, var)


def test_splines_of_images_are_those_of_their_pixels() -> None:
    spline = RationalQuadratic(bins=3)
    x, parameters = 2 * torch.randn(2, 3, 4, 5), torch.randn(8, 2, 3, 4, 5)
    for way in (spline.forward, spline.inverse):
        z, log_det = way(x, parameters)
        flat, flat_log_det = way(x.reshape(-1, 1), parameters.reshape(8, -1, 1))
        close(z.reshape(-1, 1), flat)
        close(log_det.reshape(-1, 1), flat_log_det)


@pytest.mark.parametrize("elementwise", ["rational_quadratic", "affine"])
@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("n_context", [0, N_CONTEXT])
def test_the_flow_keeps_the_contract_of_transforms(
    elementwise: str, multiscale: bool, n_context: int
) -> None:
    flow = random_flow(elementwise=elementwise, multiscale=multiscale, context_features=n_context)
    context = torch.randn(2, n_context) if n_context else None
    check_contract(flow.transform, torch.randn(2, 1, 4, 4), torch.randn(2, 16), context)


@pytest.mark.parametrize("elementwise", ["rational_quadratic", "affine"])
def test_gradients_reach_every_parameter(elementwise: str) -> None:
    flow = random_flow((2, 4, 4), elementwise=elementwise, context_features=N_CONTEXT)
    loss = -flow.log_prob(torch.randn(8, 2, 4, 4), torch.randn(8, N_CONTEXT)).mean()
    check_gradients(flow, loss)


def test_a_step_is_activation_norm_linear_map_and_coupling_of_the_first_half() -> None:
    flow = nsf_image((1, 4, 4), **(SMALL | {"steps": 2}))
    (all_levels,) = flow.transform.levels
    for level, channels in zip(all_levels.transforms, (4, 16), strict=True):
        squeeze, *steps = (type(part).__name__ for part in level.transforms)
        assert squeeze == "Squeeze"
        assert steps == [*["ActNorm", "PerPixel", "Coupling"] * 2, "PerPixel"]
        for part in level.transforms:
            if isinstance(part, Coupling):
                x = torch.randn(2, channels, 2, 2)
                moved = (part(x)[0] != x).flatten(2).any(2).all(0)
                assert moved.tolist() == [c < channels // 2 for c in range(channels)]


def test_half_of_the_channels_leave_only_if_multiscale() -> None:
    for multiscale, channels in ((False, [16]), (True, [2, 8])):
        flow = nsf_image((1, 4, 4), **(SMALL | {"multiscale": multiscale}))
        assert [shape[0] for shape in flow.transform.shapes] == channels


def n_parameters(
    channels: list[int], steps: int, hidden: int, blocks: int, per_dimension: int
) -> int:
    """Counted level by level, after the authors' code."""
    total = 0
    for c in channels:
        block = 2 * (9 * hidden + 1) * hidden + 4 * hidden
        last = (hidden + 1) * per_dimension * (c // 2)
        net = (c // 2 + 1) * hidden + blocks * block + last
        linear = c * c + c
        total += steps * (2 * c + linear + net) + linear
    return total


@pytest.mark.parametrize("multiscale", [False, True])
def test_the_number_of_parameters(multiscale: bool) -> None:
    flow = nsf_image((3, 8, 8), **(SMALL | {"steps": 2, "multiscale": multiscale}))
    n = sum(parameter.numel() for parameter in flow.parameters())
    assert n == n_parameters([12, 24 if multiscale else 48], 2, 4, 1, 3 * 3 - 1)


@pytest.mark.parametrize(
    ("elementwise", "per_dimension", "published"),
    [("rational_quadratic", 11, 11.8), ("affine", 2, 11.1)],
)
def test_the_number_of_parameters_is_the_published_one_for_cifar10(
    elementwise: str, per_dimension: int, published: float
) -> None:
    """Millions, Durkan et al. 2019, table 3."""
    n = n_parameters([12, 48, 192], 7, 96, 3, per_dimension)
    flow = nsf_image((3, 32, 32), elementwise=elementwise)
    assert sum(parameter.numel() for parameter in flow.parameters()) == n
    assert round(n / 1e6, 1) == published


def test_activation_norms_are_set_by_the_first_batch_and_kept_in_checkpoints() -> None:
    flow, x = nsf_image((1, 4, 4), **SMALL), 3 * torch.randn(32, 1, 4, 4) + 5
    first = next(part for part in flow.modules() if isinstance(part, ActNorm))
    flow.log_prob(x)
    assert first.is_set
    moments = torch.stack([x[..., i::2, j::2].std(correction=0) for i in (0, 1) for j in (0, 1)])
    close(first.log_gain, -moments.log())
    other = nsf_image((1, 4, 4), **SMALL)
    other.load_state_dict(through_file(flow))
    close(other.eval().log_prob(x), flow.eval().log_prob(x))
    assert flow.sample(3).shape == (3, 1, 4, 4)


def test_images_stay_channels_last() -> None:
    x = torch.randn(3, 4, 4, 6).contiguous(memory_format=torch.channels_last)
    net = ResNet(2, 2, n_parameters=8, hidden=5, blocks=1)
    coupling = Coupling(net, RationalQuadratic(bins=3), n_first=2, swap=True)
    for transform in (mixing(4), coupling):
        for way in (transform.forward, transform.inverse):
            assert way(x)[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 8, 6), (64,)], ids=str)
def test_sides_that_cannot_be_halved_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"nsf_image: expected .* that 4 divides, got"):
        nsf_image(shape, **SMALL)


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="elementwise: expected 'rational_quadratic' or"):
        nsf_image((1, 8, 8), elementwise="cubic")  # type: ignore[arg-type]
