"""What a figure needs of a model, computed while it is there: densities on a grid, samples."""

from typing import IO

import numpy as np
import torch

from nfbench.data.base import DataModule
from nfbench.density import DensityModel

GRID_POINTS, MARGIN, N_POINTS = 160, 0.1, 5000
N_SAMPLES = 64


@torch.no_grad()
def save_pictures(model: DensityModel, data: DataModule, file: IO[bytes]) -> None:
    """Write model and true log-densities and samples (2-D data), or sample images, to a file."""
    shape = data.dataset.event_shape
    if shape == (2,):
        np.savez_compressed(file, **plane(model, data))  # type: ignore[arg-type]
    elif len(shape) == 3:
        images = model.sample(N_SAMPLES).cpu().numpy()
        np.savez_compressed(file, samples=images, real=data.test[:N_SAMPLES].cpu().numpy())


def plane(model: DensityModel, data: DataModule) -> dict[str, np.ndarray]:
    """Samples, test rows, and log-densities of model and truth on a square around the test set."""
    test = data.test.cpu().numpy()
    low, high = test.min(0), test.max(0)
    center, reach = (low + high) / 2, (0.5 + MARGIN) * (high - low).max()
    axes = [np.linspace(c - reach, c + reach, GRID_POINTS) for c in center]
    points = np.stack(np.meshgrid(*axes, indexing="xy"), -1).reshape(-1, 2).astype(np.float32)
    values = [
        model.log_prob(rows) for rows in torch.from_numpy(points).to(data.test.device).split(8192)
    ]
    arrays = {
        "x": axes[0],
        "y": axes[1],
        "log_density": torch.cat(values).reshape(GRID_POINTS, GRID_POINTS).cpu().numpy(),
        "samples": model.sample(N_POINTS).cpu().numpy(),
        "real": test[:N_POINTS],
    }
    if data.dataset.density_known:
        arrays["true_log_density"] = data.dataset.log_density(points).reshape(
            GRID_POINTS, GRID_POINTS
        )
    return arrays
