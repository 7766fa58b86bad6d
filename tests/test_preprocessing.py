"""From integers to what a flow sees: log_prob carries every correction, none is added later."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import close, randomize
from torch import Tensor

from nfbench.build import preprocessing
from nfbench.data.dataset import Dataset, Splits
from nfbench.distributions.base import StandardNormal, Uniform
from nfbench.flows import FLOWS
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.metrics import bits_per_dim, summarize
from nfbench.sections import Preprocess
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit
from nfbench.transforms.quantize import Quantize
from nfbench.transforms.reshape import Flatten
from nfbench.transforms.row_noise import RowNoise

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (1, 4, 4)
D = math.prod(SHAPE)


def images(levels: int = 256, n: int = 20) -> Tensor:
    """Random images, of which the first is black and the second white."""
    x = torch.randint(levels, (n, *SHAPE), dtype=torch.uint8)
    x[0], x[1] = 0, levels - 1
    return x


def behind(parts: Sequence[Transform], flow: Flow) -> Preprocessed:
    return Preprocessed(Compose(parts), flow)


def uniform_noise(shape: torch.Size, seed: int) -> Tensor:
    """The noise that dequantization draws first after this seed."""
    torch.manual_seed(seed)
    return torch.rand(shape)


@pytest.mark.parametrize("bits", [8, 5, 3, 1])
def test_identity_flow_on_a_uniform_base_gives_exactly_as_many_bits_as_there_are(
    bits: int,
) -> None:
    flow = Flow(Uniform(SHAPE), Dequantize(2**bits))
    x = images(2**bits)
    assert [bits_per_dim(nats, D) for nats in flow.log_prob(x).tolist()] == [bits] * len(x)
    assert bits_per_dim(summarize(flow.log_prob(x)).mean, D) == bits


def test_eight_bits_are_exact_in_float32_too() -> None:
    flow = Flow(Uniform(SHAPE), Compose([Dequantize(256)])).float()
    torch.set_default_dtype(torch.float32)
    log_prob = flow.log_prob(images())
    assert log_prob.dtype == torch.float32
    assert bits_per_dim(summarize(log_prob).mean, D) == pytest.approx(8, rel=1e-7)


# Logit(alpha, form) and the factor of x in s = alpha + factor x.
FORMS = pytest.mark.parametrize(
    ("alpha", "form", "factor"),
    [
        (0.05, "symmetric", 0.9),
        (1e-6, "symmetric", 0.999998),
        (0.05, "one_sided", 0.95),
        (1e-6, "one_sided", 0.999999),
    ],
)


@FORMS
def test_logit_bits_per_dim_follow_the_formula(alpha: float, form: str, factor: float) -> None:
    """``-ln p(y) / (D ln 2) - log2(factor) + 8 + mean(log2 s + log2(1 - s))``.

    The bits per pixel of Papamakarios et al. 2017, supplement, where the factor is 1 - 2 a.
    """
    x = images()
    flow = Flow(StandardNormal(SHAPE), Compose([Dequantize(256), Logit(alpha, form=form)]))
    u = uniform_noise(x.shape, seed=5).numpy()
    torch.manual_seed(5)
    ours = [bits_per_dim(nats, D) for nats in flow.log_prob(x).tolist()]
    s = alpha + factor * (x.numpy() + u) / 256
    y = np.log(s) - np.log(1 - s)
    log_normal = (-0.5 * y**2 - 0.5 * np.log(2 * np.pi)).reshape(len(x), D).sum(1)
    corrections = (np.log2(s) + np.log2(1 - s)).reshape(len(x), D).mean(1)
    expected = -log_normal / (D * np.log(2)) - np.log2(factor) + 8 + corrections
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


@FORMS
def test_logit_nats_follow_the_formula(alpha: float, form: str, factor: float) -> None:
    """``ln p_V(v) = ln p_Y(y) + D ln(factor) - sum(ln s + ln(1 - s))``."""
    v = torch.rand(9, D)
    flow = Flow(StandardNormal((D,)), Logit(alpha, form=form))
    s = alpha + factor * v
    y = (s / (1 - s)).log()
    log_det = D * math.log(factor) - (s.log() + (1 - s).log()).sum(1)
    torch.testing.assert_close(
        flow.log_prob(v), StandardNormal((D,)).log_prob(y) + log_det, rtol=1e-8, atol=1e-8
    )


def test_noise_is_fresh_and_stays_in_its_cell() -> None:
    x = images()
    dequantize = Dequantize(256).eval()
    first, second = dequantize(x)[0], dequantize(x)[0]
    assert not torch.equal(first, second)
    for z in (first, second):
        assert torch.equal((z * 256).floor(), x.double())
        assert z.min() >= 0
        assert z.max() < 1
    noise = (torch.stack([dequantize(x)[0] for _ in range(100)]) * 256) % 1
    assert noise.mean().item() == pytest.approx(0.5, abs=4 * (12 * noise.numel()) ** -0.5)


def test_a_row_dequantized_once_has_the_same_noise_whenever_it_is_seen() -> None:
    x = images()
    dequantize = Dequantize(256, once=True)
    z = dequantize(x)[0]
    assert torch.equal((z * 256).floor(), x.double())
    order = torch.randperm(len(x))
    assert torch.equal(dequantize(x[order])[0], z[order])
    assert torch.equal(dequantize.eval()(x[2:3])[0], z[2:3])


def test_noise_of_rows_is_uniform_and_independent_between_pixels() -> None:
    u = RowNoise()(torch.randint(17, (4000, 64)).float())
    assert scipy.stats.kstest(u.double().flatten().numpy(), "uniform").pvalue > 1e-4
    assert 0 < u.min() < u.max() < 1
    between = torch.corrcoef(u.T) - torch.eye(64)
    assert between.abs().max() < 6 * 4000**-0.5


@pytest.mark.parametrize("likeness", ["one pixel differs", "two are exchanged", "of one colour"])
def test_noise_of_rows_that_are_alike_is_independent(likeness: str) -> None:
    x = torch.randint(256, (500, 64)).float()
    other = x.clone()
    if likeness == "one pixel differs":
        other[:, 5] = (other[:, 5] + 1) % 256
    elif likeness == "two are exchanged":
        x[:, 0] = (x[:, 1] + 1) % 256
        other[:, [0, 1]] = x[:, [1, 0]]
    else:
        x = torch.arange(255.0)[:, None].repeat(1, 64)
        other = x + 1
    pair = torch.stack([RowNoise()(x).flatten(), RowNoise()(other).flatten()])
    assert torch.corrcoef(pair)[0, 1].abs() < 5 * pair.shape[1] ** -0.5


def test_noise_of_rows_is_that_of_splitmix64() -> None:
    """By Python's integers, for a row whose hash is known by hand: that of zeros is 0."""
    state, mask, found = 0, 2**64 - 1, []
    for _ in range(8):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        found.append(((z ^ z >> 31) >> 41) + 0.5)
    expected = torch.tensor([found], dtype=torch.float64) / 2**23
    assert torch.equal(RowNoise()(torch.zeros(1, 8).double()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_topmost_value_stays_below_one(dtype: torch.dtype) -> None:
    x = torch.full((10_000, 64), 255, dtype=dtype)
    for z in (Dequantize(256)(x)[0], Dequantize(256, once=True)(x)[0]):
        assert z.dtype == dtype
        assert z.max() < 1


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_noise_never_carries_an_integer_into_the_next_cell(levels: int, once: bool) -> None:
    x = torch.arange(levels, dtype=torch.float32).repeat(2_000_000 // levels, 1)
    dequantize = Dequantize(levels, once=once)
    assert torch.equal(dequantize.inverse(dequantize(x)[0])[0], x)


@pytest.mark.parametrize("value", [-1, 4, 7])
def test_integers_out_of_range_are_impossible(value: int) -> None:
    flow = Flow(Uniform((1,)), Dequantize(4))
    assert flow.log_prob(torch.tensor([[value]])).item() == -math.inf


def test_integers_take_the_precision_of_the_module() -> None:
    flow = behind([Dequantize(256)], FLOWS["made"]([3], hidden=(4,)))
    x = torch.zeros(2, 3, dtype=torch.uint8)
    assert flow.float().log_prob(x).dtype == torch.float32
    assert flow.double().log_prob(x).dtype == torch.float64


def test_no_images_have_no_log_likelihoods() -> None:
    assert Flow(Uniform(SHAPE), Dequantize(256)).log_prob(images()[:0]).shape == (0,)


@FORMS
def test_logit_is_accurate_in_float32_close_to_white(
    alpha: float, form: str, factor: float
) -> None:
    x = (1 - 2.0 ** -torch.arange(10, 25)).float()[:, None]
    logit = Logit(alpha, form=form)
    for rough, exact in zip(logit(x), logit(x.double()), strict=True):
        torch.testing.assert_close(rough.double(), exact, rtol=1e-6, atol=1e-6)


def test_white_has_a_likelihood_and_samples_have_one_though_one_side_has_no_bound() -> None:
    white = torch.full((2000, 64), 255, dtype=torch.float32)
    dequantize, logit = Dequantize(256).float(), Logit(0.05, form="one_sided")
    assert all(part.isfinite().all() for part in logit(dequantize(white)[0]))
    x, _ = logit.inverse(torch.linspace(-5, 200, 500, dtype=torch.float32)[:, None])
    assert x.max() < 1
    assert all(part.isfinite().all() for part in logit(x))


def test_black_has_a_likelihood_without_a_margin() -> None:
    logit = Logit(0.0)
    for x in (torch.zeros(3, 2), logit.inverse(torch.full((3, 2), -800.0))[0]):
        assert all(part.isfinite().all() for part in logit(x))


def test_the_forms_of_the_logit_are_two() -> None:
    with pytest.raises(ValueError, match="expected one of symmetric, one_sided; got 'both'"):
        Logit(0.05, form="both")


def test_dequantization_is_undone_by_rounding_down() -> None:
    x = images()
    dequantize = Dequantize(256)
    z, log_det = dequantize(x)
    again, log_det_back = dequantize.inverse(z)
    assert torch.equal(again, x.double())
    assert torch.equal(log_det, torch.full((len(x),), -D * math.log(256)))
    assert torch.equal(log_det_back, -log_det)
    assert dequantize.inverse(torch.tensor([[-0.1, 1.0, 2.0]]))[0].tolist() == [[0, 255, 255]]


def test_dequantized_likelihood_is_called_a_lower_bound() -> None:
    inner = Compose([Logit(0.05)])
    assert inner.likelihood == "exact"
    assert Compose([Dequantize(256), inner]).likelihood == "lower bound"
    assert Flow(Uniform(SHAPE), Compose([Compose([Dequantize(4)])])).likelihood == "lower bound"


def test_probabilities_of_all_integers_add_up_to_one() -> None:
    """The mean over the noise of exp(log_prob) is the probability of an integer."""
    flow = behind([Dequantize(16), Logit(0.05)], FLOWS["made_mog"]([1], components=2, hidden=(4,)))
    randomize(flow)
    with torch.no_grad():
        probabilities = (
            flow.log_prob(torch.arange(16).repeat(4000)[:, None]).exp().reshape(4000, 16)
        )
        error = probabilities.std(0).square().sum().sqrt().item() / math.sqrt(4000)
        # What the flow gives to values that are no pixel's: outside the image of the logit.
        step = 1e-3
        ends = torch.arange(math.log(19), 30, step)[:, None] + step / 2
        inner = flow.model
        outside = (inner.log_prob(ends).exp().sum() + inner.log_prob(-ends).exp().sum()) * step
    assert error < 0.02
    assert probabilities.mean(0).sum().item() + outside.item() == pytest.approx(
        1, abs=4 * error + 1e-3
    )


class Pictures(Dataset):
    """A discrete data set of which only the shape counts."""

    def read(self, *_: object) -> Splits:
        raise NotImplementedError


def pictures(levels: int | None = 256) -> Pictures:
    return Pictures(name="pictures", title="", event_shape=SHAPE, sizes=(1, 1, 1), levels=levels)


def test_preprocessing_of_images_is_dequantization_then_logit() -> None:
    parts = preprocessing(Preprocess(dequantize="uniform", logit=0.05), pictures())
    flow = behind([*parts, Flatten(SHAPE)], FLOWS["maf"](SHAPE, layers=2, hidden=(8,))).eval()
    x = images()
    torch.manual_seed(2)
    log_prob = flow.log_prob(x)
    v = (x + uniform_noise(x.shape, seed=2)) / 256
    s = 0.05 + 0.9 * v
    y = (s / (1 - s)).log().flatten(1)
    z, log_det = flow.model.transform(y)
    correction = (math.log(0.9) - math.log(256) - s.log() - (1 - s).log()).flatten(1).sum(1)
    close(log_prob, flow.model.base.log_prob(z) + log_det + correction)
    assert flow.likelihood == "lower bound"
    samples = flow.sample(5)
    assert samples.shape == (5, *SHAPE)
    assert torch.equal(samples, samples.round().clamp(0, 255))


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_an_image_of_fewer_bits_has_the_likelihood_of_that_image(bits: int) -> None:
    """``k' = floor(k / 2^(8 - n))`` on 2^n levels, and no constant."""
    flow = FLOWS["maf"]((D,), layers=2, hidden=(8,)).eval()
    settings = Preprocess(dequantize="uniform", logit=0.05)
    x = images()
    torch.manual_seed(3)
    coarse = (x.int() // 2 ** (8 - bits)).to(torch.uint8)
    parts = [*preprocessing(settings, pictures(2**bits)), Flatten(SHAPE)]
    expected = behind(parts, flow).log_prob(coarse)
    torch.manual_seed(3)
    parts = [*preprocessing(replace(settings, bits=bits), pictures()), Flatten(SHAPE)]
    close(behind(parts, flow).log_prob(x), expected)


@pytest.mark.parametrize("bits", [1, 5, 8])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_samples_of_fewer_bits_are_on_the_scale_of_the_data(bits: int, dtype: torch.dtype) -> None:
    quantize = Quantize(256, bits)
    every = torch.arange(256).to(dtype)[:, None]
    coarse, log_det = quantize(every)
    assert coarse.dtype == dtype
    assert coarse.flatten().tolist() == [k * 2**bits // 256 for k in range(256)]
    scaled, log_det_back = quantize.inverse(coarse)
    assert scaled.flatten().tolist() == [k - k % 2 ** (8 - bits) for k in range(256)]
    assert torch.equal(quantize(scaled)[0], coarse)
    assert not log_det.any()
    assert not log_det_back.any()
    samples = behind([quantize, Dequantize(2**bits)], Flow(Uniform((D,)), Compose([]))).sample(99)
    assert set(samples.unique().tolist()) <= set(range(0, 256, 2 ** (8 - bits)))
    assert samples.max() == 256 - 2 ** (8 - bits)


@pytest.mark.parametrize(("levels", "bits"), [(17, 4), (256, 9), (256, 0)])
def test_bits_that_the_levels_do_not_have_are_refused(levels: int, bits: int) -> None:
    with pytest.raises(ValueError, match=rf"bits: expected .* {levels} levels .* got {bits}"):
        Quantize(levels, bits)


def test_shifted_pixels_are_centered_at_no_cost() -> None:
    """``k / 256 - 0.5 + u / 256``, as in Glow."""
    x = images()
    torch.manual_seed(4)
    parts = preprocessing(Preprocess(dequantize="uniform", shift=0.5), pictures())
    z, log_det = Compose(parts)(x)
    close(z, x / 256 - 0.5 + uniform_noise(x.shape, seed=4) / 256)
    close(log_det, torch.full((len(x),), -D * math.log(256)))
    assert torch.equal(Compose(parts).inverse(z)[0], x.double())


def test_pixels_on_an_interval_twice_as_long_have_half_the_density() -> None:
    """``2 (k + u) / 256 - 1``, as in the released configuration of NICE for CIFAR-10."""
    x = images()
    torch.manual_seed(4)
    parts = preprocessing(Preprocess(dequantize="uniform", scale=2.0, shift=1.0), pictures())
    z, log_det = Compose(parts)(x)
    close(z, 2 * (x + uniform_noise(x.shape, seed=4)) / 256 - 1)
    close(log_det, torch.full((len(x),), -D * math.log(128)))
    assert torch.equal(Compose(parts).inverse(z)[0], x.double())


@pytest.mark.parametrize(
    ("settings", "levels", "told"),
    [
        (Preprocess(), 256, "discrete .256 values. data need 'uniform', 'unif"),
        (Preprocess(dequantize="variational"), None, "continuous data need 'none'"),
        (Preprocess(bits=5), None, "bits: continuous data need null, got 5"),
        (Preprocess(logit=0.05), None, "logit: expected data in"),
        (Preprocess(dequantize="uniform", bits=9), 256, "bits: expected"),
        (
            Preprocess(dequantize="uniform", logit_form="one_sided"),
            256,
            "without preprocess.logit",
        ),
    ],
)
def test_preprocessing_that_the_data_cannot_have_is_refused(
    settings: Preprocess, levels: int | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        preprocessing(settings, pictures(levels))


def test_calibration_passes_through_the_preprocessing() -> None:
    flow = behind([Dequantize(256), Logit(0.05)], FLOWS["gaussian"]([D]))
    x = images(n=200).flatten(1)
    flow.calibrate(x)
    z, _ = flow.model.transform(flow.preprocessing(x)[0])
    assert z.mean(0).abs().max() < 0.1
