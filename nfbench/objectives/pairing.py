"""Which noise goes with which data: exact optimal transport within a minibatch."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def pair_optimally(noise: Tensor, data: Tensor, context: Tensor | None = None) -> Tensor:
    """The rows of noise (B, *event) in the order that minimizes ``sum_i |data_i - noise_i|^2``.

    As |data|^2 and |noise|^2 are summed over all rows in any order, the cost is -2 <data, noise>.
    Rows are exchanged within equal contexts (B, ...) only, so that the noise of each context
    stays that of the base. On the processor, O(B^3) at worst (Crouse 2016).
    """
    if context is None:
        return noise[assign(noise, data)]
    paired = noise.clone()
    _, groups = torch.unique(context, dim=0, return_inverse=True)
    for group in range(int(groups.max()) + 1):
        rows = torch.nonzero(groups == group).flatten()
        paired[rows] = noise[rows[assign(noise[rows], data[rows])]]
    return paired


def assign(noise: Tensor, data: Tensor) -> Tensor:
    """The index (B,) of the noise that goes with each row of data."""
    products = data.flatten(1).double() @ noise.flatten(1).double().t()
    _, columns = linear_sum_assignment(products.cpu().numpy(), maximize=True)
    return torch.from_numpy(columns).to(noise.device)
