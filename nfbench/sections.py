"""The settings that an experiment file can hold, with their types, defaults and ranges."""

from dataclasses import dataclass, field, fields
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Which data set, in what batches; `seed` draws the set itself, where it is not read.

    With `condition: label` the flow is trained given the labels, and tested as the mixture of all
    classes, each as likely.
    """

    name: str
    batch_size: int = 100
    seed: int = 0
    condition: Literal["none", "label"] = "none"


@dataclass(frozen=True)
class Preprocess:
    """What stands between the data and the flow; `logit` is the alpha of the logit transform."""

    dequantize: Literal["none", "uniform"] = "none"
    logit: float | None = None


@dataclass(frozen=True)
class Training:
    """How the flow is trained.

    `validate_every` counts optimizer steps (null: one epoch), `patience` validations without
    improvement, `chunk` the optimizer steps between two chunk ends; `weight_decay` is added to the
    gradient (L2), not decoupled from it.
    """

    objective: str = "maximum_likelihood"
    max_steps: int | None = None
    max_epochs: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    warmup_steps: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    clip_norm: float | None = None
    ema_decay: float | None = None
    chunk: int = 64
    eval_batch_size: int = 8192


@dataclass(frozen=True)
class Notes:
    """What a row says of itself, and a cell in its stead; a cell's deviations add to its row's.

    No deviations: the paper's recipe. A reduced budget is never a reproduction.
    """

    title: str
    deviations: list[str] = field(default_factory=list)
    reduced: str | None = None
    cost: str = ""


@dataclass(frozen=True)
class Reported:
    """A published number, its +- (table.yaml says what that means) and where it is printed."""

    value: float
    source: str
    uncertainty: float | None = None


LEAST: dict[str, dict[str, float]] = {
    "data": {"batch_size": 1, "seed": 0},
    "training": {
        "max_steps": 0,
        "max_epochs": 1,
        "validate_every": 1,
        "patience": 1,
        "learning_rate": 0.0,
        "adam_beta2": 0.0,
        "adam_eps": 0.0,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "plateau_factor": 0.0,
        "plateau_patience": 1,
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "chunk": 1,
        "eval_batch_size": 1,
    },
}
SECTIONS = {"data": Data, "preprocess": Preprocess, "training": Training}
NOTES = [f.name for f in fields(Notes)]
ROW = [*NOTES, "flow", *SECTIONS, "cells"]
CELL = [*NOTES, "flow", *SECTIONS, "reported"]
