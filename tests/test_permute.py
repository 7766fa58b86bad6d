"""Orders of dimensions."""

import torch

from nfbench.transforms.permute import Permute, alternate


def test_alternate_puts_even_dimensions_first() -> None:
    assert Permute(alternate(5))(torch.arange(5.0)[None])[0].tolist() == [[0, 2, 4, 1, 3]]
