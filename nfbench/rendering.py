"""Where tables are rendered to: a page of their own, and a part of the README.

The README's part stands between `<!-- nfbench table NAME -->` and `<!-- end -->`.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from nfbench import tables
from nfbench.archive import faults
from nfbench.errors import UsageError
from nfbench.record import find_root, write_atomic
from nfbench.tables import View

PART = "(<!-- nfbench table {name} -->\n).*?(<!-- end -->)"


def rendered(view: View) -> Iterator[tuple[Path, str]]:
    """The files that show a table, with what the records give for their whole text."""
    name, root = view.table.name, view.table.root
    yield root / "results" / f"{name}.md", tables.markdown(view)
    readme = root / "README.md"
    part = re.compile(PART.format(name=re.escape(name)), re.DOTALL)
    if readme.exists() and part.search(text := readme.read_text(encoding="utf-8")):
        shown = f"\n{tables.headline(view)}\n\n"
        yield readme, part.sub(lambda found: found[1] + shown + found[2], text)


def write(view: View) -> Path:
    """Renders results/<name>.md and the README's part of a table; returns the former."""
    pages = dict(rendered(view))
    for path, text in pages.items():
        write_atomic(path, text)
    return next(iter(pages))


def check(name: str, root: Path | None = None) -> None:
    """Checks a table's records, and compares its rendered files with what the records give.

    Raises:
        UsageError: a record is at fault (each is named), or a file differs or is not there; the
            message is then the difference.
    """
    root = root or find_root()
    if found := list(faults(name, root)):
        raise UsageError("\n".join([f"{name}: {len(found)} at fault in its records", *found]))
    for path, today in rendered(tables.build(name, root)):
        compare(path, today, root, f"nfbench table {name}")


def compare(path: Path, today: str, root: Path, command: str) -> None:
    """Raises `UsageError`, with the difference, unless a file is what the command would render."""
    place = path.relative_to(root).as_posix()
    committed = path.read_text(encoding="utf-8") if path.exists() else ""
    if committed != today:
        lines = difflib.unified_diff(
            committed.splitlines(), today.splitlines(), place, "the records", lineterm="", n=1
        )
        message = f"{place} is not what the records give; run `{command}`"
        raise UsageError("\n".join([message, *lines]))
