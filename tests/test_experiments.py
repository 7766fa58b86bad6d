"""Every experiment file loads, and says where its numbers are from."""

import re
from pathlib import Path

import pytest

import nfbench
from nfbench import tables
from nfbench.catalog import load_table, table_names
from nfbench.config import load

ROOT = Path(nfbench.__file__).parents[1]
FILES = sorted(p for p in (ROOT / "experiments").rglob("*") if p.is_file())
ROWS = [p for p in FILES if p.name != "table.yaml"]


def test_there_are_experiments_and_nothing_else_beside_them() -> None:
    assert len(ROWS) > 0
    assert {p.suffix for p in FILES} == {".yaml"}
    assert {p.relative_to(ROOT / "experiments").parts[:-1] for p in FILES} == {
        (name,) for name in table_names(ROOT)
    }


@pytest.mark.parametrize("path", ROWS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_row_is_listed_and_each_of_its_cells_loads(path: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", path.stem)
    table = load_table(path.parent.name, ROOT)
    cells = table.cells(path.stem)
    assert path.stem in table.rows and cells
    for cell in cells:
        experiment = load(f"{table.name}/{path.stem}", cell, root=ROOT)
        assert experiment.title
        if table.paper.title:
            assert experiment.reported is not None and experiment.reported.source


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    text = path.read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.splitlines())
    if path in ROWS:
        for word in (
            "Deviations: ",
            "Cost: ",
            f"Command: nfbench run {path.parent.name}/{path.stem} ",
        ):
            assert f"# {word}" in header


def test_titles_tell_the_rows_of_a_table_apart() -> None:
    for name in table_names(ROOT):
        table = load_table(name, ROOT)
        titles = [
            load(f"{name}/{row}", table.cells(row)[0], root=ROOT).title for row in table.rows
        ]
        assert len(set(titles)) == len(titles)


def test_committed_renderings_are_what_the_records_give() -> None:
    for name in table_names(ROOT):
        if (ROOT / "results" / f"{name}.md").exists():
            tables.check(name, ROOT)


def test_rows_of_the_maf_paper_hold_its_table() -> None:
    """Papamakarios, Pavlakou, Murray (2017), Table 1: one row and one column of it."""
    maf = [
        load("maf2017_table1/maf_5", cell, root=ROOT).reported
        for cell in load_table("maf2017_table1", ROOT).columns
    ]
    assert [r and r.value for r in maf] == [0.14, 9.07, -17.70, -11.75, 155.69]
    rows = load_table("maf2017_table1", ROOT).rows[:8]
    power = [load(f"maf2017_table1/{row}", "power", root=ROOT).reported for row in rows]
    assert [r and r.value for r in power] == [-7.74, -3.08, 0.40, -0.02, 0.17, 0.14, 0.24, 0.30]
