"""`nfbench plot`: figures of a table or of a run."""

import click


@click.command()
@click.argument("target")
@click.option("--seed", type=click.IntRange(0), help="Seed of the runs; by default 0.")
@click.option("--speed", "cost", is_flag=True, help="Of a table accuracy against cost instead.")
@click.option("--gap", is_flag=True, help="Of a table our numbers less the published instead.")
def plot(target: str, seed: int | None, cost: bool, gap: bool) -> None:
    """Draw what a table's runs left, or one run, and print where.

    \b
        nfbench plot demo                 densities and samples side by side: results/demo.png
        nfbench plot demo/maf/moons       one run: runs/demo/maf/moons/0/plot.png

    A run's figure shows its density beside the truth, its samples, how it moves noise step by
    step, and its training curve. Its folder is as good a name: runs/demo/maf/moons/0/.

    \b
        nfbench plot demo --speed         accuracy against the cost of a sample, of all seeds, from
                                          what nfbench speed has measured: results/demo_speed.png
        nfbench plot maf2017_table1 --gap our numbers less the published ones, with their errors:
                                          results/maf2017_table1_gap.png
    """
    if gap:
        from nfbench import gaps

        click.echo(gaps.draw(target))
        return
    if cost:
        from nfbench import tradeoff

        click.echo(tradeoff.require(target))
        return
    from nfbench.plots import plot as draw

    click.echo(draw(target, seed))
