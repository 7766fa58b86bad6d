"""The ResNet VAE: its autoregressive nets, its posteriors and its bound, written out anew."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from oracles import check_gradients, close, jacobians, randomize
from torch import Tensor, nn

from nfbench.distributions.observation import Observation, observation
from nfbench.nets.conv_made import ConvMADE
from nfbench.nets.first_batch import FirstBatch
from nfbench.nets.normalized import Normalized, NormalizedDeconv
from nfbench.nets.top_down import Evidence, IAFStep, TopDownBlock
from nfbench.objectives.elbo import elbo
from nfbench.resnet_vae import ResNetVAE
from nfbench.vae import active_units

pytestmark = pytest.mark.usefixtures("float64")

CHANNELS, HEIGHT, WIDTH = 3, 3, 4
PUBLISHED = 41_557_927  # numbers in the variables of the authors' code, of 20 blocks
HIDDEN = pytest.mark.parametrize("hidden", [(), (6,), (6, 9), (2,), (5, 4)], ids=str)
BOTH_ORDERS = pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])


def random_net(hidden: tuple[int, ...], *, reverse: bool = False) -> ConvMADE:
    net = ConvMADE(CHANNELS, hidden=hidden, reverse=reverse).eval()
    randomize(net)
    return net


def context_of(net: ConvMADE, n: int = 2) -> Tensor | None:
    channels = net.context_channels
    return torch.randn(n, channels, HEIGHT, WIDTH) if channels else None


def in_order(jacobian: Tensor, *, reverse: bool) -> Tensor:
    """Rows and columns (B, D, D) of images (C, H, W), in the order row, pixel, channel."""
    place = torch.arange(CHANNELS * HEIGHT * WIDTH).view(CHANNELS, HEIGHT, WIDTH)
    order = place.permute(1, 2, 0).flatten()
    if reverse:
        order = order.flip(0)
    return jacobian[:, order][:, :, order]


@HIDDEN
@BOTH_ORDERS
def test_a_parameter_depends_on_what_comes_before_alone(
    hidden: tuple[int, ...], reverse: bool
) -> None:
    net = random_net(hidden, reverse=reverse)
    context, z = context_of(net), torch.randn(2, CHANNELS, HEIGHT, WIDTH)
    for part in range(2):

        def parameter(rows: Tensor, part: int = part) -> Tensor:
            return net(rows, context)[part]

        found = in_order(jacobians(parameter, z), reverse=reverse)
        assert not found.triu().any()
        # What is one pixel before, in the row or in the rows above, is seen, all its channels.
        step = CHANNELS
        for back in (1, WIDTH - 1, WIDTH, WIDTH + 1):
            row = (WIDTH + 1) * step  # of the first pixel inside, at the second row's second place
            seen = row - back * step
            assert (found[:, row : row + step, seen : seen + step] != 0).all(), back
        own = found[:, row : row + step, row : row + step]  # channels of the pixel itself
        if len(hidden) == 0 or min(hidden) >= CHANNELS:
            assert (own[:, 1:, 0] != 0).all()
            assert (own[:, 2, 1] != 0).all()


@HIDDEN
@BOTH_ORDERS
def test_a_step_has_the_log_determinant_of_its_jacobian(
    hidden: tuple[int, ...], reverse: bool
) -> None:
    net = random_net(hidden, reverse=reverse)
    step, context = IAFStep(net), context_of(net)
    z = torch.randn(2, CHANNELS, HEIGHT, WIDTH)
    moved, log_scale = step(z, context)
    m, s = net(z, context)
    close(moved, (z - 0.1 * m) / (0.1 * s).exp())
    sign, expected = torch.linalg.slogdet(jacobians(lambda rows: step(rows, context)[0], z))
    assert sign.gt(0).all()
    close(log_scale.flatten(1).sum(1), expected)


def test_a_context_that_is_missing_or_not_wanted_is_refused() -> None:
    z, context = torch.zeros(1, CHANNELS, 2, 2), torch.zeros(1, 6, 2, 2)
    with pytest.raises(ValueError, match=r"context: expected \(B, 6, H, W\), got None"):
        ConvMADE(CHANNELS, hidden=(6,))(z)
    with pytest.raises(ValueError, match="context: expected none"):
        ConvMADE(CHANNELS, hidden=())(z, context)


def block(*, steps: int, hidden: tuple[int, ...] = (4,), latent: int = 2) -> TopDownBlock:
    made = TopDownBlock(
        4, latent, steps=steps, hidden=hidden, activation="elu", size=(2, 3)
    ).eval()
    randomize(made)
    return made


@pytest.mark.parametrize(("steps", "hidden"), [(0, (4,)), (1, ()), (1, (4, 6)), (3, (4,))])
def test_the_density_of_a_draw_is_that_of_its_noise_through_the_jacobian(
    steps: int, hidden: tuple[int, ...]
) -> None:
    made = block(steps=steps, hidden=hidden)
    channels = hidden[0] if steps and hidden else 0
    mean, log_std = torch.randn(2, 3, 2, 2, 3).unbind(0)
    code = Evidence(mean, log_std, torch.randn(3, channels, 2, 3))

    def image(noise: Tensor) -> Tensor:
        z = mean + log_std.exp() * noise
        for step in made.steps:
            m, s = step.net(z, code.context if channels else None)  # type: ignore[operator]
            z = (z - 0.1 * m) * torch.exp(-0.1 * s)
        return z

    torch.manual_seed(5)
    z, log_density = made.draw(code)
    torch.manual_seed(5)
    noise = torch.randn(3, 2, 2, 3)
    close(z, image(noise))
    log_det = torch.linalg.slogdet(jacobians(image, noise))[1]
    expected = torch.distributions.Normal(0, 1).log_prob(noise).flatten(1).sum(1) - log_det
    close(log_density.flatten(1).sum(1), expected)


def test_steps_take_the_order_of_the_latents_in_turn() -> None:
    nets = [step.net for step in block(steps=3).steps]
    middles = [net.last.mask[0, :, 0, 0] for net in nets]  # type: ignore[union-attr,index]
    assert [bool(middle.all()) for middle in middles] == [True, False, True]


def small(likelihood: Observation | None = None, **arguments: object) -> ResNetVAE:
    settings = {"blocks": (1, 2), "width": 6, "latent": 2, "hidden": (4,)} | arguments
    likelihood = likelihood or observation("logistic", 256)
    return ResNetVAE((2, 5, 6), likelihood, **settings)  # type: ignore[arg-type]


def random_model(**arguments: object) -> ResNetVAE:
    """With parameters at random, but no decoder's mean at the ends of what it can be."""
    model = small(**arguments)
    randomize(model, spread=0.4)
    with torch.no_grad():
        model.last.norm.log_scale -= 3
    return model


def images(n: int, shape: tuple[int, ...] = (2, 5, 6), levels: int = 256) -> Tensor:
    return torch.randint(levels, (n, *shape), dtype=torch.uint8)


def weight_of(layer: Normalized) -> Tensor:
    """exp(s) v / |v|, the norm for each output channel, of what the mask leaves."""
    v = layer.weight if layer.mask is None else layer.weight * layer.mask
    axes = (0, 2, 3) if isinstance(layer, NormalizedDeconv) else (1, 2, 3)
    shape = (1, -1, 1, 1) if isinstance(layer, NormalizedDeconv) else (-1, 1, 1, 1)
    return v / v.square().sum(axes, keepdim=True).sqrt() * layer.norm.log_scale.exp().view(shape)


def conv(layer: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
    assert isinstance(layer, Normalized)
    weight = weight_of(layer)
    return F.conv2d(x, weight, layer.norm.bias, stride, weight.shape[-1] // 2)


def deconv(layer: nn.Module, x: Tensor, height: int, width: int) -> Tensor:
    """The convolution with turned kernels of x with zeros between and around, cut to size."""
    assert isinstance(layer, Normalized)
    weight = weight_of(layer).transpose(0, 1).flip(2, 3)
    spread = torch.zeros(*x.shape[:2], height + 1, width + 1)
    spread[:, :, : 2 * x.shape[2] : 2, : 2 * x.shape[3] : 2] = x
    mapped = F.conv2d(spread, weight, layer.norm.bias, padding=weight.shape[-1] // 2)
    return mapped[:, :, :height, :width]


def normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(z)


def terms_by_hand(model: ResNetVAE, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x | z), log p(z) and log q(z | x), of 2 latent maps, 6 channels and one step."""
    first, second, third = model.upwards
    h = conv(model.first, (x + 0.5) / 256 - 0.5, stride=2)  # (B, 6, 3, 3)
    seen = []
    for each, stride in ((first, 1), (second, 2)):
        *evidence, inner = conv(each.up_first, F.elu(h), stride).split([2, 2, 4, 6], 1)
        seen.append(evidence)
        assert each.up_second is not None
        h = h[:, :, ::stride, ::stride] + 0.1 * conv(each.up_second, F.elu(inner))
    seen.append(list(conv(third.up_first, F.elu(h)).split([2, 2, 4], 1)))
    h = model.top.expand(len(x), 6, 2, 2)
    log_p, log_q = [], []
    for each, code in ((third, seen[2]), (second, seen[1]), (first, seen[0])):
        parts = conv(each.down_first, F.elu(h)).split([2, 2, 2, 2, 4, 6], 1)
        mean, log_std, context = (a + b for a, b in zip(code, parts[2:5], strict=True))
        y = mean + log_std.exp() * torch.randn_like(mean)
        net = each.steps[0].net
        assert isinstance(net, ConvMADE)
        hidden = F.elu(conv(net.hidden[0], y) + context)
        m, s = conv(net.last, hidden).split(2, 1)
        z = (y - 0.1 * m) / (0.1 * s).exp()
        log_q.append((normal(y, mean, log_std) + 0.1 * s).sum((2, 3)))
        log_p.append(normal(z, parts[0], parts[1]).sum((2, 3)))
        hidden = F.elu(torch.cat([z, parts[5]], 1))
        if each is second:
            h = h.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :3, :3]
            h = h + 0.1 * deconv(each.down_second, hidden, 3, 3)
        else:
            h = h + 0.1 * conv(each.down_second, hidden)
    mean = deconv(model.last, F.elu(h), 5, 6).clamp(1 / 512 - 0.5, 0.5 - 1 / 512)
    scale = model.observation.log_scale.exp()  # type: ignore[union-attr,operator]
    edge = x / 256 - 0.5 - mean
    mass = torch.sigmoid((edge + 1 / 256) / scale) - torch.sigmoid(edge / scale)
    return (mass + 1e-7).log().flatten(1).sum(1), torch.cat(log_p, 1), torch.cat(log_q, 1)


def test_the_bound_is_that_of_the_model_written_out() -> None:
    model, x = random_model().eval(), images(3)
    torch.manual_seed(7)
    terms = model.terms(x)
    torch.manual_seed(7)
    log_likelihood, log_prior, log_posterior = terms_by_hand(model, x.double())
    close(terms.log_likelihood, log_likelihood)
    close(terms.log_prior, log_prior)
    close(terms.log_posterior, log_posterior)
    assert terms.rates.shape == (3, 3 * 2)
    torch.manual_seed(7)
    close(model.log_prob(x), log_likelihood + (log_prior - log_posterior).sum(1))


def test_the_importance_weighted_bound_is_the_mean_of_the_weights() -> None:
    model, x = random_model(importance_draws=3).eval(), images(2)
    assert model.likelihood == "lower bound"
    torch.manual_seed(1)
    found = model.bound(x, 3)
    torch.manual_seed(1)
    draws = torch.stack([model.log_prob(x) for _ in range(3)])
    close(found, draws.logsumexp(0) - math.log(3))


def test_a_diagonal_posterior_has_the_divergence_in_closed_form() -> None:
    model = random_model(blocks=(1,), layers=0).eval()
    x = images(1)
    (only,) = model.upwards
    with torch.no_grad():
        (seen,) = model.encode(x)
        parts = only.look_down(model.summit(1))
        mean, log_std = seen.mean + parts[2], seen.log_std + parts[3]
        q = torch.distributions.Normal(mean, log_std.exp())
        p = torch.distributions.Normal(parts[0], parts[1].exp())
        expected = torch.distributions.kl_divergence(q, p).sum((2, 3))[0]
        rates = model.terms(x.expand(5_000, -1, -1, -1)).rates
    error = rates.std(0) / len(rates) ** 0.5
    assert ((rates.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.1 * expected).all()


def test_free_bits_are_for_each_feature_map_of_each_block() -> None:
    model, x = random_model().eval(), images(4)
    losses = {}
    for free_bits in (0.0, 1e4):
        torch.manual_seed(2)
        losses[free_bits] = elbo(model, x, free_bits=free_bits)
    torch.manual_seed(2)
    terms = model.terms(x)
    close(losses[0.0], -terms.bound.mean())
    close(losses[1e4], 6 * torch.tensor(1e4) - terms.log_likelihood.mean())


def test_the_first_batch_sets_the_spread_of_every_layer_and_later_ones_do_not() -> None:
    model = small(layers=2, blocks=(1, 2))
    outputs: dict[str, Tensor] = {}
    for name, part in model.named_modules():
        if isinstance(part, Normalized):
            part.register_forward_hook(
                lambda _, __, y, name=name: outputs.__setitem__(name, y.detach())
            )
    model.eval().terms(images(64))
    assert not any(part.is_set for part in model.modules() if isinstance(part, FirstBatch))
    model.train().terms(images(64))
    constant = outputs.pop("blocks.2.down_first")  # above it nothing varies, at first
    assert not constant.any()
    assert len(outputs) == 2 + 3 * 4 - 1 + 3 * 2 * 2 - 1
    for name, y in outputs.items():
        expected = 1.0 if ".net." in name else 0.1
        rows = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)), atol=1e-12, rtol=0)
        spread = rows.std(1, correction=0)
        torch.testing.assert_close(spread, torch.full_like(spread, expected), msg=name)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.terms(images(64))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("likelihood", "levels"), [("bernoulli", 2), ("logistic", 256), ("categorical", 7)]
)
def test_samples_are_images(likelihood: str, levels: int) -> None:
    model = small(observation(likelihood, levels)).eval()
    x = model.sample(5)
    assert (x.shape, x.dtype) == ((5, 2, 5, 6), torch.uint8)
    assert int(x.max()) < levels
    assert model.log_prob(x).isfinite().all()
    assert model.latents(model.encode(x)).shape == (5, 2 * (3 * 3 + 2 * 2 + 2 * 2))
    assert 0 <= active_units(model, x, 5) <= 34
    with pytest.raises(ValueError, match="temperature"):
        model.sample(1, temperature=-1.0)


def test_without_noise_all_samples_have_one_mean() -> None:
    model = random_model().eval()
    found: list[Tensor] = []
    model.last.register_forward_hook(lambda _, __, y: found.append(y))
    model.sample(4, temperature=0.0)
    close(found[0], found[0][:1].expand(4, -1, -1, -1))
    model.sample(4)
    assert found[1].std(0).min() > 0


@pytest.mark.parametrize("arguments", [{}, {"layers": 0}, {"hidden": ()}, {"layers": 2}], ids=str)
def test_gradients_reach_every_parameter(arguments: dict[str, object]) -> None:
    model, x = random_model(**arguments).eval(), images(8)
    check_gradients(model, elbo(model, x))


def conv_size(n_in: int, n_out: int, kernel: int = 3) -> int:
    """Of v, s and b."""
    return (n_in * kernel**2 + 2) * n_out


def count(channels: int, blocks: int, width: int, latent: int) -> int:
    """Numbers in the variables of the authors' code: two hidden layers, one step."""
    up = conv_size(width, 2 * latent + 2 * width) + conv_size(width, width)
    down = conv_size(width, 4 * latent + 2 * width) + conv_size(width + latent, width)
    net = sum(conv_size(a, b) for a, b in pairwise([latent, width, width, 2 * latent]))
    ends = conv_size(channels, width, 5) + conv_size(width, channels, 5)
    return blocks * (up + down + net) + ends + width + 1


@pytest.mark.parametrize("blocks", [(4,), (1, 2, 1)])
def test_there_are_the_parameters_of_the_authors_code_that_do_something(
    blocks: tuple[int, ...],
) -> None:
    assert count(3, 20, 160, 32) == PUBLISHED
    model = small(blocks=blocks, width=6, latent=2, hidden=(6, 6))
    # Theirs are also two convolutions at the top, of what nothing is made.
    expected = count(2, 4, 6, 2) - 2 * conv_size(6, 6)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("layers", [0, 1])
def test_a_small_model_learns(layers: int) -> None:
    torch.manual_seed(0)
    bright = torch.rand(256, 1, 1, 1)
    ramp = torch.linspace(0, 1, 8)
    x = (255 * bright * ramp.expand(256, 1, 8, 8)).floor().to(torch.uint8)
    model = ResNetVAE(
        (1, 8, 8), observation("logistic", 256), blocks=(1, 1), width=8, latent=2, layers=layers,
        hidden=(8,),
    )  # fmt: skip
    with torch.no_grad():
        model.terms(x)
        before = float(model.log_prob(x).mean())
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        elbo(model, x[torch.randint(256, (32,))], free_bits=0.1).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(model.eval().log_prob(x).mean()) > before + 20


def test_what_is_no_image_and_levels_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"event_shape: expected images .* got \(4,\)"):
        ResNetVAE((4,), observation("bernoulli", 2), blocks=(1,))
    for blocks in ((), (1, 0)):
        with pytest.raises(ValueError, match="blocks: expected"):
            small(blocks=blocks)
