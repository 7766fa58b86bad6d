"""What a figure needs of a model, computed while it is there: densities, samples, transport."""

import logging
from collections.abc import Callable
from typing import IO

import numpy as np
import torch
from torch import Tensor

from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.flows.flow import Flow
from nfbench.latent import as_modelled, split
from nfbench.signals import InterruptedRunError

log = logging.getLogger("nfbench")
GRID_POINTS, MARGIN, N_POINTS = 160, 0.1, 5000
N_SAMPLES = 64
# The noise that is followed to the data: points, stages kept of their way, lines each way.
N_FOLLOWED, STAGES, LINES, POINTS_PER_LINE = 2000, 8, 17, 129
OUTSIDE = 0.002  # of the noise, beyond either end of the lines

Arrays = dict[str, np.ndarray]


@torch.no_grad()
def save_pictures(model: DensityModel, data: DataModule, file: IO[bytes]) -> None:
    """Write what figures of two-dimensional data or images need; nothing for other data.

    What cannot be computed is left out, with a warning: no figure is worth a run.
    """
    kinds: list[Callable[[DensityModel, DataModule], Arrays]] = []
    if data.dataset.event_shape == (2,):
        kinds = [plane, transport, warped_grid]
    elif len(data.dataset.event_shape) == 3:
        kinds = [images]
    arrays: Arrays = {}
    for kind in kinds:
        try:
            arrays |= kind(model, data)
        except InterruptedRunError:
            raise
        except Exception as error:
            log.warning("pictures: no %s: %s", kind.__name__.replace("_", " "), error)
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def images(model: DensityModel, data: DataModule) -> Arrays:
    """Sampled images and real ones, of as many bits."""
    samples = model.sample(N_SAMPLES).cpu().numpy()
    real = as_modelled(split(model)[0], data.test[:N_SAMPLES])
    return {"samples": samples, "real": real.cpu().numpy()}


def plane(model: DensityModel, data: DataModule) -> Arrays:
    """Samples, test rows, and log-densities of model and truth on a square around the test set."""
    test = data.test.cpu().numpy()
    low, high = test.min(0), test.max(0)
    center, reach = (low + high) / 2, (0.5 + MARGIN) * (high - low).max()
    axes = [np.linspace(c - reach, c + reach, GRID_POINTS, dtype=np.float32) for c in center]
    points = np.stack(np.meshgrid(*axes, indexing="xy"), -1).reshape(-1, 2)
    values = [
        model.log_prob(rows) for rows in torch.from_numpy(points).to(data.test.device).split(8192)
    ]
    arrays = {
        "x": axes[0],
        "y": axes[1],
        "log_density": floats(torch.cat(values)).reshape(GRID_POINTS, GRID_POINTS),
        "samples": floats(model.sample(N_POINTS)),
        "real": test[:N_POINTS],
    }
    if data.dataset.density_known:
        truth = data.dataset.log_density(points).astype(np.float32)
        arrays["true_log_density"] = truth.reshape(GRID_POINTS, GRID_POINTS)
    return arrays


def transport(model: DensityModel, data: DataModule) -> Arrays:
    """Noise on its way to the data: points (stages, n, 2) at the start and after some steps.

    ``stage`` says after how many of the ``n_steps`` steps, ``stage_name`` after which; steps
    that move nothing do not count.
    """
    if not isinstance(model, Flow):
        return {}
    noise = model.base.sample(N_FOLLOWED)
    trajectory = [(type(model.base).__name__, noise)]
    for name, points in model.transform.steps(noise):
        if not torch.equal(points, trajectory[-1][1]):
            trajectory.append((name, points))
    n_steps = len(trajectory) - 1
    chosen = np.unique(np.linspace(0, n_steps, STAGES).round().astype(int))
    return {
        "transport": np.stack([floats(trajectory[i][1]) for i in chosen]),
        "stage": chosen,
        "stage_name": np.array([trajectory[i][0] for i in chosen]),
        "n_steps": np.array(n_steps),
    }


def warped_grid(model: DensityModel, data: DataModule) -> Arrays:
    """Straight lines of the noise where the data see them: ``grid`` (2, lines, points, 2).

    The first are horizontal in the noise, the second vertical; they span nearly all of it.
    """
    if not isinstance(model, Flow):
        return {}
    noise = model.base.sample(N_POINTS).double()
    ends = torch.quantile(noise, torch.tensor([OUTSIDE, 1 - OUTSIDE]).to(noise), dim=0)
    (left, bottom), (right, top) = ends.tolist()

    def lines(along: tuple[float, float], across: tuple[float, float]) -> Tensor:
        ticks = torch.linspace(*along, POINTS_PER_LINE), torch.linspace(*across, LINES)
        return torch.stack(torch.meshgrid(*ticks, indexing="xy"), -1)  # (lines, points, 2)

    horizontal = lines((left, right), (bottom, top))
    vertical = lines((bottom, top), (left, right)).flip(-1)
    grid = torch.stack((horizontal, vertical)).to(data.test)
    return {"grid": floats(model.transform.generate(grid.reshape(-1, 2))).reshape(grid.shape)}


def floats(tensor: Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    array: np.ndarray = tensor.float().cpu().numpy()
    return array
