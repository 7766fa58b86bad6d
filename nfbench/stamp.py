"""What tells of a figure in results/ which records it shows: a hash of them, in the PNG itself."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nfbench.archive import files

KEY = "Source"  # of the text in the PNG
GALLERY, OTHERS = ".png", ("_gap.png", "_speed.png")  # of one seed, of all seeds


def stamp(table: str, root: Path, seed: int | None = None) -> dict[str, str]:
    """The text of a figure of a table's records, or of those of one seed."""
    paths = [p for p in files(table, root) if seed is None or p.stem == str(seed)]
    content = hashlib.sha256()
    for path in paths:
        content.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return {KEY: f"records {content.hexdigest()[:16]}"}


def outdated(table: str, root: Path) -> Iterator[str]:
    """What is wrong with figures of a table: drawn of other records than there are, or broken."""
    expected = {GALLERY: stamp(table, root, 0)} | dict.fromkeys(OTHERS, stamp(table, root))
    commands = {GALLERY: "", "_gap.png": " --gap", "_speed.png": " --speed"}
    for suffix, text in expected.items():
        path = root / "results" / f"{table}{suffix}"
        if path.exists() and stamped(path) != text[KEY]:
            place = path.relative_to(root).as_posix()
            command = f"nfbench plot {table}{commands[suffix]}"
            yield f"{place} is not drawn from the records that there are; run `{command}`"


def stamped(path: Path) -> str | None:
    """The text that a PNG carries, if it is one and has any."""
    try:
        with Image.open(path) as image:
            return image.info.get(KEY)
    except (OSError, UnidentifiedImageError):
        return None
