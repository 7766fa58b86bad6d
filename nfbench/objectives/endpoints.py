"""A continuous flow taken apart: what its ODE starts from, its field, and the noise it ends in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nfbench.density import DensityModel
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.multiscale import MultiScale
from nfbench.transforms.ode import ODE


@dataclass(frozen=True)
class Endpoints:
    """A model ``preprocessing -> before -> ODE -> noise``, unconditional or of classes."""

    preprocessing: Sequence[Transform]
    classes: ClassConditional | None
    flow: Flow
    before: Sequence[Transform]
    ode: ODE
    shape: tuple[int, ...] | None = None  # of images whose noise the base draws flat

    def codes(self, context: Tensor | None, n: int) -> Tensor | None:
        """What the flow is conditioned on: the one-hot codes of labels (n,), or the context."""
        if self.classes is None or context is None:
            return context
        return self.classes.codes(context, n)

    @torch.no_grad()
    def start(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The x(0) of data (B, *event); noise of a dequantization is drawn anew."""
        for part in self.preprocessing:
            x = part.generate(x, backwards=False)
        for part in self.before:
            x = part.generate(x, context, backwards=False)
        return x

    @torch.no_grad()
    def noise(self, n: int, context: Tensor | None) -> Tensor:
        """n draws of x(T) from the base."""
        noise = self.flow.base.sample(n, context)
        return noise if self.shape is None else noise.view(n, *self.shape)


def take_apart(model: DensityModel) -> Endpoints:
    """The endpoints of a model's ODE.

    Raises:
        ValueError: if it is no flow whose last transform is its one ODE, or has parameters that
            are trained outside the field of that.
    """
    preprocessing: Sequence[Transform] = []
    classes = None
    inner = model
    if isinstance(inner, Preprocessed):
        preprocessing, inner = inner.preprocessing.parts, inner.model
    if isinstance(inner, ClassConditional):
        classes, inner = inner, inner.flow
    if not isinstance(inner, Flow):
        raise ValueError(f"expected a flow that ends in an ODE, got {type(inner).__name__}")
    *before, last = parts(inner.transform) or [inner.transform]
    n_odes = sum(isinstance(module, ODE) for module in model.modules())
    if n_odes != 1 or not isinstance(last, ODE):
        names = ", ".join(type(part).__name__ for part in (*before, last))
        raise ValueError(
            f"expected a flow with exactly one ODE, as its last transform; got {n_odes} in the "
            f"transforms {names}"
        )
    field = {id(parameter) for parameter in last.field.parameters()}
    others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in field]
    if others:
        raise ValueError(
            "expected no trained parameters but those of the ODE's field, as no others would get "
            f"a gradient (flow.train_T: false fixes the time); got {', '.join(others)}"
        )
    return Endpoints(preprocessing, classes, inner, before, last, image_shape(inner.transform))


def check_endpoints(model: DensityModel, *, sigma_min: float = 0.0) -> None:
    """Check that flow matching can train a model, with noise of this size at the data.

    Raises:
        ValueError: if it has no endpoints, or the size is not in [0, 1).
    """
    if not 0 <= sigma_min < 1:
        raise ValueError(f"sigma_min: expected a number in [0, 1), got {sigma_min}")
    take_apart(model)


def parts(transform: Transform) -> list[Transform]:
    """The transforms in order, data -> noise, compositions within compositions taken apart.

    Images of one scale are one: all that is done after its transforms is to flatten them.
    """
    if isinstance(transform, MultiScale) and len(transform.levels) == 1:
        (level,) = transform.levels
        assert isinstance(level, Transform)
        return parts(level)
    if not isinstance(transform, Compose):
        return [transform]
    return [each for part in transform.parts for each in parts(part)]


def image_shape(transform: Transform) -> tuple[int, ...] | None:
    """The shape of the images that a flow of one scale ends in; None of other flows."""
    return transform.shapes[0] if isinstance(transform, MultiScale) else None
