"""Bits per dimension and the bound of many draws, from the settings to record and table."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import CPU, GAUSSIAN, MAF, Rows, changed, comparable, write_table

from nfbench import build, checkpoint, tables
from nfbench.audit import audit
from nfbench.build import build_model
from nfbench.config import Experiment, load
from nfbench.data import DATA
from nfbench.data.base import DataModule
from nfbench.data.dataset import Splits
from nfbench.distributions.base import Uniform
from nfbench.errors import UsageError
from nfbench.evaluation import describe_likelihood, evaluate
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.machine import trainer
from nfbench.module import IMPORTANCE, TEST, VALIDATION
from nfbench.record import Record, run_dir
from nfbench.run import run
from nfbench.seeds import mix
from nfbench.training import build_module, build_schedule
from nfbench.transforms.base import Compose

pytestmark = pytest.mark.usefixtures("float64")


def identity(event_shape: tuple[int, ...], *, context_features: int = 0) -> Flow:
    """A flow that does nothing, on a uniform base."""
    return Flow(Uniform((math.prod(event_shape),)), Compose([]))


def eight_bit_images(shape: tuple[int, ...] = (3, 4, 4)) -> Rows:
    rng = np.random.default_rng(0)
    parts = [rng.integers(256, size=(n, *shape), dtype=np.uint8) for n in (8, 6, 9)]
    return Rows(splits=Splits(*parts), event_shape=shape, levels=256)


def evaluated(experiment: Experiment, dataset: Rows) -> dict[str, float | int | None]:
    """The metrics of the model as it is built."""
    data = DataModule(dataset, batch_size=4, eval_batch_size=4)
    data.setup()
    model = build_model(experiment, dataset)
    module = build_module(experiment, model, build_schedule(experiment, 1))
    return evaluate(module, data, trainer(CPU, []))[0]


@pytest.mark.parametrize(("bits", "draws"), [(8, 1), (8, 3), (5, 7), (1, 2)])
def test_identity_flow_on_a_uniform_base_is_measured_to_have_the_bits_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, draws: int
) -> None:
    monkeypatch.setitem(build.FLOWS, "identity", identity)
    settings = [
        "preprocess.dequantize=uniform",
        f"preprocess.bits={bits}",
        f"training.importance_draws={draws}",
    ]
    root = write_table(tmp_path, row=GAUSSIAN)
    experiment = replace(
        load("tiny/row", "pinwheel", 0, settings, root), flow={"name": "identity"}
    )
    metrics = evaluated(experiment, eight_bit_images())
    exactly = pytest.approx(bits, rel=1e-14)  # the mean over rows may round
    assert metrics["val/bits_per_dim"] == exactly
    assert metrics["test/bits_per_dim"] == exactly
    assert metrics["test/bits_per_dim_se"] == pytest.approx(0, abs=1e-14)
    assert metrics["test/log_density"] == 0  # of the uniform base
    assert metrics["test/n"] == 9
    if draws == 1:
        assert "test/bits_per_dim_iw" not in metrics
    else:
        assert metrics["test/bits_per_dim_iw"] == exactly
        assert metrics["test/bits_per_dim_iw_se"] == pytest.approx(0, abs=1e-14)
        assert metrics["test/log_likelihood_iw"] == pytest.approx(-48 * bits * math.log(2))
        assert metrics["test/importance_draws"] == draws
        assert "val/bits_per_dim_iw" not in metrics


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("preprocess.bits=0", "bits: expected at least 1, got 0"),
        ("preprocess.dequantizer_layers=0", "dequantizer_layers: expected at least 1"),
        ("training.importance_draws=0", "importance_draws: expected at least 1, got 0"),
        ("preprocess.logit_form=both", "logit_form: expected 'symmetric' or 'one_sided'"),
        ("training.importance_draws=2", "importance_draws: continuous data have no noise"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, override: str, told: str) -> None:
    root = write_table(tmp_path, row=MAF)
    with pytest.raises(UsageError, match=told):
        build_model(load("tiny/row", "pinwheel", 0, [override], root), DATA["pinwheel"])


ONCE = "preprocess.dequantize=uniform_once"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.importance_draws=2", "each draw has the same noise"),
        ("data.augment=[shift]", "a changed image has other noise"),
    ],
)
def test_noise_drawn_once_is_refused_where_it_would_be_drawn_again(
    tmp_path: Path, override: str, told: str
) -> None:
    root = write_table(tmp_path, row=MAF | {"cells": {"digits": {}}})
    with pytest.raises(UsageError, match=told):
        build_model(load("tiny/row", "digits", 0, [ONCE, override], root), DATA["digits"])


@pytest.mark.parametrize("once", [False, True])
def test_a_row_can_ask_for_noise_drawn_once(tmp_path: Path, once: bool) -> None:
    root = write_table(tmp_path, row=MAF | {"cells": {"digits": {}}})
    override = ONCE if once else "preprocess.dequantize=uniform"
    model = build_model(load("tiny/row", "digits", 0, [override], root), DATA["digits"]).eval()
    x = torch.randint(17, (3, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(model.log_prob(x), model.log_prob(x)) == once


DIGITS = changed(
    MAF,
    flow={"batch_norm": False},
    data={"batch_size": 50},
    training={"max_steps": 30, "validate_every": 10, "importance_draws": 5},
    preprocess={"dequantize": "variational", "dequantizer_hidden": 4, "dequantizer_layers": 2},
) | {"cells": {"digits": {"preprocess": {"logit": 0.05, "logit_form": "one_sided"}}}}


def go(root: Path) -> Record:
    torch.set_default_dtype(torch.float32)
    write_table(root, digits=DIGITS)
    return run(load("tiny/digits", "digits", root=root), root=root, device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def record(root: Path) -> Record:
    return go(root)


def test_a_record_has_both_bounds_and_how_many_draws(record: Record) -> None:
    metrics = record.metrics
    assert record.status == "done"
    assert record.likelihood == {"kind": "lower bound", "draws": 5}
    assert metrics["test/importance_draws"] == 5
    gain = metrics["test/log_likelihood_iw"] - metrics["test/log_likelihood"]
    assert gain > 1
    for name, sign in (("", -1), ("_se", 1)):
        nats = metrics[f"test/log_likelihood_iw{name}"]
        expected = sign * nats / 64 / math.log(2)
        assert metrics[f"test/bits_per_dim_iw{name}"] == pytest.approx(expected)
    assert record.audit["log_det_error"] < 1e-9
    assert record.audit["non_finite_samples"] == 0


def test_the_noise_was_trained_and_draws_the_same_at_every_run(
    root: Path, record: Record, tmp_path: Path
) -> None:
    again = go(tmp_path)
    assert comparable(again) == comparable(record)
    experiment = load("tiny/digits", "digits", root=root)
    first = build_model(experiment, DATA["digits"]).state_dict()
    best = checkpoint.load(run_dir(experiment, root) / "best.pt")["model"]
    learned = [key for key in first if "preprocessing" in key]
    assert len(learned) == 2 * 6
    assert not any(torch.equal(first[key], best[key]) for key in learned)


@pytest.mark.parametrize(("split", "phase"), [("val", VALIDATION), ("test", TEST)])
def test_log_density_is_that_of_what_the_flow_is_given(
    root: Path, record: Record, split: str, phase: int
) -> None:
    torch.set_default_dtype(torch.float32)
    experiment = load("tiny/digits", "digits", root=root)
    model = build_model(experiment, DATA["digits"]).eval()
    model.load_state_dict(checkpoint.load(run_dir(experiment, root) / "best.pt")["model"])
    assert isinstance(model, Preprocessed)
    torch.manual_seed(mix(0, phase, 0, 0))
    images = torch.from_numpy(DATA["digits"].load().arrays[split])
    with torch.no_grad():
        y, _ = model.preprocessing(images)
        values = model.model.log_prob(y).double()
    assert record.metrics[f"{split}/log_density"] == pytest.approx(values.mean().item(), abs=1e-3)


def test_the_weighted_bound_draws_other_noise_than_the_plain_one(
    root: Path, record: Record
) -> None:
    torch.set_default_dtype(torch.float32)
    experiment = load("tiny/digits", "digits", root=root)
    model = build_model(experiment, DATA["digits"]).eval()
    model.load_state_dict(checkpoint.load(run_dir(experiment, root) / "best.pt")["model"])
    images = torch.from_numpy(DATA["digits"].load().test)
    torch.manual_seed(mix(0, IMPORTANCE, 0, 0))
    with torch.no_grad():
        draws = torch.stack([model.log_prob(images) for _ in range(5)]).double()
    expected = (draws.logsumexp(0) - math.log(5)).mean().item()
    assert record.metrics["test/log_likelihood_iw"] == pytest.approx(expected, rel=1e-6)
    assert record.metrics["test/log_likelihood"] not in draws.mean(1).tolist()


def test_a_table_can_show_the_weighted_bound_and_says_of_how_many_draws(
    root: Path, record: Record
) -> None:
    head = root / "experiments" / "tiny" / "table.yaml"
    plain = head.read_text()
    text = plain.replace("test/log_likelihood", "test/bits_per_dim_iw").replace("higher", "lower")
    head.write_text(text)
    page = tables.markdown(tables.build("tiny", root))
    head.write_text(plain)
    assert "lower bound of 5 draws" in page
    assert f"{record.metrics['test/bits_per_dim_iw']:.2f}" in page
    assert f"{2 * record.metrics['test/bits_per_dim_iw_se']:.2f}" in page
    assert "draws" not in tables.markdown(tables.build("tiny", root))


def test_images_of_fewer_bits_with_learned_noise_are_audited(tmp_path: Path) -> None:
    overrides = ["preprocess.bits=5", "preprocess.dequantize=variational", "preprocess.logit=0.05"]
    experiment = load("tiny/row", "pinwheel", 0, overrides, write_table(tmp_path, row=MAF))
    dataset = eight_bit_images()
    model = build_model(experiment, dataset)
    found = audit(model, torch.from_numpy(dataset.splits.test))
    assert found["log_det_error"] < 1e-9
    module = build_module(experiment, model, build_schedule(experiment, 10))
    assert describe_likelihood(module) == {"kind": "lower bound"}
    assert set(model.sample(50).unique().tolist()) <= set(range(0, 256, 8))


def test_the_flow_does_not_depend_on_the_kind_of_noise(tmp_path: Path) -> None:
    """The flow starts from the same weights behind any noise."""
    root = write_table(tmp_path, digits=DIGITS)
    one, other = (
        build_model(
            load("tiny/digits", "digits", 0, [f"preprocess.dequantize={kind}"], root),
            DATA["digits"],
        )
        for kind in ("uniform", "variational")
    )
    assert isinstance(one, Preprocessed)
    assert isinstance(other, Preprocessed)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
