"""Under which conditions times were taken; those of others are no seeds of the same number."""

from collections.abc import Iterable, Mapping
from typing import Any

from nfbench.record import Record


def conditions(measured: Record) -> str:
    """Device, threads and precision of a record's speed, in words.

    Of what a run measured itself it names the kind of device alone, which was the run's.
    """
    speed: Mapping[str, Any] = measured.speed
    device = (speed if "precision" in speed else measured.provenance)["device"]
    # Densities and samples, unlike training, are always in it.
    return f"{device}, threads {speed.get('threads')}, {speed.get('precision', 'float32')}"


def alike(records: Iterable[Record], name: str) -> tuple[str, list[Record]]:
    """Conditions and the records whose number `name` of the speed was taken under them.

    The conditions of the most records, by their words where two have as many; none without one.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.speed.get(name) is not None:
            groups.setdefault(conditions(record), []).append(record)
    return min(groups.items(), key=lambda group: (-len(group[1]), group[0]), default=("", []))
