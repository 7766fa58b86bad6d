"""`nfbench report`: one page of all results."""

from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; by default results/report.html.",
)
def report(names: tuple[str, ...], output: Path | None) -> None:
    """Write one HTML page of tables, curves and pictures, and print where.

    The page needs no network and no other file. Tables can be sorted and searched; each line
    opens to the commands, commits, machines and data that its number is from. Curves are of those
    runs that are still here. Without a name all tables that have a record are shown. What is wrong
    with a record stands at the head of its table, which has no lines if one cannot be read.

    \b
        nfbench report
        nfbench report toy2d flow_matching --output toys.html
    """
    from nfbench import report as pages

    click.echo(pages.write(names, output))
