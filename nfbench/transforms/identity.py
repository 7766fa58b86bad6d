"""No change at all."""

from torch import Tensor

from nfbench.nets.context import check_context

from .base import Transform, no_volume_change


class Identity(Transform):
    """``z = x``; log_det = 0. A context has no say in it.

    Raises:
        ValueError: when called, if the context is not what ``context_features`` says.
    """

    def __init__(self, *, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pass data (B, *event) on."""
        check_context(context, self.context_features)
        return x, no_volume_change(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pass noise (B, *event) on."""
        return self.forward(z, context)
