"""The evidence lower bound, annealed and with free bits."""

from torch import Tensor

from nfbench.density import DensityModel
from nfbench.vae import LatentVariableModel


def elbo(
    model: DensityModel,
    x: Tensor,
    context: Tensor | None = None,
    beta: Tensor | float = 1.0,
    *,
    free_bits: float = 0.0,
    tempering: str = "kl",
) -> Tensor:
    """Mean negative evidence lower bound of the batch, in nats per example, one draw of z each.

    With ``tempering="kl"`` it is ``-log p(x | z) + beta sum_g max(lambda, KL_g)``, KL_g the
    batch's mean divergence of a group of latents from the prior, below which lambda =
    ``free_bits`` costs nothing more (Kingma et al. 2016, equation 15; the warm-up of Sonderby et
    al. 2016). With ``"joint"`` it is ``log q(z | x) - beta log p(x, z)`` (Rezende & Mohamed 2015,
    equation 20).
    """
    assert isinstance(model, LatentVariableModel)
    terms = model.terms(x)
    if tempering == "joint":
        joint = terms.log_likelihood + terms.log_prior.sum(1)
        return (terms.log_posterior.sum(1) - beta * joint).mean()
    rates = terms.rates.mean(0)
    if free_bits:
        rates = rates.clamp(min=free_bits)
    return beta * rates.sum() - terms.log_likelihood.mean()


def check_elbo(model: DensityModel, *, free_bits: float = 0.0, tempering: str = "kl") -> None:
    """Check that a model has latents, and that free bits are not asked of the joint density.

    Raises:
        ValueError: if not.
    """
    if not isinstance(model, LatentVariableModel):
        raise ValueError(
            f"expected an autoencoder (vae.network), got {type(model).__name__}, which has no "
            "latents"
        )
    if free_bits and tempering == "joint":
        raise ValueError(
            f"free_bits: expected 0, as tempering 'joint' has no rate; got {free_bits}"
        )
