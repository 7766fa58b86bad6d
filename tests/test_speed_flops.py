"""Operations that are counted equal those that the formulas by hand give."""

import logging
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nfbench.flops import count_flops
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.nets.made import MADE

WIDTHS = [5, 7, 11, 3]
BATCH = 4


def stack() -> nn.Sequential:
    """Linear layers of WIDTHS with activations between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


PRODUCTS = [2 * BATCH * i * o for i, o in pairwise(WIDTHS)]


def test_a_stack_of_linear_layers() -> None:
    net, x = stack(), torch.randn(BATCH, WIDTHS[0])
    with torch.no_grad():
        assert count_flops("net", lambda: net(x)) == sum(PRODUCTS)


def test_its_gradient_takes_a_product_for_weights_and_one_for_inputs() -> None:
    net, x = stack(), torch.randn(BATCH, WIDTHS[0])
    expected = 3 * sum(PRODUCTS) - PRODUCTS[0]  # the data need no gradient
    assert count_flops("net", lambda: net(x).sum().backward()) == expected
    with FlopCounterMode(display=False) as counter:
        net(x).sum().backward()
    assert counter.get_total_flops() == expected


def test_a_convolution_and_the_counter_of_torch() -> None:
    net, x = nn.Conv2d(3, 6, 3, padding=1), torch.randn(BATCH, 3, 8, 8)
    assert count_flops("net", lambda: net(x)) == 2 * BATCH * 8 * 8 * 6 * 3 * 9


def test_what_torch_leaves_out() -> None:
    square, wide, x = torch.eye(5), torch.randn(5, 3), torch.randn(5)
    counted = {
        "mv": (lambda: square @ x, 2 * 25),
        "addmv": (lambda: torch.addmv(x, square, x), 2 * 25),
        "solve": (lambda: torch.linalg.solve_triangular(square, wide, upper=True), 3 * 25),
        "add": (lambda: wide + 1, 0),
    }
    for name, (call, expected) in counted.items():
        assert count_flops(name, call) == expected, name


def maf() -> Flow:
    torch.manual_seed(1)
    return FLOWS["maf"]([6], layers=2, hidden=[8, 9], batch_norm=False).eval()


def unmasked(flow: Flow) -> tuple[int, int]:
    """How many weights all layers of a MAF have, and how many of them its masks let through."""
    mades = [part for part in flow.modules() if isinstance(part, MADE)]
    assert len(mades) == 2
    weights = [weight for made in mades for weight in made.weights]
    masks = [mask for made in mades for name, mask in made.named_buffers() if "mask" in name]
    return sum(w.numel() for w in weights), int(sum(mask.sum() for mask in masks))


def test_a_density_of_maf_multiplies_every_weight_and_a_sample_those_that_count() -> None:
    """Of a sample each hidden unit is computed once, from those before it."""
    flow = maf()
    n_weights, n_through = unmasked(flow)
    assert 0 < n_through < n_weights
    with torch.no_grad():
        x = torch.randn(BATCH, 6)
        assert count_flops("log_prob", lambda: flow.log_prob(x)) == 2 * BATCH * n_weights
        assert count_flops("sample", lambda: flow.sample(BATCH)) == 2 * BATCH * n_through


def test_gradients_that_are_taken_inside_of_a_pass_are_counted() -> None:
    """The divergence of a convolutional field is a gradient; its ODE has a gradient of its own."""
    flow = FLOWS["ffjord_image"]([1, 4, 4], scales=1, blocks=1, hidden=[2])
    x = torch.randn(2, 1, 4, 4)

    def step() -> Tensor:
        loss: Tensor = -flow.log_prob(x).mean()
        loss.backward()
        return loss

    with torch.no_grad():
        once = count_flops("log_prob", lambda: flow.log_prob(x))
    assert once is not None and once > 0
    both = count_flops("training", step)
    assert both is not None and both > 2 * once


def test_random_numbers_stay_and_a_count_can_be_made_again() -> None:
    flow = FLOWS["ffjord"]([2], hidden=[8])
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with torch.no_grad():
        first, second = (count_flops("sample", lambda: flow.sample(3)) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first == second != 0


def test_what_fails_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="nfbench"):
        assert count_flops("sample", lambda: torch.zeros(2) @ torch.zeros(3)) is None
    assert "speed: no operations of sample" in caplog.text
