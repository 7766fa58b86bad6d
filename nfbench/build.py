"""From an experiment to the objects it names: data, model, schedule, objective, module."""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nfbench.config import Experiment
from nfbench.data import DATA
from nfbench.data.base import DataModule
from nfbench.data.dataset import Dataset
from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flows import FLOWS, IMAGE_FLOWS
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.preprocessed import Preprocessed
from nfbench.module import DensityModule
from nfbench.objectives import CHECKS, OBJECTIVES, Objective
from nfbench.record import find_root
from nfbench.schedule import Schedule
from nfbench.sections import Preprocess, Training
from nfbench.selection import Selection
from nfbench.teacher import load_teacher
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit
from nfbench.transforms.quantize import Quantize
from nfbench.transforms.rescale import Rescale
from nfbench.transforms.reshape import Flatten
from nfbench.transforms.variational import VariationalDequantize, noise_flow


def build_data(experiment: Experiment) -> DataModule:
    """The experiment's data set and batches."""
    return DataModule(
        DATA[experiment.data.name],
        batch_size=experiment.data.batch_size,
        seed=experiment.seed,
        data_seed=experiment.data.seed,
        eval_batch_size=experiment.training.eval_batch_size,
        conditional=experiment.data.condition == "label",
        augment=experiment.data.augment,
    )


def build_model(experiment: Experiment, dataset: Dataset) -> DensityModel:
    """The experiment's flow behind its preprocessing, with weights drawn by the experiment's seed.

    Conditioned on labels it is the mixture over the classes.

    Raises:
        UsageError: if the flow or the preprocessing cannot take these arguments or this data.
    """
    arguments = {key: value for key, value in experiment.flow.items() if key != "name"}
    torch.manual_seed(experiment.seed)
    n_classes = count_classes(experiment, dataset)
    try:
        flow = FLOWS[experiment.flow["name"]](
            dataset.event_shape, context_features=n_classes, **arguments
        )
        model = ClassConditional(flow, n_classes) if n_classes else flow
        parts = preprocessing(experiment.preprocess, dataset)
        if len(dataset.event_shape) > 1 and experiment.flow["name"] not in IMAGE_FLOWS:
            parts.append(Flatten(dataset.event_shape))
        draws = experiment.training.importance_draws
        if draws > 1 and dataset.levels is None:
            raise ValueError(
                "training.importance_draws: continuous data have no noise to draw; expected 1, "
                f"got {draws}"
            )
        if not parts:
            return model
        return Preprocessed(Compose(parts), model, importance_draws=draws)
    except ValueError as error:
        raise UsageError(
            f"{experiment.table}/{experiment.row} on {dataset.name}: {error}"
        ) from error


def count_classes(experiment: Experiment, dataset: Dataset) -> int:
    """How many labels the flow is conditioned on; 0 if on none.

    Raises:
        UsageError: if it shall be conditioned on labels that the data do not have.
    """
    if experiment.data.condition == "none":
        return 0
    if dataset.n_classes is None:
        raise UsageError(
            f"{experiment.table}/{experiment.row}: data.condition: expected 'none', as "
            f"{dataset.name} has no labels; got {experiment.data.condition!r}"
        )
    return dataset.n_classes


def preprocessing(settings: Preprocess, dataset: Dataset) -> list[Transform]:
    """The transforms between data and flow, data first; they carry their own log-determinants."""
    parts = dequantization(settings, dataset)
    if settings.logit is not None:
        if dataset.levels is None:
            raise ValueError(
                "preprocess.logit: expected data in [0, 1), got continuous data of unknown range"
            )
        parts.append(Logit(settings.logit, form=settings.logit_form))
    elif settings.logit_form != Preprocess.logit_form:
        raise ValueError(
            f"preprocess.logit_form: without preprocess.logit there is none, got "
            f"{settings.logit_form!r}"
        )
    if settings.scale != 1 or settings.shift != 0:
        parts.append(Rescale(settings.scale, settings.shift))
    return parts


def dequantization(settings: Preprocess, dataset: Dataset) -> list[Transform]:
    """The transforms from integers to [0, 1); none for continuous data."""
    levels, kind = dataset.levels, settings.dequantize
    if levels is None:
        if kind != "none":
            raise ValueError(f"preprocess.dequantize: continuous data need 'none', got {kind!r}")
        if settings.bits is not None:
            raise ValueError(f"preprocess.bits: continuous data need null, got {settings.bits}")
        return []
    if kind == "none":
        raise ValueError(
            f"preprocess.dequantize: discrete ({levels} values) data need 'uniform' or "
            f"'variational', got {kind!r}"
        )
    parts: list[Transform] = []
    if settings.bits is not None:
        quantize = Quantize(levels, settings.bits)
        parts, levels = [quantize], quantize.levels
    if kind == "uniform":
        return [*parts, Dequantize(levels)]
    net = settings.dequantizer
    flow = noise_flow(
        dataset.event_shape,
        layers=settings.dequantizer_layers,
        hidden=settings.dequantizer_hidden,
        net=net,
    )
    noise = VariationalDequantize(levels, flow, noise="logistic" if net == "gated" else "normal")
    return [*parts, noise]


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
    taken = objective_settings(OBJECTIVES[name])
    where = f"{experiment.table}/{experiment.row}: training"
    for other in OBJECTIVES.values():
        for key in objective_settings(other):
            value, default = getattr(training, key), getattr(Training, key)
            if key not in taken and value != default:
                raise UsageError(
                    f"{where}.{key}: expected {default}, as {name} does not take it; got {value}"
                )
    settings: dict[str, Any] = {key: getattr(training, key) for key in taken}
    if settings.get("teacher") is not None:
        settings["teacher"] = load_teacher(experiment, model, root or find_root())
    try:
        CHECKS.get(name, accept)(model, **settings)
    except ValueError as error:
        flow = experiment.flow["name"]
        raise UsageError(f"{where}.objective: {name} of flow {flow!r}: {error}") from error
    return partial(OBJECTIVES[name], **settings) if settings else OBJECTIVES[name]


def objective_settings(objective: Objective) -> list[str]:
    """The settings of training that an objective takes: its keyword-only arguments."""
    parameters = inspect.signature(objective).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def accept(model: DensityModel) -> None:
    """The check of an objective that trains any model."""


def build_module(
    experiment: Experiment,
    model: DensityModel,
    schedule: Schedule,
    *,
    compile: bool = False,
    root: Path | None = None,
) -> DensityModule:
    """The LightningModule that trains the model as the experiment says, compiled if asked to.

    The run of a teacher is looked for below the root.

    Raises:
        UsageError: if there is no such objective or optimizer, or not for this model.
    """
    training = experiment.training
    objective = build_objective(experiment, model, root)
    running = any(getattr(m, "keeps_running_statistics", False) for m in model.modules())
    if running and training.ema_decay is not None:
        raise UsageError(
            f"{experiment.table}/{experiment.row}: training.ema_decay: expected null, as the "
            "running statistics of this flow are not those of averaged weights; got "
            f"{training.ema_decay}"
        )
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
            optimizer=training.optimizer,
            adam_beta2=training.adam_beta2,
            adam_eps=training.adam_eps,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
            ema_decay=training.ema_decay,
            compile=compile,
            seed=experiment.seed,
        )
    except ValueError as error:
        raise UsageError(f"{experiment.table}/{experiment.row}: {error}") from error
