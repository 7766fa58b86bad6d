"""POWER: the electricity use of one household by the minute, 2006 to 2010 (UCI)."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from .dataset import Dataset, File, Source, Splits
from .files import check_matrix, load_matrix, reading
from .maf import published, split_and_standardize

MINUTES_A_DAY = 24 * 60
TEXT = "household_power_consumption.txt"


@dataclass(frozen=True, kw_only=True)
class Power(Dataset):
    """Active power, voltage, three sub-meterings and the minute of the day, (6,).

    Preprocessing of Papamakarios et al. (2017): shuffle, fill the steps of the meters with
    uniform noise, hold out, standardize. The published file has the noise on the time already;
    where the UCI readings stand in for it, noise of one minute is drawn here, so the splits are
    equal to the published ones in distribution but not row by row.
    """

    name: str = "power"
    title: str = "POWER"
    event_shape: tuple[int, ...] = (6,)
    sizes: tuple[int, int, int] = (1_659_917, 184_435, 204_928)
    sources: tuple[Source, ...] = (
        published("power/data.npy", about="the published readings"),
        Source(files=(File(f"power/{TEXT}"),), about="the readings of the UCI archive, unpacked"),
        Source(
            files=(
                File(
                    "power/household_power_consumption.zip",
                    url="https://archive.ics.uci.edu/static/public/235/"
                    "individual+household+electric+power+consumption.zip",
                ),
            ),
            about="the readings of the UCI archive (20 MB)",
        ),
        Source(
            files=(
                File(
                    "power/household_power_consumption.npz",
                    checksum="sha256:"
                    "9b9f1ab90b7df829a7e9a7290ee0f417a2f1236bd75cd079e9c186909257e15d",
                ),
            ),
            about="the UCI readings as integers with a mask of the minutes measured",
        ),
    )
    known: Mapping[str, str] = field(
        default_factory=lambda: {
            "power/household_power_consumption.npz": (
                "20712a9e2c498400acc9d7aef6d66138d12aa7936c8006198173a6de0e5413ed"
            )
        }
    )
    deviations: tuple[str, ...] = (
        "the readings of the UCI archive, shuffled and with noise of their steps drawn anew, "
        "unless the published file is at hand; the record names which",
    )

    def read(self, root: Path, seed: int) -> Splits:
        """Shuffle, add noise, hold out and standardize, each split (n, 6), whatever the seed."""
        source = self.find(root)
        (path,) = source.paths(root)
        rng = np.random.RandomState(42)
        rows = self._readings(path)
        order = np.arange(len(rows))
        # The draws of rng.shuffle(rows), which would move the rows one by one.
        rng.shuffle(order)
        rows = rows[order]
        rows[:, 1:2] += 0.01 * rng.rand(len(rows), 1)
        rows[:, 0:1] += 0.001 * rng.rand(len(rows), 1)
        rows[:, 2:5] += rng.rand(len(rows), 3)
        return split_and_standardize(rows, source)

    def _readings(self, path: Path) -> np.ndarray:
        """Measured rows in the order of time (published: as they stand), (n, 6) float64."""
        n_rows = sum(self.sizes)
        if path.suffix == ".npy":
            return np.delete(load_matrix(path, n_rows, 8), [1, 3], axis=1)
        with reading(path):
            if path.suffix == ".npz":
                rows = _unpack(path)
            elif path.suffix == ".zip":
                with zipfile.ZipFile(path) as archive, archive.open(TEXT) as text:
                    rows = _parse(TextIOWrapper(text, encoding="ascii"))
            else:
                with path.open(encoding="ascii") as text:
                    rows = _parse(text)
        check_matrix(path, rows, n_rows, self.event_shape[0])
        # A stream of its own leaves that of the published code as it is.
        rows[:, 5] += np.random.RandomState(43).rand(n_rows)
        return rows


def _parse(lines: Iterable[str]) -> np.ndarray:
    """UCI text: date;hh:mm:ss;active;reactive;voltage;intensity;sub1;sub2;sub3, or ? for none."""
    measured = (line.replace(":", ";") for line in lines if "?" not in line)
    next(measured)
    fields = np.loadtxt(measured, delimiter=";", usecols=(1, 2, 4, 6, 8, 9, 10), ndmin=2)
    minute = 60 * fields[:, 0] + fields[:, 1]
    return np.column_stack([fields[:, 2:], minute])


def _unpack(path: Path) -> np.ndarray:
    """Integers of consecutive minutes: W, cV and Wh, and one bit a minute for measured or not."""
    with np.load(path, allow_pickle=False) as packed:
        n_minutes = int(packed["n_rows"])
        hour, minute = str(packed["first_minute"]).split("T")[1].split(":")
        measured = np.unpackbits(packed["observed"], count=n_minutes).astype(bool)
        columns = [
            packed["global_active_power_w"] / 1000,
            packed["voltage_cv"] / 100,
            *(packed[f"sub_metering_{i}_wh"] for i in (1, 2, 3)),
            (60 * int(hour) + int(minute) + np.arange(n_minutes)) % MINUTES_A_DAY,
        ]
        return np.column_stack([column[measured] for column in columns])
