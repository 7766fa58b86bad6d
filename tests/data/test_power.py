"""POWER against the published steps written out, and its sources against each other."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from nfbench.data import fingerprint
from nfbench.data.power import Power
from nfbench.errors import UsageError

N = 1000
SMALL = Power(sizes=(810, 90, 100))
FIRST_MINUTE = 17 * 60 + 24


def write(root: Path, name: str) -> Path:
    (root / "power").mkdir(exist_ok=True)
    return root / "power" / name


def readings(n_minutes: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers as the meters give them, (n, 7), and which minutes were measured; N are."""
    rng = np.random.default_rng(0)
    integers = np.column_stack(
        [
            rng.integers(76, 11_000, n_minutes),
            rng.integers(0, 1_400, n_minutes),
            rng.integers(22_000, 25_500, n_minutes),
            rng.integers(2, 480, n_minutes),
            rng.integers(0, 80, (n_minutes, 3)),
        ]
    )
    measured = np.zeros(n_minutes, dtype=bool)
    measured[rng.permutation(n_minutes)[:N]] = True
    return integers, measured


def write_packed(path: Path, integers: np.ndarray, measured: np.ndarray) -> None:
    keys = ["global_active_power_w", "global_reactive_power_w", "voltage_cv"]
    keys += ["global_intensity_da", *(f"sub_metering_{i}_wh" for i in (1, 2, 3))]
    np.savez_compressed(
        path,
        allow_pickle=False,
        observed=np.packbits(measured),
        first_minute="2006-12-16T17:24",
        n_rows=len(measured),
        **dict(zip(keys, integers.astype(np.uint16).T, strict=True)),
    )


def uci_text(integers: np.ndarray, measured: np.ndarray) -> str:
    names = ["Date", "Time", "Global_active_power", "Global_reactive_power", "Voltage"]
    names += ["Global_intensity", "Sub_metering_1", "Sub_metering_2", "Sub_metering_3"]
    lines = [";".join(names)]
    for i, (row, is_measured) in enumerate(zip(integers, measured, strict=True)):
        hour, minute = divmod((FIRST_MINUTE + i) % 1440, 60)
        values = [f"{row[0] / 1000:.3f}", f"{row[1] / 1000:.3f}", f"{row[2] / 100:.2f}"]
        values += [f"{row[3] / 10:.3f}", *(f"{value:.3f}" for value in row[4:])]
        fields = ";".join(values) if is_measured else "?;?;?;?;?;?;"
        lines.append(f"16/12/2006;{hour:02d}:{minute:02d}:00;{fields}")
    return "\n".join(lines) + "\n"


def test_shuffling_row_numbers_draws_what_shuffling_rows_draws() -> None:
    rows = np.arange(8 * N).reshape(N, 8)
    by_rows, order = np.random.RandomState(42), np.arange(N)
    by_number, shuffled = np.random.RandomState(42), rows.copy()
    by_rows.shuffle(shuffled)
    by_number.shuffle(order)
    assert np.array_equal(shuffled, rows[order])
    assert by_rows.rand() == by_number.rand()


def test_published_file_goes_through_the_published_steps(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(N, 8))
    np.save(write(tmp_path, "data.npy"), raw)

    rng = np.random.RandomState(42)
    data = raw.copy()
    rng.shuffle(data)
    data = np.delete(np.delete(data, 3, axis=1), 1, axis=1)
    voltage, power, sub = 0.01 * rng.rand(N, 1), 0.001 * rng.rand(N, 1), rng.rand(N, 3)
    data = data + np.hstack([power, voltage, sub, np.zeros((N, 1))])
    mean, std = data[:900].mean(axis=0), data[:900].std(axis=0)
    data = ((data - mean) / std).astype(np.float32)

    splits = SMALL.load(tmp_path)
    assert splits.source == "power/data.npy"
    assert np.array_equal(splits.train, data[:810])
    assert np.array_equal(splits.val, data[810:900])
    assert np.array_equal(splits.test, data[900:])


def test_text_zip_and_packed_readings_give_the_same_splits(tmp_path: Path) -> None:
    integers, measured = readings(3000)
    text = uci_text(integers, measured)
    packed, zipped, plain = tmp_path / "packed", tmp_path / "zipped", tmp_path / "plain"
    for root in (packed, zipped, plain):
        root.mkdir()
    write_packed(write(packed, "household_power_consumption.npz"), integers, measured)
    write(plain, "household_power_consumption.txt").write_text(text)
    with zipfile.ZipFile(write(zipped, "household_power_consumption.zip"), "w") as archive:
        archive.writestr("household_power_consumption.txt", text)

    fingerprints = {fingerprint(SMALL.load(root)) for root in (packed, zipped, plain)}
    assert len(fingerprints) == 1


def test_readings_become_kilowatts_volts_and_minutes_with_noise_of_one_step(
    tmp_path: Path,
) -> None:
    integers, measured = readings(3000)
    write_packed(write(tmp_path, "household_power_consumption.npz"), integers, measured)
    splits = SMALL.load(tmp_path)
    scaled = np.concatenate(list(splits.arrays.values())).astype(np.float64)
    minute = (FIRST_MINUTE + np.arange(3000)) % 1440
    units = np.column_stack(
        [integers[:, 0] / 1000, integers[:, 2] / 100, integers[:, 4:], minute]
    )[measured]
    order = np.arange(N)
    np.random.RandomState(42).shuffle(order)
    steps = np.array([0.001, 0.01, 1, 1, 1, 1])
    for column in range(6):
        # Undo the standardization by regression on the readings; what is left is the noise.
        reading = units[order, column]
        std = 1 / np.polyfit(reading, scaled[:, column], 1)[0]
        noise = scaled[:, column] * std - reading
        assert np.ptp(noise) == pytest.approx(steps[column], rel=0.1)


def test_published_file_is_preferred(tmp_path: Path) -> None:
    np.save(write(tmp_path, "data.npy"), np.random.default_rng(0).normal(size=(N, 8)))
    write(tmp_path, "household_power_consumption.txt").write_text("anything")
    assert SMALL.load(tmp_path).source == "power/data.npy"


def test_rows_that_are_missing_are_noticed(tmp_path: Path) -> None:
    integers, measured = readings(3000)
    measured[np.flatnonzero(measured)[0]] = False
    path = write(tmp_path, "household_power_consumption.npz")
    write_packed(path, integers, measured)
    with pytest.raises(UsageError, match=f"{path.name}: expected floats, 1000 rows.*999"):
        SMALL.load(tmp_path)


def test_text_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "household_power_consumption.txt").write_text("a header\nno;readings\n")
    with pytest.raises(UsageError, match=r"household_power_consumption\.txt: cannot be read"):
        SMALL.load(tmp_path)
