"""MNIST: the published files where they are here, and small IDX files for what may be wrong."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nfbench.data import DATA, Source, data_root
from nfbench.data.manage import status, verify
from nfbench.data.mnist import MNIST, NAMES, served
from nfbench.errors import UsageError

SMALL = replace(MNIST, sizes=(4, 2, 3), event_shape=(1, 2, 5))
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = (
    np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    for shape in ((6, 2, 5), (6,), (3, 2, 5), (3,))
)
ARRAYS = dict(zip(NAMES, (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS), strict=True))

needs_files = pytest.mark.skipif(
    not MNIST.sources[0].is_in(data_root()), reason="the files of MNIST are not here"
)


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    header = np.array([magic or 0x0800 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a small MNIST."""
    (tmp_path / "mnist").mkdir()
    for name, array in ARRAYS.items():
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(idx(array)))
    return tmp_path


def test_splits_are_cut_in_the_order_of_the_files(root: Path) -> None:
    splits = SMALL.load(root)
    assert np.array_equal(splits.train[:, 0], TRAIN[:4])
    assert np.array_equal(splits.val[:, 0], TRAIN[4:])
    assert np.array_equal(splits.test[:, 0], TEST)
    assert splits.labels is not None
    assert np.array_equal(splits.labels["train"], TRAIN_LABELS[:4])
    assert np.array_equal(splits.labels["val"], TRAIN_LABELS[4:])
    assert np.array_equal(splits.labels["test"], TEST_LABELS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: gzip.compress(idx(array))[:-9], "cannot be read"),
        (lambda array: gzip.compress(idx(array))[:-4] + b"oops", "cannot be read"),
        (lambda array: idx(array), "cannot be read"),
        (lambda array: gzip.compress(b""), "cannot be read"),
        (lambda array: gzip.compress(idx(array)[:6]), "cannot be read"),
        (
            lambda array: gzip.compress(idx(array, magic=2050)),
            r"expected an IDX .* got magic number 2050",
        ),
        (lambda array: gzip.compress(idx(array)[:4]), r"expected shape .*got \(\)"),
        (lambda array: gzip.compress(idx(array[1:])), r"expected shape \((6|3),.*got \((5|2),"),
        (lambda array: gzip.compress(idx(array)[:-1]), r"expected \d+ values .*got \d+"),
        (lambda array: gzip.compress(idx(array) + b"x"), r"expected \d+ values .*got more"),
    ],
    ids=[
        "cut",
        "checksum",
        "plain",
        "empty",
        "header",
        "magic",
        "sizes",
        "count",
        "short",
        "long",
    ],
)
def test_file_of_another_content_is_refused_by_name(
    root: Path, name: str, change: object, message: str
) -> None:
    assert callable(change)
    (root / "mnist" / name).write_bytes(change(ARRAYS[name]))
    with pytest.raises(UsageError, match=f"{name}: {message}"):
        SMALL.load(root)


def test_status_tells_missing_from_corrupt(root: Path) -> None:
    assert status("mnist", root).state == "ready"
    (root / "mnist" / NAMES[1]).write_bytes(b"")
    assert status("mnist", root).state == "corrupt"
    (root / "mnist" / NAMES[1]).unlink()
    assert status("mnist", root).state == "missing"


def test_verify_checks_the_published_checksum_of_every_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATA, "mnist", SMALL)
    with pytest.raises(UsageError, match=rf"{NAMES[0]}: expected md5 f68b3c2d"):
        verify("mnist", root)


def test_another_set_in_the_same_format_is_one_source_away(root: Path) -> None:
    (root / "mnist").rename(root / "other")
    source = served("other", "https://example.org/", *"abcd")
    assert isinstance(source, Source) and source.is_served
    other = replace(SMALL, name="other", sources=(source,), known={})
    assert np.array_equal(other.load(root).test[:, 0], TEST)


@needs_files
def test_published_files_give_the_known_splits_and_class_counts() -> None:
    verify("mnist")
    labels = MNIST.load().labels
    assert labels is not None
    rest = np.concatenate([labels["train"], labels["val"]])
    assert rest[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(rest).tolist() == counts
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(labels["test"]).tolist() == counts
