"""Whether a trained model can be believed: its log-determinant, inverse, mass and samples."""

import copy
import math

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.flows.flow import Flow
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize

N_ROWS = 16
MAX_JACOBIAN = 256  # dimensions; above it the Jacobian costs more than the run
GRID_POINTS, GRID_REACH = 256, 0.25  # reach: how far beyond the data, as a part of their range

Audit = dict[str, float | int | None]


@torch.no_grad()
def audit(flow: DensityModel, x: Tensor, context: Tensor | None = None) -> Audit:
    """Check a flow against itself on rows of data (N, *event), in float64 unless it says not.

    - ``log_det_error``: largest |log_det - log|det J|| over rows, J by autograd; null above 256
      dimensions.
    - ``round_trip_error``, ``round_trip_error_float32``: largest |inverse(forward(x)) - x|.
    - ``passes_per_log_prob``, ``passes_per_sample``: network evaluations that wait for each other.
    - ``sample_log_prob_error``: largest difference between the log-density that sampling gives and
      that of the sample.
    - ``mass``: integral of the density over a square around two-dimensional data, which holds
      half as much again on each axis.

    Dequantization is left out: what is checked is the map from the dequantized data on. A model
    that is no flow has nothing of this to check.
    """
    if not isinstance(flow, Flow):
        return {}
    single = copy.deepcopy(flow).eval()
    double = copy.deepcopy(flow).eval().double()
    continuous, rows = skip_dequantization(double.transform, x[:N_ROWS])
    given = None if context is None else context[:N_ROWS].double()
    return {
        "log_det_error": log_det_error(continuous, rows, given),
        "round_trip_error": round_trip_error(continuous, rows, given),
        "round_trip_error_float32": round_trip_error(
            skip_dequantization(single.transform, x[:N_ROWS])[0],
            rows.float(),
            None if given is None else given.float(),
        ),
        "passes_per_log_prob": continuous.passes + flow.base.passes,
        "passes_per_sample": continuous.inverse_passes + flow.base.sample_passes,
        "sample_log_prob_error": sample_log_prob_error(double, continuous, given),
        "mass": mass(single, x) if x.shape[1:] == (2,) and context is None else None,
    }


def skip_dequantization(transform: Transform, x: Tensor) -> tuple[Transform, Tensor]:
    """The part of a transform that is a differentiable map, and float64 rows that enter it."""
    parts = transform.parts if isinstance(transform, Compose) else [transform]
    if parts and isinstance(parts[0], Dequantize):
        return Compose(parts[1:]), parts[0](x.double())[0]
    return transform, x.double()


@torch.enable_grad()
def log_det_error(transform: Transform, x: Tensor, context: Tensor | None) -> float | None:
    """Largest difference over rows between log_det and autograd's, in nats."""
    if x[0].numel() > MAX_JACOBIAN:
        return None
    _, log_det = transform(x, context)
    errors = []
    for i, row in enumerate(x):
        given = None if context is None else context[i : i + 1]

        def one(v: Tensor, given: Tensor | None = given) -> Tensor:
            return transform(v[None], given)[0][0].flatten()

        jacobian = torch.autograd.functional.jacobian(one, row).flatten(1)
        errors.append((torch.linalg.slogdet(jacobian).logabsdet - log_det[i]).abs())
    return float(torch.stack(errors).detach().max())


def round_trip_error(transform: Transform, x: Tensor, context: Tensor | None) -> float:
    """Largest |inverse(forward(x)) - x|."""
    back, _ = transform.inverse(transform(x, context)[0], context)
    return float((back - x).abs().max())


def sample_log_prob_error(flow: Flow, transform: Transform, context: Tensor | None) -> float:
    """Largest difference between the log-density that sampling gives and log_prob after it."""
    n = N_ROWS if context is None else len(context)
    z = flow.base.sample(n, context)
    x, log_det = transform.inverse(z, context)
    back, there = transform(x, context)
    sampled = flow.base.log_prob(z, context) - log_det
    return float((sampled - flow.base.log_prob(back, context) - there).abs().max())


def mass(flow: Flow, x: Tensor) -> float | None:
    """Integral of a density over a square around the data, in float32; null if not finite."""
    low, high = x.amin(0), x.amax(0)
    center, reach = (low + high) / 2, (0.5 + GRID_REACH) * (high - low).max()
    ticks = torch.linspace(-float(reach), float(reach), GRID_POINTS, device=x.device)
    grid = torch.cartesian_prod(ticks, ticks) + center
    density = torch.cat([flow.log_prob(rows).double().exp() for rows in grid.split(16384)])
    total = float(density.sum() * (ticks[1] - ticks[0]) ** 2)
    return total if math.isfinite(total) else None
