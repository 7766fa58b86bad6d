"""Parity of planar and radial maps with other libraries, given the same parameters.

Collected where the optional dependencies ``peers`` are installed (see conftest.py).
"""

from collections.abc import Sequence

import normflows.flows
import pyro.distributions.transforms
import pytest
import torch
import torch.nn.functional as F
from oracles import close, randomize
from torch import Tensor, nn

from nfbench.transforms.base import Transform
from nfbench.transforms.planar import Planar
from nfbench.transforms.radial import Radial

pytestmark = pytest.mark.usefixtures("float64")

D, LAYERS = 3, 8
DIMENSIONS = pytest.mark.parametrize("features", [1, D])


def rows(transform: Transform) -> list[dict[str, Tensor]]:
    """The parameters of each layer, by name."""
    values = {name: part.value for name, part in transform.named_children()}
    return [
        {name: value[layer].detach() for name, value in values.items()} for layer in range(LAYERS)
    ]


def filled(module: nn.Module, **values: Tensor) -> nn.Module:
    """The module with these parameters."""
    with torch.no_grad():
        for name, value in values.items():
            parameter = module.get_parameter(name)
            parameter.copy_(value.view_as(parameter))
    return module


def normflows_layers(ours: Transform, features: int) -> list[nn.Module]:
    if isinstance(ours, Planar):
        return [filled(normflows.flows.Planar((features,)), **row) for row in rows(ours)]
    return [
        filled(
            normflows.flows.Radial((features,)),
            z_0=row["center"],
            # It takes the size of alpha where the paper has a softplus.
            alpha=F.softplus(row["alpha"]),
            beta=row["beta"],
        )
        for row in rows(ours)
    ]


def pyro_layers(ours: Transform, features: int) -> list[nn.Module]:
    transforms = pyro.distributions.transforms
    if isinstance(ours, Planar):
        return [
            filled(transforms.Planar(features), w=row["w"], u=row["u"], bias=row["b"])
            for row in rows(ours)
        ]
    return [
        filled(
            transforms.Radial(features),
            x0=row["center"],
            alpha_prime=row["alpha"],
            beta_prime=row["beta"],
        )
        for row in rows(ours)
    ]


def composed(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the peer's layers make of x, and the sum of their log-determinants."""
    total = torch.zeros(len(x))
    for layer in layers:
        if isinstance(layer, normflows.flows.Flow):
            z, log_det = layer(x)
        else:
            z = layer(x)
            log_det = layer.log_abs_det_jacobian(x, z)
        x, total = z, total + log_det
    return x, total


@DIMENSIONS
@pytest.mark.parametrize("build", [Planar, Radial])
@pytest.mark.parametrize("convert", [normflows_layers, pyro_layers])
def test_forward_map_agrees(build: type[Transform], convert: object, features: int) -> None:
    ours = build(features, layers=LAYERS)
    randomize(ours, spread=1.0)
    x = torch.randn(50, features)
    z, log_det = composed(convert(ours, features), x)
    for actual, expected in zip(ours(x), (z, log_det), strict=True):
        close(actual, expected)
    close(ours.inverse(z)[0], x)
    close(ours.inverse(z)[1], -log_det)
