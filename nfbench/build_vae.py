"""From an experiment to the autoencoder it names."""

import inspect
from dataclasses import fields
from typing import Any

from nfbench.config import Experiment
from nfbench.data.dataset import Dataset
from nfbench.distributions.observation import observation
from nfbench.flows import FLOWS, VECTOR_FLOWS
from nfbench.flows.iaf import iaf
from nfbench.nets.vae import build_networks
from nfbench.resnet_vae import ResNetVAE
from nfbench.sections import Preprocess, Vae
from nfbench.vae import VAE, LatentVariableModel

HIERARCHICAL = "resnet_hierarchical"
# The settings that each network takes beside its name.
TAKES = {
    "none": "",
    "mlp": "latent features hidden observation variance_bounds",
    "maxout": "latent features hidden observation variance_bounds",
    "gated": "latent features observation variance_bounds",
    "resnet": "latent features observation variance_bounds",
    HIERARCHICAL: "latent features blocks observation",
}
STEP_SCALE = "exp"  # of the flow of IAF steps inside the hierarchical network
STEP_TAKES = ("layers", "hidden", "activation")


def check_vae(settings: Vae) -> None:
    """Refuse settings that are those of another network.

    Raises:
        ValueError: if there is one.
    """
    default = Vae()
    taken = ["network", *TAKES[settings.network].split()]
    for key in (each.name for each in fields(Vae)):
        value, expected = getattr(settings, key), getattr(default, key)
        if key not in taken and value != expected:
            raise ValueError(
                f"vae.{key}: expected {expected!r}, as network {settings.network} does not take "
                f"it; got {value!r}"
            )
    for key in ("hidden", "blocks"):
        if min(getattr(settings, key), default=1) < 1:
            raise ValueError(
                f"vae.{key}: expected sizes of at least 1, got {getattr(settings, key)}"
            )


def build_vae(experiment: Experiment, dataset: Dataset) -> LatentVariableModel:
    """The experiment's autoencoder: networks, observation, and the flow as the posterior.

    Raises:
        ValueError: if the parts do not fit each other or the data.
    """
    settings = experiment.vae
    if dataset.levels is None:
        raise ValueError(f"vae.network: expected discrete data, got {dataset.name}")
    if experiment.preprocess != Preprocess():
        raise ValueError("preprocess: expected nothing, as an autoencoder takes data as they are")
    if experiment.data.condition != "none":
        raise ValueError(
            "data.condition: expected 'none', as an autoencoder takes no labels; got "
            f"{experiment.data.condition!r}"
        )
    if settings.network == HIERARCHICAL:
        return build_hierarchical(experiment, dataset)
    if experiment.flow["name"] not in VECTOR_FLOWS:
        raise ValueError(f"flow: expected one of vectors, got {experiment.flow['name']}")
    arguments = {key: value for key, value in experiment.flow.items() if key != "name"}
    flow = FLOWS[experiment.flow["name"]](
        [settings.latent], context_features=settings.features, **arguments
    )
    likelihood = observation(settings.observation, dataset.levels)
    encoder, decoder = build_networks(
        settings.network,
        dataset.event_shape,
        latent=settings.latent,
        features=settings.features,
        hidden=settings.hidden,
        n_parameters=likelihood.n_parameters,
    )
    return VAE(
        encoder,
        flow,
        decoder,
        likelihood,
        latent=settings.latent,
        features=settings.features,
        variance_bounds=settings.variance_bounds,
        importance_draws=experiment.training.importance_draws,
    )


def build_hierarchical(experiment: Experiment, dataset: Dataset) -> ResNetVAE:
    """The experiment's ResNet VAE, the flow being the posterior of each of its blocks.

    Raises:
        ValueError: if the flow cannot be that, or the parts do not fit the data.
    """
    settings = experiment.vae
    return ResNetVAE(
        dataset.event_shape,
        observation(settings.observation, dataset.levels),
        blocks=settings.blocks,
        width=settings.features,
        latent=settings.latent,
        importance_draws=experiment.training.importance_draws,
        **steps_of(experiment.flow),
    )


def steps_of(flow: dict[str, Any]) -> dict[str, Any]:
    """The steps of the posterior of a block, as `ResNetVAE` takes them: those of `iaf`, or none.

    Raises:
        ValueError: if the flow is neither `iaf` nor `identity`, or has a setting that masked
            convolutions do not take.
    """
    if flow["name"] == "identity":
        return {"layers": 0}
    if flow["name"] != "iaf":
        raise ValueError(
            f"flow: expected iaf or identity with network {HIERARCHICAL}, got {flow['name']}"
        )
    parameters = inspect.signature(iaf).parameters
    for key in set(flow) - {"name", *STEP_TAKES}:
        expected = STEP_SCALE if key == "scale" else parameters[key].default
        if flow[key] != expected:
            raise ValueError(
                f"flow.{key}: expected {expected!r} with network {HIERARCHICAL}, whose steps are "
                f"z' = (z - 0.1 m) exp(-0.1 s); got {flow[key]!r}"
            )
    return {key: flow[key] for key in STEP_TAKES}
