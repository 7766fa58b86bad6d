"""The settings that an experiment file can hold, with their types, defaults and ranges."""

from dataclasses import dataclass, field, fields
from typing import Literal


@dataclass(frozen=True)
class Data:
    """Which data set, in what batches; `seed` draws the set itself where it is not read, the
    patches of `bsds300_redrawn`, and the split where that is random (`freyfaces`, `omniglot`).

    With `condition: label` the flow is trained given the labels, and tested as the mixture of all
    classes, each as likely. `augment` changes training images at random: `flip` mirrors half of
    them, `shift` moves them by up to a tenth of the side.
    """

    name: str
    batch_size: int = 100
    seed: int = 0
    condition: Literal["none", "label"] = "none"
    augment: list[Literal["flip", "shift"]] = field(default_factory=list)


@dataclass(frozen=True)
class Preprocess:
    """What stands between the data and the flow, in this order.

    `bits` makes n-bit images of the data, whose likelihood is then meant; the noise is uniform,
    `uniform_once` if a row has the same whenever it is seen, by any seed, or variational: learned
    by `dequantizer_layers` couplings with nets of `dequantizer_hidden` channels, `conv` from
    normal noise or `gated` from the logit of uniform noise; `logit` is the alpha of the logit
    transform, s = alpha + (1 - 2 alpha) x if it is symmetric, else alpha + (1 - alpha) x; then
    `scale` multiplies, and `shift` is subtracted.
    """

    bits: int | None = None
    dequantize: Literal["none", "uniform", "uniform_once", "variational"] = "none"
    dequantizer: Literal["conv", "gated"] = "conv"
    dequantizer_layers: int = 4
    dequantizer_hidden: int = 32
    logit: float | None = None
    logit_form: Literal["symmetric", "one_sided"] = "symmetric"
    scale: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class Vae:
    """A variational autoencoder, whose posterior is the flow; `network` none: the flow alone.

    `network` names encoder and decoder, `latent` the dimensions of z, `features` those of the
    encoder's output, which the flow is conditioned on; `hidden` are the layers of `mlp` and
    `maxout`; `observation` is the likelihood of data given z; `variance_bounds` cut that of the
    Gaussian that the flow starts from, [least, largest]. `resnet_hierarchical` has `blocks` on
    each of its levels, `features` channels wide, each with `latent` feature maps of z and a flow.
    """

    network: Literal["none", "mlp", "maxout", "gated", "resnet", "resnet_hierarchical"] = "none"
    latent: int = 64
    features: int = 256
    hidden: list[int] = field(default_factory=lambda: [400])
    blocks: list[int] = field(default_factory=list)
    observation: Literal["bernoulli", "logistic", "categorical"] = "bernoulli"
    variance_bounds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """How the flow is trained.

    `validate_every` counts optimizer steps (null: one epoch), `patience` validations without
    improvement, `chunk` the optimizer steps between two chunk ends; `decay_per_epoch` is that of
    the exponential schedule; `weight_decay` is added to the gradient (L2), not decoupled from it.
    `matmul_precision` is that of products of float32 matrices in training steps, and nowhere else,
    of flows whose conditioners alone have such: `medium` rounds the factors to bfloat16 on CPUs
    that have units for it, `medium` and `high` to TensorFloat32 on GPUs; sums are in float32.
    The test likelihood of discrete data is that of one draw of noise; with more `importance_draws`
    also the log of their mean likelihood, a tighter bound. The weights are those of the penalties
    of `regularized_likelihood`; `free_bits` is the part of each group's divergence from the prior,
    in nats, that `elbo` leaves unpunished; what is annealed, `tempering`, is that divergence
    (`kl`) or the whole joint density (`joint`), by `min(1, anneal_start + t / anneal_steps)` after
    t steps; `sigma_min` is the size of the noise that flow matching leaves at
    the data; `teacher` is the run that `reflow` takes its pairs from, TABLE/ROW[/CELL[/SEED]], or
    the file of a checkpoint.
    """

    objective: str = "maximum_likelihood"
    kinetic_weight: float = 0.0
    jacobian_weight: float = 0.0
    path_weight: float = 0.0
    free_bits: float = 0.0
    tempering: Literal["kl", "joint"] = "kl"
    anneal_start: float = 0.0
    anneal_steps: int = 0
    sigma_min: float = 0.0
    teacher: str | None = None
    max_steps: int | None = None
    max_epochs: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "exponential", "plateau"] = "constant"
    warmup_steps: int = 0
    decay_per_epoch: float = 0.99
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    clip_norm: float | None = None
    ema_decay: float | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    chunk: int = 64
    eval_batch_size: int = 8192
    importance_draws: int = 1


@dataclass(frozen=True)
class Notes:
    """What a row says of itself, and a cell in its stead; a cell's deviations add to those of its
    row and of its data set.

    No deviations: the paper's recipe. A reduced budget is never a reproduction.
    """

    title: str
    deviations: list[str] = field(default_factory=list)
    reduced: str | None = None


@dataclass(frozen=True)
class Reported:
    """A published number, its +- (table.yaml says what that means) and where it is printed."""

    value: float
    source: str
    uncertainty: float | None = None


LEAST: dict[str, dict[str, float]] = {
    "data": {"batch_size": 1, "seed": 0},
    "preprocess": {"bits": 1, "dequantizer_layers": 1, "dequantizer_hidden": 1},
    "vae": {"latent": 1, "features": 1},
    "training": {
        "free_bits": 0.0,
        "anneal_start": 0.0,
        "anneal_steps": 0,
        "kinetic_weight": 0.0,
        "jacobian_weight": 0.0,
        "path_weight": 0.0,
        "sigma_min": 0.0,
        "max_steps": 0,
        "max_epochs": 1,
        "validate_every": 1,
        "patience": 1,
        "learning_rate": 0.0,
        "adam_beta2": 0.0,
        "adam_eps": 0.0,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "decay_per_epoch": 0.0,
        "plateau_factor": 0.0,
        "plateau_patience": 1,
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "chunk": 1,
        "eval_batch_size": 1,
        "importance_draws": 1,
    },
}
SECTIONS = {"data": Data, "preprocess": Preprocess, "vae": Vae, "training": Training}
NOTES = [f.name for f in fields(Notes)]
ROW = [*NOTES, "flow", *SECTIONS, "cells"]
CELL = [*NOTES, "flow", *SECTIONS, "reported"]
