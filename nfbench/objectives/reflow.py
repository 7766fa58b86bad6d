"""Straighter paths: a field is trained again, on the pairs that a trained one has made."""

import torch
from torch import Tensor

from nfbench.density import DensityModel

from .endpoints import take_apart
from .flow_matching import regress


def reflow(
    model: DensityModel,
    x: Tensor,
    context: Tensor | None = None,
    *,
    teacher: DensityModel | None = None,
) -> Tensor:
    """Flow matching on noise and what a teacher's ODE makes of it (Liu et al. 2022, section 2).

    The pairs are drawn anew for each batch, as many as it has rows (B, *event), of which only the
    context is used: a solve without a trace. The noise that belongs to a point is now one, so
    that the least loss is 0, and fewer steps of a solver follow the paths.
    """
    check_teacher(model, teacher=teacher)
    assert teacher is not None
    ends, theirs = take_apart(model), take_apart(teacher.to(x.device))
    given = ends.codes(context, len(x))
    noise = ends.noise(len(x), given)
    with torch.no_grad():
        data = theirs.ode.generate(noise, given)
    return regress(ends, data, noise, given, sigma_min=0.0)


def check_teacher(model: DensityModel, *, teacher: DensityModel | None = None) -> None:
    """Check that both the model and its teacher are flows that end in an ODE.

    Raises:
        ValueError: if one is not, if there is no teacher, or if the transforms before the ODE take
            statistics from data, of which reflow has none.
    """
    if teacher is None:
        raise ValueError("expected training.teacher, a run of the same flow; got none")
    take_apart(model)
    take_apart(teacher)
    if model.needs_calibration:
        raise ValueError("expected transforms without statistics of data before the ODE")
