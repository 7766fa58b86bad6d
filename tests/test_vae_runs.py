"""Autoencoders through the whole path: settings, record, audit, table, samples."""

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import MAF, changed, comparable, write_table
from PIL import Image

from nfbench import tables
from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.pages import Request
from nfbench.record import Record
from nfbench.run import run
from nfbench.sampling import sample
from nfbench.signals import InterruptedRunError
from nfbench.soundness import SOUND
from nfbench.training import build_objective
from nfbench.vae import VAE

ROW = {
    "title": "VAE",
    "flow": {"name": "sylvester", "layers": 2, "kind": "triangular", "fast": "sampling"},
    "vae": {
        "network": "mlp",
        "latent": 3,
        "features": 8,
        "hidden": [16],
        "observation": "categorical",
    },
    "data": {"batch_size": 50},
    "training": {
        "objective": "elbo",
        "max_steps": 150,
        "validate_every": 50,
        "anneal_steps": 100,
        "learning_rate": 3e-3,
        "importance_draws": 5,
    },
    "cells": {"digits": {}},
}


def go(root: Path) -> Record:
    write_table(root, vae=ROW)
    return run(load("tiny/vae", "digits", root=root), root=root, device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vae")


@pytest.fixture(scope="module")
def record(root: Path) -> Record:
    return go(root)


def test_a_record_has_the_bounds_and_what_they_are_made_of(record: Record) -> None:
    metrics = record.metrics
    assert record.likelihood == {"kind": "lower bound", "draws": 5}
    assert metrics["test/importance_draws"] == 5
    assert 0 <= metrics["test/active_units"] <= 3
    bound = -metrics["test/rate"] - metrics["test/distortion"]
    off = abs(bound - metrics["test/log_likelihood"])
    assert 0 < off < 6 * metrics["test/log_likelihood_se"]  # other draws of the same bound
    assert metrics["test/log_likelihood_iw"] > metrics["test/log_likelihood"]
    nats = metrics["test/log_likelihood"]
    assert metrics["test/bits_per_dim"] == pytest.approx(-nats / 64 / math.log(2))
    assert metrics["test/log_likelihood"] > 64 * math.log(1 / 17)  # better than nothing


def test_the_posterior_is_audited(record: Record) -> None:
    assert record.audit["log_det_error"] < 1e-9
    assert record.audit["round_trip_error"] < 1e-9
    assert record.audit["sample_calibration"] is not None
    assert record.audit["passes_per_log_prob"] == 2  # the encoder and the decoder
    assert record.audit["passes_per_sample"] == 1


def test_a_table_shows_negative_bounds_with_their_sign_turned(root: Path, record: Record) -> None:
    folder = root / "experiments" / "tiny"
    text = (folder / "table.yaml").read_text()
    text = text.replace("metric: test/log_likelihood", "metric: -test/log_likelihood")
    text = text.replace("direction: higher", "direction: lower")
    text += "extra: {-test/log_likelihood_iw: {heading: NLL}, test/active_units: {heading: A}}\n"
    (folder / "table.yaml").write_text(text)
    try:
        (entry,) = tables.build("tiny", root).entries
    finally:
        write_table(root, vae=ROW)
    assert entry.ours == -record.metrics["test/log_likelihood"] > 0
    assert entry.points == pytest.approx(2 * record.metrics["test/log_likelihood_se"])
    assert entry.extra["-test/log_likelihood_iw"] == -record.metrics["test/log_likelihood_iw"]
    assert entry.audited is not None and entry.audited.finding == SOUND
    assert entry.likelihood == "lower bound"


def test_cut_and_resumed_it_gives_the_same_record(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfbench.module import DensityModule

    step = DensityModule.training_step

    def cut(self: DensityModule, *arguments: object) -> object:
        if self.step >= 64:
            raise InterruptedRunError(signal.SIGTERM, self.step)
        return step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DensityModule, "training_step", cut)
        with pytest.raises(InterruptedRunError):
            go(tmp_path)
    assert comparable(go(tmp_path)) == comparable(record)


def test_samples_reconstructions_and_the_way_between(root: Path, record: Record) -> None:
    lines = list(sample("tiny/vae/digits", Request(n=9), device="cpu", root=root))
    folder = root / "runs" / "tiny" / "vae" / "digits" / "0" / "samples"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["interpolation-s0.png", "reconstruction-s0.png", "samples-n9-t1-s0.png"]
    assert all(Image.open(folder / name).getextrema()[1] > 0 for name in names)
    assert sum(line.endswith("latents between, on a line") for line in lines) == 1


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("preprocess.dequantize=uniform", "preprocess: expected nothing"),
        ("data.condition=label", "takes no labels"),
        ("vae.observation=bernoulli", "levels: expected 2 for bernoulli, got 17"),
        ("vae.latent=0", "expected at least 1, got 0"),
        ("vae.hidden=[0]", "vae.hidden: expected sizes of at least 1"),
        ("vae.network=cnn", "vae.network: expected 'none' or 'mlp'"),
        ("vae.network=gated", "vae.hidden"),
        ("vae.variance_bounds=[1.0]", "variance_bounds"),
        ("vae.network=none", "vae.latent: expected 64, as network none does not take it"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, override: str, told: str) -> None:
    root = write_table(tmp_path, vae=ROW)
    with pytest.raises(UsageError, match=told):
        build_model(load("tiny/vae", "digits", 0, [override], root), DATA["digits"])


def test_what_cannot_be_a_posterior_is_refused(tmp_path: Path) -> None:
    root = write_table(tmp_path, vae=ROW)
    experiment = load("tiny/vae", "digits", 0, [], root)
    normed = replace(experiment, flow={"name": "maf", "layers": 1})
    with pytest.raises(UsageError, match="batch_norm"):
        build_model(normed, DATA["digits"])
    with pytest.raises(UsageError, match="expected one of vectors"):
        build_model(replace(experiment, flow={"name": "glow_image"}), DATA["digits"])
    with pytest.raises(UsageError, match="expected discrete data"):
        build_model(experiment, DATA["moons"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.objective=elbo", "expected an autoencoder"),
        (
            "training.anneal_steps=10",
            "anneal_steps: expected 0, as maximum_likelihood",
        ),
        ("training.anneal_start=0.3", "anneal_start: expected 0, as anneal_steps is 0"),
        ("training.free_bits=1.0", "free_bits: expected 0.0, as maximum_likelihood"),
        ("training.objective=reverse_kl", "expected data with an energy"),
    ],
)
def test_objectives_of_others_are_refused(tmp_path: Path, override: str, told: str) -> None:
    root = write_table(tmp_path, row=MAF)
    experiment = load("tiny/row", "pinwheel", 0, [override], root)
    model = build_model(experiment, DATA["pinwheel"])
    with pytest.raises(UsageError, match=told):
        build_objective(experiment, model, root)


def test_the_weight_of_the_divergence_rises_with_the_steps(tmp_path: Path) -> None:
    row = changed(ROW, training={"anneal_start": 0.25, "anneal_steps": 8, "max_steps": 10})
    root = write_table(tmp_path, vae=row)
    experiment = load("tiny/vae", "digits", 0, [], root)
    from nfbench.training import build_module, build_schedule

    model = build_model(experiment, DATA["digits"])
    assert isinstance(model, VAE)
    seen: list[float] = []

    def noted(model: VAE, x: torch.Tensor, context: None, beta: float = 1.0) -> torch.Tensor:
        seen.append(float(beta))
        return -model.log_prob(x).mean()

    module = build_module(experiment, model, build_schedule(experiment, 10))
    module.gradient.objective = noted
    optimizer = module.configure_optimizers()
    from nfbench.flat import tie_gradients

    tie_gradients(module.weights, module.trained)
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    for _ in range(10):
        module.optimize(optimizer, x, None)
    assert seen == pytest.approx([0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1])
