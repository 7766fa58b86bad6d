"""Experiments: a cell of a row with every setting typed, checked and resolved.

Precedence, four levels and no more: constructor signature < row < cell < command line.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from nfbench.catalog import Table, load_table, table_names
from nfbench.errors import UsageError
from nfbench.kinds import SIZES, is_below, least_size
from nfbench.record import Record, check_address, find_root
from nfbench.seal import config_hash
from nfbench.sections import (
    CELL,
    LEAST,
    NOTES,
    ROW,
    SECTIONS,
    Data,
    Notes,
    Preprocess,
    Reported,
    Training,
    Vae,
)
from nfbench.settings import Level, command_line, fill, hint
from nfbench.signatures import dataset_names, flow_names, flow_schema


@dataclass(frozen=True)
class Experiment:
    """One cell of a row with one seed, every setting resolved to a plain value."""

    table: str
    row: str
    cell: str
    seed: int
    title: str
    flow: dict[str, Any]
    data: Data
    preprocess: Preprocess
    vae: Vae
    training: Training
    deviations: tuple[str, ...]
    reduced: str | None
    reported: Reported | None
    overrides: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """All that determines the result, but for the seed."""
        return {"flow": self.flow, **{key: asdict(getattr(self, key)) for key in SECTIONS}}

    def matches(self, record: Record) -> bool:
        """Whether a record was made with these settings."""
        return same_settings(record.experiment, self.config())

    def identity(self) -> dict[str, Any]:
        """The section of a record on what was run."""
        names = ("table", "row", "cell", "seed", "reduced")
        return {
            **{name: getattr(self, name) for name in names},
            "config": self.config(),
            "config_hash": self.hash,
            "overrides": list(self.overrides),
            "deviations": list(self.deviations),
        }

    @property
    def command(self) -> list[str]:
        """The words a person would type to run it."""
        row = f"{self.table}/{self.row}"
        return ["nfbench", "run", row, self.cell, "--seed", str(self.seed), *self.overrides]

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the settings, in whatever order and spelling."""
        return config_hash(self.config())


def machine_words(*, compile: bool, shard: bool, wandb: str = "auto") -> list[str]:
    """The options of `nfbench run` on how to compute, device and threads aside."""
    flags = [*["--compile"] * compile, *["--shard"] * shard]
    return [*flags, *(["--wandb", wandb] if wandb != "auto" else [])]


def restore(identity: dict[str, Any]) -> Experiment:
    """The experiment that a checkpoint or a record says it is of; what is newer has its default.

    Raises:
        UsageError: an address or a setting that is missing, gone, or of another type today.
    """
    missing = {"table", "row", "cell", "seed", "config", "overrides"} - set(identity)
    if missing or not isinstance(identity["config"], dict):
        raise UsageError(f"its experiment lacks {', '.join(sorted(missing)) or 'settings'}")
    config = Level("its settings", "", identity["config"])
    config.check(["flow", *SECTIONS])
    pick_name([config], "data", dataset_names())
    schemas = {"flow": flow_schema(pick_name([config], "flow", flow_names())), **SECTIONS}
    values = {key: fill(schema, config.section(key)) for key, schema in schemas.items()}
    experiment = Experiment(
        **{key: identity[key] for key in ("table", "row", "cell", "seed")},
        reduced=identity.get("reduced"),
        title=identity["row"],
        flow=values["flow"],
        **{key: schema(**values[key]) for key, schema in SECTIONS.items()},
        deviations=tuple(identity.get("deviations", ())),
        reported=None,
        overrides=tuple(identity["overrides"]),
    )
    check_address(experiment)
    return experiment


def same_settings(identity: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether an experiment, as a checkpoint or a record keeps it, has settings of today's."""
    return identity.get("config") == config or settings_of(identity) == config


def settings_of(identity: dict[str, Any]) -> Any:
    """The settings that a checkpoint or a record keeps, in today's terms.

    A setting that is newer than it has its default there, which stands for how things were
    before; where one is gone they are as they were kept.
    """
    try:
        return restore(identity).config()
    except UsageError:
        return identity.get("config")


def load(
    row: str, cell: str, seed: int = 0, overrides: Sequence[str] = (), root: Path | None = None
) -> Experiment:
    """One cell of a row, resolved; `row` is table/row, or the row alone where one table has it.

    Overrides are `section.key=value`; the experiment carries them sorted, each once, as JSON.

    Raises:
        UsageError: an unknown name or key, or a value of another type; it names the file and key.
    """
    table, name = find_row(row, cell, root or find_root())
    return resolve(table, name, cell, seed, overrides)


def resolve(
    table: Table, name: str, cell: str, seed: int = 0, overrides: Sequence[str] = ()
) -> Experiment:
    """One cell of a row of a table, resolved as `load` does it."""
    file = table.row(name)
    file.check(ROW)
    cells = file.section("cells")
    if cell not in cells.values:
        known = hint(cell, cells.values, "cells")
        raise cells.error(cell, f"unknown cell of {table.name}/{name}{known}")
    own = cells.section(cell)
    own.check(CELL)
    words = command_line(overrides, ["flow", *SECTIONS])
    levels = [Level(file.where, "", {"data": {"name": cell}}), file, own, words]
    flow = pick_name(levels, "flow", flow_names())
    pick_name(levels, "data", dataset_names())
    schemas = {"flow": flow_schema(flow), **SECTIONS}
    values = {k: fill(s, *(level.section(k) for level in levels)) for k, s in schemas.items()}
    check_ranges(levels, values, LEAST | {"flow": least_sizes(schemas["flow"])})
    notes = fill(Notes, file.only(NOTES), own.only(NOTES))
    general = fill(Notes, file.only(NOTES))["deviations"] + of_data(values["data"]["name"])
    experiment = Experiment(
        table=table.name,
        row=name,
        cell=cell,
        seed=seed,
        flow=values["flow"],
        **{key: schema(**values[key]) for key, schema in SECTIONS.items()},
        **{**notes, "deviations": tuple(dict.fromkeys(general + notes["deviations"]))},
        reported=read_reported(own),
        overrides=canonical(words, values),
    )
    check_address(experiment)
    return experiment


def of_data(name: str) -> list[str]:
    """The deviations of a data set from the published one."""
    from nfbench.data import DATA  # imports numpy, which a command's help need not wait for

    return [*DATA[name].deviations]


@cache
def least_sizes(schema: Any) -> dict[str, float]:
    """The least of each of a flow's counts and widths."""
    sizes = (field for field in fields(schema) if field.type in SIZES)
    return {size.name: least_size(size.name, size.default) for size in sizes}


def check_ranges(
    levels: Sequence[Level],
    values: dict[str, dict[str, Any]],
    ranges: dict[str, dict[str, float]],
) -> None:
    """Refuse a number below the least that makes sense, and name the level that gave it."""
    for section, leasts in ranges.items():
        for key, least in leasts.items():
            value = values[section][key]
            if is_below(value, least):
                given = next(
                    s for each in reversed(levels) if key in (s := each.section(section)).values
                )
                raise given.error(key, f"expected at least {least}, got {value}")


def find_row(row: str, cell: str, root: Path) -> tuple[Table, str]:
    """The table and the name of a row that is given as table/row or, where that is clear, alone.

    A row alone is clear where one table has it, or has it with this cell.

    Raises:
        UsageError: no such table or row, several tables that have the row, or a table alone.
    """
    if "/" in row:
        table, _, name = row.partition("/")
        return load_table(table, root), name
    names = table_names(root)
    if row in names:
        rows = ", ".join(f"{row}/{name}" for name in load_table(row, root).rows)
        raise UsageError(f"{row} is a table; name one of its rows: {rows}")
    tables = [load_table(name, root) for name in names]
    found = [table for table in tables if row in table.rows]
    if len(found) > 1:
        found = [table for table in found if cell in table.cells(row)] or found
    if len(found) > 1:
        places = ", ".join(f"{table.name}/{row}" for table in found)
        raise UsageError(f"row {row!r} is in several tables; name one of {places}")
    if not found:
        known = sorted({name for table in tables for name in table.rows})
        raise UsageError(f"unknown row {row!r}{hint(row, known, 'rows')}")
    return found[0], row


def pick_name(levels: Sequence[Level], section: str, known: Sequence[str]) -> str:
    """The last `name` that the levels give a section."""
    given = [level.section(section) for level in levels if "name" in level.section(section).values]
    if not given:
        raise levels[0].error(f"{section}.name", f"missing{hint('', known)}")
    name = given[-1].values["name"]
    if name not in known:
        raise given[-1].error("name", f"unknown {section} {name!r}{hint(name, known)}")
    return str(name)


def read_reported(cell: Level) -> Reported | None:
    """The published number that a cell gives, or None."""
    if cell.values.get("reported") is None:
        return None
    return Reported(**fill(Reported, cell.section("reported")))


def canonical(words: Level, values: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Overrides as they were understood: `1e-3` and `0.001` are the same run."""
    keys = [(section, key) for section in words.values for key in words.section(section).values]
    return tuple(f"{s}.{k}={json.dumps(values[s][k])}" for s, k in sorted(keys))
