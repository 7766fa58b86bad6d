"""Floating-point operations of a call, by the formulas of torch's own counter."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from nfbench.signals import InterruptedRunError

log = logging.getLogger("nfbench")
aten = torch.ops.aten


def product(matrix: Tensor, vector: Tensor, **_: Any) -> int:
    """Of a matrix and a vector: a multiplication and an addition a number."""
    return 2 * matrix.numel()


def added_product(added: Tensor, matrix: Tensor, vector: Tensor, **_: Any) -> int:
    """The same, added to a vector; the sum does not count, as it does not in torch's formulas."""
    return product(matrix, vector)


def substitution(matrix: Tensor, right: Tensor, **_: Any) -> int:
    """In a triangular system of n equations: n^2 a right-hand side."""
    return matrix.shape[-1] * right.numel()


# Torch has products of matrices and convolutions, both with their gradients, and none of these.
FORMULAS = flop_registry | {
    aten.mv: product,
    aten.addmv: added_product,
    aten.linalg_solve_triangular: substitution,
}


class Counter(TorchDispatchMode):
    """Counts what torch is told to do, inside of functions with gradients of their own too.

    Torch's ``FlopCounterMode`` puts hooks on modules besides, to tell them apart, with which the
    gradients that an ODE takes inside of a pass fail.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do it, and count it if there is a formula."""
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count_flops(name: str, call: Callable[[], object]) -> int | None:
    """Operations of a call in products of matrices and in convolutions, its backward pass with it.

    What goes number by number, as activations, splines and norms, does not count. None, with a
    warning that names what was counted, if the call fails. Random numbers of others stay.
    """
    with torch.random.fork_rng(), Counter() as counter:
        torch.manual_seed(0)  # an ODE takes steps as the noise has it
        try:
            call()
        except InterruptedRunError:
            raise
        except Exception as error:
            log.warning("speed: no operations of %s: %s", name, error)
            return None
    return counter.total
