"""From an experiment to how it is trained: schedule, objective, module."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfbench.config import Experiment
from nfbench.data import DATA
from nfbench.data.energies import Energy
from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.module import DensityModule
from nfbench.nets.running import RunningStatistics
from nfbench.objectives import CHECKS, CRITERIA, OBJECTIVES, Criterion, Objective
from nfbench.record import find_root
from nfbench.schedule import Schedule
from nfbench.sections import Training
from nfbench.selection import Selection
from nfbench.teacher import load_teacher
from nfbench.transforms.base import Transform


def build_schedule(experiment: Experiment, steps_per_epoch: int) -> Schedule:
    """The fixed points of the experiment's training.

    Raises:
        UsageError: if nothing ever ends it.
    """
    training = experiment.training
    limits = [training.max_steps, training.max_epochs and training.max_epochs * steps_per_epoch]
    given = [limit for limit in limits if limit is not None]
    if not given and training.patience is None:
        raise UsageError(
            f"{experiment.table}/{experiment.row}: nothing ends the training; "
            "give one of training.max_steps, training.max_epochs, training.patience"
        )
    return Schedule(
        steps_per_epoch=steps_per_epoch,
        max_steps=min(given, default=None),
        validate_every=training.validate_every
        if training.validate_every is not None
        else steps_per_epoch,
        chunk=training.chunk,
        learning_rate=training.learning_rate,
        shape=training.schedule,
        warmup_steps=training.warmup_steps,
        decay_per_epoch=training.decay_per_epoch,
        anneal_start=training.anneal_start,
        anneal_steps=training.anneal_steps,
    )


def build_objective(
    experiment: Experiment, model: DensityModel, root: Path | None = None
) -> Objective:
    """The objective of the experiment with the settings that it takes.

    Raises:
        UsageError: if there is no such objective, if it cannot train this model, if a setting is
            that of another, or if the run of its teacher is missing.
    """
    training = experiment.training
    name = training.objective
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise UsageError(f"training.objective: expected one of {known}; got {name!r}")
    taken = settings_of(OBJECTIVES[name])
    where = f"{experiment.table}/{experiment.row}: training"
    for other in OBJECTIVES.values():
        for key in settings_of(other):
            value, default = getattr(training, key), getattr(Training, key)
            if key not in taken and value != default:
                raise UsageError(
                    f"{where}.{key}: expected {default}, as {name} does not take it; got {value}"
                )
    if training.anneal_start and not training.anneal_steps:
        raise UsageError(
            f"{where}.anneal_start: expected 0, as anneal_steps is 0 and nothing is annealed; "
            f"got {training.anneal_start}"
        )
    if training.anneal_steps and "beta" not in inspect.signature(OBJECTIVES[name]).parameters:
        raise UsageError(
            f"{where}.anneal_steps: expected 0, as {name} has nothing to anneal; got "
            f"{training.anneal_steps}"
        )
    settings: dict[str, Any] = {key: getattr(training, key) for key in taken}
    if settings.get("teacher") is not None:
        settings["teacher"] = load_teacher(experiment, model, root or find_root())
    try:
        if name in CRITERIA:
            settings["energy"] = energy_of(experiment)
        CHECKS.get(name, accept)(model, **settings)
    except ValueError as error:
        flow = experiment.flow["name"]
        raise UsageError(f"{where}.objective: {name} of flow {flow!r}: {error}") from error
    return partial(OBJECTIVES[name], **settings) if settings else OBJECTIVES[name]


def build_criterion(experiment: Experiment) -> Criterion | None:
    """What validations compare, where that is not the log-likelihood."""
    criterion = CRITERIA.get(experiment.training.objective)
    return None if criterion is None else partial(criterion, energy=energy_of(experiment))


def energy_of(experiment: Experiment) -> Callable[[Tensor], Tensor]:
    """The energy (B,) of points (B, 2), in nats, of data that are defined by one.

    Raises:
        ValueError: if they are not.
    """
    dataset = DATA[experiment.data.name]
    if not isinstance(dataset, Energy):
        known = ", ".join(name for name, each in DATA.items() if isinstance(each, Energy))
        raise ValueError(f"expected data with an energy, {known}; got {dataset.name}")
    return partial(dataset.energy, xp=torch)


def settings_of(objective: Objective) -> list[str]:
    """The settings of training that an objective takes: its keyword-only arguments."""
    parameters = inspect.signature(objective).parameters.values()
    names = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    return [name for name in names if name != "energy"]  # which is the data set's


def accept(model: DensityModel) -> None:
    """The check of an objective that trains any model."""


def build_module(
    experiment: Experiment,
    model: DensityModel,
    schedule: Schedule,
    *,
    compile: bool = False,
    shard: bool = False,
    root: Path | None = None,
) -> DensityModule:
    """The LightningModule that trains the model as the experiment says, compiled if asked to.

    The run of a teacher is looked for below the root.

    Raises:
        UsageError: if there is no such objective or optimizer, or not for this model.
    """
    training = experiment.training
    objective = build_objective(experiment, model, root)
    running = any(isinstance(part, RunningStatistics) for part in model.modules())
    if running and training.ema_decay is not None:
        raise UsageError(
            f"{experiment.table}/{experiment.row}: training.ema_decay: expected null, as the "
            "running statistics of this flow are not those of averaged weights; got "
            f"{training.ema_decay}"
        )
    check_precision(experiment, model)
    plateau = training.schedule == "plateau"
    selection = Selection(
        patience=training.patience,
        plateau_patience=training.plateau_patience if plateau else None,
        plateau_factor=training.plateau_factor,
    )
    try:
        return DensityModule(
            model,
            objective,
            schedule,
            selection,
            criterion=build_criterion(experiment),
            optimizer=training.optimizer,
            adam_beta2=training.adam_beta2,
            adam_eps=training.adam_eps,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
            ema_decay=training.ema_decay,
            matmul_precision=training.matmul_precision,
            compile=compile,
            shard=shard,
            seed=experiment.seed,
        )
    except ValueError as error:
        raise UsageError(f"{experiment.table}/{experiment.row}: {error}") from error


def check_precision(experiment: Experiment, model: DensityModel) -> None:
    """Check that products of less precision are those of conditioners alone.

    Raises:
        UsageError: if the flow multiplies data by matrices itself, whose log-determinants and
            inverses would be of others, or an ODE's solver would take rounding for its error.
    """
    precision = experiment.training.matmul_precision
    own = [part for part in model.modules() if isinstance(part, Transform) and part.multiplies]
    if own and precision != "highest":
        raise UsageError(
            f"{experiment.table}/{experiment.row}: training.matmul_precision: expected highest, "
            f"as {type(own[0]).__name__} multiplies data by matrices of its own; got {precision!r}"
        )
