"""Noise that is a function of the row it is added to: the same whenever the row is seen."""

import torch
from torch import Tensor, nn

# Odd numbers of 64 bits with about as many ones as zeros, as signed integers: the golden ratio's
# fraction, and the multipliers of SplitMix64's finalizer.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
SHIFTS = (30, 27)
LAST_SHIFT = 31
BITS = 23  # of each number, so that float32 holds it, and less than 1


class RowNoise(nn.Module):
    """Numbers of U(0, 1), shaped as integers x (B, *event), that depend on their row alone.

    x holds them in a floating-point type, which the numbers have too. A row's numbers are the
    stream of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators") from a seed that is a hash of the row: (k + 1/2) / 2^23 with k the upper bits.
    Equal on all devices.
    """

    golden: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Read from memory, since a compiler takes multiples of what it knows in 32 bits on a GPU.
        self.register_buffer("golden", torch.tensor(GOLDEN), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of integers (B, *event)."""
        rows = x.flatten(1).long()
        places = self.golden.expand(rows.shape[1]).cumsum(0)
        seeds = mixed((rows * mixed(places)).sum(1, keepdim=True))
        numbers = shifted(mixed(seeds + places), 64 - BITS)
        return ((numbers.to(x.dtype) + 0.5) * 2.0**-BITS).view(x.shape)


def mixed(z: Tensor) -> Tensor:
    """Integers of 64 bits, each bit of which depends on all of z's."""
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=True):
        z = (z ^ shifted(z, shift)) * multiplier
    return z ^ shifted(z, LAST_SHIFT)


def shifted(z: Tensor, by: int) -> Tensor:
    """The bits shifted to the right, zeros following, where torch repeats the sign."""
    return (z >> by) & (2 ** (64 - by) - 1)
