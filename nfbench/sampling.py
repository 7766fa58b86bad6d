"""What `nfbench sample` makes of trained weights: samples, and real images by way of the noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nfbench import record
from nfbench.atomic import replacing
from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.preprocessed import Preprocessed
from nfbench.imaging import write_grid, write_points
from nfbench.inspection import load_trained
from nfbench.latent import Codec, levels
from nfbench.machine import torch_device
from nfbench.pages import (
    Page,
    Request,
    as_array,
    decoded,
    draw,
    interpolated,
    morphed,
    reconstructed,
    redrawn,
    sampled,
)
from nfbench.vae import VAE

N_REAL, N_REDRAWN = 16, 8  # images
MOST_NUMBERS = 2**28  # of samples, which are all held at once: a GiB of float32

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """Where the files go: samples/ beside the weights, which name them unless they are best.pt."""

    weights: Path
    root: Path

    def path(self, name: str) -> Path:
        """The path of a file."""
        prefix = "" if self.weights.stem == "best" else f"{self.weights.stem}-"
        return self.weights.parent / "samples" / f"{prefix}{name}"

    def shown(self, path: Path) -> str:
        """A path from the root if it is below it."""
        whole, root = path.resolve(), self.root.resolve()
        return str(whole.relative_to(root) if whole.is_relative_to(root) else whole)


@torch.no_grad()
def sample(
    target: str, request: Request, *, device: str = "auto", root: Path | None = None
) -> Iterator[str]:
    """Draw from trained weights to the folder samples/ beside them; yield a line for each file.

    Of images: a grid of samples, interpolations, reconstructions, and images whose fine levels
    are drawn anew. Of vectors: samples (n, D) as .npy and, in two dimensions, a figure.

    Raises:
        UsageError: no such weights or device, a label that the flow does not take, a temperature
            that its base does not have, or more samples than are held at once.
    """
    root = root or record.find_root()
    place = torch_device(device)
    trained = load_trained(target, seed=None, root=root)
    model, dataset, test = trained.model.to(place).eval(), trained.data.dataset, trained.data.test
    check_label(model, request.label)
    check_n(request.n, dataset.n_dims)
    folder = Folder(trained.checkpoint, root)
    if len(dataset.event_shape) == 3 and dataset.levels is not None:
        generator = torch.Generator().manual_seed(request.seed)
        chosen = torch.randperm(len(test), generator=generator)[:N_REAL]
        yield from write_pages(model, test[chosen].to(place), request, folder)
    else:
        make = partial(draw, model, request, dataset.n_dims, place)
        samples, counted = seeded(request.seed, make)
        yield from write_rows(
            as_array(samples), as_array(test[: request.n]), counted, request, folder
        )
    yield f"of {folder.shown(trained.checkpoint)}, step {trained.step}"


def write_rows(
    samples: np.ndarray, real: np.ndarray, counted: str, request: Request, folder: Folder
) -> Iterator[str]:
    """Write samples (n, *event) as .npy and, of the plane, a figure of them beside real rows."""
    path = folder.path(f"{request.name}.npy")
    with replacing(path) as file:
        np.save(file, samples, allow_pickle=False)
    yield f"{folder.shown(path)}: {counted}"
    if samples.shape[1:] == (2,):
        path = write_points(samples, real, folder.path(f"{request.name}.png"))
        yield f"{folder.shown(path)}: the same beside test data"


def check_label(model: DensityModel, label: int | None) -> None:
    """Refuse a label that the flow is not conditioned on."""
    inner = model.model if isinstance(model, Preprocessed) else model
    n_classes = inner.n_classes if isinstance(inner, ClassConditional) else 0
    if label is not None and not 0 <= label < n_classes:
        expected = f"0 to {n_classes - 1}" if n_classes else "none, as the flow is given no labels"
        raise UsageError(f"--label: expected {expected}; got {label}")


def check_n(n: int, n_dims: int) -> None:
    """Refuse more samples than are held at once, of so many numbers each."""
    most = MOST_NUMBERS // n_dims
    if n > most:
        raise UsageError(
            f"--n: expected at most {most:,} samples of {n_dims} numbers, got {n:,}; draw them in "
            "parts, each by its own --seed"
        )


def write_pages(model: DensityModel, x: Tensor, request: Request, folder: Folder) -> Iterator[str]:
    """Write what there is of a model of images, real ones being ``x``; say what there is not."""
    makers: list[Callable[[], Page]] = [partial(sampled, model, x, request)]
    missing = []
    if isinstance(model, VAE):
        makers += [partial(make, model, x, request) for make in (morphed, decoded)]
    else:
        try:
            codec = Codec(model)
        except ValueError as error:
            missing = [f"samples alone: {error}"]
        else:
            makers += [partial(make, codec, x, request) for make in (interpolated, reconstructed)]
            if levels(codec):
                makers.append(partial(redrawn, codec, x[:N_REDRAWN], request))
            else:
                missing = ["no levels drawn anew: this flow has none"]
    for make in makers:
        page = seeded(request.seed, make)
        path = write_grid(page.images, page.columns, folder.path(f"{page.name}.png"))
        yield f"{folder.shown(path)}: {page.remark}"
    yield from missing


def seeded(seed: int, make: Callable[[], T]) -> T:
    """What a function makes with random numbers of a seed; those of others stay as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
