"""A compiled gradient is the eager one; what cannot be compiled whole trains all the same."""

import logging
from functools import partial
from typing import Any

import pytest
import torch
from harness import fit, normal_rows

from nfbench import module
from nfbench.errors import UsageError
from nfbench.flat import flatten, tie_gradients
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.gradient import Gradient, is_function
from nfbench.objectives.likelihood import maximum_likelihood
from nfbench.schedule import Schedule

SCHEDULE = Schedule(5, 10, 5, 5, learning_rate=0.01)
FLOWS_OF_FUNCTIONS: dict[str, dict[str, Any]] = {
    "maf": {"layers": 2, "hidden": [8, 8]},
    "realnvp": {"layers": 2, "hidden": [8]},
    "made_mog": {"components": 3, "hidden": [8]},
    "nsf": {"kind": "autoregressive", "layers": 1, "hidden": 8, "blocks": 1, "bins": 4},
}


def model(name: str, features: int = 3, **settings: Any) -> Flow:
    torch.manual_seed(0)
    return FLOWS[name]((features,), **settings).train()


@pytest.mark.parametrize("name", FLOWS_OF_FUNCTIONS)
def test_value_and_gradient_are_those_of_autograd(name: str) -> None:
    flow = model(name, **FLOWS_OF_FUNCTIONS[name]).double()
    trained = list(flow.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)
    gradient = Gradient(flow, maximum_likelihood, trained, compile=True, backend="aot_eager")
    for scale in (1.0, 0.5):
        x = scale * torch.randn(20, 3, dtype=torch.float64)
        with torch.no_grad():
            weights.mul_(1.1)
        weights.grad.zero_()  # type: ignore[union-attr]
        expected = maximum_likelihood(flow, x)
        expected.backward()
        wanted = weights.grad.clone()  # type: ignore[union-attr]
        weights.grad.zero_()  # type: ignore[union-attr]
        loss = gradient.add(weights, x, None, backward=never)
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(weights.grad, wanted)
        assert wanted.any()


def test_gradients_of_the_same_code_are_not_taken_for_one_another() -> None:
    """Of these two only a number in the model differs, which is in what is compiled."""
    pairs = []
    for bound in (1.0, 3.0):
        flow = model("realnvp", layers=2, hidden=[8], scale="tanh", scale_bound=bound)
        trained = list(flow.parameters())
        weights = flatten(trained)
        tie_gradients(weights, trained)
        gradient = Gradient(flow, maximum_likelihood, trained, compile=True, backend="aot_eager")
        pairs.append((flow, weights, gradient))
    x = 3 * torch.randn(20, 3)
    for flow, weights, gradient in (*pairs, *pairs):
        loss = gradient.add(weights, x, None, backward=never)
        torch.testing.assert_close(loss, maximum_likelihood(flow, x).detach())


def never(loss: torch.Tensor) -> None:
    raise AssertionError("autograd was asked")


def test_what_counts_is_no_function() -> None:
    assert is_function(model("maf", layers=1))
    assert not is_function(model("ffjord", hidden=[8])), "evaluations are counted"


@pytest.mark.parametrize("name", ["maf", "glow"])
def test_a_compiled_run_ends_where_an_eager_one_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scales of Glow start from the first batch, which is seen before anything is compiled."""
    monkeypatch.setattr(module, "Gradient", partial(Gradient, backend="aot_eager"))
    runs = [
        fit(
            model(name, 2, layers=2, hidden=[8]),
            normal_rows(),
            SCHEDULE,
            clip_norm=1.0,
            compile=compile,
        )
        for compile in (False, True)
    ]
    assert runs[0].gradient.compiled is None
    assert runs[1].gradient.compiled is not None and runs[1].gradient.is_proven
    torch.testing.assert_close(runs[0].weights, runs[1].weights)


def test_a_gradient_of_its_own_is_left_to_autograd(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The density of an IAF solves for its noise, by a gradient of its own."""
    monkeypatch.setattr(module, "Gradient", partial(Gradient, backend="aot_eager"))
    sizes: dict[str, Any] = {"features": 6, "layers": 1, "hidden": [8]}
    with caplog.at_level(logging.DEBUG, "nfbench"):
        compiled = fit(model("iaf", **sizes), normal_rows(features=6), SCHEDULE, compile=True)
    eager = fit(model("iaf", **sizes), normal_rows(features=6), SCHEDULE)
    assert compiled.gradient.compiled is None
    assert "without its gradient" in caplog.text
    torch.testing.assert_close(compiled.weights, eager.weights)


class Particular(torch.nn.Module):
    """A density that asks for its mean as a parameter, which torch.func makes a tensor of."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor, context: None = None) -> torch.Tensor:
        return -(x - self.get_parameter("mean")).square().sum(1)


def test_whatever_torch_refuses_is_left_to_autograd() -> None:
    density: Any = Particular()
    trained = list(density.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)
    gradient = Gradient(density, maximum_likelihood, trained, compile=True, backend="eager")
    x = torch.randn(20, 3)
    gradient.add(weights, x, None, backward=torch.Tensor.backward)
    assert gradient.compiled is None
    torch.testing.assert_close(trained[0].grad, -2 * x.mean(0))


def test_a_vain_attempt_draws_nothing() -> None:
    """Else a run that is resumed, and tries again, would draw other numbers than an uncut one."""
    flow = model("iaf", 6, layers=1, hidden=[8])

    def noisy(flow: Flow, x: torch.Tensor, context: None) -> torch.Tensor:
        return maximum_likelihood(flow, x + torch.randn_like(x))

    trained = list(flow.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)
    gradient = Gradient(flow, noisy, trained, compile=True, backend="eager")
    x = torch.randn(20, 6)
    torch.manual_seed(1)
    loss = gradient.add(weights, x, None, backward=torch.Tensor.backward)
    assert gradient.compiled is None
    torch.manual_seed(1)
    torch.testing.assert_close(loss, noisy(flow, x, None).detach())


def test_what_the_compiler_cannot_do_is_said_in_its_words() -> None:
    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise ValueError("at 17:33\n   Scalar is out of range for type int32")

    flow = model("maf", 3, layers=1, hidden=[4])
    trained = list(flow.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)
    gradient = Gradient(flow, maximum_likelihood, trained, compile=True, backend=backend)
    with pytest.raises(UsageError, match=r"says: Scalar is out of .*; run"):
        gradient.add(weights, torch.randn(5, 3), None, backward=torch.Tensor.backward)


def test_a_process_may_compile_for_more_models_than_torch_would() -> None:
    """The trials of a sweep, say: torch stops at eight, and what is left to functorch is slow."""
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        compiled.append(n)
        return graph.forward

    for n in range(10):
        flow = model("maf", 3, layers=1, hidden=[4 + n])
        trained = list(flow.parameters())
        weights = flatten(trained)
        tie_gradients(weights, trained)
        gradient = Gradient(flow, maximum_likelihood, trained, compile=True, backend=backend)
        gradient.add(weights, torch.randn(5, 3), None, backward=never)
    assert set(compiled) == set(range(10))
