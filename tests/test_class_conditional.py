"""A flow conditioned on labels is trained given them, and tested as the mixture over classes."""

import math
from pathlib import Path

import pytest
import torch
from flow_cases import random_flow
from harness import MAF, changed, write_table
from oracles import close

from nfbench.audit import audit
from nfbench.build import build_data, build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.preprocessed import Preprocessed
from nfbench.record import Record
from nfbench.run import run
from nfbench.transforms.base import Compose
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit

pytestmark = pytest.mark.usefixtures("float64")

N_CLASSES = 3
DIGITS = changed(
    MAF,
    flow={"batch_norm": True},
    data={"condition": "label"},
    training={"max_steps": 40, "validate_every": 20},
) | {"cells": {"digits": {"preprocess": {"dequantize": "uniform", "logit": 0.05}}}}


def conditional(name: str = "maf") -> ClassConditional:
    return ClassConditional(random_flow(name, 2, N_CLASSES), N_CLASSES)


def test_the_label_is_marginalized_with_a_uniform_prior() -> None:
    model, x = conditional(), torch.randn(5, 2)
    given = [model.log_prob(x, torch.full((5,), label)) for label in range(N_CLASSES)]
    close(model.log_prob(x).exp(), torch.stack(given).exp().mean(0))


def test_a_label_conditions_on_its_one_hot_code() -> None:
    model, x = conditional(), torch.randn(2, 2)
    codes = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([2, 0], dtype=torch.uint8)
    assert torch.equal(model.log_prob(x, labels), model.flow.log_prob(x, codes))


def test_the_mixture_integrates_to_one_and_its_samples_are_its_own() -> None:
    torch.set_default_dtype(torch.float32)
    model = ClassConditional(random_flow("nsf", 2, N_CLASSES, spread=0.3), N_CLASSES)
    found = audit(model, model.sample(4000).detach())
    assert found["mass"] == pytest.approx(1, abs=0.02)
    assert found["sample_calibration"] < found["sample_calibration_noise"]
    assert found["log_det_error"] < 1e-9


def test_every_class_sees_the_same_noise() -> None:
    """The mixture is that of one dequantized image, not of a fresh one for each class."""
    model = Preprocessed(Compose([Dequantize(8), Logit(0.05)]), conditional())
    x = torch.randint(8, (6, 2))
    torch.manual_seed(3)
    y, log_det = model.preprocessing(x)
    expected = model.model.log_prob(y) + log_det
    torch.manual_seed(3)
    assert torch.equal(model.log_prob(x), expected)
    assert model.likelihood == "lower bound"


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.zeros(4, 1).long()])
def test_labels_are_integers_one_a_row(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected integer labels \(B,\)"):
        conditional().log_prob(torch.randn(4, 2), labels)


def test_calibration_needs_the_labels() -> None:
    with pytest.raises(ValueError, match="expected the labels of 9 training rows, got none"):
        conditional().calibrate(torch.randn(9, 2))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    torch.set_default_dtype(torch.float32)
    root = write_table(tmp_path_factory.mktemp("labels"), digits=DIGITS)
    return run(load("tiny/digits", "digits", root=root), root=root, device="cpu")


def test_a_run_on_labels_tests_the_mixture(record: Record) -> None:
    assert record.status == "done"
    assert record.experiment["config"]["data"]["condition"] == "label"
    assert record.likelihood["kind"] == "lower bound"
    assert record.metrics["test/n"] == 300
    assert record.audit["log_det_error"] < 1e-9


def test_density_is_the_likelihood_less_the_preprocessing(record: Record) -> None:
    """log_density - log_likelihood = E[-log det], the same noise in both."""
    metrics = record.metrics
    log_det = metrics["test/log_likelihood"] - metrics["test/log_density"]
    v = (torch.from_numpy(DATA["digits"].load().test).double() + 0.5) / 17
    s = 0.05 + 0.9 * v
    expected = math.log(0.9 / 17) - (s * (1 - s)).log()
    assert log_det == pytest.approx(expected.flatten(1).sum(1).mean().item(), abs=1.0)
    assert metrics["test/log_density_se"] > 0


def test_training_batches_come_with_the_labels_of_their_rows(tmp_path: Path) -> None:
    root = write_table(tmp_path, digits=DIGITS)
    experiment = load("tiny/digits", "digits", root=root)
    data = build_data(experiment)
    data.setup()
    splits = DATA["digits"].load()
    index = data.order.indices(0, 1)[0]
    assert data.labels is not None
    assert splits.labels is not None
    assert data.labels[index].tolist() == splits.labels["train"][index].tolist()


def test_data_without_labels_are_refused(tmp_path: Path) -> None:
    row = changed(MAF, data={"condition": "label"})
    experiment = load("tiny/row", "pinwheel", root=write_table(tmp_path, row=row))
    with pytest.raises(UsageError, match="condition: expected 'none', as pinwheel has no"):
        build_model(experiment, DATA["pinwheel"])
    with pytest.raises(UsageError, match="expected a label"):
        build_data(experiment).setup()
