"""The audit tells a sound flow from one whose log-determinant, inverse or mass is wrong."""

import math

import pytest
import torch
from flow_cases import random_flow
from torch import Tensor

from nfbench.audit import audit
from nfbench.distributions.base import StandardNormal
from nfbench.distributions.made_mog import AutoregressiveMixture
from nfbench.flows.flow import Flow
from nfbench.flows.maf import maf
from nfbench.flows.preprocessed import Preprocessed
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit
from nfbench.transforms.reshape import Flatten


class Faulty(Transform):
    """z = 2 x with a log-determinant and an inverse that may be off."""

    def __init__(self, log_det: float, inverse: float) -> None:
        super().__init__()
        self.true, self.log_det, self.factor = math.log(2), log_det, inverse

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return 2 * x, x.new_full((len(x),), self.log_det * self.true * x.shape[1])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.factor * z, z.new_full((len(z),), -self.log_det * self.true * z.shape[1])


def faulty(log_det: float = 1.0, inverse: float = 0.5) -> Flow:
    return Flow(StandardNormal([2]), Faulty(log_det, inverse))


@pytest.mark.parametrize("name", ["gaussian", "made_mog", "maf", "realnvp", "planar", "iaf"])
def test_a_sound_flow_passes(name: str) -> None:
    found = audit(random_flow(name, 2, spread=0.3), torch.randn(200, 2))
    checks = "log_det_error", "base_log_prob_error", "round_trip_error", "sample_log_prob_error"
    for check in checks:
        assert found[check] is not None
        assert found[check] < 1e-9
    assert found["round_trip_error_float32"] < 1e-3


def test_mass_of_a_normalized_density_is_one() -> None:
    assert audit(faulty(), torch.randn(2000, 2))["mass"] == pytest.approx(1, abs=1e-3)


def test_what_is_not_finite_is_null_and_counted() -> None:
    found = audit(faulty(inverse=float("nan")), torch.randn(50, 2))
    assert found["round_trip_error"] is None
    assert found["sample_log_prob_error"] is None
    assert found["non_finite"] == 3
    assert found["non_finite_samples"] == 50
    assert found["log_det_error"] == 0


def test_a_doubled_log_det_shows_in_its_error_and_in_the_mass() -> None:
    found = audit(faulty(log_det=2.0), torch.randn(2000, 2))
    assert found["log_det_error"] == pytest.approx(2 * math.log(2))
    assert found["mass"] == pytest.approx(4, abs=0.01)
    assert found["round_trip_error"] == 0


def test_a_base_of_another_mass_shows_where_the_transform_is_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = AutoregressiveMixture.log_terms

    def faulty_terms(self: AutoregressiveMixture, z: Tensor, parameters: Tensor) -> Tensor:
        return sound(self, z, parameters) - math.log(1.5)

    monkeypatch.setattr(AutoregressiveMixture, "log_terms", faulty_terms)
    found = audit(random_flow("made_mog", 3, spread=0.3), torch.randn(50, 3))
    assert found["base_log_prob_error"] == pytest.approx(3 * math.log(1.5))
    assert found["log_det_error"] == 0
    assert found["sample_log_prob_error"] < 1e-9


def test_a_wrong_inverse_shows_in_the_round_trip_and_the_samples() -> None:
    found = audit(faulty(inverse=0.4), torch.randn(50, 2))
    assert found["round_trip_error"] > 0.1
    assert found["sample_log_prob_error"] > 0.1
    assert found["log_det_error"] < 1e-12


@pytest.mark.parametrize(("name", "density", "sample"), [("maf", 3, 12), ("iaf", 12, 3)])
def test_passes_are_those_of_the_networks_that_wait_for_each_other(
    name: str, density: int, sample: int
) -> None:
    found = audit(random_flow(name, 4), torch.randn(20, 4))
    assert (found["passes_per_log_prob"], found["passes_per_sample"]) == (density, sample)


def test_images_are_audited_behind_their_dequantization() -> None:
    shape = (1, 3, 3)
    flow = maf(shape, layers=2, hidden=(16,), batch_norm=False, scale="tanh")
    images = Preprocessed(Compose([Dequantize(8), Logit(0.05), Flatten(shape)]), flow)
    found = audit(images, torch.randint(8, (20, *shape), dtype=torch.uint8))
    assert found["log_det_error"] < 1e-9
    assert found["mass"] is None
