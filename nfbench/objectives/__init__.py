"""What a model is trained to do: (model, batch, context) -> scalar loss.

An objective that can be annealed takes a fourth argument, its weight. What it takes beside these,
keyword-only, are settings of an experiment's training, and the energy of data that have one.
"""

from collections.abc import Callable

from torch import Tensor

from .elbo import check_elbo, elbo
from .endpoints import check_endpoints
from .flow_matching import flow_matching, ot_flow_matching
from .likelihood import check_penalties, maximum_likelihood, regularized_likelihood
from .reflow import check_teacher, reflow
from .reverse_kl import check_reverse_kl, closeness, reverse_kl

Objective = Callable[..., Tensor]
Criterion = Callable[..., Tensor]

OBJECTIVES: dict[str, Objective] = {
    "maximum_likelihood": maximum_likelihood,
    "regularized_likelihood": regularized_likelihood,
    "flow_matching": flow_matching,
    "ot_flow_matching": ot_flow_matching,
    "reflow": reflow,
    "elbo": elbo,
    "reverse_kl": reverse_kl,
}
# What tells, with a ValueError, that a model cannot be trained so with these settings.
CHECKS: dict[str, Callable[..., object]] = {
    "regularized_likelihood": check_penalties,
    "flow_matching": check_endpoints,
    "ot_flow_matching": check_endpoints,
    "reflow": check_teacher,
    "elbo": check_elbo,
    "reverse_kl": check_reverse_kl,
}
# (model, rows) -> (B,) in nats: what validations compare in place of the log-likelihood of an
# objective that learns from no data.
CRITERIA: dict[str, Criterion] = {"reverse_kl": closeness}
