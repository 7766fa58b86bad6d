"""The published models of CIFAR-10 at full size: a training step, and both ways in float32."""

from pathlib import Path

import pytest
import torch

from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.flat import tie_gradients
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.launch.estimate import random_rows
from nfbench.training import build_module, build_schedule

ROOT = Path(__file__).parents[1]
SIZES = {"glow2018_table2/glow": 44_520_660, "realnvp2016_table1/realnvp": 19_609_545}
BATCH = 4


@pytest.mark.parametrize("row", SIZES)
def test_a_training_step_raises_the_likelihood_and_the_inverse_is_close(row: str) -> None:
    experiment = load(row, "cifar10", root=ROOT)
    data = DATA["cifar10"]
    model = build_model(experiment, data)
    module = build_module(experiment, model, build_schedule(experiment, 100))
    assert sum(parameter.numel() for parameter in module.trained) == SIZES[row]
    optimizer = module.configure_optimizers()
    tie_gradients(module.weights, module.trained)
    rows = random_rows(data.event_shape, data.levels, BATCH)
    with torch.no_grad():  # the first batch sets what it sets
        before = float(model.train().log_prob(rows).mean())
    optimizer.param_groups[0]["lr"] = module.rate()
    module.optimize(optimizer, rows)
    with torch.no_grad():
        assert float(model.log_prob(rows).mean()) > before
    assert isinstance(model, Preprocessed)
    assert isinstance(model.model, Flow)
    x = torch.rand(BATCH, *data.event_shape) - 0.5
    with torch.no_grad():
        z, log_det = model.eval().model.transform(x)
        back, log_det_back = model.model.transform.inverse(z)
    assert (back - x).abs().max() < 1e-4
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-4, atol=0.05)
