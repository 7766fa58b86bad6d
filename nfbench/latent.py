"""Data by way of a flow's noise and back: interpolations, reconstructions, levels drawn anew."""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from nfbench.audit import NOT_DIFFERENTIABLE
from nfbench.density import DensityModel
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.transforms.base import Compose
from nfbench.transforms.multiscale import MultiScale

NARROW = 1e-4  # radians: where vectors point nearly the same or opposite ways, sines vanish


@dataclass(frozen=True)
class Codes:
    """Rows of data as points, as noise, and what conditioned the flow on the way.

    ``points`` (B, *event) are the data, dequantized to [0, 1) where they are integers; ``noise``
    is (B, D); ``context`` is the one-hot code of labels (B, C), or None.
    """

    points: Tensor
    noise: Tensor
    context: Tensor | None


class Codec:
    """The ways data -> points -> noise and back of a flow, whatever stands before it.

    Raises:
        ValueError: if the model is no flow.
    """

    def __init__(self, model: DensityModel) -> None:
        inner = model.model if isinstance(model, Preprocessed) else model
        self.mixture = inner if isinstance(inner, ClassConditional) else None
        flow = inner if self.mixture is None else self.mixture.flow
        if not isinstance(flow, Flow):
            raise ValueError(f"{type(flow).__name__} is no flow: it has no noise for each image")
        self.flow = flow
        self.rounding, self.smooth = split(model)

    def encode(self, x: Tensor) -> Codes:
        """Rows of data (B, *event), dequantized, as noise.

        A flow given labels is given the one that makes the row most likely.
        """
        points, _ = self.rounding(x)
        y, _ = self.smooth(points)
        context = None
        if self.mixture is not None:
            context = self.mixture.codes(self.mixture.log_probs(y).argmax(0), len(y))
        return Codes(points, self.flow.transform(y, context)[0], context)

    def decode(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """The points (B, *event) that noise (B, D) comes from."""
        return self.smooth.inverse(self.flow.transform.generate(noise, context))[0]

    def round(self, points: Tensor) -> Tensor:
        """Points (B, *event) as data, the inverse of the dequantization if there is one."""
        return self.rounding.inverse(points)[0]


def split(model: DensityModel) -> tuple[Compose, Compose]:
    """The preprocessing of a model in two: what makes points of integers, and the smooth rest.

    Either is empty where there is nothing of it.
    """
    rest = list(model.preprocessing.parts) if isinstance(model, Preprocessed) else []
    rounding = []
    while rest and isinstance(rest[0], NOT_DIFFERENTIABLE):
        rounding.append(rest.pop(0))
    return Compose(rounding), Compose(rest)


def as_modelled(rounding: Compose, x: Tensor) -> Tensor:
    """Rows of data as the likelihood behind a rounding means them: of fewer bits, if it has fewer.

    In their own dtype.
    """
    return rounding.inverse(rounding(x)[0])[0].to(x.dtype)


def brightest(rounding: Compose) -> float:
    """The largest value that comes back from a rounding of integers."""
    return float(rounding.inverse(torch.ones(1, 1))[0])


def interpolate(codec: Codec, x: Tensor, steps: int) -> Tensor:
    """Data (P * steps, *event) from row 2p of ``x`` to row 2p + 1, p < P, one pair after another.

    Noise goes along ``spherical``, and the code of a label in a straight line. The ends are the
    rows themselves, as far as the flow's inverse is exact.
    """
    codes = codec.encode(x[: len(x) // 2 * 2])
    t = torch.linspace(0, 1, steps, device=x.device)
    noise = spherical(codes.noise[::2], codes.noise[1::2], t).flatten(0, 1)
    context = None
    if codes.context is not None:
        ends = codes.context[::2, None], codes.context[1::2, None]
        context = torch.lerp(*ends, t[:, None]).flatten(0, 1)
    return codec.round(codec.decode(noise, context))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """``[sin((1 - t) w) a + sin(t w) b] / sin w``, w the angle between a and b: (B, steps, D).

    Of noise a, b (B, D) and t (steps,) from 0 to 1 (Shoemake 1985). Nearly all standard normal
    noise of many dimensions is sqrt(D) long: so are the points of this arc, but not those of the
    straight line, whose middle is shorter by the root of two.
    """
    cosine = torch.cosine_similarity(a.double(), b.double(), dim=1).clamp(-1, 1)
    angle = cosine.acos().clamp(NARROW, pi - NARROW)[:, None]  # (B, 1)
    weights = torch.stack([(1 - t) * angle, t * angle]).sin() / angle.sin()  # (2, B, steps)
    of_a, of_b = weights.to(a.dtype)[..., None]
    return of_a * a[:, None] + of_b * b[:, None]


def reconstruct(codec: Codec, x: Tensor) -> tuple[Tensor, Tensor]:
    """Data after the way to the noise and back, and how far their points are off, |difference|."""
    codes = codec.encode(x)
    back = codec.decode(codes.noise, codes.context)
    return codec.round(back), (back - codes.points).abs()


def redraw(codec: Codec, x: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Data (B * (L + 1), *event): rows of ``x`` with the noise of 0, 1, ..., L levels drawn anew.

    The levels that leave the flow first, the finest, are the first to be (the "conceptual
    compression" of Dinh et al. 2016, appendix); what is new is the same from one image to the next
    of a row. The first image of a row is the reconstruction.

    Raises:
        ValueError: if the flow has no levels, or its base not this temperature.
    """
    sizes = levels(codec)
    if not sizes:
        raise ValueError("flow: expected one of several levels, as glow_image; got one without")
    codes = codec.encode(x)
    fresh = codec.flow.base.sample(len(x), codes.context, temperature=temperature)
    noise = mix_levels(codes.noise, fresh, sizes).flatten(0, 1)
    context = codes.context
    if context is not None:
        context = context.repeat_interleave(len(sizes) + 1, 0)
    return codec.round(codec.decode(noise, context))


def levels(codec: Codec) -> list[int]:
    """How many dimensions leave the flow at each level; none if it has no levels."""
    transform = codec.flow.transform
    return transform.sizes if isinstance(transform, MultiScale) else []


def mix_levels(kept: Tensor, fresh: Tensor, sizes: list[int]) -> Tensor:
    """Noise (B, L + 1, D): at l the first l levels are those of ``fresh``, the rest ``kept``'s."""
    ends = [sum(sizes[:level]) for level in range(len(sizes) + 1)]
    return torch.stack([torch.cat([fresh[:, :end], kept[:, end:]], 1) for end in ends], 1)
