"""MADE: a masked network whose d-th outputs see only the inputs before d."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import check_activation
from .chain import chain, check_blocks
from .context import check_context
from .init import initialize


class MADE(nn.Module):
    """An autoregressive conditioner: parameters of dimension d depend on the dimensions ordered
    before it.

    Hidden units have degrees, sorted; a unit of degree k sees inputs of degree <= k and feeds
    outputs of degree > k (Germain et al. 2015, equations 12-13; sequential degrees as in
    Papamakarios et al. 2017).
    ``reverse`` turns the input order round, so that no activation is ever permuted. With a context
    there are units of degree 0, which see the context alone: the first dimension is conditioned on
    it too. If ``residual``, hidden layers after the first are blocks of two, as ``chain`` says.

    Returns (n_parameters, B, features).
    """

    def __init__(
        self,
        features: int,
        *,
        n_parameters: int = 2,
        hidden: Sequence[int] = (100, 100),
        activation: str = "relu",
        residual: bool = False,
        dropout: float = 0.0,
        reverse: bool = False,
        context_features: int = 0,
        init: str = "paper",
    ) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("hidden: expected at least one hidden layer, got none")
        check_blocks(hidden, residual, dropout)
        self.residual, self.dropout = residual, dropout
        self.features, self.n_parameters = features, n_parameters
        self.context_features = context_features
        self.activation = check_activation(activation)
        widths = [features, *hidden, n_parameters * features]
        self.weights = nn.ParameterList(torch.empty(o, i) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.empty(o) for o in widths[1:])
        initialize(list(self.weights), list(self.biases), init, residual=residual)
        self.context_weight = None
        if context_features:
            self.context_weight = nn.Parameter(torch.empty(hidden[0], context_features))
            nn.init.normal_(self.context_weight, std=(features + context_features + 1) ** -0.5)
        # The dimensions as they are generated.
        self.order = list(range(features))[:: -1 if reverse else 1]
        self.degrees = hidden_degrees(features, hidden, conditional=context_features > 0)
        for layer, mask in enumerate(masks(self.order, self.degrees, n_parameters)):
            self.register_buffer(f"mask{layer}", mask, persistent=False)

    def masked_weights(self) -> list[Tensor]:
        """The weights with the forbidden connections set to zero."""
        return [
            weight * self.get_buffer(f"mask{layer}") for layer, weight in enumerate(self.weights)
        ]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the parameters (n_parameters, B, features) of every dimension in one pass."""
        return self.evaluate(x, context, dropout=self.dropout if self.training else 0.0)

    def evaluate(
        self, x: Tensor, context: Tensor | None = None, *, dropout: float = 0.0
    ) -> Tensor:
        """The same, with dropout of this probability whatever the mode."""
        h = chain(
            x,
            self.masked_weights(),
            self.biases,
            self.activation,
            self.offset(context),
            residual=self.residual,
            dropout=dropout,
        )  # (B, P * D)
        return h.view(-1, self.n_parameters, self.features).movedim(1, 0)

    def offset(self, context: Tensor | None) -> Tensor | None:
        """What the context adds to the first hidden layer, (B, hidden); none without a context."""
        check_context(context, self.context_features)
        if context is None or self.context_weight is None:
            return None
        return F.linear(context, self.context_weight)


def hidden_degrees(features: int, hidden: Sequence[int], *, conditional: bool) -> list[Tensor]:
    """Sorted degrees of the units of each hidden layer: 1..features-1 in turn, from 0 with a
    context.
    """
    first = 0 if conditional or features == 1 else 1
    span = max(1, features - first)
    return [(torch.arange(width) % span + first).sort().values for width in hidden]


def masks(order: Sequence[int], degrees: Sequence[Tensor], n_parameters: int) -> list[Tensor]:
    """The 0/1 masks of all layers, each (out, in): a unit sees degrees <= its own, an output those
    < its own.
    """
    inputs = torch.empty(len(order), dtype=torch.long)
    inputs[list(order)] = torch.arange(1, len(order) + 1)
    chain = [inputs, *degrees]
    inner = [after[:, None] >= before[None] for before, after in pairwise(chain)]
    last = (inputs[:, None] > degrees[-1][None]).repeat(n_parameters, 1)
    return [mask.to(torch.get_default_dtype()) for mask in [*inner, last]]
