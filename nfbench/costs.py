"""What cells cost on one device, by short measurements: results/costs/<device>.json.

Imports no torch.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from nfbench.errors import UsageError, check_keys, expect
from nfbench.record import check_seal, find_root, write_atomic
from nfbench.seal import config_hash, seal, values_of
from nfbench.sections import SECTIONS
from nfbench.signatures import flow_names, flow_schema

VERSION = 1
WARM_UP, TIMED = 3, 10  # calls
LIMIT = 240.0  # seconds for a cell
DIGITS = 5  # that are kept of seconds
END = ("steps", "patience", "either")
FILE = "cells device sha256 threads version"
SOURCE = "git dirty versions measured"
DERIVED = "evaluation_seconds seconds"


@dataclass(frozen=True)
class Timing:
    """What was timed of a cell, and what a run of it is made of; its seconds are a sum of these.

    `ends` says what does: `steps`; `patience`, and then `steps` are the fewest that there can be,
    up to patience + 1 validations; or `either`, and then they are the most.
    """

    seconds_per_step: float
    timed_steps: int
    steps: int
    steps_per_epoch: int
    ends: Literal["steps", "patience", "either"]
    validate_every: int
    seconds_per_validation: float
    seconds_of_test: float
    peak_memory_bytes: int

    def evaluation_seconds(self, steps: int) -> float:
        """Seconds of the validations of so many steps, and of the evaluation at the end."""
        n_validations = math.ceil(steps / self.validate_every) + 1
        return n_validations * self.seconds_per_validation + self.seconds_of_test

    def seconds(self, steps: int) -> float:
        """Seconds of a run of so many steps."""
        return steps * self.seconds_per_step + self.evaluation_seconds(steps)


TIMING = " ".join(field.name for field in fields(Timing))


@dataclass(frozen=True)
class Cost:
    """What was found of a cell with these settings: a timing, or why there is none."""

    settings: str
    timing: Timing | None
    failure: str | None
    provenance: dict[str, Any]

    @property
    def total(self) -> float:
        """Seconds of one run; 0 if they are not known."""
        return self.timing.seconds(self.timing.steps) if self.timing else 0.0

    def plain(self) -> dict[str, Any]:
        """Plain values, with the sums that follow from them."""
        values = asdict(self)
        if self.timing:
            sums = self.timing.evaluation_seconds(self.timing.steps), self.total
            values["timing"] |= dict(zip(DERIVED.split(), map(rounded, sums), strict=True))
        return values


@dataclass(frozen=True)
class Costs:
    """What cells, by the name TABLE/ROW/CELL, cost on a device with so many threads."""

    device: str
    threads: int
    cells: dict[str, Cost]

    def knows(self, name: str, settings: str) -> bool:
        """Whether a cell was measured with these settings, well or not."""
        return name in self.cells and self.cells[name].settings == settings

    def with_cell(self, name: str, cost: Cost) -> "Costs":
        """These, and one cell more or anew."""
        return replace(self, cells=self.cells | {name: cost})


def rounded(value: float) -> float:
    """A number to as many digits as are worth keeping."""
    return float(f"{value:.{DIGITS}g}")


def settings_hash(config: dict[str, Any]) -> str:
    """12 hexadecimal digits of an experiment's settings, but for those with their default.

    So a setting, or a section, that is new and has its defaults changes none.
    """
    flow = config["flow"]["name"]
    schemas = SECTIONS | ({"flow": flow_schema(flow)} if flow in flow_names() else {})
    found = {key: chosen(schemas.get(key), values) for key, values in config.items()}
    return config_hash({key: values for key, values in found.items() if values})


def chosen(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a section that are not its defaults, and its name."""
    known = defaults(schema)
    return {k: v for k, v in values.items() if k == "name" or k not in known or v != known[k]}


def defaults(schema: Any) -> dict[str, Any]:
    """The defaults of a dataclass's fields, of those that have one."""
    found = {}
    for field in fields(schema) if schema else ():
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def slug(device: str, threads: int) -> str:
    """The name of the file of a device: that of the device, and threads if there are several."""
    name = re.sub(r"[^a-z0-9]+", "_", re.sub(r"\((r|tm)\)", "", device.lower())).strip("_")
    return name if threads == 1 else f"{name}_{threads}_threads"


def path_of(device: str, threads: int, root: Path | None = None) -> Path:
    """Where the costs on a device stand."""
    return (root or find_root()) / "results" / "costs" / f"{slug(device, threads)}.json"


def files(root: Path | None = None) -> list[Path]:
    """The files of all devices, sorted; none that is still being written."""
    found = ((root or find_root()) / "results" / "costs").glob("*.json")
    return sorted(path for path in found if not path.name.startswith("."))


def write(costs: Costs, root: Path | None = None) -> Path:
    """Writes the costs on a device to their place, sealed, a cell on each line."""
    path = path_of(costs.device, costs.threads, root)
    write_atomic(path, "\n".join(lines(costs)) + "\n")
    return path


def lines(costs: Costs) -> Iterator[str]:
    """The lines of a file."""
    cells = {name: cost.plain() for name, cost in sorted(costs.cells.items())}
    head = {"device": costs.device, "threads": costs.threads, "version": VERSION}
    yield "{"
    for key, value in (head | {"sha256": seal(head | {"cells": cells})}).items():
        yield f" {json.dumps(key)}: {json.dumps(value)},"
    yield ' "cells": {'
    texts = [f"  {json.dumps(name)}: {json.dumps(cell)}" for name, cell in cells.items()]
    yield ",\n".join(texts)
    yield " }"
    yield "}"


def read(path: Path) -> Costs:
    """Reads the costs on a device, strictly.

    Raises:
        UsageError: no such file, not JSON, a missing or unknown key, a number that cannot be, or
            a content of another path, or changed since it was written.
    """
    try:
        values = values_of(path)
        check_keys("costs", values, FILE)
        check_seal(values.pop("sha256"), values)
        expect(values["version"] == VERSION, f"version: expected {VERSION}")
        expect(isinstance(values["cells"], dict), "cells: expected an object")
        cells = {name: cost_of(name, cell) for name, cell in values["cells"].items()}
        costs = Costs(str(values["device"]), int(values["threads"]), cells)
        name = slug(costs.device, costs.threads)
        expect(path.stem == name, f"its content is {name}")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    return costs


def cost_of(name: str, values: dict[str, Any]) -> Cost:
    """The cost of a cell from plain values; raises `UsageError` if they are none."""
    check_keys(name, values, "settings timing failure provenance")
    check_keys(f"{name}: provenance", values["provenance"], SOURCE)
    timing = values["timing"]
    expect((timing is None) == isinstance(values["failure"], str), f"{name}: timing or failure")
    if timing is None:
        return Cost(**values)
    check_keys(f"{name}: timing", timing, f"{TIMING} {DERIVED}")
    expect(timing["ends"] in END, f"{name}: ends: expected one of {END}")
    for key, value in timing.items():
        number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
        expect(key == "ends" or number, f"{name}: {key}: expected a number >= 0, got {value!r}")
    cost = Cost(**values | {"timing": Timing(**{key: timing[key] for key in TIMING.split()})})
    for key, value in cost.plain()["timing"].items():
        expect(value == timing[key], f"{name}: {key}: expected {value}, got {timing[key]}")
    return cost
