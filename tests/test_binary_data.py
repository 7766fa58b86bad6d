"""The image sets of variational autoencoders: published layouts, fixed draws and fresh ones."""

import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Rows
from PIL import Image
from scipy.io import savemat

from nfbench.data import DATA, Dataset, data_root, fingerprint
from nfbench.data.augment import binarize
from nfbench.data.base import DataModule
from nfbench.data.binary import MNIST_DYNAMIC, draw
from nfbench.data.caltech101_silhouettes import Caltech101Resplit, Caltech101Silhouettes
from nfbench.data.freyfaces import FreyFaces
from nfbench.data.manage import prepare, status, verify
from nfbench.data.mnist import MNIST, NAMES
from nfbench.data.mnist_binarized import MD5S, PACKED, MnistBinarized
from nfbench.data.omniglot import Omniglot
from nfbench.data.omniglot_small import OmniglotSmall, shrink
from nfbench.errors import UsageError
from nfbench.schedule import Schedule

SETS = (
    "mnist_binarized",
    "mnist_dynamic",
    "omniglot",
    "omniglot_small",
    "caltech101_silhouettes",
    "caltech101_resplit",
    "freyfaces",
)


def is_here(name: str) -> bool:
    return any(source.is_in(data_root()) for source in DATA[name].sources)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def lay(root: Path, dataset: Dataset, content: bytes = b"", file: int = 0) -> Path:
    """Put a file of the first source of a set below a data root; return its path."""
    path = dataset.sources[0].paths(root)[file]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", [name for name in SETS if is_here(name)])
def test_what_is_here_is_what_it_was(name: str) -> None:
    dataset = DATA[name]
    assert verify(name) in dataset.known.values()
    assert status(name).state == "ready"
    assert prepare(name).is_file()


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_what_is_missing_and_refuses_a_broken_file(
    name: str, tmp_path: Path
) -> None:
    assert status(name, tmp_path).state == "missing"
    for file, _ in enumerate(DATA[name].sources[0].files):
        lay(tmp_path, DATA[name], b"nothing" * 99, file)
    with pytest.raises(UsageError, match=r"cannot be read|expected"):
        DATA[name].load(tmp_path)


# MNIST, binarized once ---------------------------------------------------------------------------

SMALL = MnistBinarized(sizes=(5, 3, 2))
BITS = {
    split: rng(i).integers(2, size=(n, 784), dtype=np.uint8)
    for i, (split, n) in enumerate(zip(MD5S, SMALL.sizes, strict=True))
}


def as_text(digits: np.ndarray) -> bytes:
    return b"".join(b" ".join(b"%d" % digit for digit in row) + b"\n" for row in digits)


def test_text_and_packed_bits_are_the_same_images(tmp_path: Path) -> None:
    packed = tmp_path / "packed" / PACKED.names[0]
    packed.parent.mkdir(parents=True)
    np.savez(packed, **{split: np.packbits(bits, axis=1) for split, bits in BITS.items()})  # type: ignore[arg-type]
    for file, digits in enumerate(BITS.values()):
        lay(tmp_path, SMALL, as_text(digits), file)
    read, unpacked = SMALL.load(tmp_path), SMALL.load(tmp_path / "packed")
    assert fingerprint(read) == fingerprint(unpacked)
    assert read.source != unpacked.source
    for path, array in zip(SMALL.sources[0].paths(tmp_path), read.arrays.values(), strict=True):
        assert np.array_equal(np.loadtxt(path).reshape(-1, 1, 28, 28), array)
    for array in (*read.arrays.values(), *unpacked.arrays.values()):
        assert array.flags.c_contiguous


@pytest.mark.skipif(not PACKED.is_in(data_root()), reason="the packed digits are not here")
def test_the_published_text_has_the_published_checksums_and_the_known_images(
    tmp_path: Path,
) -> None:
    dataset = DATA["mnist_binarized"]
    with np.load(data_root() / PACKED.names[0], allow_pickle=False) as packed:
        for file, split in enumerate(MD5S):
            text = np.full((len(packed[split]), 784, 2), ord(" "), np.uint8)
            text[..., 0] = np.unpackbits(packed[split], axis=1) + ord("0")
            text[:, -1, 1] = ord("\n")
            path = lay(tmp_path, dataset, text.tobytes(), file)
            assert path.name == f"binarized_mnist_{split}.amat"
            assert dataset.sources[0].files[file].checksum == f"md5:{MD5S[split]}"
    # It checks the files against them before it reads.
    assert verify("mnist_binarized", tmp_path) == dataset.known[str(dataset.sources[0])]
    assert len(dataset.known) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "3 lines of 784 digits .* 4704 bytes; got 4703"),
        (lambda text: text + b"0 1\n", "got 4708"),
        (lambda text: text.replace(b"\n", b" ", 1), "got other text"),
        (lambda text: text.replace(b" ", b",", 1), "got other text"),
        (lambda text: b"2" + text[1:], "0 and 1, got others"),
        (lambda text: b"-" + text[1:], "0 and 1, got others"),
    ],
)
def test_other_text_is_refused(
    change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    for file, digits in enumerate(BITS.values()):
        text = as_text(digits)
        lay(tmp_path, SMALL, change(text) if file == 1 else text, file)
    with pytest.raises(UsageError, match=rf"mnist_valid\.amat: expected .*{message}"):
        SMALL.load(tmp_path)


# MNIST, binarized anew ---------------------------------------------------------------------------


def small_dynamic(root: Path) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """MNIST of 12 training and 8 test images, 4 of the former for validation, and its images."""
    images, test = (rng(i).integers(256, size=(n, 28, 28)) for i, n in enumerate((12, 8)))
    labels = (np.arange(n) % 10 for n in (12, 8))
    arrays = [each for pair in zip((images, test), labels, strict=True) for each in pair]
    (root / "mnist").mkdir()
    for name, array in zip(NAMES, arrays, strict=True):
        header = np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes()
        content = gzip.compress(header + array.astype(np.uint8).tobytes())
        (root / "mnist" / name).write_bytes(content)
    grey = replace(MNIST, sizes=(8, 4, 8))
    return replace(MNIST_DYNAMIC, images=grey, sizes=grey.sizes, known={}), images, test


def test_dynamic_mnist_is_grey_to_train_and_one_draw_else(tmp_path: Path) -> None:
    dataset, images, test = small_dynamic(tmp_path)
    splits = dataset.load(tmp_path)
    assert np.array_equal(splits.train[:, 0], images[:8])
    # One stream of binomial draws, all of validation before all of test.
    stream = np.random.RandomState(777)
    for array, grey in ((splits.val, images[8:]), (splits.test, test)):
        flat = grey.reshape(-1, 784).astype(np.float32) / 255
        assert np.array_equal(array.reshape(-1, 784), stream.binomial(1, flat))
    assert fingerprint(dataset.load(tmp_path, seed=5)) == fingerprint(splits)
    assert splits.labels is not None and splits.labels["val"].tolist() == [8, 9, 0, 1]


def test_draws_have_the_probabilities_of_the_grey_values() -> None:
    p = np.tile(np.arange(256, dtype=np.float32) / 255, (40_000, 1))
    for drawn in draw(p, p[:20_000]):
        mean, variance = p[0].astype(float), p[0].astype(float) * (1 - p[0])
        z = (drawn.mean(0) - mean)[1:-1] / np.sqrt(variance[1:-1] / len(drawn))
        assert np.abs(z).max() < 4.5
        assert not drawn[:, 0].any() and drawn[:, -1].all()
        assert drawn.dtype == np.uint8


# Omniglot ----------------------------------------------------------------------------------------

SMALL_OMNIGLOT = Omniglot(sizes=(6, 3, 5))


def lay_omniglot(root: Path, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """A small chardata.mat, (784, n) for each set; its columns as rows."""
    data, test = (rng(i).random((784, n)) for i, n in enumerate((9, 5)))
    made = {"data": data, "testdata": test, "target": np.zeros((50, 9)), **changes}
    savemat(lay(root, SMALL_OMNIGLOT), made)
    return data.T, test.T


def by_columns(rows: np.ndarray) -> np.ndarray:
    """Upright images, flat, of rows that hold the pixels column by column."""
    return np.array([row.reshape(28, 28, order="F").reshape(784) for row in rows])


@pytest.mark.parametrize("seed", [0, 3])
def test_omniglot_is_that_of_the_published_code(seed: int, tmp_path: Path) -> None:
    rows, test = lay_omniglot(tmp_path)
    splits = SMALL_OMNIGLOT.load(tmp_path, seed=seed)
    shuffled = by_columns(rows.astype(np.float32))
    np.random.RandomState(seed).shuffle(shuffled)
    stream = np.random.RandomState(777)
    expected_val = stream.binomial(1, shuffled[-3:])
    expected_test = stream.binomial(1, by_columns(test.astype(np.float32)))
    assert np.abs(splits.train.reshape(6, 784) / 255 - shuffled[:-3]).max() <= 0.5 / 255 + 1e-7
    assert np.array_equal(splits.val.reshape(3, 784), expected_val)
    assert np.array_equal(splits.test.reshape(5, 784), expected_test)
    assert splits.source == f"omniglot/chardata.mat shuffled with {seed}"
    assert all(array.flags.c_contiguous for array in splits.arrays.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((784, 8))}, r"data of shape \(784, 9\), got one of \(784, 8\)"),
        ({"data": np.zeros((9, 784))}, r"got one of \(9, 784\)"),
        ({"data": np.full((784, 9), 1.5)}, r"grey values in \[0, 1\]"),
        ({"data": np.full((784, 9), np.nan)}, r"grey values in \[0, 1\]"),
        ({"testdata": np.full((784, 5), -0.1)}, r"grey values in \[0, 1\]"),
        ({"testdata": np.full((784, 5), "a", object)}, r"grey values in \[0, 1\]"),
    ],
)
def test_other_characters_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    lay_omniglot(tmp_path, **changes)
    with pytest.raises(UsageError, match=rf"chardata\.mat: expected .*{message}"):
        SMALL_OMNIGLOT.load(tmp_path)


def test_other_matlab_files_are_refused(tmp_path: Path) -> None:
    path = lay(tmp_path, SMALL_OMNIGLOT)
    savemat(path, {"data": np.zeros((784, 9))})
    with pytest.raises(UsageError, match=r"testdata of shape .*, got no such variable"):
        SMALL_OMNIGLOT.load(tmp_path)
    newer = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)
    for content in (path.read_bytes()[:999], newer, b""):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"chardata\.mat: cannot be read"):
            SMALL_OMNIGLOT.load(tmp_path)


# Small Omniglot ----------------------------------------------------------------------------------


def test_shrinking_averages_areas() -> None:
    ink = rng().random((105, 105)) < 0.1
    finer = np.kron(ink, np.ones((4, 4)))  # 420 = 28 x 15
    shares = finer.reshape(28, 15, 28, 15).mean((1, 3))
    assert np.array_equal(shrink(ink, 28), np.rint(255 * shares))
    assert (shrink(np.ones((105, 105), bool), 28) == 255).all()
    assert not shrink(np.zeros((105, 105), bool), 28).any()


def png(ink: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "png")
    return file.getvalue()


SMALL_DRAWINGS = OmniglotSmall(sizes=(3, 2, 1))


def lay_drawings(root: Path, extra: bytes | None = None) -> list[np.ndarray]:
    """Two zips of four drawings, two of them in both; the six different ones by their paths."""
    inks = [np.zeros((105, 105), bool) for _ in range(6)]
    for i, ink in enumerate(inks):
        ink[: 15 * (i + 1), :30] = True
    names = [
        f"{name}/character01/{i}.png" for i, name in enumerate(("A", "A", "B", "B", "C", "D"))
    ]
    for part, chosen in enumerate(([5, 3, 2, 0], [2, 3, 1, 4])):
        path = lay(root, SMALL_DRAWINGS, file=part)
        with zipfile.ZipFile(path, "w") as archive:
            for i in chosen:
                archive.writestr(f"{path.stem}/{names[i]}", png(inks[i]))
            if extra is not None and part:
                archive.writestr(f"{path.stem}/E/character01/7.png", extra)
    return inks


def test_drawings_are_taken_once_from_both_files_and_ink_is_one(tmp_path: Path) -> None:
    inks = lay_drawings(tmp_path)
    splits = SMALL_DRAWINGS.load(tmp_path)
    order = np.random.RandomState(0).permutation(6)
    grey = np.stack([shrink(inks[i], 28) for i in order])
    assert np.array_equal(splits.train[:, 0], grey[:3])
    stream = np.random.RandomState(777)
    assert np.array_equal(splits.val[:, 0], stream.binomial(1, grey[3:5] / np.float32(255)))
    assert np.array_equal(splits.test[:, 0], stream.binomial(1, grey[5:] / np.float32(255)))
    assert splits.train[0, 0, 0, 0] == 255 and splits.train[0, 0, -1, -1] == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (png(np.ones((105, 105), bool)), "expected 6 different drawings, got 7"),
        (png(np.ones((105, 104), bool)), r"105 x 105 pixels of one bit, got one of \(104, 105\)"),
        (b"nothing", "small2.zip: cannot be read"),
    ],
)
def test_other_drawings_are_refused(extra: bytes, message: str, tmp_path: Path) -> None:
    lay_drawings(tmp_path, extra)
    with pytest.raises(UsageError, match=message):
        SMALL_DRAWINGS.load(tmp_path)


# Caltech 101 Silhouettes -------------------------------------------------------------------------

PUBLISHED = Caltech101Silhouettes(sizes=(6, 4, 3))
RESPLIT = Caltech101Resplit(sizes=(6, 4, 3), known={})


def outlines(n: int, seed: int = 0) -> np.ndarray:
    """Objects, 1 on them, (n, 28, 28)."""
    return rng(seed).integers(2, size=(n, 28, 28), dtype=np.uint8)


def stored(images: np.ndarray) -> np.ndarray:
    """Rows as the file has them: 0 on the object, column by column."""
    return np.array([1 - image.flatten(order="F") for image in images])


def test_silhouettes_are_upright_objects_of_ones_in_the_published_order(tmp_path: Path) -> None:
    images = [outlines(n, seed=n) for n in PUBLISHED.sizes]
    names = ("train_data", "val_data", "test_data")
    content = {n: stored(each) for n, each in zip(names, images, strict=True)}
    savemat(lay(tmp_path, PUBLISHED), {**content, "train_labels": np.ones((6, 1))})
    splits = PUBLISHED.load(tmp_path)
    for array, expected in zip(splits.arrays.values(), images, strict=True):
        assert np.array_equal(array[:, 0], expected)
    content["val_data"][0, 0] = 2
    savemat(lay(tmp_path, PUBLISHED), content)
    with pytest.raises(UsageError, match=r"split1\.mat: expected pixels 0 and 1"):
        PUBLISHED.load(tmp_path)
    savemat(lay(tmp_path, PUBLISHED), {**content, "val_data": stored(images[0])})
    with pytest.raises(UsageError, match=r"val_data of shape \(4, 784\), got one of \(6, 784\)"):
        PUBLISHED.load(tmp_path)


def test_the_split_of_our_own_holds_every_image_once_and_says_what_it_is(tmp_path: Path) -> None:
    images = outlines(13)
    savemat(lay(tmp_path, RESPLIT), {"X": stored(images), "Y": np.ones((1, 13))})
    splits = RESPLIT.load(tmp_path)
    found = np.concatenate(list(splits.arrays.values()))[:, 0]
    assert Counter(map(bytes, found)) == Counter(map(bytes, images))
    assert not np.array_equal(found, images)
    assert fingerprint(RESPLIT.load(tmp_path, seed=9)) == fingerprint(splits)
    for name in ("caltech101_resplit", "omniglot_small"):
        assert "split" in DATA[name].title


@pytest.mark.skipif(not is_here("caltech101_resplit"), reason="the silhouettes are not here")
def test_real_silhouettes_are_upright_objects_on_an_empty_ground() -> None:
    splits = DATA["caltech101_resplit"].load()
    images = np.concatenate(list(splits.arrays.values()))[:, 0].astype(float)
    assert images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.25 < images[:, 8:20, 8:20].mean()
    assert len(set(map(bytes, images))) > 8_000


# Frey Faces --------------------------------------------------------------------------------------

FACES = FreyFaces(sizes=(7, 2, 3))


@pytest.mark.parametrize(("seed", "shuffle"), [(0, 123), (1, 321), (2, 231)])
def test_faces_are_shuffled_as_in_the_published_runs(
    seed: int, shuffle: int, tmp_path: Path
) -> None:
    frames = rng().integers(256, size=(12, 28, 20), dtype=np.uint8)
    np.savez(lay(tmp_path, FACES), images=frames)
    splits = FACES.load(tmp_path, seed=seed)
    rows = frames.reshape(12, -1) / 255.0
    np.random.RandomState(shuffle).shuffle(rows)
    found = np.concatenate(list(splits.arrays.values())).reshape(12, -1) / 255.0
    assert np.array_equal(found, rows)
    assert splits.train.shape == (7, 1, 28, 20)
    assert splits.source in FACES.known and splits.source.endswith(str(shuffle))


@pytest.mark.parametrize("seed", [3, -1, 123])
def test_a_seed_without_a_published_shuffle_is_refused(seed: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"data seed 0, 1 or 2, .* 123, 321, 231; got {seed}"):
        FACES.load(tmp_path, seed=seed)


def test_other_frames_are_refused(tmp_path: Path) -> None:
    path = lay(tmp_path, FACES)
    np.savez(path, images=np.zeros((12, 560), np.uint8))
    with pytest.raises(UsageError, match=r"of shape \(12, 28, 20\), got uint8 of shape \(12, 560"):
        FACES.load(tmp_path)
    np.savez(path, images=np.array([{}] * 12))
    with pytest.raises(UsageError, match="cannot be read"):
        FACES.load(tmp_path)


@pytest.mark.skipif(not is_here("freyfaces"), reason="the faces are not here")
def test_each_shuffle_of_the_real_faces_has_its_fingerprint() -> None:
    for seed in range(3):
        data = DataModule(DATA["freyfaces"], batch_size=100, data_seed=seed)
        data.setup()
        assert data.fingerprint == DATA["freyfaces"].known[data.source]
    assert len(set(DATA["freyfaces"].known.values())) == 3


# Batches drawn afresh ----------------------------------------------------------------------------


def probabilities(n: int = 20) -> Rows:
    """Small grey images to train on, binary ones to evaluate."""
    train = rng().integers(256, size=(n, 1, 16, 16), dtype=np.uint8)
    train[:, 0, 0, :2] = 0, 255
    val, test = (rng(i).integers(2, size=(n // 2, 1, 16, 16), dtype=np.uint8) for i in (1, 2))
    made = Rows.of(train, val, test)
    labels = {"train": np.arange(n) % 10}
    splits = replace(made.splits, labels=labels)
    return replace(made, splits=splits, levels=2, stochastic=True, n_classes=10)


def module(start: int = 0, seed: int = 3, **options: Any) -> DataModule:
    data = DataModule(probabilities(), batch_size=4, seed=seed, eval_batch_size=4, **options)
    data.setup()
    data.schedule, data.step = Schedule(5, 20, 10, 3), lambda: start
    return data


def test_a_draw_has_the_probabilities_of_the_grey_values() -> None:
    n = 40_000
    grey = torch.arange(256, dtype=torch.uint8).expand(n, 256)
    drawn = binarize(grey, torch.Generator().manual_seed(0))
    p = torch.arange(256).double() / 255
    mean = drawn.double().mean(0)
    assert drawn.dtype == torch.uint8 and drawn.max() == 1
    assert mean[0] == 0 and mean[255] == 1
    z = (mean - p)[1:-1] / (p * (1 - p) / n)[1:-1].sqrt()
    assert z.abs().max() < 4.5
    assert abs(z.mean()) < 4 / 254**0.5
    assert 0.8 < z.std() < 1.2
    pairs = drawn[:, 100:200].double() - p[100:200]
    assert (pairs[:, 0::2] * pairs[:, 1::2]).mean().abs() < 4 * 0.25 / (50 * n) ** 0.5


def test_batches_are_binary_and_other_ones_each_time_and_their_mean_is_the_grey_image() -> None:
    data = module()
    data.schedule = Schedule(5, None, 4000, 50)
    index = data.order.indices(0, 4000).flatten()
    chunks: list[Any] = list(data.train_dataloader())
    rows = torch.cat(chunks).flatten(0, 1)
    assert rows.dtype == torch.uint8 and set(rows.unique().tolist()) == {0, 1}
    grey = torch.from_numpy(probabilities().splits.train).double() / 255
    for i in range(20):
        drawn = rows[index == i].double()
        error = drawn.mean(0) - grey[i]
        assert len(drawn) == 800 and len(drawn.unique(dim=0)) == 800
        assert error.abs().max() < 6 * 0.5 / 800**0.5
        assert error.mean().abs() < 4 * 0.5 / (800 * 256) ** 0.5


@pytest.mark.parametrize("options", [{}, {"conditional": True}, {"augment": ["flip", "shift"]}])
def test_a_resume_draws_the_batches_of_an_uncut_run(options: dict[str, Any]) -> None:
    def rows(start: int) -> list[Any]:
        torch.manual_seed(start)
        chunks = list(module(start, **options).train_dataloader())
        return [c[0] if "conditional" in options else c for c in chunks]

    whole = rows(0)
    for skipped in (1, 2, 3):
        resumed = rows(3 * skipped)
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[skipped:], strict=True))


def test_chunks_ranks_and_seeds_draw_batches_of_their_own() -> None:
    loader = module().train_dataloader()
    chunk = torch.from_numpy(probabilities().splits.train[:12]).view(3, 4, 1, 16, 16)
    drawn = [loader.changed(chunk, start) for start in range(4)]
    order = loader.order
    for other in (replace(order, rank=1, world_size=2), replace(order, seed=4)):
        loader.order = other
        drawn.append(loader.changed(chunk, 0))
    assert len({made.numpy().tobytes() for made in drawn}) == 6


def test_images_move_before_they_are_drawn() -> None:
    loader = module(augment=["shift"]).train_dataloader()
    chunk = torch.zeros(3, 4, 1, 16, 16, dtype=torch.uint8)
    chunk[..., 3:9, 5] = 255  # nothing is left to chance but the shift
    moved = loader.changed(chunk, 0)
    grey = replace(probabilities(), stochastic=False, levels=256)
    plain = DataModule(grey, batch_size=4, seed=3, augment=["shift"])
    plain.setup()
    plain.schedule = loader.schedule
    assert torch.equal(255 * moved, plain.train_dataloader().changed(chunk, 0))
    assert not torch.equal(255 * moved, chunk)


def test_evaluation_is_fixed_and_the_whole_training_set_is_one_draw() -> None:
    data, again, other = module(), module(), module(seed=4)
    splits = probabilities().splits
    assert torch.equal(torch.cat(list(data.val_dataloader())), torch.from_numpy(splits.val))
    assert torch.equal(torch.cat(list(data.test_dataloader())), torch.from_numpy(splits.test))
    assert set(data.train.unique().tolist()) == {0, 1}
    assert torch.equal(data.train, again.train) and torch.equal(data.train, data.train)
    assert not torch.equal(data.train, other.train)
    assert torch.equal(data.rows, torch.from_numpy(splits.train))
    assert data.describe()["n_train"] == 20


def test_only_training_images_may_be_grey(tmp_path: Path) -> None:
    dataset, *_ = small_dynamic(tmp_path)
    splits = dataset.read(tmp_path, 0)
    dataset._check(splits)
    with pytest.raises(UsageError, match=r"train .*expected values below 2"):
        replace(dataset, stochastic=False)._check(splits)
    with pytest.raises(UsageError, match=r"val .*expected values below 2"):
        dataset._check(replace(splits, val=2 * splits.val))
