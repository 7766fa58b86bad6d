"""From an entry to the words and numbers that a table shows of it."""

from collections.abc import Mapping, Sequence
from functools import partial

from nfbench.catalog import Column, Extra
from nfbench.outliers import unseen
from nfbench.soundness import SOUND
from nfbench.verdict import Entry

MARKS = {
    "reproduced": "✓",
    "better": "▲",
    "short": "▼",
    "inconclusive": "≈",
    "reduced budget": "◐",
    "stale": "?",
    "failed": "✗",
    "missing": "·",
}
DAGGER = "†"  # beside a number that no audit supports
DOUBLE_DAGGER = "‡"  # beside a mean that a single test point carries


def remarks(entry: Entry) -> list[str]:
    """What is said of an entry: its reduced budget, its outliers, then its deviations."""
    reduced = [f"reduced budget: {entry.experiment.reduced}"] if entry.experiment.reduced else []
    unknown = [] if entry.gap is None else unseen(entry.records)
    return [*reduced, *entry.outliers, *unknown, *entry.experiment.deviations]


def remark(entry: Entry) -> str:
    """The remarks in one line, parted by bars, since they have semicolons of their own."""
    return " | ".join(remarks(entry))


def mark(entry: Entry) -> str:
    """The mark of an entry's verdict, or nothing where the verdict has none."""
    return MARKS.get(entry.verdict.partition(":")[0], "")


def dagger(entry: Entry) -> str:
    """The mark of a number whose runs were not audited, or whose audit found a fault."""
    return DAGGER if entry.audited and entry.audited.finding != SOUND else ""


def double_dagger(entry: Entry) -> str:
    """The mark of a mean that a single test point carries."""
    return DOUBLE_DAGGER if entry.outliers else ""


def warned(entry: Entry, ours: str) -> str:
    """Our number as it is shown, with the marks of what speaks against it."""
    return f"{ours}{dagger(entry)}{double_dagger(entry)}"


def brief(entry: Entry) -> str:
    """An entry in the overview: our number, its mark, and the paper's number in brackets."""
    reported = entry.experiment.reported
    paper = f"({number(entry.column, reported.value)})" if reported else ""
    ours = warned(entry, number(entry.column, entry.ours))
    return " ".join(filter(None, [ours, mark(entry), paper]))


def line(
    entry: Entry,
    notes: Sequence[str],
    extra: Mapping[str, Extra],
    *,
    published: bool,
    exact: bool,
) -> dict[str, str]:
    """One entry, heading -> text; columns of the paper only where something is published.

    `exact` for numbers in full, and the notes themselves in place of which of them they are.
    """
    show = partial(number, entry.column, exact=exact)
    reported = entry.experiment.reported
    paper = {
        "paper": show(reported.value) if reported else "",
        "paper's ±": show(reported.uncertainty) if reported else "",
        "gap": show(entry.gap, sign="+"),
    }
    cited = sorted(notes.index(note) + 1 for note in remarks(entry))
    return {
        "row": entry.experiment.row,
        "cell": entry.experiment.cell,
        "ours": show(entry.ours),
        "± test points": show(entry.points),
        "± seeds": show(entry.seeds),
        "seeds": str(entry.n_seeds or ""),
        **(paper if published else {}),
        **further(entry, extra, exact=exact),
        "verdict": entry.verdict,
        "likelihood": entry.likelihood,
        **checks(entry),
        "notes": remark(entry) if exact else ", ".join(map(str, cited)),
    }


def further(entry: Entry, extra: Mapping[str, Extra], *, exact: bool = False) -> dict[str, str]:
    """The further numbers of an entry, heading -> text."""
    return {
        each.heading: number(each, entry.extra.get(name), exact=exact)
        for name, each in extra.items()
    }


def summed_up(entries: Sequence[Entry], extra: Mapping[str, Extra]) -> dict[str, str]:
    """The further numbers of a row, heading -> text: the least and the greatest of its cells."""
    return {each.heading: extent(entries, name, each) for name, each in extra.items()}


def extent(entries: Sequence[Entry], name: str, extra: Extra) -> str:
    """The least and the greatest of a further number, one if they read the same."""
    found = sorted(value for e in entries if (value := e.extra.get(name)) is not None)
    if not found:
        return "·"
    return " to ".join(dict.fromkeys(number(extra, value) for value in (found[0], found[-1])))


def checks(entry: Entry) -> dict[str, str]:
    """The audit of an entry, heading -> text: its finding, its errors, samples and passes."""
    found = entry.audited
    if found is None or found.passes is None:
        return {"audit": found.finding if found else "", "errors": "", "samples": "", "passes": ""}
    return {
        "audit": found.finding,
        "errors": f"{measured(found.log_det_error, '.0e')} / {measured(found.round_trip, '.0e')}",
        "samples": f"{measured(found.mass, '.3f')} / {measured(found.distance, '.2f')}",
        "passes": " / ".join(map(str, found.passes)),
    }


def measured(value: float | None, form: str) -> str:
    """A number in this form, or a dash."""
    return "-" if value is None else f"{value:{form}}"


def number(
    column: Column | Extra, value: float | None, *, sign: str = "-", exact: bool = False
) -> str:
    """A value to the decimals of its column, or in full if `exact`; None is empty."""
    if value is None:
        return ""
    return repr(value) if exact else f"{value:{sign}z.{column.decimals}f}"
