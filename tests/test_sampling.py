"""Samples at a temperature, and what becomes of images by way of the noise of a flow."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from flow_cases import random_flow
from harness import GAUSSIAN, MAF, Location, Rows, changed, write_table
from matplotlib.image import imread
from oracles import randomize
from scipy.stats import kstest
from torch import Tensor, nn

from nfbench import record
from nfbench.cli import main
from nfbench.config import load
from nfbench.data.base import DataModule
from nfbench.density import DensityModel
from nfbench.distributions.base import Distribution, StandardNormal, Uniform
from nfbench.distributions.logistic import Logistic
from nfbench.distributions.made_mog import AutoregressiveMixture
from nfbench.flows import FLOWS
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.imaging import grid, to_bytes
from nfbench.latent import (
    Codec,
    as_modelled,
    brightest,
    interpolate,
    levels,
    mix_levels,
    reconstruct,
    redraw,
    spherical,
)
from nfbench.nets.made import MADE
from nfbench.pages import Request, draw, magnification
from nfbench.pictures import save_pictures
from nfbench.portrait import portrait
from nfbench.run import run
from nfbench.sampling import Folder, seeded, write_pages
from nfbench.transforms.base import Compose
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit
from nfbench.transforms.quantize import Quantize
from nfbench.transforms.reshape import Flatten
from nfbench.transforms.squeeze import Squeeze
from nfbench.transforms.top_prior import TopPrior

CPU = torch.device("cpu")
SHAPE, N_LEVELS, N_CLASSES = (1, 8, 8), 17, 3
UNLIKELY = 1e-4  # a p-value that chance alone does not give

DIGITS = {"digits": {"preprocess": {"dequantize": "uniform"}}}
GLOW = changed(
    MAF,
    training={"max_steps": 6, "validate_every": 3},
) | {"flow": {"name": "glow_image", "levels": 2, "steps": 1, "hidden": 4}, "cells": DIGITS}
LABELLED = changed(MAF, data={"condition": "label"}, training={"max_steps": 3}) | {"cells": DIGITS}
SHORT = changed(MAF, training={"max_steps": 20, "validate_every": 10})
MIXTURE = changed(SHORT) | {"flow": {"name": "made_mog", "hidden": [8]}}


def mixture() -> AutoregressiveMixture:
    return AutoregressiveMixture(MADE(2, n_parameters=6, hidden=(8,)), 2)


BASES: dict[str, Callable[[], Distribution]] = {
    "normal": lambda: StandardNormal([2]),
    "logistic": lambda: Logistic([2]),
    "uniform": lambda: Uniform([2]),
    "mixture": mixture,
}


def glow(*, context: int = 0) -> Flow:
    """An image flow whose first batch has been seen, with weights that do something."""
    flow = FLOWS["glow_image"](SHAPE, levels=2, steps=1, hidden=4, context_features=context)
    given = torch.zeros(8, context) if context else None
    flow.train().log_prob(torch.rand(8, *SHAPE), given)
    randomize(flow.eval(), 0.2)
    return flow


def stepless(flow: Flow) -> Flow:
    """A Glow without its steps: the priors of its levels alone."""
    for level in flow.transform.levels:
        level.transforms = nn.ModuleList(
            p for p in level.parts if isinstance(p, Squeeze | TopPrior)
        )
    return flow


def behind(model: DensityModel) -> Preprocessed:
    return Preprocessed(Compose([Dequantize(N_LEVELS)]), model).eval()


def digits(n: int) -> Tensor:
    """Random images of 17 levels."""
    return torch.randint(N_LEVELS, (n, *SHAPE), dtype=torch.uint8)


MODELS: dict[str, Callable[[], Preprocessed]] = {
    "glow": lambda: behind(glow()),
    "glow given labels": lambda: behind(ClassConditional(glow(context=N_CLASSES), N_CLASSES)),
    "maf of flat images": lambda: Preprocessed(
        Compose([Dequantize(N_LEVELS), Logit(0.05), Flatten(SHAPE)]),
        random_flow("maf", 64, spread=0.05, layers=1, hidden=(64,)),
    ).eval(),
}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("name", "law"), [("normal", "norm"), ("logistic", "logistic")])
def test_noise_is_as_wide_as_the_temperature_says(name: str, law: str, temperature: float) -> None:
    noise = BASES[name]().sample(4000, temperature=temperature).flatten().numpy()
    assert kstest(noise, law, args=(0.0, temperature)).pvalue > UNLIKELY
    assert kstest(noise, law, args=(0.0, 1.1 * temperature)).pvalue < UNLIKELY


@pytest.mark.parametrize("name", BASES)
def test_at_temperature_one_samples_are_what_they_were(name: str) -> None:
    base = BASES[name]()
    torch.manual_seed(3)
    plain = base.sample(7)
    torch.manual_seed(3)
    assert torch.equal(base.sample(7, temperature=1.0), plain)
    if name == "normal":
        torch.manual_seed(3)
        assert torch.equal(torch.randn(7, 2), plain)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_at_temperature_one_a_model_samples_what_it_did(
    model: Callable[[], Preprocessed],
) -> None:
    """The noise, and before it the labels, drawn by hand."""
    built = model()
    codec = Codec(built)
    torch.manual_seed(5)
    context = None
    if codec.mixture is not None:
        context = torch.eye(N_CLASSES)[torch.randint(N_CLASSES, (6,))]
    noise = torch.randn(6, 64)
    expected = built.preprocessing.inverse(codec.flow.transform.inverse(noise, context)[0])[0]
    torch.manual_seed(5)
    assert torch.equal(built.sample(6), expected)
    torch.manual_seed(5)
    assert not torch.equal(built.sample(6, temperature=0.5), expected)


def test_at_temperature_zero_a_class_has_one_sample() -> None:
    model = behind(ClassConditional(glow(context=N_CLASSES), N_CLASSES))
    samples = model.sample(4, torch.tensor([0, 1, 1, 2]), temperature=0.0)
    codes = torch.eye(N_CLASSES)[[0, 1, 1, 2]]
    flow = Codec(model).flow
    points, _ = flow.transform.inverse(torch.zeros(4, 64), codes)
    assert torch.equal(samples, model.preprocessing.inverse(points)[0])
    assert torch.equal(samples[1], samples[2])


@pytest.mark.parametrize("name", ["uniform", "mixture"])
def test_what_has_no_center_refuses_a_temperature(name: str) -> None:
    with pytest.raises(ValueError, match=r"temperature: expected 1, as \w+ is no .*; got 0\.7"):
        BASES[name]().sample(3, temperature=0.7)


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["normal", "logistic"])
def test_a_temperature_is_a_finite_number(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number of at least 0"):
        BASES[name]().sample(3, temperature=temperature)


@pytest.mark.usefixtures("float64")
def test_the_temperature_scales_the_priors_of_all_levels() -> None:
    """A flow of priors alone: each half of the channels is normal given the other half."""
    flow, temperature = stepless(glow()), 0.6
    samples = flow.sample(4000, temperature=temperature)
    squeezed = torch.pixel_unshuffle(samples, 2)  # (B, 4, 4, 4), as of one channel
    kept, out = squeezed.chunk(2, dim=1)
    prior = flow.transform.splits[0].prior
    mean, log_scale = prior(kept)
    assert mean.std() > 0.01
    noise = (out - mean) * log_scale.exp()
    assert kstest(noise.detach().flatten()[::7], "norm", args=(0, temperature)).pvalue > UNLIKELY


@pytest.mark.usefixtures("float64")
def test_the_arc_has_equal_steps_and_the_length_of_its_ends() -> None:
    a = torch.randn(5, 9)
    b = torch.randn(5, 9)
    b *= a.norm(dim=1, keepdim=True) / b.norm(dim=1, keepdim=True)
    arc = spherical(a, b, torch.linspace(0, 1, 7))
    assert torch.equal(arc[:, 0], a)
    torch.testing.assert_close(arc[:, -1], b)
    lengths = arc.norm(dim=2)
    torch.testing.assert_close(lengths, lengths[:, :1].expand(-1, 7))
    steps = (arc[:, 1:] - arc[:, :-1]).norm(dim=2)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 6))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_the_arc_is_finite_where_there_is_none(factor: float) -> None:
    a = torch.randn(3, 4)
    arc = spherical(a, factor * a, torch.linspace(0, 1, 5))
    assert arc.isfinite().all()
    torch.testing.assert_close(arc[:, 0], a)
    torch.testing.assert_close(arc[:, -1], factor * a, atol=1e-6, rtol=1e-5)
    if factor > 0:
        torch.testing.assert_close(arc[:, 2], (1 + factor) / 2 * a)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_interpolations_begin_and_end_at_the_images(model: Callable[[], Preprocessed]) -> None:
    codec, x = Codec(model()), digits(7)
    paths = interpolate(codec, x, 5).unflatten(0, (-1, 5))
    assert len(paths) == 3, "the last image has no partner"
    assert torch.equal(paths[:, 0], x[:6:2].double())
    assert torch.equal(paths[:, -1], x[1:6:2].double())
    assert not torch.equal(paths[:, 1], paths[:, 0])
    back, off = reconstruct(codec, x)
    assert torch.equal(back, x.double())
    assert off.shape == x.shape
    assert off.max() < 1e-8


@pytest.mark.usefixtures("float64")
def test_an_image_is_given_its_most_likely_label() -> None:
    """Of unit normals around points that the label puts at 0.2, 0.5 and 0.8."""
    glow = FLOWS["glow_image"](SHAPE, levels=2, steps=1, context_features=N_CLASSES)
    flow = stepless(glow)
    top = flow.transform.levels[-1].parts[-1]
    with torch.no_grad():
        top.embed.weight[:8] = torch.tensor([0.2, 0.5, 0.8])  # of the channels' means
    brightness = torch.tensor([0, 5, 6, 10, 11, 16], dtype=torch.uint8)
    x = brightness[:, None, None, None].expand(-1, *SHAPE)
    context = Codec(behind(ClassConditional(flow, N_CLASSES))).encode(x).context
    assert context is not None
    assert context.tolist() == torch.eye(3)[[0, 0, 1, 1, 2, 2]].tolist()


@torch.no_grad()
def test_what_an_inverse_gets_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(behind(glow()))
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *given: decode(*given) + 1 / N_LEVELS)
    x = digits(4)
    back, off = reconstruct(codec, x)
    torch.testing.assert_close(off, torch.full(x.shape, 1 / N_LEVELS), atol=5e-4, rtol=0)
    assert ((back - x) <= 2).all()
    assert (back != x).float().mean() > 0.9, "all but what was white"


@pytest.mark.parametrize(
    ("largest", "factor"),
    [(0.0, "1e0"), (1.0, "1e0"), (3.0, "1e0"), (math.nan, "1e0"), (math.inf, "1e0"),
     (0.6, "1e0"), (0.4, "2e0"), (0.3e-3, "2e3"), (1.9e-6, "5e5"), (0.9e-6, "1e6")],
)  # fmt: skip
def test_differences_are_magnified_to_just_within_the_range(largest: float, factor: str) -> None:
    assert magnification(largest) == factor


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_levels_that_are_kept_keep_their_noise() -> None:
    kept, fresh, sizes = torch.randn(3, 7), torch.randn(3, 7), [4, 2, 1]
    mixed = mix_levels(kept, fresh, sizes)
    for level, n_fresh in enumerate([0, 4, 6, 7]):
        assert torch.equal(mixed[:, level, :n_fresh], fresh[:, :n_fresh])
        assert torch.equal(mixed[:, level, n_fresh:], kept[:, n_fresh:])
    codec = Codec(behind(glow()))
    assert levels(codec) == [32, 32]
    codes = codec.encode(digits(5))
    mixed = mix_levels(codes.noise, torch.randn(5, 64), levels(codec))[:, 1]
    again, _ = codec.flow.transform(codec.flow.transform.inverse(mixed)[0])
    torch.testing.assert_close(again[:, 32:], codes.noise[:, 32:])
    assert (again[:, :32] - codes.noise[:, :32]).abs().mean() > 0.1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["glow", "glow given labels"])
@torch.no_grad()
def test_levels_drawn_anew_begin_with_the_image_and_end_with_a_sample(name: str) -> None:
    codec, x = Codec(MODELS[name]()), digits(4)
    torch.manual_seed(7)
    rows = redraw(codec, x, temperature=0.5).unflatten(0, (4, 3))
    assert torch.equal(rows[:, 0], x.double())
    torch.manual_seed(7)
    codes = codec.encode(x)
    noise = 0.5 * torch.randn(4, 64)
    assert torch.equal(rows[:, 2], codec.round(codec.decode(noise, codes.context)))
    assert not torch.equal(rows[:, 1], rows[:, 0])
    assert not torch.equal(rows[:, 1], rows[:, 2])


def test_a_flow_without_levels_says_so() -> None:
    with pytest.raises(ValueError, match="expected one of several levels"):
        redraw(Codec(MODELS["maf of flat images"]()), digits(2))
    with pytest.raises(ValueError, match="Location is no flow"):
        Codec(Location())


@pytest.mark.parametrize(("bits", "white"), [(5, 248), (1, 128), (8, 255)])
def test_images_of_few_bits_are_compared_with_their_like(bits: int, white: int) -> None:
    quantize = Quantize(256, bits)
    rounding = Compose([quantize, Dequantize(quantize.levels)])
    assert brightest(rounding) == white
    x = torch.arange(256, dtype=torch.uint8).view(-1, 1)
    seen = as_modelled(rounding, x)
    assert seen.dtype == torch.uint8
    assert torch.equal(seen, x // 2 ** (8 - bits) * 2 ** (8 - bits))
    assert brightest(Compose([Dequantize(17)])) == 16


def test_pixels_are_bytes_from_black_to_white() -> None:
    values = np.array([-3.0, 0.0, 8.0, 16.0, 40.0, np.inf, -np.inf, np.nan])
    assert to_bytes(values, 16).tolist() == [0, 0, 128, 255, 255, 255, 0, 153]


def test_a_grid_has_images_row_after_row_on_gray() -> None:
    """Three of 32 x 60 pixels in color, in two columns."""
    images = np.stack([np.full((3, 32, 60), 10 * i, np.uint8) for i in (1, 2, 3)])
    images[:, 1] += 100
    canvas = grid(images, 2)
    assert canvas.shape == (2 + 2 * 34, 2 + 2 * 62, 3)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (1, 0)]):
        y, x = 2 + 34 * row, 2 + 62 * column
        color = [10 * (i + 1), 10 * (i + 1) + 100, 10 * (i + 1)]
        assert (canvas[y : y + 32, x : x + 60] == color).all()
    assert (canvas[36:, 64:] == 128).all(), "no fourth image"
    assert (canvas[[0, 1, 34, 35, 68, 69]] == 128).all()


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    canvas = grid(image, 1)
    assert canvas.shape == (2 + 50, 2 + 50, 1)
    inside = canvas[2:-2, 2:-2, 0].reshape(8, 6, 8, 6)
    assert (inside == image[0, 0][:, None, :, None]).all()


class Broken(DensityModel):
    """Gives points whose first rows are no numbers."""

    likelihood = "exact"

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x.flatten(1).sum(1)

    def sample(self, n: int, context: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
        points = torch.rand(n, *SHAPE)
        points[0, 0, 0, 0], points[1, 0, 0, 0] = math.nan, math.inf
        return points


def test_samples_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    """Though to round makes 16 of infinity; and a model that is no flow has samples alone."""
    samples, counted = draw(behind(Broken()), Request(n=5), 64, CPU)
    assert samples.shape == (5, *SHAPE)
    assert counted == "5 samples, 2 of them not finite"
    folder = Folder(tmp_path / "best.pt", tmp_path)
    lines = list(write_pages(behind(Broken()), digits(4), Request(n=5), folder))
    assert lines == [
        "samples/samples-n5-t1-s0.png: 5 samples, 2 of them not finite",
        "samples alone: Broken is no flow: it has no noise for each image",
    ]


def test_samples_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfbench.pages.NUMBERS_AT_ONCE", 200)
    samples, counted = draw(MODELS["maf of flat images"](), Request(n=10), 64, CPU)
    assert samples.shape == (10, *SHAPE)
    assert len(samples.unique(dim=0)) == 10
    assert counted == "10 samples"


@pytest.mark.parametrize("channels", [1, 3])
def test_real_images_and_samples_are_drawn_side_by_side(channels: int, tmp_path: Path) -> None:
    shape = channels, 8, 8
    flow = FLOWS["glow_image"](shape, levels=2, steps=1, hidden=4)
    flow.train().log_prob(torch.rand(8, *shape))
    images = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    data = DataModule(Rows.of(images, images, images), batch_size=10)
    data.setup()
    model = Preprocessed(Compose([Quantize(256, 3), Dequantize(8)]), flow).eval()
    with (tmp_path / "pictures.npz").open("wb") as file:
        save_pictures(model, data, file)
    with np.load(tmp_path / "pictures.npz", allow_pickle=False) as arrays:
        assert arrays["samples"].shape == (64, *shape)
        assert np.array_equal(arrays["real"], images // 32 * 32)
    path = portrait(tmp_path, "two panels", None)
    assert path is not None
    drawn = imread(path)[..., :3]
    colored = drawn.std(-1).max() > 0.1
    assert colored == (channels == 3)
    assert drawn.std() > 0.05


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose cells have been trained for some steps."""
    rows = {"glow": GLOW, "labelled": LABELLED, "maf": SHORT, "mixture": MIXTURE}
    root = write_table(tmp_path_factory.mktemp("sampling"), **rows, gaussian=GAUSSIAN)
    for row in rows:
        cell = next(iter(rows[row]["cells"]))
        run(load(f"tiny/{row}", cell, root=root), root=root, device="cpu")
    return root


@pytest.fixture
def nfbench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("NFBENCH_ROOT", str(root))
    return lambda *arguments: CliRunner().invoke(main, ["sample", *arguments])


def written(result: Result, root: Path) -> dict[str, bytes]:
    """The contents of the files that a command says it has written, by their names."""
    assert result.exit_code == 0, result.output
    names = [line.partition(": ")[0] for line in result.output.splitlines() if "/samples/" in line]
    return {Path(name).name: (root / name).read_bytes() for name in names}


def test_an_image_run_gives_four_grids(root: Path, nfbench: Callable[..., Result]) -> None:
    shown = nfbench("tiny/glow/digits", "--n", "10", "--device", "cpu")
    files = written(shown, root)
    assert shown.output.splitlines()[-1] == "of runs/tiny/glow/digits/0/best.pt, step 6"
    assert "0 of 1024 rounded otherwise" in shown.output
    sizes = {"samples": (4, 3), "interpolation": (10, 8), "reconstruction": (16, 3)}
    sizes |= {"levels": (3, 8)}
    kinds = {name.partition("-")[0]: name for name in files}
    assert list(kinds) == list(sizes)
    assert kinds["samples"] == "samples-n10-t1-s0.png"
    assert kinds["levels"] == "levels-t1-s0.png"
    for kind, (columns, rows) in sizes.items():
        image = imread(io.BytesIO(files[kinds[kind]]))
        assert image.shape[:2] == (2 + 50 * rows, 2 + 50 * columns)
        assert image.std() > 0.1
    real = imread(io.BytesIO(files[kinds["reconstruction"]]))
    assert np.array_equal(real[2:50], real[52:100]), "real images above what comes back"
    assert real[102:150].max() > 0.3, "the difference is magnified"
    left = imread(io.BytesIO(files[kinds["interpolation"]]))[2:50, 2:50]
    assert np.array_equal(left, real[2:50, 2:50]), "from the first image"


def test_files_are_named_by_all_that_they_depend_on(
    root: Path, nfbench: Callable[..., Result]
) -> None:
    first = written(nfbench("tiny/glow/digits"), root)
    others = [("--temperature", "0.7"), ("--seed", "1"), ("--n", "7")]
    more = {**first}
    for option in others:
        more |= written(nfbench("tiny/glow/digits", *option), root)
    assert {"samples-n64-t0.7-s0.png", "samples-n64-t1-s1.png", "samples-n7-t1-s0.png"} <= set(
        more
    )
    samples = [content for name, content in more.items() if name.startswith("samples")]
    assert len(set(samples)) == 4
    assert written(nfbench("tiny/glow/digits/0"), root) == first, "the same again"
    folder = record.run_dir(load("tiny/glow", "digits", root=root), root) / "samples"
    assert all((folder / name).read_bytes() == content for name, content in more.items())
    last = written(nfbench("runs/tiny/glow/digits/0/last.pt"), root)
    assert {name.partition("-")[0] for name in last} == {"last"}


def test_the_samples_are_those_of_the_model(root: Path, nfbench: Callable[..., Result]) -> None:
    from nfbench.inspection import load_trained

    nfbench("tiny/maf/pinwheel", "--n", "9", "--seed", "4", "--temperature", "0.5")
    trained = load_trained("tiny/maf/pinwheel", root=str(root))
    assert str(trained.data).startswith(f"pinwheel from {trained.data.source}: 500,000 training, ")
    model = trained.model.eval()
    torch.manual_seed(4)
    with torch.no_grad():
        expected = model.sample(9, temperature=0.5).numpy()
    folder = root / "runs" / "tiny" / "maf" / "pinwheel" / "0" / "samples"
    found = np.load(folder / "samples-n9-t0.5-s4.npy", allow_pickle=False)
    assert np.array_equal(found, expected)
    assert imread(folder / "samples-n9-t0.5-s4.png").std() > 0.01


def test_others_keep_their_random_numbers() -> None:
    before = torch.random.get_rng_state()
    torch.manual_seed(6)
    expected = torch.rand(3)
    torch.random.set_rng_state(before)
    assert torch.equal(seeded(6, lambda: torch.rand(3)), expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_class_can_be_asked_for(root: Path, nfbench: Callable[..., Result]) -> None:
    shown = nfbench("tiny/labelled/digits", "--label", "3", "--n", "4")
    files = written(shown, root)
    assert "samples-n4-t1-s0-label3.png" in files
    assert "no levels drawn anew: this flow has none" in shown.output
    assert len(files) == 3


def test_a_checkpoint_elsewhere_has_its_samples_beside_it(
    root: Path, tmp_path: Path, nfbench: Callable[..., Result]
) -> None:
    moved = tmp_path / "mine.pt"
    moved.write_bytes((root / "runs/tiny/maf/pinwheel/0/best.pt").read_bytes())
    written(nfbench(str(moved)), root)
    assert (tmp_path / "samples" / "mine-samples-n64-t1-s0.npy").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny/glow/digits", "--n", "0"), "--n: expected at least 1 sample, got 0"),
        (("tiny/glow/digits", "--n", "4194305"), "--n: expected at most 4,194,304 samples of 64"),
        (("tiny/glow/digits", "--temperature", "-1"), "expected a finite number of at least 0"),
        (("tiny/glow/digits", "--temperature", "nan"), "got nan"),
        (("tiny/glow/digits", "--label", "3"), "expected none, as the flow is given no labels"),
        (("tiny/labelled/digits", "--label", "10"), "--label: expected 0 to 9; got 10"),
        (("tiny/labelled/digits", "--label", "-1"), "--label: expected 0 to 9; got -1"),
        (
            ("tiny/glow/digits", "--device", "tpu"),
            "--device: expected one of auto, cpu, cuda; got 'tpu'",
        ),
        (("tiny/gaussian/pinwheel",), "a run that has kept one"),
        (("tiny/glow/digits/5",), "there is no"),
        (
            ("tiny/mixture/pinwheel", "--temperature", "0.5"),
            "temperature: expected 1, as AutoregressiveMixture is no noise around a center",
        ),
    ],
    ids=lambda given: " ".join(given)[:40],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], words: str, nfbench: Callable[..., Result]
) -> None:
    shown = nfbench(*arguments)
    assert shown.exit_code == 2
    (line,) = shown.output.splitlines()
    assert line.startswith("nfbench: ")
    assert words in line
