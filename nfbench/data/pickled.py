"""Numbers out of pickles, without unpickling them.

A pickle is a program; running one from a download runs whatever it says. Here its opcodes are
listed (`pickletools.genops` executes nothing) and followed on a stack where a class or a function
is its name and a call is a record of the call. From that tree the numbers are read. Understood:
frames of numbers written by pandas 0.14 to 1.2, and dicts of arrays, from Python 2 or 3.
"""

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nfbench.atomic import replacing
from nfbench.errors import UsageError

BUILD_TUPLE = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME", "STOP"}


@dataclass(frozen=True)
class Name:
    """A class or a function that the pickle refers to; never imported."""

    value: str


@dataclass(eq=False)
class Call:
    """A call that unpickling would make, and the state it would set on the result."""

    function: Any
    arguments: Any
    state: Any = None


class Mark:
    """Where the arguments of a later opcode begin."""


def frame_to_npy(pickled: Path, path: Path) -> None:
    """Write a pickled DataFrame of numbers as a structured .npy: a float64 field per column.

    Raises `UsageError` on a pickle that is not understood; nothing is written then.
    """
    try:
        with pickled.open("rb") as file:
            columns = _columns(trace(file))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"{pickled}: expected a DataFrame of numbers, pickled by pandas 0.14 to 1.2, got "
            f"something else or a part of one ({error})"
        ) from error
    n_rows = len(next(iter(columns.values())))
    table = np.empty(n_rows, dtype=[(name, "<f8") for name in columns])
    for name, values in columns.items():
        table[name] = values
    with replacing(path) as file:
        np.save(file, table, allow_pickle=False)


def unpack_batch(file: IO[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Data (n, D) and labels (n,) of a pickled dict {"data": array, "labels": list of integers}.

    Raises:
        ValueError: something else is pickled there.
    """
    try:
        batch = trace(file)
        rows, labels = _numbers(batch["data"]), np.array(batch["labels"], dtype=np.int64)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"expected a pickled dict of data and labels ({error})") from error
    if rows.ndim != 2 or labels.shape != rows.shape[:1]:
        raise ValueError(f"expected a label a row, got {labels.shape} for {rows.shape}")
    return rows, labels


def trace(file: IO[bytes]) -> Any:
    """What the pickle describes: constants, lists, tuples, dicts, `Name`s and `Call`s."""
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(file):
        machine.step(opcode, argument)
    return machine.stack[-1]


class _Machine:
    """The stack and the memo of a pickle, of which no instruction is carried out, only traced."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Follow one instruction."""
        name, stack = opcode.name, self.stack
        if name.endswith("GET"):
            stack.append(self.memo[argument])
        elif name.endswith("PUT") or name == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name == "GLOBAL":
            stack.append(Name(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            stack.append(Name(".".join(self._pop(2))))
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(Call(*self._pop(2)))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name not in IGNORED:
            self._step_data(opcode, argument)

    def _step_data(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = opcode.name, self.stack
        constants = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
        if name in constants:
            stack.append(constants[name])
        elif name in ("MARK", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"MARK": Mark, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
        elif name in BUILD_TUPLE:
            stack.append(tuple(self._pop(BUILD_TUPLE[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._pop_to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif not opcode.stack_before and argument is not None:
            stack.append(argument)
        else:
            raise ValueError(f"unexpected opcode {name}")

    def _pop(self, n: int) -> list[Any]:
        items = self.stack[-n:]
        del self.stack[-n:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self.stack.pop(), Mark):
            items.append(item)
        return items[::-1]


def _columns(frame: Call) -> dict[str, np.ndarray]:
    """Columns of a DataFrame in their order, from the state of its block manager."""
    manager = frame.state.get("_data", frame.state.get("_mgr"))
    axes, blocks, block_items, *_ = manager.state
    found = {
        name: values
        for block, items in zip(blocks, block_items, strict=True)
        for name, values in zip(_strings(items), _numbers(block), strict=True)
    }
    return {name: found[name] for name in _strings(axes[0])}


def _strings(index: Call) -> list[str]:
    """The labels of a pickled Index."""
    _, settings = index.arguments
    *_, labels = settings["data"].state
    return [str(label) for label in labels]


def _numbers(array: Call) -> np.ndarray:
    """The values of a pickled ndarray of numbers."""
    if not array.function.value.endswith("multiarray._reconstruct"):
        raise ValueError(f"expected an array, got {array.function.value}")
    _, shape, dtype, is_fortran, data = array.state
    code, (_, order, *_) = dtype.arguments[0], dtype.state
    if not re.fullmatch("[fiu][1248]", code):
        raise ValueError(f"expected numbers, got dtype {code}")
    values = np.frombuffer(_bytes(data), dtype=np.dtype(code).newbyteorder(order))
    return values.reshape(shape, order="F" if is_fortran else "C")


def _bytes(data: Any) -> bytes:
    """Bytes as Python 3, protocols 3 and 2 (a call of `_codecs.encode`) or Python 2 wrote them."""
    if isinstance(data, Call):
        data, _ = data.arguments
    return data if isinstance(data, bytes) else data.encode("latin-1")
