"""`nfbench compare`: two rows on the same test points."""

import click


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
def compare(first: str, second: str) -> None:
    """Compare two rows on the same test points, which tells more than their two means.

    RUN is TABLE/ROW/CELL, for all its finished seeds, or TABLE/ROW/CELL/SEED. The difference is
    taken point by point, from the log-likelihoods that runs keep beside their checkpoints; its
    standard error over the test points and the one over training runs stay apart.

    \b
        nfbench compare demo/maf/moons demo/realnvp/moons
    """
    from nfbench import comparison

    for line in comparison.lines(comparison.compare(first, second)):
        click.echo(line)
