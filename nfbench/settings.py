"""Settings in levels, each checked against a dataclass. The only file that knows OmegaConf.

A value is what is written: nothing is filled in, so nothing of the environment reaches a record.
"""

import copy
import difflib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nfbench.errors import UsageError
from nfbench.kinds import spell


@dataclass(frozen=True)
class Level:
    """One level of settings: where it stands, and what precedes its keys in a message."""

    where: str
    prefix: str
    values: Mapping[Any, Any]

    def error(self, key: object, message: str) -> UsageError:
        """An error to raise about `key`, with the file and the full key before the message."""
        return UsageError(f"{self.where}: {self.prefix}{key}: {message}")

    def check(self, known: Iterable[str]) -> None:
        """Checks that every key is known.

        Raises:
            UsageError: an unknown key; it names the nearest known one.
        """
        for key in self.values:
            if key not in known:
                raise self.error(key, f"unknown key{hint(key, known)}")

    def only(self, keys: Iterable[str]) -> "Level":
        """The same level with those of its keys that are in `keys`."""
        return Level(self.where, self.prefix, {k: v for k, v in self.values.items() if k in keys})

    def section(self, key: str) -> "Level":
        """The mapping under `key` as a level, empty where there is none.

        Raises:
            UsageError: another value than a mapping or null.
        """
        values = self.values.get(key)
        if values is not None and not isinstance(values, Mapping):
            raise self.error(key, f"expected a mapping, got {values!r}")
        return Level(self.where, f"{self.prefix}{key}.", values or {})


def hint(name: object, known: Iterable[str], label: str = "known") -> str:
    """How a message about an unknown name ends: the one that may be meant, then all known ones."""
    names = list(known)
    meant = nearest(str(name), names)
    guess = f"; did you mean '{meant}'?" if meant else ""
    return f"{guess} ({label}: {', '.join(names) or 'none'})"


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` begins, abbreviates as lr does learning_rate, or misspells."""
    short = [k for k in known if k.startswith(name) or initials(k) == name] if name else []
    return next(iter(short or difflib.get_close_matches(name, known, n=1)), None)


def initials(name: str) -> str:
    """The first letters of the words of a name."""
    return "".join(word[:1] for word in name.split("_"))


FILLED: dict[tuple[Any, str], dict[str, Any]] = {}  # by what it was filled with


def fill(schema: Any, *levels: Level) -> dict[str, Any]:
    """The fields of a dataclass after every level in turn, as plain values of the declared types.

    Cells have most of their sections in common, and to fill one anew takes milliseconds.

    Raises:
        UsageError: an unknown key, a value of another type, or a field that no level gives.
    """
    key = schema, repr([level.values for level in levels])
    if key not in FILLED:
        FILLED[key] = fill_anew(schema, *levels)
    return copy.deepcopy(FILLED[key])


def fill_anew(schema: Any, *levels: Level) -> dict[str, Any]:
    """What ``fill`` gives."""
    kinds = {f.name: f.type for f in fields(schema)}
    node = copy.deepcopy(blank(schema))
    for level in levels:
        level.check(kinds)
        for key, value in level.values.items():
            if "${" in str(value) or value == "???":
                raise level.error(
                    key, f"nothing is filled in for {value!r}; write the value itself"
                )
            try:
                OmegaConf.update(node, key, value, merge=False)
                kept = node[key]
                json.dumps(plain(kept) if OmegaConf.is_config(kept) else kept, allow_nan=False)
            except (OmegaConfBaseException, ValueError, OverflowError) as error:
                got = "null" if value is None else repr(value)
                message = f"expected {spell(kinds[key])}, got {got}"
                raise level.error(key, message) from error
    for key, kind in kinds.items():
        if OmegaConf.is_missing(node, key):
            raise levels[0].error(key, f"missing; expected {spell(kind)}")
    return plain(node)


@cache
def blank(schema: Any) -> Any:
    """A node of a dataclass's defaults, to copy: to make one takes four times as long."""
    node = OmegaConf.structured(schema)
    OmegaConf.set_readonly(node, False)
    return node


def plain(node: Any) -> dict[str, Any]:
    """A node as dicts, lists and scalars, with nothing resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(node))


def read_yaml(path: Path, root: Path) -> Level:
    """One file as a level.

    Raises:
        UsageError: no such file, malformed YAML, a key given twice, or no mapping.
    """
    where = path.relative_to(root).as_posix()
    try:
        values = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"{where}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected a mapping, got a list")
    return Level(where, "", values)


@cache
def parsed(text: str) -> Any:
    """YAML as plain values, not to be changed: a file is read again for each of its cells."""
    return plain(OmegaConf.load(io.StringIO(text)))


def command_line(overrides: Sequence[str], sections: Iterable[str]) -> Level:
    """`section.key=value` items as a level; values are YAML, and the last of equal keys wins.

    Raises:
        UsageError: an item of another form, or one of no known section.
    """
    values: dict[str, dict[str, Any]] = {}
    level = Level("command line", "", values)
    for item in overrides:
        key, equals, text = item.partition("=")
        section, _, name = key.partition(".")
        if not (equals and name):
            raise level.error(item, "expected section.key=value, as in training.max_steps=100")
        try:
            item_value = plain(OmegaConf.from_dotlist([f"value={text}"]))["value"]
        except (YAMLError, OmegaConfBaseException) as error:
            raise level.error(key, one_line(error)) from error
        values.setdefault(section, {})[name] = item_value
    level.check(sections)
    return level


def one_line(error: Exception) -> str:
    """What an error says, on one line; of malformed YAML the line number and the problem."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(error, 'problem', error)}"
    return " ".join(str(error).split())
