"""Regression of a velocity field on straight paths from data to noise: no ODE is solved."""

import torch
from torch import Tensor

from nfbench.density import DensityModel

from .endpoints import Endpoints, take_apart
from .pairing import pair_optimally


def flow_matching(
    model: DensityModel, x: Tensor, context: Tensor | None = None, *, sigma_min: float = 0.0
) -> Tensor:
    """Flow matching on paths between independent data and noise (Lipman et al. 2022, equation 23).

    ``E |T f(sT, x_s) - ((1 - sigma) noise - data)|^2`` with s ~ U(0, 1) for each row and
    ``x_s = (1 - s) data + (sigma + (1 - sigma) s) noise``, summed over the dimensions: squared
    units of the ODE's state, whatever its time T. Their time is 1 - s, their sigma_min our sigma.
    With sigma 0 it is the first rectified flow of Liu et al. (2022, equation 1).
    """
    ends = take_apart(model)
    given, data, noise = draw(ends, x, context)
    return regress(ends, data, noise, given, sigma_min)


def ot_flow_matching(
    model: DensityModel, x: Tensor, context: Tensor | None = None, *, sigma_min: float = 0.0
) -> Tensor:
    """Flow matching with noise paired to data by optimal transport (Tong et al. 2023).

    The loss is that of ``flow_matching``; the pairs are those that ``pair_optimally`` makes of a
    minibatch (their algorithm 3 without its noise), so that paths hardly cross.
    """
    ends = take_apart(model)
    given, data, noise = draw(ends, x, context)
    return regress(ends, data, pair_optimally(noise, data, given), given, sigma_min)


def draw(
    ends: Endpoints, x: Tensor, context: Tensor | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """What the field is conditioned on, and the two ends of each path, (B, *event)."""
    given = ends.codes(context, len(x))
    return given, ends.start(x, given), ends.noise(len(x), given)


def regress(
    ends: Endpoints, data: Tensor, noise: Tensor, context: Tensor | None, sigma_min: float
) -> Tensor:
    """The mean over paths of how far, squared, the field is from their displacement."""
    s = torch.rand(len(data), dtype=data.dtype, device=data.device)
    wide = s.view(-1, *[1] * (data.dim() - 1))
    points = (1 - wide) * data + (sigma_min + (1 - sigma_min) * wide) * noise
    displacement = (1 - sigma_min) * noise - data
    time = ends.ode.sqrt_T.square().to(data.dtype)
    moved = time * ends.ode.field.at_times(s * time, points, context)
    return (moved - displacement).flatten(1).square().sum(1).mean()
