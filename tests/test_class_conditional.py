"""A flow conditioned on labels is trained given them, and tested as the mixture over classes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flow_cases import random_flow
from harness import MAF, changed, write_table
from oracles import close

from nfbench import checkpoint
from nfbench.audit import audit
from nfbench.build import build_data, build_model
from nfbench.config import load
from nfbench.data import DATA, fingerprint
from nfbench.errors import UsageError
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.preprocessed import Preprocessed
from nfbench.module import TEST, VALIDATION
from nfbench.record import Record, run_dir
from nfbench.run import run
from nfbench.seeds import mix
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


@pytest.mark.parametrize(
    "labels", [torch.zeros(4), torch.zeros(4, 1).long(), torch.zeros(1).long()]
)
def test_labels_are_integers_one_a_row(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected integer labels \(4,\)"):
        conditional().log_prob(torch.randn(4, 2), labels)


@pytest.mark.parametrize("label", [-1, N_CLASSES])
def test_labels_out_of_range_are_refused(label: int) -> None:
    with pytest.raises(ValueError, match=rf"expected labels in 0..2, got 0 to {label}|{label} to"):
        conditional().eval().log_prob(torch.randn(2, 2), torch.tensor([0, label]))


def test_calibration_needs_the_labels() -> None:
    with pytest.raises(ValueError, match="expected the labels of 9 training rows, got none"):
        conditional().calibrate(torch.randn(9, 2))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("labels"), digits=DIGITS)


@pytest.fixture(scope="module")
def record(root: Path) -> Record:
    torch.set_default_dtype(torch.float32)
    return run(load("tiny/digits", "digits", root=root), root=root, device="cpu")


def test_a_run_on_labels_tests_the_mixture(record: Record) -> None:
    assert record.status == "done"
    assert record.experiment["config"]["data"]["condition"] == "label"
    assert record.likelihood["kind"] == "lower bound"
    assert record.metrics["test/n"] == 300
    assert record.audit["log_det_error"] < 1e-9


@pytest.mark.parametrize(("split", "phase"), [("val", VALIDATION), ("test", TEST)])
def test_density_is_that_of_what_the_flow_is_given_with_the_same_noise(
    root: Path, record: Record, split: str, phase: int
) -> None:
    """What the trained flow gives to the images that the evaluation has dequantized."""
    torch.set_default_dtype(torch.float32)
    experiment = load("tiny/digits", "digits", root=root)
    best = checkpoint.load(run_dir(experiment, root) / "best.pt")
    model = build_model(experiment, DATA["digits"]).eval()
    model.load_state_dict(best["model"])
    torch.manual_seed(mix(0, phase, 0, 0))
    rows = torch.from_numpy(DATA["digits"].load().arrays[split])
    with torch.no_grad():
        values = model.model.log_prob(model.preprocessing(rows)[0]).double()
    metrics = record.metrics
    assert metrics[f"{split}/log_density"] == pytest.approx(values.mean().item(), abs=1e-4)
    se = values.std().item() / len(values) ** 0.5
    assert metrics[f"{split}/log_density_se"] == pytest.approx(se, rel=1e-5)


def test_labels_are_part_of_the_fingerprint(record: Record) -> None:
    splits = DATA["digits"].load()
    assert record.data["source"] == "scikit-learn with labels"
    assert record.data["fingerprint"] == fingerprint(splits, labels=True)
    assert splits.labels is not None
    other = {key: 9 - value for key, value in splits.labels.items()}
    assert fingerprint(replace(splits, labels=other), labels=True) != record.data["fingerprint"]
    assert fingerprint(replace(splits, labels=other)) == fingerprint(splits)


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
