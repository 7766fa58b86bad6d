"""Optimizer state shared out over processes: each keeps that of its part of the flat weights.

The first stage of ZeRO (Rajbhandari et al. 2020, section 5.1). Adam's step on a part of a vector
is that part of its step on the whole, so that no number of a run depends on it. A flat vector has
parts of equal size whatever the layers are, and modules stay whole: a flow is called in both
directions and piece by piece, which the hooks of FSDP, on a module's forward, do not follow.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn

from nfbench.processes import are_many, place


class Shard:
    """The part of a vector of weights that the optimizer of this process moves, as a view."""

    def __init__(self, weights: nn.Parameter) -> None:
        self.rank, self.size = place()
        self.weights = weights
        self.part = nn.Parameter(self.cut(weights.detach()))

    def cut(self, vector: Tensor) -> Tensor:
        """The part that is this process's, of a vector of the weights' length."""
        return vector.tensor_split(self.size)[self.rank]

    def tie_gradient(self) -> None:
        """Make the part's gradient a view of the weights'."""
        assert self.weights.grad is not None
        self.part.grad = self.cut(self.weights.grad)

    def fill(self, vector: Tensor) -> Tensor:
        """Have each process's part of a vector everywhere, in place; all must call it."""
        if are_many():
            for rank, piece in enumerate(vector.tensor_split(self.size)):
                distributed.broadcast(piece, rank)
        return vector

    @torch.no_grad()
    def gather(self) -> None:
        """Have the weights that all processes moved."""
        self.fill(self.weights.detach())

    def whole(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of an optimizer of all weights, from that of each one's; all must call it."""
        return self.mapped(state, self.joined)

    def joined(self, values: Tensor) -> Tensor:
        """What each process has of a vector of the weights' length, put together."""
        vector = torch.zeros_like(self.weights, dtype=values.dtype).detach()
        self.cut(vector).copy_(values)
        return self.fill(vector)

    def own(self, state: dict[str, Any]) -> dict[str, Any]:
        """The part that is this process's, of the state of an optimizer of all weights."""
        return self.mapped(state, self.cut)

    @staticmethod
    def mapped(state: dict[str, Any], change: Any) -> dict[str, Any]:
        """A state with its vectors changed; the number of steps is a scalar."""
        of_weights = {
            key: change(value) if isinstance(value, Tensor) and value.dim() else value
            for key, value in state["state"].get(0, {}).items()
        }
        return {**state, "state": {0: of_weights} if of_weights else {}}
