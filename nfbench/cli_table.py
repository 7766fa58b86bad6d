"""`nfbench table`: tables and the pages of sweeps and costs, from the records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nfbench.cli_costs import costs_page
from nfbench.cli_sweep import sweep_pages
from nfbench.errors import UsageError, gathering

if TYPE_CHECKING:
    from nfbench.tables import View


@click.command()
@click.argument("names", nargs=-1, metavar="[TABLE]...")
@click.option("--all", "every", is_flag=True, help="Every table.")
@click.option(
    "--check",
    is_flag=True,
    help="Fail if a record was tampered with, or what is rendered is not what they give.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["terminal", "markdown", "latex", "csv"]),
    default="terminal",
    show_default=True,
    help="What to print; results/TABLE.md is written in any case, unless --check.",
)
def table(names: tuple[str, ...], every: bool, check: bool, form: str) -> None:
    """Render tables from the records in results/.

    Each goes to results/TABLE.md, and into the README where that has a place for it. A record
    that was changed by hand, or is not of the data that its source has, is told by name, and the
    other tables are rendered.

    \b
        nfbench table maf2017_table1 --format latex
        nfbench table --all --check
    """
    from nfbench import rendering, tables
    from nfbench.catalog import table_names

    if every == bool(names):
        known = ", ".join(table_names())
        raise UsageError(f"table: expected names of tables or --all (tables: {known})")
    if check:
        check_tables(names)
        return
    wrong: list[str] = []
    for name in names or table_names():
        with gathering(wrong):
            view = tables.build(name)
            rendering.write(view)
            show_table(view, form)
    for write_pages in (sweep_pages, costs_page) if every else ():
        with gathering(wrong):
            write_pages(check=False)
    refuse(wrong)


def check_tables(names: Sequence[str]) -> None:
    """Check tables, or all there are and whatever else is in results/; tell all that is wrong.

    Raises:
        UsageError: anything is.
    """
    from nfbench import archive, rendering
    from nfbench.catalog import load_table, table_names
    from nfbench.record import find_root
    from nfbench.stamp import outdated

    wrong = [] if names else list(archive.strays())
    for name in names or table_names():
        with gathering(wrong):
            if not names and not load_table(name).committed:
                continue
            rendering.check(name)
            click.echo(f"{name}: the committed table is what the records give")
        with gathering(wrong):
            wrong += outdated(name, find_root())
    for check_pages in () if names else (sweep_pages, costs_page):
        with gathering(wrong):
            check_pages(check=True)
    refuse(wrong)


def refuse(wrong: Sequence[str]) -> None:
    """Raise `UsageError` with what is wrong, if anything is; what several pages say only once."""
    from nfbench.record import find_root

    root, told = find_root(), list[str]()
    for text in (each.replace(f"{root}/", "") for each in wrong):
        if not any(text in earlier for earlier in told):
            told.append(text)
    if told:
        raise UsageError("\n".join(told))


def show_table(view: "View", form: str) -> None:
    """Print a table in one of its forms."""
    from nfbench import tables
    from nfbench.console import new_console

    if form == "terminal":
        new_console().print(tables.terminal(view))
    else:
        render = {"markdown": tables.markdown, "latex": tables.latex, "csv": tables.csv_text}[form]
        click.echo(render(view), nl=False)
