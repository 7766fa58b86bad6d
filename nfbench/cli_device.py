"""The options that say where to compute."""

import click

from nfbench.errors import UsageError

DEVICES = ("auto", "cpu", "cuda")


def check_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The name of a kind of device, whether it is here or not; a cluster's nodes have others."""
    if value not in DEVICES:
        raise UsageError(f"--device: expected one of {', '.join(DEVICES)}; got {value!r}")
    return value


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=check_device,
    help="Where to compute: cpu, cuda, or auto, which is a GPU if there is one.",
)
threads_option = click.option(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="CPU threads of a cell.",
)
