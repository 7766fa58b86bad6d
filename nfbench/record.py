"""Records: what one run gave, as JSON in git; and the path algebra, in which the path is the name.

    experiments/<table>/<row>.yaml            what is claimed
    results/<table>/<row>/<cell>/<seed>.json  what a run gave
    runs/<table>/<row>/<cell>/<seed>/         its checkpoints and curves

A record that exists is a cell that is done; its file carries the hash of its content. One of a
run that was resumed elsewhere says so in its provenance (`earlier`), which others do not have.
"""

import hashlib
import math
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, cast

from filelock import FileLock

from nfbench.atomic import replacing
from nfbench.errors import UsageError, check_keys, expect
from nfbench.seal import MEND, config_hash, seal, sealed_text, values_of

VERSION = 2
LIKELIHOODS = ("exact", "estimate", "lower bound")
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
KEYS = {
    "experiment": "table row cell seed config config_hash overrides deviations reduced",
    "model": "n_parameters best_step steps stop_reason",
    "data": "name source n_train n_val n_test fingerprint",
    "provenance": "git dirty versions device precision world_size threads seconds"
    " compiled peak_memory_bytes command started finished",
    "earlier": "git dirty versions device world_size threads compiled started step",
    "failure": "kind step batch message checkpoint",
}


class Named(Protocol):
    """Anything that has a place in the tree: an experiment, a record."""

    @property
    def table(self) -> str:
        """The name of its table."""

    @property
    def row(self) -> str:
        """The name of its row."""

    @property
    def cell(self) -> str:
        """The name of its cell."""

    @property
    def seed(self) -> int:
        """Its seed, a non-negative integer."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """Its command-line overrides, `section.key=value` each."""


@dataclass(frozen=True)
class Record:
    """What one run gave. Log-likelihoods are in nats; a failed record carries no metrics.

    Raises:
        UsageError: a section or a value that a record cannot hold.
    """

    status: str
    experiment: dict[str, Any]
    metrics: dict[str, Any]
    likelihood: dict[str, Any]
    audit: dict[str, Any]
    speed: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    provenance: dict[str, Any]
    failure: dict[str, Any] | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        check_version(self.version)
        expect(self.status in ("done", "failed"), f"status: got {self.status!r}")
        for field in fields(self):
            section = getattr(self, field.name)
            if field.name not in ("version", "status", "failure"):
                expect(isinstance(section, dict), f"{field.name}: expected an object")
        check_keys("experiment", self.experiment, KEYS["experiment"])
        check_keys("provenance", self.provenance, KEYS["provenance"], optional="earlier")
        check_earlier(self.provenance.get("earlier", []))
        overrides = self.experiment["overrides"]
        expect(isinstance(overrides, list | tuple), f"overrides: got {overrides!r}")
        check_address(self)
        if self.status == "done":
            self._check_done()
        else:
            expect(not self.metrics, "metrics: a failed record carries none")
            expect(isinstance(self.failure, dict), "failure: a failed record says why")
            check_keys("failure", self.failure or {}, KEYS["failure"])

    def _check_done(self) -> None:
        expect(self.failure is None, "failure: a record that is done carries none")
        check_keys("model", self.model, KEYS["model"])
        check_keys("data", self.data, KEYS["data"])
        kind = self.likelihood.get("kind")
        expect(kind in LIKELIHOODS, f"likelihood.kind: expected {LIKELIHOODS}, got {kind!r}")
        for key in ("test/log_likelihood", "test/log_likelihood_se", "test/n"):
            expect(self.metrics.get(key) is not None, f"metrics.{key}: missing")
        for key, value in self.metrics.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            finite = value is None or (number and math.isfinite(value))
            expect(finite, f"metrics.{key}: expected a finite number, got {value!r}")

    @property
    def table(self) -> str:
        """The name of its table."""
        return cast(str, self.experiment["table"])

    @property
    def row(self) -> str:
        """The name of its row."""
        return cast(str, self.experiment["row"])

    @property
    def cell(self) -> str:
        """The name of its cell."""
        return cast(str, self.experiment["cell"])

    @property
    def seed(self) -> int:
        """Its seed, a non-negative integer."""
        return cast(int, self.experiment["seed"])

    @property
    def overrides(self) -> tuple[str, ...]:
        """Its command-line overrides, `section.key=value` each."""
        return tuple(self.experiment["overrides"])


def check_earlier(parts: Any) -> None:
    """Raises `UsageError` unless these are the parts of a run before its last one."""
    expect(isinstance(parts, list), f"provenance.earlier: expected a list, got {parts!r}")
    for number, part in enumerate(parts):
        check_keys(f"provenance.earlier[{number}]", part, KEYS["earlier"])


def check_version(version: object) -> None:
    """Raises `UsageError` unless records of this version are read here."""
    expect(version == VERSION, f"version: expected {VERSION}, got {version!r}")


def check_hash(record: Record) -> None:
    """Raises `UsageError` unless the hash of the settings is that of the settings."""
    given, found = record.experiment["config_hash"], config_hash(record.experiment["config"])
    expect(given == found, f"config_hash: expected {found}, of its settings, got {given!r}")


def check_seal(given: object, values: dict[str, Any]) -> None:
    """Raises `UsageError` unless a seal is that of the values."""
    expect(given == seal(values), f"sha256: its content was changed since it was written; {MEND}")


def check_address(named: Named) -> None:
    """Raises `UsageError` unless table, row and cell are names and the seed is one of torch."""
    for key in ("table", "row", "cell"):
        name = getattr(named, key)
        good = isinstance(name, str) and NAME.fullmatch(name) is not None
        expect(good, f"{key}: expected lower case letters, digits and _, got {name!r}")
    good = type(named.seed) is int and 0 <= named.seed < 2**63
    expect(good, f"seed: expected a non-negative integer below 2^63, got {named.seed!r}")


def find_root() -> Path:
    """The folder that holds experiments/, results/ and runs/.

    NFBENCH_ROOT, else the nearest folder from here upwards with an experiments/ in it, else the
    repository that the package sits in.

    Raises:
        UsageError: there is none of the three.
    """
    named = os.environ.get("NFBENCH_ROOT")
    if named:
        expect(Path(named).is_dir(), f"NFBENCH_ROOT: expected a folder, got {named!r}")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "experiments").is_dir():
            return folder
    raise UsageError(f"no experiments/ in {here} or above it; set NFBENCH_ROOT to the repository")


def run_dir(named: Named, root: Path | None = None) -> Path:
    """Where a run keeps its checkpoints, curves and logs."""
    check_address(named)
    folder = (root or find_root()) / f"runs/{named.table}/{named.row}/{named.cell}"
    if not named.overrides:
        return folder / str(named.seed)
    digest = hashlib.sha256("\n".join(named.overrides).encode()).hexdigest()
    return folder / f"{named.seed}-{digest[:8]}"


def run_names(target: str, root: Path) -> tuple[str, ...]:
    """The names TABLE, ROW, CELL and perhaps the folder's of a run, given so or as its path."""
    runs, path = (root / "runs").resolve(), Path(target)
    if path.resolve().is_relative_to(runs):
        return path.resolve().relative_to(runs).parts
    return path.parts[1:] if path.parts[:1] == ("runs",) else path.parts


def record_path(named: Named, root: Path | None = None) -> Path:
    """Where the record of a run stands; one with overrides never touches results/."""
    check_address(named)
    if named.overrides:
        return run_dir(named, root) / "record.json"
    place = f"{named.table}/{named.row}/{named.cell}/{named.seed}.json"
    return (root or find_root()) / "results" / place


def write_atomic(path: Path, text: str) -> None:
    """Writes `text`; a reader, or a crash, meets the old file or the new one, nothing between."""
    with replacing(path) as file:
        file.write(text.encode())


def write(record: Record, root: Path | None = None) -> Path:
    """Writes a record to its place, in place of nothing or of a failed one.

    Raises:
        UsageError: a finished record stands there, or a value is not JSON (NaN is not).
    """
    path, directory = record_path(record, root), run_dir(record, root)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "record.lock"):
        if path.exists() and read(path).status == "done":
            raise UsageError(
                f"{path}: a finished record stands here; move it away to run this cell again"
            )
        save(record, path)
    return path


def save(record: Record, path: Path) -> None:
    """Writes a record's file, sealed.

    Raises:
        UsageError: a value is not JSON.
    """
    try:
        text = sealed_text(asdict(record))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    write_atomic(path, text)


def amend(record: Record, root: Path | None = None, **sections: dict[str, Any]) -> Path:
    """Puts what was found anew of the same weights, an audit or their speed, into a record.

    All other sections stay as its file has them.

    Raises:
        UsageError: its file is of another run by now.
    """
    path = record_path(record, root)
    with FileLock(run_dir(record, root) / "record.lock"):
        found = read(path)
        same = found.provenance["finished"] == record.provenance["finished"]
        expect(same, f"{path}: expected the record of the same run, got another one")
        save(replace(found, **cast(Any, sections)), path)
    return path


def read(path: Path) -> Record:
    """Reads one record, strictly.

    Raises:
        UsageError: no such file, not JSON, another version, a missing or unknown key, no number,
            or a content of another path, other settings than its hash's, or changed since.
    """
    try:
        values = values_of(path)
        check_version(values.get("version"))
        wrong = set(values) ^ {"sha256", *(field.name for field in fields(Record))}
        expect(not wrong, f"missing or unknown sections: {', '.join(sorted(wrong))}")
        sealed = values.pop("sha256")
        record = Record(**values)
        place = record_path(record, Path()).parts
        expect(path.absolute().parts[-len(place) :] == place, f"its content is {'/'.join(place)}")
        check_hash(record)
        check_seal(sealed, values)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}") from error
    return record
