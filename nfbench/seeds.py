"""Independent random streams from a few integers. Imports no torch."""

import numpy as np


def mix(*numbers: int) -> int:
    """A seed of 63 bits that depends on all the numbers and on their order."""
    state = np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
