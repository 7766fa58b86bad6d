"""The residual networks of autoencoders, and the settings of both that are refused or taken."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from harness import write_table
from oracles import close, randomize
from torch import Tensor, nn

from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.nets.normalized import Normalized, NormalizedDeconv, NormalizedLinear, halved
from nfbench.nets.vae_resnet import ResidualBlock, ResNetDecoder, ResNetEncoder
from nfbench.resnet_vae import ResNetVAE
from nfbench.vae import VAE

ROW = {
    "title": "Row",
    "flow": {"name": "iaf", "layers": 1, "hidden": [6], "scale": "exp"},
    "vae": {
        "network": "resnet_hierarchical",
        "latent": 2,
        "features": 6,
        "blocks": [1, 1],
        "observation": "bernoulli",
    },
    "training": {"objective": "elbo", "max_steps": 2},
    "cells": {"mnist_dynamic": {}},
}
MNIST = DATA["mnist_dynamic"]


def weight_of(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """exp(s) v / |v| with the output features first, and b."""
    assert isinstance(layer, Normalized)
    v = layer.weight.transpose(0, 1) if isinstance(layer, NormalizedDeconv) else layer.weight
    rows = v.flatten(1)
    scale = layer.norm.log_scale.exp()[:, None] / rows.norm(dim=1, keepdim=True)
    return (scale * rows).view_as(v), layer.norm.bias


def conv(layer: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, *weight_of(layer), stride=stride, padding=1)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    weight, bias = weight_of(layer)
    return x @ weight.T + bias


def residual(block: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
    assert isinstance(block, ResidualBlock)
    kept = x if isinstance(block.skip, nn.Identity) else conv(block.skip, x, stride)
    return kept + conv(block.second, F.elu(conv(block.first, x, stride)))


def deconv(layer: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    """The gradient of the convolution of stride 2 whose transposed one it is, and b."""
    weight, bias = weight_of(layer)
    start = torch.zeros(len(x), len(weight), *size, requires_grad=True)
    forward = F.conv2d(start, weight.transpose(0, 1), stride=2, padding=1)
    (found,) = torch.autograd.grad(forward, start, x)
    return found + bias[:, None, None]


@pytest.mark.usefixtures("float64")
def test_the_encoder_is_what_the_paper_says() -> None:
    encoder, x = ResNetEncoder((1, 28, 28), features=7).eval(), torch.rand(3, 1, 28, 28)
    randomize(encoder, spread=0.3)
    h, shapes = x, []
    for block, stride in zip(encoder.blocks, [2, 1, 2, 1, 2], strict=True):
        h = F.elu(residual(block, h, stride))
        shapes.append(tuple(h.shape[1:]))
    assert shapes == [(16, 14, 14), (16, 14, 14), (32, 7, 7), (32, 7, 7), (32, 4, 4)]
    close(encoder(x), F.elu(linear(encoder.last, h.flatten(1))))


@pytest.mark.usefixtures("float64")
def test_the_decoder_is_the_encoder_backwards() -> None:
    decoder, z = ResNetDecoder(4, (1, 28, 28), features=7).eval(), torch.randn(3, 4)
    randomize(decoder, spread=0.3)
    h = linear(decoder.second, F.elu(linear(decoder.first, z))).view(3, 32, 4, 4)
    widths = [32]
    for block, size in zip(decoder.blocks, [7, 0, 14, 0, 28], strict=True):
        assert isinstance(block, ResidualBlock)
        h = F.elu(h)
        if size:
            inner = F.elu(conv(block.first, h))
            h = deconv(block.skip, h, (size, size)) + deconv(block.second, inner, (size, size))
        else:
            h = residual(block, h)
        widths.append(h.shape[1])
    assert widths == [32, 32, 32, 16, 16, 1]
    close(decoder(z), h[:, None])


@pytest.mark.parametrize("side", range(1, 9))
def test_a_side_that_was_halved_is_doubled_to_what_it_was(side: int) -> None:
    event_shape = (2, side, side + 1)
    assert halved((side, side + 1)) == ((side + 1) // 2, (side + 2) // 2)
    encoder, decoder = ResNetEncoder(event_shape, features=5), ResNetDecoder(3, event_shape)
    assert encoder.eval()(torch.rand(2, *event_shape)).shape == (2, 5)
    assert decoder.eval()(torch.randn(2, 3)).shape == (2, 1, *event_shape)


@pytest.mark.usefixtures("float64")
def test_the_first_batch_sets_every_layer() -> None:
    encoder, decoder = (
        ResNetEncoder((1, 9, 8), features=6),
        ResNetDecoder(4, (1, 9, 8), features=6),
    )
    outputs: list[Tensor] = []
    for part in [*encoder.modules(), *decoder.modules()]:
        if isinstance(part, Normalized):
            part.register_forward_hook(lambda _, __, y: outputs.append(y.detach()))
    encoder(torch.rand(64, 1, 9, 8).round())
    decoder(torch.randn(64, 4))
    assert len(outputs) == 2 * (3 * 3 + 2 * 2) + 3
    for y in outputs:
        rows = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.std(1, correction=0), torch.ones(len(rows)))
        torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows)), atol=1e-12, rtol=0)


def test_one_row_of_one_feature_sets_nothing() -> None:
    layer = NormalizedLinear(3, 2, std=0.1)
    layer(torch.randn(1, 3))
    assert not layer.norm.is_set
    assert not layer.norm.log_scale.any()


def test_vectors_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"images \(C, H, W\) for the networks resnet, got \(4,\)"
    ):
        ResNetEncoder((4,))


def build(root: Path, *overrides: str, **sections: object) -> object:
    write_table(root, row={**ROW, **sections})
    experiment = load("tiny/row", "mnist_dynamic", overrides=overrides, root=root)
    return build_model(experiment, MNIST)


def test_the_hierarchical_network_is_built_of_its_settings(tmp_path: Path) -> None:
    model = build(tmp_path, "training.importance_draws=3")
    assert isinstance(model, ResNetVAE)
    assert [len(block.steps) for block in model.upwards] == [1, 1]
    assert [block.latent_shape for block in model.upwards] == [(2, 14, 14), (2, 7, 7)]
    assert model.upwards[0].steps[0].net.context_channels == 6  # type: ignore[union-attr]
    assert model.importance_draws == 3
    linear = build(tmp_path, "flow.hidden=[]", "flow.layers=2")
    assert isinstance(linear, ResNetVAE)
    assert [len(block.steps) for block in linear.upwards] == [2, 2]
    diagonal = build(tmp_path, flow={"name": "identity"})
    assert isinstance(diagonal, ResNetVAE)
    assert not any(block.steps for block in diagonal.upwards)
    assert diagonal.eval().log_prob(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).isfinite().all()


def test_residual_networks_are_those_of_an_autoencoder_with_any_flow(tmp_path: Path) -> None:
    vae = {"network": "resnet", "latent": 3, "features": 5}
    flow = {"name": "iaf", "layers": 2, "hidden": [4], "scale": "gate"}
    model = build(tmp_path, vae=vae, flow=flow)
    assert isinstance(model, VAE)
    assert isinstance(model.encoder, ResNetEncoder)
    assert isinstance(model.decoder, ResNetDecoder)
    assert model(torch.randint(2, (4, 1, 28, 28))).isfinite().all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("flow.scale=sigmoid", r"flow.scale: expected 'exp' with network resnet_h.*got 'sigmoid'"),
        ("flow.forget_bias=2.0", r"flow.forget_bias: expected 1.0 with network .*got 2.0"),
        ("flow.init=near_zero", "flow.init: expected 'paper'"),
        ("vae.hidden=[3]", r"vae.hidden: expected \[400\], as network resnet_hier.*got \[3\]"),
        ("vae.variance_bounds=[1.0, 2.0]", r"vae.variance_bounds: expected \[\], as network"),
        ("vae.blocks=[]", "blocks: expected the numbers of blocks"),
        ("vae.network=gated", r"vae.blocks: expected \[\], as network gated .*got \[1, 1\]"),
        ("vae.network=resnet", r"vae.blocks: expected \[\], as network resnet "),
        ("vae.network=none", "vae.latent: expected 64, as network none does not take it; got 2"),
    ],
)
def test_settings_of_another_network_are_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path, override)


def test_another_flow_is_refused_as_the_posterior_of_a_block(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flow: expected iaf or identity with network resnet_h"):
        build(tmp_path, flow={"name": "planar"})
