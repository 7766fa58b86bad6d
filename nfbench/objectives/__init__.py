"""What a model is trained to do: (model, batch, context) -> scalar loss.

What an objective takes beside these, keyword-only, are settings of an experiment's training.
"""

from collections.abc import Callable

from torch import Tensor

from nfbench.density import DensityModel

from .endpoints import check_endpoints
from .flow_matching import flow_matching, ot_flow_matching
from .likelihood import check_penalties, maximum_likelihood, regularized_likelihood
from .reflow import check_teacher, reflow

Objective = Callable[[DensityModel, Tensor, Tensor | None], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "maximum_likelihood": maximum_likelihood,
    "regularized_likelihood": regularized_likelihood,
    "flow_matching": flow_matching,
    "ot_flow_matching": ot_flow_matching,
    "reflow": reflow,
}
# What tells, with a ValueError, that a model cannot be trained so with these settings.
CHECKS: dict[str, Callable[..., object]] = {
    "regularized_likelihood": check_penalties,
    "flow_matching": check_endpoints,
    "ot_flow_matching": check_endpoints,
    "reflow": check_teacher,
}
