"""`nfbench data`: what data sets are here, and how to get the rest."""

import click


@click.group()
def data() -> None:
    """The data sets: what is here, how to get the rest, whether it is whole."""


@data.command("list")
def data_list() -> None:
    """List every data set and whether its files are here."""
    from rich.filesize import decimal
    from rich.table import Column, Table

    from nfbench.console import new_console
    from nfbench.data import DATA, data_root
    from nfbench.data.manage import status

    view = Table(
        Column("name", no_wrap=True),
        "data set",
        "train / val / test",
        "state",
        "size",
        "where",
        title=f"data root: {data_root()}",
    )
    for name in DATA:
        found = status(name)
        sizes = " / ".join(f"{n:,}" for n in found.sizes)
        size = decimal(found.n_bytes) if found.n_bytes else ""
        view.add_row(name, found.title, sizes, found.state, size, found.where)
    new_console().print(view)


@data.command("prepare")
@click.argument("name")
@click.option(
    "--source",
    metavar="FILE",
    help="Which of its sources, by first file; see the message of a missing set.",
)
def data_prepare(name: str, source: str | None) -> None:
    """Download (checksummed, resumable) or convert what a data set needs."""
    from nfbench.data.manage import prepare

    click.echo(f"{name}: ready in {prepare(name, source=source)}")


@data.command("verify")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def data_verify(names: tuple[str, ...]) -> None:
    """Read data sets whole, check sizes and values, and print their fingerprints.

    A fingerprint is a hash of the rows as flows get them. Records name theirs, so that numbers can
    be told to be of the same data; where that of a source is known, it must be found again.
    """
    from nfbench.data.manage import find_dataset, verify

    for name in names:
        found, dataset = verify(name), find_dataset(name)
        rows = " / ".join(f"{n:,}" for n in dataset.sizes)
        known = "as known" if found in dataset.known.values() else "none is known to compare with"
        click.echo(f"{name}: whole, train / val / test {rows}; fingerprint {found} ({known})")
