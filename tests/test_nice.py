"""NICE keeps volume but for its last scaling; its variants differ in what they should."""

import pytest
import torch
from oracles import close, randomize

from nfbench.distributions.base import StandardNormal
from nfbench.distributions.logistic import Logistic
from nfbench.flows.flow import Flow
from nfbench.flows.nice import nice
from nfbench.transforms.coupling import Coupling
from nfbench.transforms.orthogonal import Orthogonal
from nfbench.transforms.scaling import DiagonalScaling

pytestmark = pytest.mark.usefixtures("float64")

MIXINGS = pytest.mark.parametrize("mixing", ["none", "orthogonal", "permutation"])


def random_nice(features: int = 5, **arguments: object) -> Flow:
    flow = nice([features], hidden=(16, 16), **arguments)
    randomize(flow)
    return flow


@MIXINGS
@pytest.mark.parametrize("couplings", [1, 4])
def test_volume_changes_by_the_scaling_alone(mixing: str, couplings: int) -> None:
    flow, x = random_nice(mixing=mixing, couplings=couplings), torch.randn(6, 5)
    scaling = flow.transform.parts[-1]
    assert isinstance(scaling, DiagonalScaling)
    _, log_det = flow.transform(x)
    close(log_det, scaling.log_scale.sum().expand(6))
    jacobian = torch.autograd.functional.jacobian(lambda row: flow.transform(row[None])[0], x[0])
    close(torch.linalg.slogdet(jacobian[0]).logabsdet, log_det[0])


def test_one_coupling_keeps_even_dimensions_and_the_next_odd_ones() -> None:
    flow, x = random_nice(couplings=2), torch.randn(3, 5)
    permute, first, second, _ = flow.transform.parts
    start = permute(x)[0]
    middle = first(start)[0]
    end = second(middle)[0]
    assert torch.equal(start[:, :3], x[:, ::2])
    assert torch.equal(middle[:, :3], x[:, ::2])
    assert torch.equal(end[:, 3:], middle[:, 3:])
    assert not torch.isclose(middle[:, 3:], start[:, 3:]).any()
    assert not torch.isclose(end[:, :3], middle[:, :3]).any()


def test_prior_and_mixing_are_those_asked_for() -> None:
    flow = random_nice(prior="gaussian", mixing="orthogonal", couplings=3)
    assert isinstance(flow.base, StandardNormal)
    assert isinstance(random_nice().base, Logistic)
    kinds = [type(part) for part in flow.transform.parts]
    assert kinds[1:-1] == [Orthogonal, Coupling] * 3


def test_default_is_the_network_of_the_paper() -> None:
    with torch.device("meta"):
        flow = nice([784])
    couplings = [part for part in flow.transform.parts if isinstance(part, Coupling)]
    assert len(couplings) == 4
    widths = [weight.shape[0] for weight in couplings[0].conditioner.weights]
    assert widths == [1000] * 5 + [392]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prior": "cauchy"}, "prior: expected 'logistic' or 'gaussian', got 'cauchy'"),
        ({"mixing": "shake"}, "mixing: expected 'none' or 'orthogonal' or"),
        ({"features": 1}, "nice: expected at least 2 dimensions"),
    ],
)
def test_errors_say_what_was_expected(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_nice(**arguments)
