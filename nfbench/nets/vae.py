"""The pairs of encoder and decoder that a variational autoencoder can name."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from .vae_gated import GatedDecoder, GatedEncoder
from .vae_mlp import MLPDecoder, MLPEncoder
from .vae_resnet import ResNetDecoder, ResNetEncoder

Pair = tuple[nn.Module, nn.Module]


def gated(
    event_shape: Sequence[int],
    *,
    latent: int,
    features: int,
    hidden: Sequence[int],
    n_parameters: int,
) -> Pair:
    """Gated convolutions, whose hidden layers are fixed (van den Berg et al. 2018)."""
    encoder = GatedEncoder(event_shape, features=features)
    return encoder, GatedDecoder(latent, event_shape, n_parameters=n_parameters)


def mlp(
    event_shape: Sequence[int],
    *,
    latent: int,
    features: int,
    hidden: Sequence[int],
    n_parameters: int,
    activation: str = "relu",
) -> Pair:
    """Fully connected layers; the decoder's hidden layers are the encoder's, the last first."""
    encoder = MLPEncoder(event_shape, features=features, hidden=hidden, activation=activation)
    mirrored = [*hidden, features][::-1]
    decoder = MLPDecoder(
        latent, event_shape, n_parameters=n_parameters, hidden=mirrored, activation=activation
    )
    return encoder, decoder


def resnet(
    event_shape: Sequence[int],
    *,
    latent: int,
    features: int,
    hidden: Sequence[int],
    n_parameters: int,
) -> Pair:
    """Residual convolutions, whose hidden layers are fixed (Kingma et al. 2016, appendix B)."""
    encoder = ResNetEncoder(event_shape, features=features)
    decoder = ResNetDecoder(latent, event_shape, features=features, n_parameters=n_parameters)
    return encoder, decoder


NETWORKS: dict[str, Callable[..., Pair]] = {
    "gated": gated,
    "mlp": mlp,
    "maxout": partial(mlp, activation="maxout"),
    "resnet": resnet,
}


def build_networks(
    name: str,
    event_shape: Sequence[int],
    *,
    latent: int = 64,
    features: int = 256,
    hidden: Sequence[int] = (400,),
    n_parameters: int = 1,
) -> Pair:
    """An encoder (B, *event) -> (B, features) and a decoder (B, latent) -> (B, n_parameters,
    *event).

    ``gated`` as van den Berg et al. 2018; ``mlp`` and ``maxout`` have the layers ``hidden`` and
    one of ``features``, and the same backwards in the decoder: with features 400, hidden () and
    latent 40 those of Rezende & Mohamed 2015 (section 6.2), one layer of 400 maxout units each.

    Raises:
        ValueError: if there is none of that name, or none for such events.
    """
    if name not in NETWORKS:
        raise ValueError(f"networks: expected one of {', '.join(NETWORKS)}; got {name!r}")
    return NETWORKS[name](
        event_shape, latent=latent, features=features, hidden=hidden, n_parameters=n_parameters
    )
