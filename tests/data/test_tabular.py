"""GAS, HEPMASS, MINIBOONE and BSDS300 on small files, against the published steps written out."""

import gzip
import hashlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from nfbench.data.bsds300 import Bsds300
from nfbench.data.gas import Gas
from nfbench.data.hepmass import Hepmass
from nfbench.data.miniboone import Miniboone
from nfbench.errors import UsageError

N = 1000


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def count_of_first(column: np.ndarray) -> int:
    """As the published code counts: of the sorted values, the count of the first."""
    return min(Counter(column.tolist()).items())[1]


def place(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# GAS

GAS = Gas(sizes=(810, 90, 100), event_shape=(3,))


def write_gas(root: Path, columns: dict[str, np.ndarray]) -> Path:
    table = np.empty(N, dtype=[(name, "<f8") for name in columns])
    for name, values in columns.items():
        table[name] = values
    path = place(root, "gas/ethylene_CO.npy")
    np.save(path, table)
    return path


def gas_columns() -> dict[str, np.ndarray]:
    a, b, c, d = normal(4, N) * [[1], [5], [0.1], [0.01]] + 3
    noise = d - 3
    # R1 is like R3 and R4, R4 like R3: R1 goes first, then R3; R5 is the opposite of R2.
    columns = {"Time": a, "Meth": b, "Eth": c, "R1": a + noise, "R2": b, "R3": a}
    return columns | {"R4": a - noise, "R5": -b}


def test_gas_drops_repeating_columns_and_scales_by_all_rows(tmp_path: Path) -> None:
    columns = gas_columns()
    write_gas(tmp_path, columns)
    kept = np.column_stack([columns["R2"], columns["R4"], columns["R5"]])
    expected = (kept - kept.mean(axis=0)) / np.sqrt(kept.var(axis=0) * N / (N - 1))
    splits = GAS.load(tmp_path)
    np.testing.assert_allclose(splits.train, expected[:810], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.val, expected[810:900], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.test, expected[900:], rtol=1e-6, atol=1e-6)


def test_gas_without_its_columns_is_refused(tmp_path: Path) -> None:
    columns = gas_columns()
    del columns["Meth"]
    path = write_gas(tmp_path, columns)
    with pytest.raises(UsageError, match=f"{path.name}: expected the columns .*Meth"):
        GAS.load(tmp_path)


# HEPMASS

HEPMASS = Hepmass(sizes=(450, 50, 200), event_shape=(4,))


def hepmass_tables() -> tuple[np.ndarray, np.ndarray]:
    """Train (label, 6 features) and test (label, 6 features, mass); every other row is signal.

    Feature 1 repeats its minimum and has to go; feature 4 repeats its maximum and has to stay,
    feature 5 repeats its minimum 6 times in all, 5 of them in the signal, and stays.
    """
    train, test = normal(1000, 7, seed=1), normal(400, 8, seed=2)
    for table in (train, test):
        table[:, 0] = np.arange(len(table)) % 2
        table[:, 2] = np.maximum(table[:, 2], 0)
        table[:, 5] = np.minimum(table[:, 5], 0)
    train[[1, 3, 5, 7, 9, 10], 6] = -9
    train[[1, 3, 5, 7, 9, 11], 1] = -9
    return train, test


def write_csv(path: Path, table: np.ndarray) -> None:
    names = ["# label", *(f"f{i}" for i in range(table.shape[1] - 1))]
    lines = [",".join(names), *(",".join(map(repr, row)) for row in table.tolist())]
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_hepmass_keeps_scaled_signal_and_continuous_features(tmp_path: Path, suffix: str) -> None:
    train, test = hepmass_tables()
    write_csv(place(tmp_path, f"hepmass/1000_train.csv{suffix}"), train)
    write_csv(place(tmp_path, f"hepmass/1000_test.csv{suffix}"), test)

    train, test = train[train[:, 0] == 1][:, 1:], test[test[:, 0] == 1][:, 1:-1]
    mean, std = train.mean(axis=0), np.sqrt(train.var(axis=0) * 500 / 499)
    train, test = (train - mean) / std, (test - mean) / std
    kept = [i for i, column in enumerate(train.T) if count_of_first(column) <= 5]
    assert kept == [2, 3, 4, 5]

    splits = HEPMASS.load(tmp_path)
    np.testing.assert_allclose(splits.train, train[:450, kept], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.val, train[450:, kept], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.test, test[:, kept], rtol=1e-6, atol=1e-6)


def test_hepmass_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    train, test = hepmass_tables()
    write_csv(place(tmp_path, "hepmass/1000_train.csv"), train)
    path = place(tmp_path, "hepmass/1000_test.csv")
    write_csv(path, test)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:40]):
        path.write_bytes(part)
        with pytest.raises(UsageError, match=r"1000_test\.csv: "):
            HEPMASS.load(tmp_path)


# MINIBOONE


def small_miniboone(rows: np.ndarray) -> Miniboone:
    digest = hashlib.sha256(np.ascontiguousarray(rows[:20]).data).hexdigest()
    return Miniboone(sizes=(810, 90, 100), event_shape=(3,), head=(20, digest))


def test_miniboone_is_held_out_from_the_end_and_scaled_by_the_rest(tmp_path: Path) -> None:
    rows = normal(N, 3) * [1, 10, 100]
    np.save(place(tmp_path, "miniboone/data.npy"), rows)
    expected = (rows - rows[:900].mean(axis=0)) / rows[:900].std(axis=0)
    splits = small_miniboone(rows).load(tmp_path)
    np.testing.assert_allclose(splits.train, expected[:810], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.val, expected[810:900], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(splits.test, expected[900:], rtol=1e-6, atol=1e-6)


def test_miniboone_text_gives_the_published_rows(tmp_path: Path) -> None:
    rows = normal(N, 3)
    signal = np.insert(np.column_stack([rows, np.maximum(rows[:, 0], 0)]), 500, -999.0, axis=0)
    background = np.full((50, 4), 7.0)
    lines = [f" {len(signal)} 50"]
    lines += ["  ".join(map(repr, row)) for row in np.concatenate([signal, background]).tolist()]
    place(tmp_path, "miniboone/MiniBooNE_PID.txt").write_text("\n".join(lines))
    text = small_miniboone(rows).load(tmp_path)
    np.save(place(tmp_path, "miniboone/data.npy"), rows)
    published = small_miniboone(rows).load(tmp_path)
    assert text.source != published.source
    assert all(np.array_equal(text.arrays[k], published.arrays[k]) for k in text.arrays)


def test_miniboone_with_other_first_rows_is_refused(tmp_path: Path) -> None:
    rows = normal(N, 3)
    np.save(place(tmp_path, "miniboone/data.npy"), rows[::-1])
    with pytest.raises(UsageError, match=r"data\.npy: its first 20 rows"):
        small_miniboone(rows).load(tmp_path)


def test_subset_of_miniboone_is_refused_under_the_name_of_the_whole(tmp_path: Path) -> None:
    np.save(place(tmp_path, "miniboone/data.npy"), normal(1523, 43))
    with pytest.raises(UsageError, match=r"data\.npy: expected floats, 36488 rows .*\(1523, 43\)"):
        Miniboone().load(tmp_path)


# BSDS300

BSDS300 = Bsds300(sizes=(30, 10, 20))


def write_bsds300(root: Path) -> tuple[Path, dict[str, np.ndarray]]:
    path = place(root, "BSDS300/BSDS300.hdf5")
    sizes = {"train": 30, "validation": 10, "test": 20}
    arrays = {key: normal(n, 63, seed=n) for key, n in sizes.items()}
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path, arrays


def test_bsds300_is_used_as_published(tmp_path: Path) -> None:
    _, arrays = write_bsds300(tmp_path)
    splits = BSDS300.load(tmp_path)
    for array, expected in zip(splits.arrays.values(), arrays.values(), strict=True):
        assert np.array_equal(array, expected.astype(np.float32))


def test_bsds300_without_a_split_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = write_bsds300(tmp_path)
    with h5py.File(path, "a") as file:
        del file["validation"]
    with pytest.raises(UsageError, match=r"BSDS300\.hdf5: cannot be read .*validation"):
        BSDS300.load(tmp_path)


# All of them


@pytest.mark.parametrize("dataset", [Miniboone(), Bsds300(), Gas()])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x93NUMPY\x01\x00"])
def test_file_of_another_kind_is_refused_by_name(
    tmp_path: Path, dataset: Miniboone | Bsds300 | Gas, content: bytes
) -> None:
    path = place(tmp_path, dataset.sources[0].names[0])
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path.name}: cannot be read"):
        dataset.load(tmp_path)


def test_array_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    rows = normal(N, 3)
    path = place(tmp_path, "miniboone/data.npy")
    np.save(path, rows)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UsageError, match=r"data\.npy: cannot be read"):
        small_miniboone(rows).load(tmp_path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(place(tmp_path, "miniboone/data.npy"), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"data\.npy: cannot be read"):
        Miniboone().load(tmp_path)


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    rows = normal(N, 3)
    rows[-1, -1] = np.inf
    np.save(place(tmp_path, "miniboone/data.npy"), rows)
    with pytest.raises(UsageError, match=r"data\.npy: expected finite"):
        small_miniboone(rows).load(tmp_path)
