"""Tables: what stands in a table.yaml, and which rows and cells there are."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from nfbench.errors import UsageError
from nfbench.record import NAME, find_root
from nfbench.settings import Level, fill, hint, read_yaml


@dataclass(frozen=True)
class Paper:
    """The paper that a table is from; nulls for a table of our own."""

    key: str | None = None
    title: str | None = None
    authors: str | None = None
    year: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Uncertainty:
    """What +- means.

    Of a fixed test set (`same_points` as the paper's) ours is no error of the gap, which they
    share. Where test points were drawn or preprocessed anew, both errors count as independent.
    """

    ours: str
    published: str | None = None
    same_points: bool = False


@dataclass(frozen=True)
class Column:
    """A cell's column: its heading and metric, the table's unless it says otherwise.

    `equivalence`, in its unit, is the difference that is held to be none, however small the
    errors are.
    """

    heading: str
    metric: str
    unit: str
    direction: Literal["higher", "lower"]
    decimals: int = 2
    equivalence: float = 0.0


@dataclass(frozen=True)
class Extra:
    """A further number of a record that is shown of each cell, and neither judged nor ranked."""

    heading: str
    unit: str = ""
    decimals: int = 2


@dataclass(frozen=True)
class Head:
    """The plain settings of a table; our +- is `ours_multiple` standard errors."""

    title: str
    rows: list[str]
    source: str | None = None
    committed: bool = True
    ours_multiple: float = 2.0


HEAD, COLUMN = ([f.name for f in fields(kind)] for kind in (Head, Column))


@dataclass(frozen=True)
class Table:
    """A table, published or our own: its columns (cell -> Column) and rows, in order.

    `extra` are further numbers, by the name of a metric or as `speed/...`, `model/...`, `nfe/...`
    or `provenance/...`.
    """

    name: str
    title: str
    paper: Paper
    source: str | None
    columns: dict[str, Column]
    extra: dict[str, Extra]
    rows: tuple[str, ...]
    uncertainty: Uncertainty
    ours_multiple: float
    committed: bool  # whether its rendering is kept in git
    root: Path

    def row(self, name: str) -> Level:
        """A row's file.

        Raises:
            UsageError: no such row, or a row with cells that are no columns.
        """
        if name not in self.rows:
            raise UsageError(f"unknown row {name!r} of {self.name}{hint(name, self.rows, 'rows')}")
        level = read_yaml(self.root / "experiments" / self.name / f"{name}.yaml", self.root)
        level.section("cells").check(self.columns)
        return level

    def cells(self, row: str) -> tuple[str, ...]:
        """The cells that a row has, in the order of the columns."""
        cells = self.row(row).section("cells").values
        return tuple(cell for cell in self.columns if cell in cells)


def table_names(root: Path | None = None) -> tuple[str, ...]:
    """Every table, sorted: the folders of experiments/ that hold a table.yaml."""
    files = ((root or find_root()) / "experiments").glob("*/table.yaml")
    return tuple(sorted(file.parent.name for file in files))


def load_table(name: str, root: Path | None = None) -> Table:
    """Reads experiments/<name>/table.yaml.

    Raises:
        UsageError: no such table, a key or a value that it cannot hold, or rows that are not the
            files beside it.
    """
    root = root or find_root()
    if name not in table_names(root):
        raise UsageError(f"unknown table {name!r}{hint(name, table_names(root), 'tables')}")
    path = root / "experiments" / name / "table.yaml"
    file = read_yaml(path, root)
    file.check([*HEAD, *COLUMN, "columns", "extra", "paper", "uncertainty"])
    head = fill(Head, file.only(HEAD))
    check_rows(file, head["rows"], {p.stem for p in path.parent.glob("*.yaml")} - {"table"})
    return Table(
        name=name,
        root=root,
        columns=read_columns(file),
        extra=read_extra(file.section("extra")),
        paper=Paper(**fill(Paper, file.section("paper"))),
        uncertainty=Uncertainty(**fill(Uncertainty, file.section("uncertainty"))),
        **{**head, "rows": tuple(head["rows"])},
    )


def check_rows(file: Level, rows: list[str], stems: set[str]) -> None:
    """Checks that the rows listed are distinct names and those of the files beside the table.

    Raises:
        UsageError: a row twice, no name, a row without a file, or a file that is not listed.
    """
    for row in rows:
        if rows.count(row) > 1 or not NAME.fullmatch(row):
            raise file.error(
                "rows", f"{row!r}: expected once, in lower case letters, digits and _"
            )
    for row in sorted(stems.symmetric_difference(rows)):
        if row in stems:
            raise file.error(
                "rows", f"{row}.yaml is not listed; add {row} to rows, or move the file away"
            )
        raise file.error("rows", f"there is no {row}.yaml{hint(row, sorted(stems), 'files')}")


def read_columns(file: Level) -> dict[str, Column]:
    """cell -> Column; a column is its heading, or a mapping of what differs from the table."""
    columns = {}
    for cell, value in file.section("columns").values.items():
        own = {"heading": value} if isinstance(value, str) else value
        if not NAME.fullmatch(str(cell)):
            raise file.error(f"columns.{cell}", "expected lower case letters, digits and _")
        start = Level(file.where, "", {"heading": cell, **file.only(COLUMN).values})
        column = Level(file.where, "columns.", {cell: own}).section(cell)
        columns[cell] = Column(**fill(Column, start, column))
    return columns


def read_extra(section: Level) -> dict[str, Extra]:
    """The name of a number of a record -> Extra."""
    names = section.values
    return {str(name): Extra(**fill(Extra, section.section(name))) for name in names}
