"""What the command line does with data sets: tell their state, provide their files, check them."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from nfbench.errors import UsageError

from . import DATA
from .dataset import Dataset, MissingDataError, Source, data_root, fingerprint
from .files import peek


@dataclass(frozen=True)
class Status:
    """The state of a data set on this machine; `n_bytes` on disk, 0 for generated sets.

    `where` names its first file, from the data root on, and counts the others.
    """

    name: str
    title: str
    sizes: tuple[int, int, int]
    state: Literal["ready", "missing", "corrupt"]
    where: str
    n_bytes: int


def find_dataset(name: str) -> Dataset:
    """The data set of this name; `UsageError` names the nearest one."""
    if name not in DATA:
        nearest = difflib.get_close_matches(name, DATA, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UsageError(f"unknown data set {name!r}{hint} (data sets: {', '.join(DATA)})")
    return DATA[name]


def status(name: str, root: Path | None = None) -> Status:
    """Whether the files are there and open; reads next to nothing of them."""
    dataset, root = find_dataset(name), root or data_root()
    row = (dataset.name, dataset.title, dataset.sizes)
    if not dataset.sources:
        return Status(*row, "ready", "generated", 0)
    try:
        source = dataset.find(root)
    except MissingDataError:
        return Status(*row, "missing", dataset.sources[0].names[0], 0)
    paths, where = source.paths(root), source.names[0]
    where += f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    n_bytes = sum(path.stat().st_size for path in paths)
    try:
        for path in paths:
            peek(path)
    except UsageError:
        return Status(*row, "corrupt", where, n_bytes)
    return Status(*row, "ready", where, n_bytes)


def prepare(
    name: str, root: Path | None = None, *, source: str | None = None, progress: bool = True
) -> Path:
    """Have the files of a data set, whole: download, unpack and convert what is not there yet.

    `source` is the first file of the source wanted; by default any that is there will do, else
    the preferred one is downloaded. Returns the first file, or the data root for generated sets.
    Raises `UsageError` where a download fails, `MissingDataError` where none is known.
    """
    dataset, root = find_dataset(name), root or data_root()
    if not dataset.sources:
        return root
    chosen = _choose(dataset, source, root)
    if not chosen.is_in(root):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".prepare.lock"):
            # Another process may have provided it while this one waited.
            if not chosen.is_in(root):
                _provide(chosen, root, progress=progress)
    for path in chosen.paths(root):
        peek(path)
    _check_hashes(chosen, root)
    return chosen.paths(root)[0]


def verify(name: str, root: Path | None = None) -> str:
    """Load and check everything: recorded hashes, shapes, values, known fingerprint.

    Returns the fingerprint of the splits (seed 0); raises `UsageError` on the first thing wrong.
    """
    dataset, root = find_dataset(name), root or data_root()
    if dataset.sources:
        _check_hashes(dataset.find(root), root)
    splits = dataset.load(root)
    got, expected = fingerprint(splits), dataset.known.get(splits.source)
    if expected not in (None, got):
        raise UsageError(
            f"{name}: expected the fingerprint {expected} from {splits.source}, got {got}; "
            "the preprocessing or numpy's random stream is not what it was"
        )
    return got


def _choose(dataset: Dataset, first_file: str | None, root: Path) -> Source:
    if first_file is not None:
        for source in dataset.sources:
            if source.names[0] == first_file:
                return source
        files = ", ".join(source.names[0] for source in dataset.sources)
        raise UsageError(f"{dataset.name}: unknown source {first_file!r} (sources: {files})")
    try:
        return dataset.find(root)
    except MissingDataError:
        for source in dataset.sources:
            if source.is_at_hand(root) or source.is_served:
                return source
        raise


def _provide(source: Source, root: Path, *, progress: bool) -> None:
    from .download import download, extract, record_sha256

    if not source.is_at_hand(root):
        for file in source.downloads:
            if file.url is None:
                raise MissingDataError(
                    f"{source}: put it into {root} by hand; no address serves it"
                )
            download(file.url, root / file.name, file.checksum, progress=progress)
        if source.archive:
            wanted = [file.raw[0] if file.raw else file.name for file in source.files]
            extract(root / source.archive.name, source.prefix, wanted, root)
    for file in source.files:
        path, origin = root / file.name, file.origin(root)
        if file.convert and origin and origin != path:
            file.convert(origin, path)
            record_sha256(path)


def _check_hashes(source: Source, root: Path) -> None:
    from .download import check_hash, recorded_sha256

    for file in source.files:
        path = root / file.name
        if recorded := recorded_sha256(path):
            check_hash(path, f"sha256:{recorded}")
        if file.checksum:
            check_hash(path, file.checksum)
