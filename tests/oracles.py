"""What invertible maps must fulfil, judged by autograd; test_oracles.py plants faults in them.

A ``Way`` is one direction of a transform: B rows -> (B rows, log|det Jacobian| (B,)).
"""

import importlib
import inspect
import io
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.nets.made import MADE
from nfbench.transforms.base import Transform

Way = Callable[[Tensor], tuple[Tensor, Tensor]]

RTOL = ATOL = 1e-9  # in float64


def two_ways(transform: Transform, context: Tensor | None = None) -> tuple[Way, Way]:
    """Data -> noise and noise -> data."""
    return lambda x: transform(x, context), lambda z: transform.inverse(z, context)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=RTOL, atol=ATOL)


def jacobians(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The Jacobian of each row, (B, D, D); no row may depend on another."""
    n = len(x)
    full = torch.autograd.functional.jacobian(function, x).reshape(n, x[0].numel(), n, -1)
    rows = torch.arange(n)
    own = full[rows, :, rows]  # (B, D, D)
    full[rows, :, rows] = 0
    assert not full.any(), "a row's image depends on another row"
    return own


def check_log_det(way: Way, x: Tensor) -> None:
    """One number a row, equal to the log-determinant of that row's Jacobian."""
    _, log_det = way(x)
    assert log_det.shape == (len(x),)
    assert log_det.dtype == x.dtype
    sign, expected = torch.linalg.slogdet(jacobians(lambda rows: way(rows)[0], x))
    assert sign.all(), "the Jacobian is singular"
    close(log_det, expected)


def check_round_trip(there: Way, back: Way, x: Tensor) -> None:
    """Back from there is where we were."""
    close(back(there(x)[0])[0], x)


def check_log_dets_cancel(there: Way, back: Way, x: Tensor) -> None:
    """What one direction stretches the other shrinks."""
    image, log_det = there(x)
    close(log_det + back(image)[1], torch.zeros(len(x)))


def check_contract(
    transform: Transform, x: Tensor, z: Tensor, context: Tensor | None = None
) -> None:
    """All of the above, from data ``x`` and from noise ``z``."""
    forward, inverse = two_ways(transform, context)
    for there, back, start in ((forward, inverse, x), (inverse, forward, z)):
        check_log_det(there, start)
        check_round_trip(there, back, start)
        check_log_dets_cancel(there, back, start)


@torch.no_grad()
def randomize(module: nn.Module, spread: float = 0.7) -> None:
    """Draw every trainable parameter anew, so that no log-determinant is zero."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
            parameter.normal_(0, spread * fan_in**-0.5)


def unused(module: nn.Module) -> set[str]:
    """Weights all of whose connections a mask forbids: the first of a MADE of one dimension."""
    return {
        f"{prefix}.weights.{layer}".removeprefix(".")
        for prefix, made in module.named_modules()
        if isinstance(made, MADE)
        for layer in range(len(made.weights))
        if not made.get_buffer(f"mask{layer}").any()
    }


def check_gradients(module: nn.Module, loss: Tensor) -> None:
    """``loss`` depends on every trainable parameter, smoothly."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    exempt = unused(module)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert name in exempt or parameter.grad.any(), f"the gradient of {name} is zero"


def through_file(module: nn.Module) -> dict[str, Any]:
    """The module's state, written and read back as a checkpoint is."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def concrete_subclasses(base: type, package: ModuleType) -> Iterator[type]:
    """Every class of ``package`` that is a ``base``, also one that nothing imports yet."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if (
                cls.__module__ == module.name
                and issubclass(cls, base)
                and not inspect.isabstract(cls)
            ):
                yield cls
