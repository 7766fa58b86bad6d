"""Encoders and decoders: shapes, parameters counted by hand, layers written out."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from oracles import check_gradients, close
from torch import Tensor, nn

from nfbench.nets.vae import NETWORKS, build_networks
from nfbench.nets.vae_gated import GatedConv, GatedDecoder, GatedEncoder
from nfbench.nets.vae_mlp import Dense, MLPDecoder, MLPEncoder

MNIST, FREY = (1, 28, 28), (1, 28, 20)
EVENTS = [MNIST, FREY, (3, 8, 4), (1, 4, 4)]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gated(n_in: int, n_out: int, size: int) -> int:
    """Numbers in two convolutions with biases."""
    return 2 * (n_in * size + 1) * n_out


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("event_shape", EVENTS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes(name: str, event_shape: tuple[int, ...], n: int) -> None:
    encoder, decoder = build_networks(
        name, event_shape, latent=5, features=6, hidden=(7,), n_parameters=2
    )
    assert encoder(torch.rand(n, *event_shape)).shape == (n, 6)
    assert decoder(torch.randn(n, 5)).shape == (n, 2, *event_shape)


@pytest.mark.parametrize("name", ["mlp", "maxout"])
def test_fully_connected_networks_take_any_event(name: str) -> None:
    encoder, decoder = build_networks(name, (5,))
    assert encoder(torch.rand(2, 5)).shape == (2, 256)
    assert decoder(torch.randn(2, 64)).shape == (2, 1, 5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    encoder, decoder = build_networks(name, (1, 8, 8), latent=4, hidden=(9, 8), n_parameters=2)
    check_gradients(encoder, encoder(torch.rand(20, 1, 8, 8)).square().sum())
    check_gradients(decoder, decoder(torch.randn(20, 4)).square().sum())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("float64")
def test_no_row_depends_on_another(name: str) -> None:
    encoder, decoder = build_networks(name, (1, 8, 8), latent=4)
    x, z = torch.rand(5, 1, 8, 8), torch.randn(5, 4)
    close(encoder(x)[2:3], encoder(x[2:3]))
    close(decoder(z)[2:3], decoder(z[2:3]))


@pytest.mark.parametrize(("event_shape", "rest"), [(MNIST, 49), (FREY, 35)])
def test_the_gated_networks_have_the_published_size(
    event_shape: tuple[int, ...], rest: int
) -> None:
    encoder, decoder = build_networks("gated", event_shape)
    inner = gated(1, 32, 25) + gated(32, 32, 25) + gated(32, 64, 25) + 2 * gated(64, 64, 25)
    assert count(encoder) == inner + gated(64, 256, rest)
    inner = gated(64, 64, rest) + gated(64, 64, 25) + gated(64, 32, 25) + 3 * gated(32, 32, 25)
    assert count(decoder) == inner + 32 + 1


def test_frey_faces_have_a_wide_layer_before_their_logits() -> None:
    decoder = GatedDecoder(64, FREY, n_parameters=256)
    more = count(decoder) - count(GatedDecoder(64, FREY)) + 33
    assert more == (32 * 25 + 1) * 256 + (256 + 1) * 256
    assert decoder(torch.randn(2, 64)).shape == (2, 256, 1, 28, 20)


def halves(conv: GatedConv, x: Tensor, stride: int, padding: int) -> Tensor:
    """The two convolutions of a gated one, one after the other."""
    weight, bias = conv.conv.weight, conv.conv.bias
    assert bias is not None
    n = len(bias) // 2
    if isinstance(conv.conv, nn.ConvTranspose2d):
        parts = [
            F.conv_transpose2d(x, w, b, stride, padding, output_padding=stride - 1)
            for w, b in ((weight[:, :n], bias[:n]), (weight[:, n:], bias[n:]))
        ]
    else:
        parts = [
            F.conv2d(x, w, b, stride, padding)
            for w, b in ((weight[:n], bias[:n]), (weight[n:], bias[n:]))
        ]
    return parts[0] / (1 + torch.exp(-parts[1]))


@pytest.mark.usefixtures("float64")
def test_the_gated_encoder_is_its_layers() -> None:
    encoder = GatedEncoder(FREY, features=10)
    x = h = torch.rand(2, *FREY)
    layers = [m for m in encoder.modules() if isinstance(m, GatedConv)]
    sizes = []
    for conv, stride in zip(layers, (1, 2, 1, 2, 1, 1), strict=True):
        h = halves(conv, h, stride, 0 if conv is layers[-1] else 2)
        sizes.append(tuple(h.shape[1:]))
    assert sizes == [(32, 28, 20), (32, 14, 10), (64, 14, 10), (64, 7, 5), (64, 7, 5), (10, 1, 1)]
    close(encoder(x), h[:, :, 0, 0])


@pytest.mark.usefixtures("float64")
def test_the_gated_decoder_is_its_layers() -> None:
    decoder = GatedDecoder(3, (2, 28, 20), n_parameters=2)
    z = torch.randn(2, 3)
    layers = [m for m in decoder.modules() if isinstance(m, GatedConv)]
    h, sizes = z.view(2, 3, 1, 1), []
    for conv, stride in zip(layers, (1, 1, 2, 1, 2, 1), strict=True):
        h = halves(conv, h, stride, 0 if conv is layers[0] else 2)
        sizes.append(tuple(h.shape[1:]))
    large = [(32, 14, 10), (32, 14, 10), (32, 28, 20), (32, 28, 20)]
    assert sizes == [(64, 7, 5), (64, 7, 5), *large]
    last = next(m for m in decoder.modules() if type(m) is nn.Conv2d and m.kernel_size == (1, 1))
    assert last.bias is not None
    h = torch.einsum("nchw,oc->nohw", h, last.weight[:, :, 0, 0]) + last.bias[:, None, None]
    close(decoder(z), torch.stack([h[:, :2], h[:, 2:]], 1))


def test_a_transposed_convolution_of_stride_one_is_a_convolution() -> None:
    """Its weights turned and its channels exchanged: what the decoder leans on."""
    x, weight = torch.randn(2, 3, 7, 5), torch.randn(3, 4, 5, 5)
    expected = F.conv_transpose2d(x, weight, padding=2)
    turned = weight.transpose(0, 1).flip(2, 3)
    torch.testing.assert_close(F.conv2d(x, turned, padding=2), expected, rtol=1e-4, atol=1e-4)


def test_gated_convolutions_start_uniform_by_what_goes_in() -> None:
    for transposed in (False, True):
        conv = GatedConv(16, 4, (5, 3), transposed=transposed).conv
        bound = 1 / math.sqrt(16 * 15)
        assert bound * 0.98 < conv.weight.abs().max().item() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_layout_in_memory_changes_no_value() -> None:
    encoder = GatedEncoder((3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(encoder(last), encoder(x), rtol=1e-5, atol=1e-6)
    first = encoder.layers[0](last)
    assert first.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("event_shape", [(784,), (28, 28), (1, 28, 30), (1, 30, 28), (1, 0, 4)])
def test_events_that_no_two_strides_divide_are_refused(event_shape: tuple[int, ...]) -> None:
    message = "H and W multiples of 4.*mlp and maxout take any shape"
    with pytest.raises(ValueError, match=message):
        GatedEncoder(event_shape)
    with pytest.raises(ValueError, match=message):
        GatedDecoder(4, event_shape)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one of gated, .*got 'transformer'"):
        build_networks("transformer", MNIST)
    with pytest.raises(ValueError, match=r"relu, .*softplus, maxout; got 'sine'"):
        MLPEncoder(MNIST, activation="sine")


@pytest.mark.usefixtures("float64")
def test_maxout_is_the_largest_of_four_linear_functions() -> None:
    layer = Dense(3, 5, "maxout")
    nn.init.normal_(layer.linear.bias)
    x = torch.randn(20, 3)
    weights, biases = layer.linear.weight, layer.linear.bias
    pieces = torch.stack([x @ weights[i::5].T + biases[i::5] for i in range(5)], 1)  # (B, 5, 4)
    assert pieces.shape == (20, 5, 4)
    close(layer(x), pieces.sort(-1).values[..., -1])
    assert len(set(pieces.argmax(-1).flatten().tolist())) == 4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_fully_connected_networks_are_their_layers(activation: str) -> None:
    activate = {
        "relu": lambda h: h.clamp(min=0),
        "tanh": lambda h: 1 - 2 / (1 + torch.exp(2 * h)),
        "softplus": lambda h: torch.log(1 + torch.exp(h)),
    }[activation]
    x, z = torch.rand(4, 2, 3), torch.randn(4, 2)
    encoder = MLPEncoder((2, 3), features=5, hidden=(7,), activation=activation)
    h = x.reshape(4, 6)
    for layer in linear_layers(encoder, [6, 7, 5]):
        h = activate(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(encoder(x), h, rtol=1e-8, atol=1e-8)
    decoder = MLPDecoder(2, (2, 3), n_parameters=3, hidden=(7, 5), activation=activation)
    *inner, last = linear_layers(decoder, [2, 7, 5, 18])
    h = z
    for layer in inner:
        h = activate(h @ layer.weight.T + layer.bias)
    h = h @ last.weight.T + last.bias
    torch.testing.assert_close(decoder(z), h.reshape(4, 3, 2, 3), rtol=1e-8, atol=1e-8)


def linear_layers(module: nn.Module, widths: Sequence[int]) -> list[nn.Linear]:
    """The linear layers of a network, which have these widths."""
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    found = [layers[0].in_features, *(each.out_features for each in layers)]
    assert found == list(widths)
    return layers


def test_maxout_networks_of_rezende_have_one_layer_of_400_units_each() -> None:
    encoder, decoder = build_networks("maxout", MNIST, latent=40, features=400, hidden=())
    assert count(encoder) == (784 + 1) * 1600
    assert count(decoder) == (40 + 1) * 1600 + (400 + 1) * 784


def test_a_decoder_mirrors_its_encoder() -> None:
    encoder, decoder = build_networks("mlp", (6,), latent=2, features=4, hidden=(9, 5))
    linear_layers(encoder, [6, 9, 5, 4])
    linear_layers(decoder, [2, 4, 5, 9, 6])


def test_maxout_starts_with_four_times_the_weights_of_unit_response() -> None:
    layer = Dense(400, 100, "maxout")
    assert layer.linear.weight.shape == (400, 400)
    assert layer.linear.weight.std().item() == pytest.approx(1 / math.sqrt(401), rel=0.02)
    assert not layer.linear.bias.any()
