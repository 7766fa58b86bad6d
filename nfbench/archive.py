"""The records of a table in results/: all of them, and what speaks against them."""

import json
from collections.abc import Iterator
from pathlib import Path

from nfbench.catalog import Table, load_table, table_names
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.record import Record, find_root, read

OTHERS = ("sweeps", "costs")  # folders of results/ with files of other kinds
NO_MATTER = ("batch_size", "augment")  # settings of the data that leave the rows as they are


def files(table: str, root: Path | None = None) -> Iterator[Path]:
    """The files of a table's records, by row, cell and seed; none that is still being written."""
    folder = (root or find_root()) / "results" / table
    paths = [p for p in folder.glob("*/*/*.json") if not p.name.startswith(".")]
    yield from sorted(paths, key=lambda p: (p.parts[:-1], len(p.stem), p.stem))


def records(table: str, root: Path | None = None) -> Iterator[Record]:
    """Every record of a table, by row, cell and seed.

    Raises:
        UsageError: a file that is no record, or was changed by hand.
    """
    return map(read, files(table, root))


def strays(root: Path | None = None) -> Iterator[str]:
    """Files in results/ that look like records, and are none of any table, nor of other kinds."""
    root = root or find_root()
    others = {root / "results" / name for name in OTHERS}
    owned = {path for name in table_names(root) for path in files(name, root)}
    for path in sorted((root / "results").rglob("*.json")):
        hidden = path.name.startswith(".")
        if path not in owned and not hidden and path.parent not in others:
            yield f"{path.relative_to(root).as_posix()}: it is the record of no table"


def faults(name: str, root: Path | None = None) -> Iterator[str]:
    """What is wrong with a table's records, each with the name of its file.

    A file is told that cannot be read (see `record.read`), whose row or cell the table does not
    have, whose data are not those that are known of their source, or are other ones than those of
    another record on the same data.
    """
    root = root or find_root()
    table = load_table(name, root)
    seen: dict[str, tuple[str, str]] = {}
    for path in files(name, root):
        place = path.relative_to(root).as_posix()
        try:
            found = read(path)
        except UsageError as error:
            yield str(error).replace(str(path), place)
        else:
            yield from (f"{place}: {fault}" for fault in faults_of(found, table))
            if found.status == "done" and known_fingerprint(found) is None:
                given = found.data["fingerprint"]
                other, where = seen.setdefault(same_data(found), (given, place))
                if given != other:
                    yield f"{place}: data fingerprint: expected {other[:12]}..., as in {where}"


def same_data(record: Record) -> str:
    """What decides which data a record is of: their name, their source, and their settings."""
    data = record.experiment["config"]["data"]
    settings = {key: value for key, value in data.items() if key not in NO_MATTER}
    return json.dumps([record.data["name"], record.data["source"], settings], sort_keys=True)


def faults_of(record: Record, table: Table) -> Iterator[str]:
    """What is wrong with a record, as a part of a table."""
    if record.row not in table.rows:
        yield f"row: {table.name} has no row {record.row!r}"
    elif record.cell not in table.cells(record.row):
        yield f"cell: {table.name}/{record.row} has no cell {record.cell!r}"
    if record.status == "done" and (known := known_fingerprint(record)) is not None:
        given = record.data["fingerprint"]
        if given != known:
            yield (
                f"data fingerprint: expected {known[:12]}..., of {record.data['name']} from "
                f"{record.data['source']}, got {given[:12]}..."
            )


def known_fingerprint(record: Record) -> str | None:
    """The fingerprint that the data of a record must have, by their source; None if unknown."""
    name = record.data["name"]
    if name not in DATA:
        return None
    return DATA[name].known.get(record.data["source"])
