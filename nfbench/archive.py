"""The records of a table in results/: all of them, and what speaks against them."""

from collections.abc import Iterator
from pathlib import Path

from nfbench.catalog import Table, load_table
from nfbench.data import DATA
from nfbench.errors import UsageError
from nfbench.record import Record, find_root, read


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


def faults(name: str, root: Path | None = None) -> Iterator[str]:
    """What is wrong with a table's records, each with the name of its file.

    A file is told that cannot be read (see `record.read`), whose row or cell the table does not
    have, or whose data are not those that are known of their source.
    """
    root = root or find_root()
    table = load_table(name, root)
    for path in files(name, root):
        place = path.relative_to(root).as_posix()
        try:
            found = read(path)
        except UsageError as error:
            yield str(error).replace(str(path), place)
        else:
            yield from (f"{place}: {fault}" for fault in faults_of(found, table))


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
