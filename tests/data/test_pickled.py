"""Numbers out of pickled DataFrames: as pandas laid them out then, and as an attacker would."""

import io
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from nfbench.data.pickled import Call, Name, frame_to_npy, trace
from nfbench.errors import UsageError

N = 50


class Index:
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_Index, (Index, {"data": self.labels, "name": None}), None


def _new_Index(cls: type[Index], settings: dict[str, Any]) -> Index:
    return cls(settings["data"])


class BlockManager:
    """State of pandas 0.14 to 1.2: axes, values and items of the blocks, and all of it again."""

    def __init__(self, columns: list[str], blocks: dict[tuple[int, ...], np.ndarray]) -> None:
        self.columns, self.blocks = columns, blocks

    def __getstate__(self) -> tuple[Any, ...]:
        labels = np.array(self.columns, dtype=object)
        axes = [Index(labels), Index(np.arange(N))]
        values = list(self.blocks.values())
        items = [Index(labels[list(places)]) for places in self.blocks]
        blocks = [
            {"values": block, "mgr_locs": np.array(places)}
            for places, block in self.blocks.items()
        ]
        return axes, values, items, {"0.14.1": {"axes": axes, "blocks": blocks}}


class DataFrame:
    def __init__(self, manager: BlockManager, key: str) -> None:
        self.manager, self.key = manager, key

    def __getstate__(self) -> dict[str, Any]:
        return {self.key: self.manager, "_typ": "dataframe", "_metadata": []}


PurePickler: Any = vars(pickle)["_Pickler"]


class Python2Pickler(PurePickler):  # type: ignore[misc]
    """Strings and bytes alike as the byte strings of Python 2."""

    dispatch: ClassVar[dict[type, Any]] = dict(PurePickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    def save_str(self, value: str) -> None:
        self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode("ascii"))
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str


@pytest.fixture
def pandas_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-ins be pickled under the names that pandas had."""
    homes: dict[str, list[Any]] = {
        "pandas": [],
        "pandas.core": [],
        "pandas.core.frame": [DataFrame],
        "pandas.core.internals": [BlockManager],
        "pandas.core.index": [Index, _new_Index],
    }
    for module_name, members in homes.items():
        module = ModuleType(module_name)
        for member in members:
            setattr(module, member.__name__, member)
            monkeypatch.setattr(member, "__module__", module_name)
        monkeypatch.setitem(sys.modules, module_name, module)


def frame(key: str = "_data") -> tuple[DataFrame, dict[str, np.ndarray]]:
    """Columns in two blocks that interleave: floats in Fortran order, integers in C order."""
    rng = np.random.default_rng(0)
    floats = np.asfortranarray(rng.normal(size=(3, N)))
    integers = rng.integers(-99, 99, size=(2, N))
    manager = BlockManager(
        ["Time", "Meth", "Eth", "R1", "R2"], {(0, 2, 3): floats, (1, 4): integers}
    )
    order = [floats[0], integers[0], floats[1], floats[2], integers[1]]
    return DataFrame(manager, key), dict(zip(manager.columns, order, strict=True))


def dump(value: object, dialect: str) -> bytes:
    if dialect != "python 2":
        return pickle.dumps(value, protocol=int(dialect[-1]))
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


@pytest.mark.usefixtures("pandas_names")
@pytest.mark.parametrize("key", ["_data", "_mgr"])
@pytest.mark.parametrize("dialect", ["python 2", "protocol 2", "protocol 3", "protocol 4"])
def test_columns_come_out_in_order_with_exact_values(
    tmp_path: Path, dialect: str, key: str
) -> None:
    pickled, columns = frame(key)
    (tmp_path / "frame.pickle").write_bytes(dump(pickled, dialect))
    frame_to_npy(tmp_path / "frame.pickle", tmp_path / "frame.npy")
    table = np.load(tmp_path / "frame.npy", allow_pickle=False)
    assert table.dtype.names == tuple(columns)
    for name, values in columns.items():
        assert table[name].dtype == np.float64
        assert np.array_equal(table[name], values)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_calls_in_a_pickle_are_not_made(tmp_path: Path) -> None:
    pickled, attacked = tmp_path / "frame.pickle", tmp_path / "attacked"
    pickled.write_bytes(pickle.dumps(Attack(attacked)))
    with pytest.raises(UsageError, match=r"frame\.pickle: expected a DataFrame"):
        frame_to_npy(pickled, tmp_path / "frame.npy")
    assert os.listdir(tmp_path) == ["frame.pickle"]
    pickle.loads(pickled.read_bytes())
    assert attacked.is_dir()


def test_trace_names_what_would_be_called() -> None:
    call = trace(io.BytesIO(pickle.dumps(Attack(Path("folder")), protocol=4)))
    assert isinstance(call, Call)
    assert call.function == Name("posix.mkdir")
    assert call.arguments == ("folder",)


@pytest.mark.usefixtures("pandas_names")
def test_pickle_cut_short_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = dump(frame()[0], "python 2")
    pickled, table = tmp_path / "frame.pickle", tmp_path / "frame.npy"
    for length in range(0, len(whole) - 1, 7):
        pickled.write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"frame\.pickle"):
            frame_to_npy(pickled, table)
    assert not table.exists()


@pytest.mark.usefixtures("pandas_names")
@pytest.mark.parametrize(
    "block",
    [
        np.array([["text"] * N], dtype=object),
        np.zeros((1, N), "M8[ns]"),
        np.zeros((1, N), complex),
    ],
)
def test_columns_that_are_not_numbers_are_refused(tmp_path: Path, block: np.ndarray) -> None:
    pickled = tmp_path / "frame.pickle"
    pickled.write_bytes(dump(DataFrame(BlockManager(["a"], {(0,): block}), "_data"), "python 2"))
    with pytest.raises(UsageError, match="expected numbers, got dtype"):
        frame_to_npy(pickled, tmp_path / "frame.npy")
