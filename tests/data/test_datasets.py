"""What every data set promises, checked on all whose files are here."""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nfbench.data import (
    DATA,
    Dataset,
    File,
    MissingDataError,
    Source,
    Splits,
    data_root,
    fingerprint,
)
from nfbench.errors import UsageError

HERE = [
    name
    for name, dataset in DATA.items()
    if not dataset.sources or any(source.is_in(data_root()) for source in dataset.sources)
]
# Full-covariance Gaussian, test nats: Papamakarios et al. (2017), table 1. The set made here, with
# a covariance known in closed form, calibrates the estimate itself.
GAUSSIAN = {
    "power": (-7.74, 0.02),
    "gas": (-3.58, 0.75),
    "hepmass": (-27.93, 0.02),
    "miniboone": (-37.24, 1.07),
    "bsds300": (96.67, 0.25),
    "bsds300_redrawn": (96.67, 0.25),
    "eight_gaussians": (-np.log(2 * np.pi * np.e * (2.5**2 / 2 + 0.3**2)), 0.02),
}


@dataclass(frozen=True, kw_only=True)
class Given(Dataset):
    """A data set of splits made by a test."""

    name: str = "given"
    title: str = "Given"
    event_shape: tuple[int, ...] = (2,)
    sizes: tuple[int, int, int] = (3, 2, 1)
    splits: Splits

    def read(self, root: Path, seed: int) -> Splits:
        return self.splits


def zeros(dtype: type = np.float32) -> Splits:
    return Splits(np.zeros((3, 2), dtype), np.zeros((2, 2), dtype), np.zeros((1, 2), dtype))


@pytest.mark.parametrize("name", DATA)
def test_key_is_the_name_of_the_data_set(name: str) -> None:
    assert DATA[name].name == name


@pytest.mark.parametrize("name", HERE)
def test_splits_have_declared_shapes_and_finite_values(name: str) -> None:
    dataset = DATA[name]
    splits = dataset.load()
    for size, array in zip(dataset.sizes, splits.arrays.values(), strict=True):
        assert array.shape == (size, *dataset.event_shape)
        assert array.dtype == (np.float32 if dataset.levels is None else np.uint8)
        assert array.flags.c_contiguous
        assert np.isfinite(array).all()


@pytest.mark.parametrize("name", HERE)
def test_loading_twice_gives_one_fingerprint_and_the_known_one(name: str) -> None:
    splits = DATA[name].load()
    assert fingerprint(splits) == fingerprint(DATA[name].load())
    if splits.source in DATA[name].known:
        assert fingerprint(splits) in DATA[name].known.values()


@pytest.mark.parametrize("name", [name for name in GAUSSIAN if name in HERE])
def test_gaussian_fit_gives_the_published_test_likelihood(name: str) -> None:
    splits = DATA[name].load()
    rest = np.concatenate([splits.train, splits.val]).astype(np.float64)
    mean, covariance = rest.mean(axis=0), np.cov(rest, rowvar=False, bias=True)
    distance = splits.test - mean
    squares = np.einsum("ni,ij,nj->n", distance, np.linalg.inv(covariance), distance)
    log_likelihood = -0.5 * (squares.mean() + np.linalg.slogdet(2 * np.pi * covariance)[1])
    published, tolerance = GAUSSIAN[name]
    assert log_likelihood == pytest.approx(published, abs=tolerance)


def test_fingerprint_sees_values_dtypes_and_the_split_of_rows() -> None:
    splits = zeros()
    changed = [
        replace(splits, train=splits.train + np.float32(1e-30)),
        replace(splits, train=splits.train.astype(np.float64)),
        replace(splits, train=splits.val, val=splits.train),
        replace(splits, train=splits.train.reshape(2, 3)),
    ]
    assert len({fingerprint(splits), *map(fingerprint, changed)}) == 5
    assert fingerprint(zeros()) == fingerprint(splits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(zeros(), val=np.zeros((1, 2), np.float32)), r"val .*\(2, 2\), got .*\(1, 2\)"),
        (zeros(np.float64), "expected float32 .* got float64"),
        (replace(zeros(), test=np.full((1, 2), np.nan, np.float32)), "test .*finite"),
    ],
)
def test_wrong_splits_are_refused(wrong: Splits, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Given(splits=wrong).load()


def test_discrete_values_beyond_the_levels_are_refused() -> None:
    splits = zeros(np.uint8)
    splits.val[0, 0] = 17
    with pytest.raises(UsageError, match=r"val .*below 17"):
        Given(splits=splits, levels=17).load()


def test_unknown_density_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="digits: the density"):
        DATA["digits"].log_density(np.zeros((1, 1, 8, 8)))


def test_digits_are_all_there_once_and_match_their_labels() -> None:
    from sklearn.datasets import load_digits

    splits = DATA["digits"].load()
    images = np.concatenate(list(splits.arrays.values())).reshape(-1, 64)
    assert splits.labels is not None
    rows = np.column_stack([images, np.concatenate(list(splits.labels.values()))])
    original = load_digits()
    expected = np.column_stack([original.data, original.target])
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    assert images.max() == 16


def test_missing_files_are_named_with_the_root_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        DATA["power"].load(tmp_path)
    message = str(caught.value)
    assert all(name in message for source in DATA["power"].sources for name in source.names)
    assert str(tmp_path) in message
    assert "nfbench data prepare power" in message
    assert "NFBENCH_DATA" in message


def test_first_source_that_is_whole_is_found(tmp_path: Path) -> None:
    pair = Source(files=(File("a"), File("b")), about="two")
    single = Source(files=(File("c"),), about="one")
    dataset = Given(splits=zeros(), sources=(pair, single))
    for file in "ca":
        (tmp_path / file).touch()
    assert dataset.find(tmp_path) is single
    (tmp_path / "b").touch()
    assert dataset.find(tmp_path) is pair


def test_data_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NFBENCH_DATA", "/some/where")
    assert data_root() == Path("/some/where")
    monkeypatch.delenv("NFBENCH_DATA")
    assert re.search(r"nfbench.data$", str(data_root()))


def test_importing_the_data_sets_imports_neither_torch_nor_sklearn() -> None:
    heavy = "'torch', 'pytorch_lightning', 'sklearn', 'h5py', 'pooch', 'requests'"
    code = (
        "import sys, nfbench.data.manage as manage; manage.status('power');"
        f"print([name for name in ({heavy}) if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
