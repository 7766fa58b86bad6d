"""Scale and shift of features that start from the first batch."""

import torch
from torch import Tensor, nn

from nfbench.processes import add_up


class FirstBatch(nn.Module):
    """Parameters s and b of ``exp(s) x + b``, of mean 0 and variance 1 over the first batch.

    Until ``set_from`` has seen a batch in training mode they are the identity; afterwards they are
    trained as any parameters (Kingma & Dhariwal 2018, section 3.1). That they are set is part of
    the state, so that a model read from a checkpoint goes on with what it has. A feature that does
    not vary over the batch keeps its scale; a single value sets nothing.

    Args:
        features: size of dimension 1.
        rate: the parameter that is trained is s / rate, so that s moves ``rate`` times as fast
            (3 in the authors' code of Glow for images).
    """

    is_set: Tensor

    def __init__(self, features: int, *, rate: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("is_set", torch.tensor(False))
        # The state need be asked only once: to ask a device at each step would wait for it.
        self.settled = False

    @property
    def log_gain(self) -> Tensor:
        """s (features,), in nats."""
        return self.log_scale if self.rate == 1 else self.log_scale * self.rate

    @property
    def is_waiting(self) -> bool:
        """Whether a batch must still be seen."""
        if self.training and not self.settled:
            self.settled = bool(self.is_set)
        return self.training and not self.settled

    @torch.no_grad()
    def set_from(self, x: Tensor) -> None:
        """Set s and b from the batches (B, features, *space) of all processes."""
        rows = x.detach().transpose(0, 1).flatten(1).double()
        sums = torch.stack(
            [rows.new_full((len(rows),), rows.shape[1]), rows.sum(1), rows.square().sum(1)]
        )
        n, total, squares = add_up(sums).unbind(0)
        if n[0] < 2:
            return
        mean = total / n
        if not total.isfinite().all():
            bad = (~total.isfinite()).nonzero().flatten().tolist()
            raise ValueError(
                "first batch: expected finite values, which set scales and shifts; got NaN or "
                f"infinity in features {bad}"
            )
        var = (squares / n - mean.square()).clamp(min=0)
        rounding = max(torch.finfo(x.dtype).eps ** 2, 1e-15)  # of the data, of these sums
        varies = var > rounding * squares / n
        log_gain = torch.where(varies, -0.5 * var.log(), 0.0)
        self.log_scale.copy_(log_gain / self.rate)
        self.bias.copy_(-mean * log_gain.exp())
        self.is_set.fill_(True)
        self.settled = True
