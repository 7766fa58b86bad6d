"""The parts of a run that was resumed: by which sources and on what each of them was made.

Neighbours that were made alike are one part. Imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nfbench.record import KEYS

Part = dict[str, Any]
SPAN = ("started", "step")  # when a part began and where it ended, not how it was made
ON = ("device", "threads", "world_size", "compiled")


def parts_of(state: Mapping[str, Any]) -> list[Part]:
    """The parts up to a checkpoint; what it does not say is null, and all of it in an old one."""
    found = state.get("parts", [{"step": state["step"]}])
    return [{key: part.get(key) for key in KEYS["earlier"].split()} for part in found]


def join(parts: Iterable[Part]) -> list[Part]:
    """The parts with neighbours that were made alike as one, from the first start on."""
    joined: list[Part] = []
    for part in parts:
        if joined and made(joined[-1]) == made(part):
            part = part | {"started": joined.pop()["started"]}
        joined.append(part)
    return joined


def made(part: Part) -> Part:
    """How a part was made."""
    return {key: value for key, value in part.items() if key not in SPAN}


def summary(parts: Sequence[Part]) -> dict[str, Any]:
    """What the provenance of a record says of them: the last one, and the earlier if there are.

    A run started when its first part did, as far as is known.
    """
    *earlier, last = parts
    found = made(last) | {"started": next(p["started"] for p in parts if p["started"])}
    return found | {"earlier": earlier} if earlier else found


def all_parts(origin: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parts that the provenance of a record names, its last one as itself."""
    return [*origin.get("earlier", []), origin]


def resumed(origin: Mapping[str, Any]) -> str:
    """The earlier parts in words, by their ends and by what they do not share with the last."""
    return "; ".join(
        f"until step {part['step']}: {', '.join(differences(part, origin))}"
        for part in origin.get("earlier", [])
    )


def differences(part: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    """The commit of a part, and in what else it differs from the last one."""
    ours, theirs = (
        {name: each[name] for name in ON} | (each["versions"] or {}) for each in (part, last)
    )
    others = {name: value for name, value in ours.items() if value != theirs.get(name)}
    commit = f"commit {known(part['git'])}{' with changes' if part['dirty'] else ''}"
    return [commit, *(f"{name.replace('_', ' ')} {known(v)}" for name, v in others.items())]


def known(value: object) -> object:
    """A value in words: what is null is unknown."""
    return "unknown" if value is None else value
