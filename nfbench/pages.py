"""What is drawn from trained weights, page by page: samples, and real images and their codes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flows.preprocessed import Preprocessed
from nfbench.imaging import to_bytes
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
from nfbench.transforms.base import Compose
from nfbench.vae import VAE, LatentVariableModel

STEPS = 10  # of an interpolation, both ends included
NUMBERS_AT_ONCE = 2**20  # in a batch of samples


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
class Page:
    """Images uint8 (n, channels, height, width), row after row, and what to say of them."""

    name: str
    images: np.ndarray
    columns: int
    remark: str


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


def sampled(model: DensityModel, x: Tensor, request: Request) -> Page:
    """A square of samples."""
    samples, counted = draw(model, request, x[0].numel(), x.device)
    columns = math.ceil(math.sqrt(request.n))
    if isinstance(model, LatentVariableModel):
        images = to_bytes(as_array(samples), model.levels - 1)
    else:
        images = pixels(samples, split(model)[0])
    return Page(request.name, images, columns, counted)


def morphed(model: VAE, x: Tensor, request: Request) -> Page:
    """From one real image to another, a pair in a row: what is expected of latents between."""
    z = model.latents(model.encode(x[: len(x) // 2 * 2]))
    t = torch.linspace(0, 1, STEPS, device=x.device)[:, None]
    images = model.decode(torch.lerp(z[::2, None], z[1::2, None], t).flatten(0, 1))
    remark = f"{len(x) // 2} pairs of test images and the latents between, on a line"
    white = model.levels - 1
    return Page(f"interpolation-s{request.seed}", to_bytes(as_array(images), white), STEPS, remark)


def decoded(model: VAE, x: Tensor, request: Request) -> Page:
    """Real images, and what the decoder expects of a draw of their latents."""
    white = model.levels - 1
    rows = [
        to_bytes(as_array(each), white)
        for each in (x, model.decode(model.latents(model.encode(x))))
    ]
    remark = f"{len(x)} test images, and what is expected of a draw of their latents"
    return Page(f"reconstruction-s{request.seed}", np.concatenate(rows), len(x), remark)


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
