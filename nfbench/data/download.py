"""Downloads: resumed where they stopped, checked before they get their name."""

import os
import shutil
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from rich.console import Console
from rich.progress import (
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from nfbench.atomic import replacing
from nfbench.errors import UsageError

from .files import reading

BLOCK_BYTES = 2**14  # what a dropped connection loses at most
TIMEOUT_SECONDS = (10, 60)  # to connect, between two blocks


@dataclass(frozen=True)
class ResumingDownloader:
    """A pooch downloader that keeps what it has in `part` and continues from there.

    It gives up after `n_tries` requests in a row that brought nothing, `pause_seconds` apart, and
    leaves the part for the next call.
    """

    part: Path
    progress: bool = True
    n_tries: int = 5
    pause_seconds: float = 2.0

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        """Download `url` to the part, then move it to `output_file`, as pooch asks.

        Raises:
            UsageError: the server refuses, or `n_tries` requests in a row brought nothing.
        """
        bar = Progress(
            *Progress.get_default_columns()[:2],
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self.progress,
        )
        with bar:
            self._finish(url, bar, bar.add_task(self.part.stem, total=None))
        os.replace(self.part, output_file)

    def _finish(self, url: str, bar: Progress, task: TaskID) -> None:
        n_failed = 0
        while True:
            n_before = self._n_bytes()
            try:
                return self._request(url, bar, task)
            except requests.RequestException as error:
                n_failed = 0 if self._n_bytes() > n_before else n_failed + 1
                if n_failed == self.n_tries or _is_final(error):
                    raise UsageError(
                        f"{url}: the download stopped after {self._n_bytes()} bytes ({error}); "
                        f"they are kept in {self.part}, and the same command continues from there"
                    ) from error
                time.sleep(self.pause_seconds)

    def _request(self, url: str, bar: Progress, task: TaskID) -> None:
        n_bytes = self._n_bytes()
        # A compressed answer would count other bytes than the range asks for.
        headers = {"Accept-Encoding": "identity"}
        if n_bytes:
            headers["Range"] = f"bytes={n_bytes}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.headers.get("Content-Range") == f"bytes */{n_bytes}":
                return
            response.raise_for_status()
            is_rest = response.status_code == requests.codes.partial_content
            n_bytes = n_bytes if is_rest else 0
            length = int(response.headers.get("Content-Length", 0))
            bar.update(task, completed=n_bytes, total=n_bytes + length if length else None)
            with self.part.open("ab" if is_rest else "wb") as file:
                for block in response.iter_content(BLOCK_BYTES):
                    file.write(block)
                    bar.advance(task, len(block))
                file.flush()
                os.fsync(file.fileno())

    def _n_bytes(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0


def _is_final(error: requests.RequestException) -> bool:
    """Whether the server said no, where asking again would not help."""
    return error.response is not None and error.response.status_code < 500


def download(url: str, path: Path, checksum: str | None, *, progress: bool = True) -> None:
    """Have `url` at `path`, unless it is there, and its SHA-256 beside it.

    `checksum` is "sha256:..." or "md5:..."; without one the first download is trusted, and what
    its SHA-256 was then is what later ones have to have. Raises `UsageError` on another file than
    that, which is deleted, and where the network gives up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recorded = recorded_sha256(path)
    checksum = checksum or (recorded and f"sha256:{recorded}")
    fetch = ResumingDownloader(path.with_name(f"{path.name}.part"), progress)
    try:
        pooch.retrieve(url, checksum, path.name, path.parent, downloader=fetch)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(
            f"{path}: the download from {url} is not the file expected and was deleted: {error}"
        ) from error
    record_sha256(path)


def extract(archive: Path, prefix: str, files: Sequence[str], root: Path) -> None:
    """Lay `files` of a tar, found there below `prefix`, down below `root`; nothing else."""
    missing = {prefix + file: root / file for file in files}
    with reading(archive), tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name in missing else None
            if content is not None:
                path = missing.pop(member.name)
                with content, replacing(path) as file:
                    shutil.copyfileobj(content, file)
                record_sha256(path)
            if not missing:
                return
    raise UsageError(f"{archive}: expected the members {sorted(missing)}, found none of that name")


def sidecar(path: Path) -> Path:
    """The file beside `path` with its SHA-256, as `sha256sum` writes and checks it."""
    return path.with_name(f"{path.name}.sha256")


def record_sha256(path: Path) -> None:
    """Write the SHA-256 of `path`, computed now, to its sidecar."""
    with replacing(sidecar(path)) as file:
        file.write(f"{pooch.file_hash(path)}  {path.name}\n".encode())


def recorded_sha256(path: Path) -> str | None:
    """What the sidecar says; None without one."""
    if not sidecar(path).is_file():
        return None
    with reading(sidecar(path)):
        return sidecar(path).read_text().split()[0]


def check_hash(path: Path, checksum: str) -> None:
    """Refuse a file whose hash is not "sha256:..." or "md5:..."."""
    algorithm, expected = checksum.split(":")
    if (got := pooch.file_hash(path, alg=algorithm)) != expected:
        raise UsageError(
            f"{path}: expected {algorithm} {expected}, got {got}; this is not the file it was: "
            "delete it and provide it again"
        )
