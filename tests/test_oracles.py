"""The test of the test: planted faults, each of which the oracles must see."""

from collections.abc import Callable

import pytest
import torch
from oracles import (
    check_contract,
    check_gradients,
    check_log_det,
    check_log_dets_cancel,
    check_round_trip,
    jacobians,
    randomize,
    two_ways,
)
from torch import Tensor, nn

from nfbench.nets.made import MADE
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Transform
from nfbench.transforms.elementwise import Affine

pytestmark = pytest.mark.usefixtures("float64")

Fault = Callable[[Tensor], Tensor]


class Scale(Transform):
    """``z = exp(s) x`` with a log-scale of its own for each dimension, and faults on demand."""

    def __init__(
        self, *, forward_fault: Fault | None = None, inverse_fault: Fault | None = None
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([0.3, -0.9, 1.1]))
        self.forward_fault, self.inverse_fault = forward_fault or total, inverse_fault or total

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.forward_fault(self.log_scale.expand_as(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp(), self.inverse_fault(-self.log_scale.expand_as(z))


def total(terms: Tensor) -> Tensor:
    return terms.sum(1)


FAULTS: dict[str, Fault] = {
    "doubled": lambda terms: 2 * terms.sum(1),
    "wrong sign": lambda terms: -terms.sum(1),
    "last dimension forgotten": lambda terms: terms[:, :-1].sum(1),
    "mean over dimensions": lambda terms: terms.mean(1),
    "summed over the batch": lambda terms: terms.sum().expand(len(terms)),
    "one number for the batch": lambda terms: terms[0].sum(),
    "not summed": lambda terms: terms,
    "base two": lambda terms: terms.sum(1) / 0.6931,
    "forgotten": lambda terms: torch.zeros(len(terms)),
    "float32": lambda terms: terms.float().sum(1),
    "off by a billionth and more": lambda terms: terms.sum(1) + 1e-8,
}


def starts() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3), torch.randn(4, 3)


def test_the_map_without_fault_passes() -> None:
    check_contract(Scale(), *starts())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_both_directions_is_caught(name: str) -> None:
    transform = Scale(forward_fault=FAULTS[name], inverse_fault=FAULTS[name])
    with pytest.raises(AssertionError):
        check_contract(transform, *starts())


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("direction", ["forward_fault", "inverse_fault"])
def test_a_fault_in_one_direction_is_caught_by_autograd_alone(name: str, direction: str) -> None:
    forward, inverse = two_ways(Scale(**{direction: FAULTS[name]}))
    faulty, sound = (forward, inverse) if direction == "forward_fault" else (inverse, forward)
    x, _ = starts()
    check_log_det(sound, x)
    with pytest.raises(AssertionError):
        check_log_det(faulty, x)


def test_round_trips_and_cancelling_log_dets_cannot_see_a_doubled_log_det() -> None:
    """Why autograd has to be asked: the same fault in both directions agrees with itself."""
    forward, inverse = two_ways(
        Scale(forward_fault=FAULTS["doubled"], inverse_fault=FAULTS["doubled"])
    )
    x, z = starts()
    for there, back, start in ((forward, inverse, x), (inverse, forward, z)):
        check_round_trip(there, back, start)
        check_log_dets_cancel(there, back, start)
        with pytest.raises(AssertionError):
            check_log_det(there, start)


def unmasked() -> Transform:
    """An autoregressive transform whose dimensions see themselves."""
    made = MADE(3, hidden=(16,))
    made.mask1.fill_(1)
    return Autoregressive(made, Affine())


def test_a_mask_that_leaks_is_caught() -> None:
    transform = unmasked()
    randomize(transform)
    forward, inverse = two_ways(transform)
    x, _ = starts()
    with pytest.raises(AssertionError):
        check_log_det(forward, x)
    with pytest.raises(AssertionError):
        check_round_trip(forward, inverse, x)


def test_an_inverse_that_is_off_is_caught() -> None:
    forward, inverse = two_ways(Scale())

    def off(z: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = inverse(z)
        return x + 1e-7, log_det

    with pytest.raises(AssertionError):
        check_round_trip(forward, off, starts()[0])


def test_rows_that_see_one_another_are_caught() -> None:
    with pytest.raises(AssertionError, match="another row"):
        jacobians(lambda x: x - x.mean(0), starts()[0])


def test_a_map_that_loses_a_dimension_is_caught() -> None:

    def flat(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, [0, 1, 1]], torch.zeros(len(x))

    with pytest.raises(AssertionError, match="singular"):
        check_log_det(flat, starts()[0])


def test_parameters_out_of_reach_are_caught() -> None:
    transform = Scale()
    with pytest.raises(AssertionError, match="no gradient reaches log_scale"):
        check_gradients(transform, torch.zeros((), requires_grad=True) * 1)
    with pytest.raises(AssertionError, match="zero"):
        check_gradients(transform, (0 * transform.log_scale).sum())
    with pytest.raises(AssertionError, match="not finite"):
        check_gradients(transform, (transform.log_scale - transform.log_scale).sqrt().sum())


def test_randomize_leaves_nothing_trivial() -> None:
    made = MADE(3, hidden=(4,), context_features=2)
    randomize(made)
    assert all(parameter.all() for parameter in made.parameters())
