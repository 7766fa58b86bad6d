"""From an experiment to the data and the model it names."""

import torch

from nfbench.build_vae import build_vae, check_vae
from nfbench.config import Experiment
from nfbench.data import DATA
from nfbench.data.base import DataModule
from nfbench.data.dataset import Dataset
from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flows import FLOWS, IMAGE_FLOWS
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.preprocessed import Preprocessed
from nfbench.sections import Preprocess
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

    Conditioned on labels it is the mixture over the classes; with a network of ``vae`` it is the
    posterior of an autoencoder.

    Raises:
        UsageError: if the flow or the preprocessing cannot take these arguments or this data.
    """
    arguments = {key: value for key, value in experiment.flow.items() if key != "name"}
    torch.manual_seed(experiment.seed)
    n_classes = count_classes(experiment, dataset)
    try:
        check_vae(experiment.vae)
        if experiment.vae.network != "none":
            return build_vae(experiment, dataset)
        flow = FLOWS[experiment.flow["name"]](
            dataset.event_shape, context_features=n_classes, **arguments
        )
        model = ClassConditional(flow, n_classes) if n_classes else flow
        parts = preprocessing(experiment.preprocess, dataset)
        if len(dataset.event_shape) > 1 and experiment.flow["name"] not in IMAGE_FLOWS:
            parts.append(Flatten(dataset.event_shape))
        check_noise(experiment, dataset)
        if not parts:
            return model
        draws = experiment.training.importance_draws
        return Preprocessed(Compose(parts), model, importance_draws=draws)
    except ValueError as error:
        raise UsageError(
            f"{experiment.table}/{experiment.row} on {dataset.name}: {error}"
        ) from error


def check_noise(experiment: Experiment, dataset: Dataset) -> None:
    """Refuse draws of noise where there is none, and what would draw noise again that is not."""
    draws, augment = experiment.training.importance_draws, experiment.data.augment
    if draws > 1 and dataset.levels is None:
        raise ValueError(
            "training.importance_draws: continuous data have no noise to draw; expected 1, "
            f"got {draws}"
        )
    if experiment.preprocess.dequantize != "uniform_once":
        return
    if draws > 1:
        raise ValueError(
            "training.importance_draws: each draw has the same noise by "
            f"preprocess.dequantize 'uniform_once'; expected 1, got {draws}"
        )
    if augment:
        raise ValueError(
            "data.augment: a changed image has other noise, so that preprocess.dequantize "
            f"'uniform_once' would draw it anew; expected [], got {augment}"
        )


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
            f"preprocess.dequantize: discrete ({levels} values) data need 'uniform', "
            f"'uniform_once' or 'variational', got {kind!r}"
        )
    parts: list[Transform] = []
    if settings.bits is not None:
        quantize = Quantize(levels, settings.bits)
        parts, levels = [quantize], quantize.levels
    if kind != "variational":
        return [*parts, Dequantize(levels, once=kind == "uniform_once")]
    net = settings.dequantizer
    flow = noise_flow(
        dataset.event_shape,
        layers=settings.dequantizer_layers,
        hidden=settings.dequantizer_hidden,
        net=net,
    )
    noise = VariationalDequantize(levels, flow, noise="logistic" if net == "gated" else "normal")
    return [*parts, noise]
