"""On a CUDA device every flow gives what it gives on the CPU, and a run goes the whole way."""

from pathlib import Path

import image_flow_cases as images
import pytest
import torch
from flow_cases import cases, context, random_flow
from harness import MAF, changed, write_table
from torch import Tensor

from nfbench.config import load
from nfbench.flat import flatten, tie_gradients
from nfbench.flows.flow import Flow
from nfbench.gradient import Gradient
from nfbench.inspection import inspect
from nfbench.machine import torch_device
from nfbench.objectives.likelihood import maximum_likelihood
from nfbench.run import run
from nfbench.transforms.row_noise import RowNoise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Batches whose rows are not reduced in the same order round differently.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCES)
DEVICES = ("cpu", "cuda")


def close(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual.cpu(), expected, rtol=tolerance, atol=tolerance)


@cases(1, 2, 5)
@PRECISIONS
def test_both_directions_agree_with_the_cpu(
    name: str, features: int, n_context: int, dtype: torch.dtype
) -> None:
    flow = random_flow(name, features, n_context, spread=0.4).to(dtype)
    x, given = torch.randn(64, features, dtype=dtype), context(64, n_context)
    given = None if given is None else given.to(dtype)
    found = []
    for device in DEVICES:
        flow.to(device)
        there = None if given is None else given.to(device)
        with torch.no_grad():
            rows = x.to(device)
            found.append((flow.log_prob(rows, there), *flow.transform.inverse(rows, there)))
            assert flow.sample(64, there).device.type == device
    for on_cpu, on_gpu in zip(*found, strict=True):
        close(on_gpu, on_cpu)


@cases(2, 5)
def test_gradients_agree_with_the_cpu(name: str, features: int, n_context: int) -> None:
    """Of a density and of a sample, which an autoregressive flow finds implicitly."""
    flow = random_flow(name, features, n_context, spread=0.4).double()
    x, given = torch.randn(32, features).double(), context(32, n_context)
    found = []
    for device in DEVICES:
        flow.to(device).zero_grad()
        there = None if given is None else given.double().to(device)
        loss = flow.log_prob(x.to(device), there).sum()
        sample, log_det = flow.transform.inverse(x.to(device), there)
        loss = loss + sample.sin().sum() + log_det.sum()
        if loss.requires_grad:
            loss.backward()
        found.append([p.grad.clone() for p in flow.parameters() if p.grad is not None])
    for on_cpu, on_gpu in zip(*found, strict=True):
        close(on_gpu, on_cpu)


@images.ALL
def test_flows_of_images_agree_with_the_cpu(name: str, n_context: int) -> None:
    """Both directions, and the gradient of a density in evaluation, which keeps no bfloat16."""
    flow = images.random_flow(name, n_context).double()
    x, given = torch.randn(8, *images.SHAPE).double(), images.context(8, n_context)
    found = []
    for device in DEVICES:
        flow.to(device).zero_grad()
        there = None if given is None else given.double().to(device)
        log_prob = flow.log_prob(x.to(device), there)
        with torch.no_grad():
            back = flow.transform.inverse(x.to(device).flatten(1), there)
        log_prob.sum().backward()
        gradients = [p.grad.clone() for p in flow.parameters() if p.grad is not None]
        found.append([log_prob.detach(), *back, *gradients])
    for on_cpu, on_gpu in zip(*found, strict=True):
        close(on_gpu, on_cpu)


def test_likelihoods_of_images_are_no_less_than_float32() -> None:
    """TF32 would move them by hundredths of nats."""
    torch_device("cuda")
    flow = images.FLOWS["glow_image"]((3, 16, 16), levels=2, steps=4, hidden=64)
    images.disturb(images.settled(flow.transform), 0.05)
    x = torch.randn(32, 3, 16, 16)
    exact = flow.double().eval().log_prob(x.double())
    found = flow.float().cuda().log_prob(x.cuda()).cpu().double()
    assert (found - exact).abs().max() < 2e-3


@pytest.mark.parametrize("name", ["glow_image_reversible", "realnvp_image_bfloat16"])
def test_a_run_on_images_goes_the_whole_way_on_the_gpu(tmp_path: Path, name: str) -> None:
    """Learned noise, shifts, the first batch, running statistics, several draws."""
    recipe, arguments = images.VARIANTS[name]
    training = {"max_steps": 20, "validate_every": 10, "importance_draws": 3}
    row = changed(MAF, data={"augment": ["flip"]}, training=training) | {
        "flow": {"name": recipe, **images.SMALL[recipe], **arguments},
        "cells": {"digits": {"preprocess": {"dequantize": "variational", "shift": 0.5}}},
    }
    root = write_table(tmp_path, row=row)
    record = run(load("tiny/row", "digits", root=root), root=root, device="cuda")
    assert record.status == "done"
    assert record.metrics["test/bits_per_dim_iw"] < record.metrics["test/bits_per_dim"]
    assert record.audit["log_det_error"] < 1e-9


def test_a_row_that_is_not_finite_is_named_on_the_gpu() -> None:
    flow: Flow = random_flow("maf", 2).cuda()
    x = torch.zeros(4, 2, device="cuda")
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="row 3"):
        flow.log_prob(x)


def test_a_conditional_run_on_images_goes_the_whole_way_on_the_gpu(tmp_path: Path) -> None:
    """Labels, dequantization, logit and batch norm together; densities as the CPU has them."""
    row = changed(
        MAF,
        data={"condition": "label"},
        training={"max_steps": 40, "validate_every": 20, "ema_decay": 0.9},
    ) | {"cells": {"digits": {"preprocess": {"dequantize": "uniform", "logit": 0.05}}}}
    root = write_table(tmp_path, row=row)
    record = run(load("tiny/row", "digits", root=root), root=root, device="cuda")
    assert record.status == "done"
    assert record.metrics["test/log_density"] < record.metrics["test/log_likelihood"] + 1e3
    assert record.audit["log_det_error"] < 1e-9


@pytest.mark.parametrize("name", ["maf", "nsf", "planar"])
def test_a_run_on_the_gpu_leaves_a_record_that_the_cpu_can_audit(
    tmp_path: Path, name: str
) -> None:
    flow = {"name": name, "layers": 2} | ({"hidden": 16} if name == "nsf" else {})
    row = changed(MAF, training={"max_steps": 40, "validate_every": 20}) | {"flow": flow}
    root = write_table(tmp_path, row=row)
    record = run(load("tiny/row", "pinwheel", root=root), root=root, device="cuda")
    assert record.status == "done"
    assert record.provenance["device"] == torch.cuda.get_device_name()
    assert record.audit["log_det_error"] < 1e-9
    assert inspect("tiny/row/pinwheel", root=root).audit["log_det_error"] < 1e-9


def never(loss: Tensor) -> None:
    raise AssertionError("autograd was asked")


@pytest.mark.parametrize("name", ["maf", "nsf", "planar"])
def test_a_replayed_gradient_is_that_of_autograd(name: str) -> None:
    """The second call records its kernels, the third replays them; no loss is overwritten."""
    flow = random_flow(name, 3).double().cuda().train()
    trained = list(flow.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)
    assert weights.grad is not None
    gradient = Gradient(flow, maximum_likelihood, trained, compile=True)
    losses, expected = [], []
    for x in torch.randn(5, 20, 3, dtype=torch.float64, device="cuda"):
        with torch.no_grad():
            weights.mul_(1.02)
        weights.grad.zero_()
        loss = maximum_likelihood(flow, x)
        loss.backward()
        wanted = weights.grad.clone()
        weights.grad.zero_()
        losses.append(gradient.add(weights, x, None, backward=never))
        torch.testing.assert_close(weights.grad, wanted)
        expected.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))


def test_noise_of_a_replayed_step_is_that_of_its_seed() -> None:
    """So that a resumed run, whose first step is not replayed, draws what an uncut one does."""
    flow = random_flow("maf", 3).cuda().train()
    trained = list(flow.parameters())
    weights = flatten(trained)
    tie_gradients(weights, trained)

    def noisy(flow: Flow, x: Tensor, context: None) -> Tensor:
        return maximum_likelihood(flow, x + torch.randn_like(x))

    def losses(gradient: Gradient) -> Tensor:
        torch.manual_seed(1)
        return torch.stack([gradient.add(weights, x, None, backward=never) for _ in range(4)])

    x = torch.randn(20, 3, device="cuda")
    old, new = (Gradient(flow, noisy, trained, compile=True) for _ in range(2))
    first, replayed, fresh = losses(old), losses(old), losses(new)
    assert len(first.unique()) == 4
    torch.testing.assert_close(replayed, first)
    torch.testing.assert_close(fresh, first)


def test_noise_of_a_row_is_the_same_compiled_on_the_gpu() -> None:
    x = torch.randint(256, (8, 784)).float()
    compiled = torch.compile(RowNoise().cuda(), dynamic=False)(x.cuda())
    assert torch.equal(compiled.cpu(), RowNoise()(x))
