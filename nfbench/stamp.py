"""What tells of a figure in results/ what it shows: a hash of its records, in the PNG itself."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from nfbench import tables
from nfbench.archive import files
from nfbench.seal import seal, values_of

KEY = "Source"  # of the text in the PNG
# The end of a figure's name: what `nfbench plot TABLE` is told for it, of which seed it is, and
# whether it shows speeds.
FIGURES = {
    ".png": ("", 0, False),
    "_gap.png": (" --gap", None, False),
    "_speed.png": (" --speed", None, True),
}


def stamp(
    table: str, root: Path, seed: int | None = None, *, speeds: bool = False
) -> dict[str, str]:
    """The text of a figure of those records of a table that are of one seed, or of all.

    Of all the verdicts count too, which a figure shows, and a change of rules can change. Speeds,
    which can be measured again at any time, count where the figure shows them.
    """
    paths = [p for p in files(table, root) if seed is None or p.stem == str(seed)]
    content = hashlib.sha256()
    for path in paths:
        content.update(f"{path.relative_to(root).as_posix()} {shown(path, speeds)}\n".encode())
    if seed is None:
        for entry in tables.build(table, root).entries:
            experiment = entry.experiment
            content.update(f"{experiment.row} {experiment.cell} {entry.verdict}\n".encode())
    return {KEY: f"records {content.hexdigest()[:16]}"}


def shown(path: Path, speeds: bool) -> str:
    """A hash of what figures show of a record, of all of its file if that is damaged."""
    try:
        values = values_of(path)
        unseen = {"sha256"} if speeds else {"sha256", "speed"}
        return seal({key: value for key, value in values.items() if key not in unseen})
    except ValueError:
        return hashlib.sha256(path.read_bytes()).hexdigest()


def outdated(table: str, root: Path) -> Iterator[str]:
    """What is wrong with figures of a table: drawn of other records than there are, or broken."""
    for suffix, (option, seed, speeds) in FIGURES.items():
        path = root / "results" / f"{table}{suffix}"
        if path.exists() and stamped(path) != stamp(table, root, seed, speeds=speeds)[KEY]:
            place = path.relative_to(root).as_posix()
            command = f"nfbench plot {table}{option}"
            yield f"{place} is not drawn from the records that there are; run `{command}`"


def stamped(path: Path) -> str | None:
    """The text that a PNG carries, if it is one and has any."""
    try:
        with Image.open(path) as image:
            return image.info.get(KEY)
    except OSError:  # which an image that is none raises, too
        return None
