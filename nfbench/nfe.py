"""What continuous flows cost: evaluations of their right-hand side in training and evaluation."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from nfbench.density import DensityModel
from nfbench.errors import OdeError
from nfbench.processes import add_up, are_many
from nfbench.transforms.ode import ODE, Nfe, count_nfe, no_evaluations

log = logging.getLogger("nfbench")


@dataclass
class NfeMeter:
    """Solves and evaluations of a model's ODEs, by what they were for.

    Training is counted by chunks, and by intervals between validations: ``state`` holds what a
    resumed run needs to count on. ``evaluation`` is that of the test set.
    """

    model: DensityModel
    chunk: Nfe = field(default_factory=no_evaluations)  # the last one
    interval: Nfe = field(default_factory=no_evaluations)  # since the last validation
    finished: Nfe = field(default_factory=no_evaluations)  # the interval before that validation
    evaluation: Nfe = field(default_factory=no_evaluations)
    sampling: Nfe = field(default_factory=no_evaluations)
    evaluation_batch: int = 0  # rows that take the same steps
    sampling_batch: int = 0
    # Of the estimates of the evaluation over their probes: rows, the sum of their variances, and
    # how many are not known.
    spread: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def odes(self) -> list[ODE]:
        """The ODEs in the model."""
        return odes_in(self.model)

    def end_chunk(self) -> None:
        """Take in what was counted since the last chunk of training."""
        self.chunk = count_nfe(self.model, reset=True)
        self.interval = add(self.interval, self.chunk)

    def end_interval(self) -> None:
        """Close the interval at a validation; of several processes the sum of theirs counts."""
        self.finished, self.interval = over_processes(self.interval), no_evaluations()

    def begin_evaluation(self) -> None:
        """Forget an earlier evaluation, and those that were no test."""
        count_nfe(self.model, reset=True)
        self.evaluation, self.evaluation_batch = no_evaluations(), 0
        self.spread = (0.0, 0.0, 0.0)

    def end_batch(self, n_rows: int) -> None:
        """Take in what was counted in a batch of evaluation."""
        counts = count_nfe(self.model, reset=True)
        self.evaluation = add(self.evaluation, counts)
        self.evaluation_batch = max(self.evaluation_batch, n_rows)
        once = counts["evaluation"][0] == len(self.odes)  # not for each of several classes
        variances = variance(self.odes) if once else None
        known = None if variances is None else variances.double().sum().item()
        more = (n_rows, 0.0 if known is None else known, n_rows * (known is None))
        rows, total, unknown = (a + b for a, b in zip(self.spread, more, strict=True))
        self.spread = rows, total, unknown

    def end_evaluation(self) -> None:
        """Close the evaluation; of several processes the sum of theirs counts."""
        self.evaluation = over_processes(self.evaluation)
        spread = torch.tensor(self.spread, dtype=torch.float64, device=meeting_place())
        rows, total, unknown = add_up(spread).tolist()
        self.spread = rows, total, unknown

    @torch.no_grad()
    def sample(self, n: int) -> None:
        """Count the evaluations of n samples, drawn apart from all other random numbers.

        If an ODE fails there is no count, with a warning.
        """
        training = self.model.training
        self.model.eval()
        count_nfe(self.model, reset=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            try:
                self.model.sample(n)
                self.sampling, self.sampling_batch = count_nfe(self.model, reset=True), n
            except OdeError as error:
                log.warning("nfe: no samples: %s", error)
        self.model.train(training)

    def state(self) -> dict[str, Nfe]:
        """The counts of training as plain values, for a checkpoint; all processes must call it."""
        return {"interval": over_processes(self.interval), "finished": self.finished}

    def resume(self, state: dict[str, Nfe], *, first: bool = True) -> None:
        """Count on from the state of a checkpoint, which the first process alone takes over."""
        self.interval = state["interval"] if first else no_evaluations()
        self.finished = state["finished"]

    def describe(self) -> dict[str, Any]:
        """What a record says of the ODEs: solvers, tolerances, probes, evaluations.

        The ``norm`` of the tolerances is not said where it is torchdiffeq's, ``rms``.
        ``nfe`` holds the mean evaluations for each solve: ``forward`` and ``backward`` of training
        between the last two validations, ``evaluation`` of the test set, ``sampling``; with the
        rows of a batch, which all take the same steps. ``probes_se`` is the standard error of the
        mean test log-likelihood over the probes, the test set being as it is.
        """
        odes = self.odes
        found: dict[str, Any] = {"odes": len(odes), "solver": common([o.solver for o in odes])}
        if steps := [o.step_size for o in odes if o.step_size is not None]:
            found["step_size"] = common(steps)
        if adaptive := [o for o in odes if o.step_size is None]:
            found["atol"] = common([o.tolerance.atol for o in adaptive])
            found["rtol"] = common([o.tolerance.relative(o.sqrt_T.dtype) for o in adaptive])
            if (norm := common([o.tolerance.norm for o in adaptive])) != "rms":
                found["norm"] = norm
        if estimates := [o for o in odes if o.likelihood == "estimate"]:
            found["probes"] = common([o.probes for o in estimates])
            if (se := self.probes_se()) is not None:
                found["probes_se"] = se
        return {**found, "nfe": self.means()}

    def means(self) -> dict[str, float]:
        """Mean evaluations for each solve by phase, and the rows of a batch; of what there was."""
        found = per_solve(self.finished)
        for phase in ("evaluation", "sampling"):
            solves, evaluations = getattr(self, phase)[phase]
            if solves:
                found[phase] = evaluations / solves
                found[f"{phase}_batch"] = getattr(self, f"{phase}_batch")
        return found

    def probes_se(self) -> float | None:
        """The standard error of the mean log-likelihood over the probes; None if not known."""
        n_rows, total, unknown = self.spread
        return None if unknown or not total else math.sqrt(total) / n_rows


def meter_of(model: DensityModel) -> NfeMeter | None:
    """A meter of a model's ODEs; None if it has none."""
    return NfeMeter(model) if odes_in(model) else None


def odes_in(model: DensityModel) -> list[ODE]:
    """The ODEs in a model."""
    return [part for part in model.modules() if isinstance(part, ODE)]


def per_solve(counts: Nfe) -> dict[str, float]:
    """Mean evaluations ``forward`` and ``backward`` for each solve forward; none without one.

    What the gradient of a solve takes is all backward, be it one more solve, several or none.
    """
    solves = counts["forward"][0]
    return {name: counts[name][1] / solves for name in ("forward", "backward")} if solves else {}


def in_words(counts: Nfe) -> str:
    """``NFE forward + backward`` for each solve, after two blanks; nothing without a solve."""
    means = per_solve(counts)
    return f"  NFE {means['forward']:.0f} + {means['backward']:.0f}" if means else ""


def add(counts: Nfe, more: Nfe) -> Nfe:
    """The sum of two counts."""
    return {name: (counts[name][0] + n, counts[name][1] + m) for name, (n, m) in more.items()}


def over_processes(counts: Nfe) -> Nfe:
    """The sum of the counts of all processes of a run; those of one process as they are.

    All of them must call it.
    """
    table = torch.tensor([counts[name] for name in counts], device=meeting_place())
    return {
        name: (int(solves), int(evaluations))
        for name, (solves, evaluations) in zip(counts, add_up(table).tolist(), strict=True)
    }


def meeting_place() -> str:
    """The device of tensors that processes exchange."""
    return "cuda" if are_many() and distributed.get_backend() == "nccl" else "cpu"


def variance(odes: list[ODE]) -> Tensor | None:
    """The variance (B,) of the sum of the last log-determinants over their probes.

    None if one is an estimate from a single probe.
    """
    errors = [ode.log_det_se for ode in odes if ode.likelihood == "estimate"]
    known = [error.double().square() for error in errors if error is not None]
    return torch.stack(known).sum(0) if known and len(known) == len(errors) else None


def common(values: list[Any]) -> Any:
    """The value that all have, or a list of them in order."""
    return values[0] if len(set(values)) == 1 else values
