"""What a conditional network is given, an unconditional one is not."""

from torch import Tensor


def check_context(context: Tensor | None, features: int) -> None:
    """Check that a network of ``features`` context features gets a context (B, features), or none.

    Raises:
        ValueError: if it gets another.
    """
    if features and context is None:
        raise ValueError(
            f"context: expected a tensor (B, {features}), got none; this flow is conditional"
        )
    if context is not None and context.shape[1:] != (features,):
        wanted = f"a tensor (B, {features})" if features else "none; this flow is unconditional"
        raise ValueError(f"context: expected {wanted}, got shape {tuple(context.shape)}")
