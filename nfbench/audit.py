"""Whether a trained model can be believed: its log-determinant, inverse, mass and samples."""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.distributions.base import Distribution
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.quantize import Quantize
from nfbench.transforms.variational import VariationalDequantize
from nfbench.vae import VAE

N_ROWS = 16
N_SAMPLES = 1000
NUMBERS_AT_ONCE = 2**20  # dimensions times rows of a batch of these
MAX_JACOBIAN = 1024  # dimensions; above it the Jacobian costs more than the run
GRID_POINTS, GRID_REACH = 256, 0.25  # reach: how far beyond the data, as a part of their range
# Of the preprocessing: what makes of integers others, and of these real numbers.
NOT_DIFFERENTIABLE = (Quantize, Dequantize, VariationalDequantize)

Audit = dict[str, float | int | None]


@dataclass(frozen=True)
class Audited:
    """The differentiable part of a model, and float64 rows (and context) that enter it."""

    base: Distribution
    transform: Transform
    x: Tensor
    context: Tensor | None
    passes: tuple[int, int]  # of the whole model's networks, for a density and for a sample

    def float(self) -> "Audited":
        """The same in float32."""
        context = None if self.context is None else self.context.float()
        transform = copy.deepcopy(self.transform).float()
        base = copy.deepcopy(self.base).float()
        return Audited(base, transform, self.x.float(), context, self.passes)


@torch.no_grad()
def audit(model: DensityModel, x: Tensor) -> Audit:
    """Check a flow against itself on rows of data (N, *event).

    In float64, but for what says float32:

    - ``log_det_error``: largest |log_det - log|det J|| over rows, J by autograd; null above 1024
      dimensions.
    - ``base_log_prob_error``: the same of the base at noise of its own, whose map to the
      probabilities ``P(Z_d <= z_d | z_<d)`` has the density as its determinant.
    - ``round_trip_error``, ``round_trip_error_float32``: largest |inverse(forward(x)) - x|.
    - ``sample_log_prob_error``: largest difference between the log-density that sampling gives and
      that of the sample.

    Of the networks:

    - ``passes_per_log_prob``, ``passes_per_sample``: evaluations that wait for each other.

    In the model's own precision:

    - ``sample_calibration``: Kolmogorov-Smirnov distance between the log-likelihoods of 1000
      samples and of as many rows; samples of the data's own distribution exceed
      ``sample_calibration_noise`` in one of twenty cases.
    - ``non_finite_samples``: how many of them hold NaN or infinity.
    - ``mass``: integral of the density over a square around two-dimensional data, which holds
      half as much again on each axis.

    ``non_finite`` is how many of these came out as NaN or infinity, and are null here.

    Dequantization is left out: what is checked is the map from the dequantized data on. Of an
    autoencoder it is the posterior's flow, at latents that it draws for the rows. Labels are taken
    in turn. What is drawn is the same at every call. A model of another kind has nothing of this
    to check.

    Raises:
        ValueError: if there is no row.
    """
    if not len(x):
        raise ValueError("audit: expected rows of data, got none")
    model = copy.deepcopy(model).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = differentiable_part(model, x[:N_ROWS])
        if part is None:
            return {}
        found: Audit = {
            "log_det_error": log_det_error(part),
            "round_trip_error": round_trip_error(part),
            "round_trip_error_float32": round_trip_error(part.float()),
            "passes_per_log_prob": part.passes[0],
            "passes_per_sample": part.passes[1],
            "sample_log_prob_error": sample_log_prob_error(part),
            **calibration(model, x[:N_SAMPLES]),
            "mass": mass(model, x) if x.shape[1:] == (2,) else None,
            # Last, as it draws: the noise of the others is that of earlier audits.
            "base_log_prob_error": base_log_prob_error(part),
        }
    bad = [key for key, value in found.items() if value is not None and not math.isfinite(value)]
    return {**found, **dict.fromkeys(bad), "non_finite": len(bad)}


def differentiable_part(model: DensityModel, x: Tensor) -> Audited | None:
    """The flow in a model, with what of the preprocessing is differentiable; None without one."""
    if isinstance(model, VAE):
        return posterior_part(model, x)
    before: list[Transform] = []
    x = x.double()
    if isinstance(model, Preprocessed):
        before, model = list(model.preprocessing.parts), model.model
        while before and isinstance(before[0], NOT_DIFFERENTIABLE):
            x, _ = copy.deepcopy(before.pop(0)).double()(x)
    context = None
    if isinstance(model, ClassConditional):
        labels = torch.arange(len(x), device=x.device) % model.n_classes
        context, model = F.one_hot(labels, model.n_classes).double(), model.flow
    if not isinstance(model, Flow):
        return None
    transform = copy.deepcopy(Compose([*before, model.transform])).double()
    base = copy.deepcopy(model.base).double()
    passes = (
        transform.passes + base.passes,
        transform.inverse_passes + base.sample_passes,
    )
    return Audited(base, transform, x, context, passes)


def posterior_part(model: VAE, x: Tensor) -> Audited:
    """The flow of an autoencoder's posterior, with a draw of z for each row of data."""
    model = copy.deepcopy(model).double()
    code = model.encode(x)
    z, _ = model.draw(code)
    passes = 2 + model.flow.transform.inverse_passes, 1  # encoder and decoder; decoder alone
    return Audited(model.prior, model.flow.transform, z, code.features, passes)


@torch.enable_grad()
def log_det_error(part: Audited) -> float | None:
    """Largest difference over rows between log_det and autograd's, in nats."""
    if part.x[0].numel() > MAX_JACOBIAN:
        return None
    x = part.x.clone().requires_grad_()
    z, log_det = part.transform(x, part.context)
    return float((log_det - log_det_by_autograd(x, z)).abs().max().detach())


@torch.enable_grad()
def base_log_prob_error(part: Audited) -> float | None:
    """Largest difference over draws between the base's log_prob and autograd's, in nats."""
    if part.x[0].numel() > MAX_JACOBIAN:
        return None
    z = part.base.sample(len(part.x), part.context).detach().requires_grad_()
    found = log_det_by_autograd(z, part.base.cdf(z, part.context))
    return float((part.base.log_prob(z, part.context) - found).abs().max().detach())


def log_det_by_autograd(x: Tensor, z: Tensor) -> Tensor:
    """log|det dz/dx| of each row, (B,)."""
    # No row depends on another: the sum over rows of one dimension gives that of each row.
    rows = [
        torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1)
        for column in z.flatten(1).unbind(1)
    ]
    return torch.linalg.slogdet(torch.stack(rows, 1)).logabsdet


def round_trip_error(part: Audited) -> float:
    """Largest |inverse(forward(x)) - x|."""
    back, _ = part.transform.inverse(part.transform(part.x, part.context)[0], part.context)
    return float((back - part.x).abs().max())


def sample_log_prob_error(part: Audited) -> float:
    """Largest difference between the log-density that sampling gives and log_prob after it."""
    z = part.base.sample(len(part.x), part.context)
    x, log_det = part.transform.inverse(z, part.context)
    back, there = part.transform(x, part.context)
    sampled = part.base.log_prob(z, part.context) - log_det
    return float((sampled - part.base.log_prob(back, part.context) - there).abs().max())


def calibration(model: DensityModel, x: Tensor) -> Audit:
    """How far the log-likelihoods of samples are distributed from those of data."""
    n_each = max(1, NUMBERS_AT_ONCE // x[0].numel())
    samples = torch.cat([model.sample(len(rows)) for rows in x.split(n_each)])
    finite = samples[samples.isfinite().flatten(1).all(1)]
    distance = None
    if len(finite):
        found = [
            torch.cat([model.log_prob(each) for each in rows.split(n_each)]).cpu().numpy()
            for rows in (x, finite.to(x.dtype))
        ]
        distance = float(ks_2samp(*found, method="asymp").statistic)
    return {
        "sample_calibration": distance,
        "sample_calibration_noise": 1.36 * math.sqrt(2 / len(x)),
        "non_finite_samples": len(x) - len(finite),
    }


def mass(model: DensityModel, x: Tensor) -> float:
    """Integral of a density over a square around the data, in float32."""
    low, high = x.amin(0), x.amax(0)
    center, reach = (low + high) / 2, (0.5 + GRID_REACH) * (high - low).max()
    ticks = torch.linspace(-float(reach), float(reach), GRID_POINTS, device=x.device)
    grid = torch.cartesian_prod(ticks, ticks) + center
    density = torch.cat([model.log_prob(rows).double().exp() for rows in grid.split(16384)])
    return float(density.sum() * (ticks[1] - ticks[0]) ** 2)
