"""What `nfbench sample` makes of trained weights: samples, and real images by way of the noise."""

import math
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
from nfbench.imaging import to_bytes, write_grid, write_points
from nfbench.inspection import load_trained
from nfbench.latent import (
    Codec,
    as_modelled,
    brightest,
    interpolate,
    levels,
    reconstruct,
    redraw,
    split,
)
from nfbench.run import torch_device
from nfbench.transforms.base import Compose

N_REAL, N_REDRAWN = 16, 8  # images
STEPS = 10  # of an interpolation, both ends included
NUMBERS_AT_ONCE = 2**20  # in a batch of samples

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What to draw; the seed chooses the noise and the real images.

    Raises:
        UsageError: if ``n`` is less than 1, or the temperature negative or not finite.
    """

    n: int = 64
    temperature: float = 1.0
    seed: int = 0
    label: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"--n: expected at least 1 sample, got {self.n}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise UsageError(
                "--temperature: expected a finite number of at least 0, for example 0.7 (1 "
                f"samples the density itself); got {self.temperature}"
            )

    @property
    def tempered(self) -> str:
        """The temperature and the seed, as names of files have them."""
        return f"t{str(float(self.temperature)).removesuffix('.0')}-s{self.seed}"

    @property
    def name(self) -> str:
        """The name of the samples' file, which says all that they depend on."""
        label = "" if self.label is None else f"-label{self.label}"
        return f"samples-n{self.n}-{self.tempered}{label}"


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


@dataclass(frozen=True)
class Page:
    """Images uint8 (n, channels, height, width), row after row, and what to say of them."""

    name: str
    images: np.ndarray
    columns: int
    remark: str


@torch.no_grad()
def sample(
    target: str, request: Request, *, device: str = "auto", root: Path | None = None
) -> Iterator[str]:
    """Draw from trained weights to the folder samples/ beside them; yield a line for each file.

    Of images: a grid of samples, interpolations, reconstructions, and images whose fine levels
    are drawn anew. Of vectors: samples (n, D) as .npy and, in two dimensions, a figure.

    Raises:
        UsageError: no such weights or device, a label that the flow does not take, or a
            temperature that its base does not have.
    """
    root = root or record.find_root()
    place = torch_device(device)
    trained = load_trained(target, seed=None, root=root)
    model, dataset, test = trained.model.to(place).eval(), trained.data.dataset, trained.data.test
    check_label(model, request.label)
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


def draw(
    model: DensityModel, request: Request, n_dims: int, device: torch.device
) -> tuple[Tensor, str]:
    """Samples (n, *event), and in words how many, and how many of them are not finite.

    Raises:
        UsageError: if the model's base does not have this temperature.
    """
    # To round makes a number of infinity: what is counted is what the flow gives.
    inner = model.model if isinstance(model, Preprocessed) else model
    batches = []
    for rows in torch.arange(request.n).split(max(1, NUMBERS_AT_ONCE // n_dims)):
        labels = None
        if request.label is not None:
            labels = torch.full((len(rows),), request.label, device=device)
        try:
            batches.append(inner.sample(len(rows), labels, temperature=request.temperature))
        except ValueError as error:
            raise UsageError(str(error)) from error
    samples = torch.cat(batches)
    n_bad = int((~samples.flatten(1).isfinite().all(1)).sum())
    counted = f"{request.n} samples" + (f", {n_bad} of them not finite" if n_bad else "")
    if isinstance(model, Preprocessed):
        samples, _ = model.preprocessing.inverse(samples)
    return samples, counted


def write_pages(model: DensityModel, x: Tensor, request: Request, folder: Folder) -> Iterator[str]:
    """Write what there is of a model of images, real ones being ``x``; say what there is not."""
    makers: list[Callable[[], Page]] = [partial(sampled, model, x, request)]
    missing = []
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


def sampled(model: DensityModel, x: Tensor, request: Request) -> Page:
    """A square of samples."""
    samples, counted = draw(model, request, x[0].numel(), x.device)
    columns = math.ceil(math.sqrt(request.n))
    return Page(request.name, pixels(samples, split(model)[0]), columns, counted)


def interpolated(codec: Codec, x: Tensor, request: Request) -> Page:
    """From one real image to another, a pair in a row."""
    images = interpolate(codec, x, STEPS)
    remark = f"{len(images) // STEPS} pairs of test images and the noise between, on an arc"
    return Page(f"interpolation-s{request.seed}", pixels(images, codec.rounding), STEPS, remark)


def reconstructed(codec: Codec, x: Tensor, request: Request) -> Page:
    """Real images, what comes back of them, and the difference before it is rounded.

    What is magnified is the difference of the points, and so that it is just within the range.
    """
    back, off = reconstruct(codec, x)
    largest = float(off.max())
    factor = magnification(largest)
    real = as_modelled(codec.rounding, x)
    n_wrong = int((back != real).sum())
    rows = [pixels(real, codec.rounding), pixels(back, codec.rounding)]
    rows.append(to_bytes(as_array(off), 1 / float(factor)))
    remark = (
        f"{len(x)} test images, from noise again, and the difference times {factor}; at most "
        f"{largest:.2g} of the range of a pixel, {n_wrong} of {real.numel()} rounded otherwise"
    )
    name = f"reconstruction-s{request.seed}"
    return Page(name, np.concatenate(rows), len(x), remark)


def magnification(largest: float) -> str:
    """The largest of 1, 2, 5, 10, 20, ..., written as 1e0, that ``largest`` times it is within 1.

    1e0 where there is none, or no difference to magnify.
    """
    if not 0 < largest < 1:
        return "1e0"
    exponent = math.floor(-math.log10(largest))
    digit = max(digit for digit in (1, 2, 5) if digit == 1 or digit * 10**exponent * largest <= 1)
    return f"{digit}e{exponent}"


def redrawn(codec: Codec, x: Tensor, request: Request) -> Page:
    """Real images, one in a row, and with the noise of more and more levels drawn anew."""
    images = redraw(codec, x, temperature=request.temperature)
    n_levels = len(levels(codec))
    remark = f"{len(x)} test images, the noise of 0 to {n_levels} levels drawn anew, finest first"
    name = f"levels-{request.tempered}"
    return Page(name, pixels(images, codec.rounding), n_levels + 1, remark)


def pixels(images: Tensor, rounding: Compose) -> np.ndarray:
    """Integer images (n, *event) as uint8, white where they are largest."""
    return to_bytes(as_array(images), brightest(rounding))


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    array: np.ndarray = tensor.float().cpu().numpy()
    return array


def seeded(seed: int, make: Callable[[], T]) -> T:
    """What a function makes with random numbers of a seed; those of others stay as they are."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()
