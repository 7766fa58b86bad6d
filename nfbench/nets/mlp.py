"""A multilayer perceptron, plain or of residual blocks, as a conditioner."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .activations import check_activation
from .chain import chain, check_blocks
from .context import check_context
from .init import initialize


class MLP(nn.Module):
    """``n_parameters`` numbers for each output dimension, from an input (B, in_features).

    Returns (n_parameters, B, out_features). A context (B, context_features) is joined to the
    input. If ``residual``, hidden layers after the first are blocks of two, as ``chain`` says.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        n_parameters: int = 1,
        hidden: Sequence[int] = (100, 100),
        activation: str = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        context_features: int = 0,
        init: str = "paper",
    ) -> None:
        super().__init__()
        check_blocks(hidden, residual, dropout)
        self.residual, self.dropout = residual, dropout
        self.n_parameters, self.out_features = n_parameters, out_features
        self.context_features = context_features
        self.activation = check_activation(activation)
        widths = [in_features + context_features, *hidden, n_parameters * out_features]
        self.weights = nn.ParameterList(torch.empty(o, i) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.empty(o) for o in widths[1:])
        initialize(list(self.weights), list(self.biases), init, residual=residual)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (n_parameters, B, out_features)."""
        check_context(context, self.context_features)
        h = x if context is None else torch.cat([x, context], dim=1)
        dropout = self.dropout if self.training else 0.0
        h = chain(
            h,
            self.weights,
            self.biases,
            self.activation,
            residual=self.residual,
            dropout=dropout,
        )  # (B, P * D)
        return h.view(-1, self.n_parameters, self.out_features).movedim(1, 0)
