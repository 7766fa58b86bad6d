"""`nfbench sample`: what trained weights make of noise, and of real images."""

import click

from nfbench.cli_device import device_option


@click.command()
@click.argument("target", metavar="RUN|CHECKPOINT")
@click.option("--n", default=64, show_default=True, help="How many samples.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    help="Scale of the noise: 1 samples the model, less makes samples more alike and cleaner.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Of the noise and of the choice of test images.",
)
@click.option("--label", type=int, help="Samples of this class, of a flow that is given labels.")
@device_option
def sample(
    target: str, n: int, temperature: float, seed: int, label: int | None, device: str
) -> None:
    """Draw samples of trained weights, and real images by way of the noise.

    RUN is TABLE/ROW/CELL, with /SEED unless it is 0, or a run's folder, whose best weights so far
    are taken; CHECKPOINT is a file best.pt or last.pt. What is drawn goes to the folder samples/
    beside them, and its path is printed. Of images these are PNG files, each a grid:

    \b
        samples         from the model, at the temperature
        interpolation   from one test image to another, through the noise between them
        reconstruction  test images, what comes back of them, and the difference, magnified
        levels          test images whose fine levels are drawn anew, one more in each column

    The last is of flows in several scales, as glow_image. Of vectors there are samples as .npy
    and, in two dimensions, a figure. The names of files say what they depend on, so that those
    of other seeds and temperatures stay.

    \b
        nfbench sample demo/maf/moons --n 5000
        nfbench sample runs/demo/maf/digits/0 --temperature 0.7 --seed 1
    """
    from nfbench.pages import Request
    from nfbench.sampling import sample as draw

    for line in draw(target, Request(n, temperature, seed, label), device=device):
        click.echo(line)
