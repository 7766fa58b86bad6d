"""Orders of dimensions."""

import torch

from nfbench.transforms.permute import Permute, alternate


def test_alternate_puts_even_dimensions_first() -> None:
    assert Permute(alternate(5))(torch.arange(5.0)[None])[0].tolist() == [[0, 2, 4, 1, 3]]


def test_an_order_read_from_a_file_is_undone_by_its_inverse() -> None:
    permute = Permute([2, 0, 1])
    permute.load_state_dict(Permute([1, 0, 2]).state_dict())
    x = torch.arange(3.0)[None]
    assert torch.equal(permute.inverse(permute(x)[0])[0], x)
