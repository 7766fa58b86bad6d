"""W&B's transaction log, `run-<id>.wandb`: what a run logged, read without W&B's own machinery.

The file is `:W&B`, a magic number and a version (7 bytes), then LevelDB's framing: blocks of 32
KiB, in which a record is one chunk or several; a chunk is a CRC-32 of type and data, the length
of the data, the type (1 whole, 2 first, 3 middle, 4 last) and the data, a protobuf Record.

Imports no torch.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfbench.atomic import replacing
from nfbench.errors import UsageError

HEADER = struct.Struct("<4sHB")
START = HEADER.pack(b":W&B", 0xBEE1, 0)
CHUNK = struct.Struct("<IHB")
BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class Logged:
    """What a log says of its run; ``exit_code`` is None if it was never finished.

    ``staged`` are the files of its artifacts that lie outside the run's folder, as absolute
    paths, and ``end`` is where the last whole record ends, in bytes.
    """

    path: Path
    id: str = ""
    entity: str = ""
    project: str = ""
    group: str = ""
    name: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    started: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    staged: list[Path] = field(default_factory=list)
    preempted: bool = False
    exit_code: int | None = None
    end: int = 0


def read_log(path: Path) -> Logged:
    """Everything up to the last whole record.

    Raises:
        UsageError: no file of W&B, or a record that is none.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2 as protocol

    logged = Logged(path)
    for logged.end, data in raw_records(path):
        record = protocol.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(data)
        except DecodeError as error:
            raise UsageError(f"{path}: before byte {logged.end}: no record: {error}") from error
        take(logged, record)
    return logged


def raw_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each whole record ends, and its bytes; stops where the file is cut or spoilt.

    Raises:
        UsageError: another kind of file.
    """
    content = path.read_bytes()
    if not content.startswith(START):
        raise UsageError(f"{path}: expected a log of W&B, got {content[: len(START)]!r}")
    position, parts = len(START), list[bytes]()
    while True:
        left = BLOCK - position % BLOCK
        if left < CHUNK.size or content[position + 6 : position + 7] == b"\0":
            position += left  # the rest of a block is padding
        if position + CHUNK.size > len(content):
            return
        checksum, length, kind = CHUNK.unpack_from(content, position)
        data = content[position + CHUNK.size : position + CHUNK.size + length]
        if len(data) < length or zlib.crc32(bytes([kind]) + data) != checksum:
            return
        position += CHUNK.size + length
        parts = [data] if kind in (WHOLE, FIRST) else [*parts, data]
        if kind in (WHOLE, LAST):
            yield position, b"".join(parts)


def take(logged: Logged, record: Any) -> None:
    """Add a record to what is known of the run."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run = record.run
        logged.id, logged.entity, logged.project = run.run_id, run.entity, run.project
        logged.group, logged.name, logged.job_type = run.run_group, run.display_name, run.job_type
        logged.tags, logged.started = tuple(run.tags), run.start_time.ToNanoseconds() / 1e9
        logged.config |= items(run.config.update)
    elif kind == "config":
        logged.config |= items(record.config.update)
    elif kind == "summary":
        logged.summary |= items(record.summary.update)
        for item in record.summary.remove:
            logged.summary.pop(key_of(item), None)
    elif kind == "history":
        logged.history.append(items(record.history.item))
    elif kind == "artifact":
        manifest = record.artifact.manifest
        paths = [*(each.local_path for each in manifest.contents), manifest.manifest_file_path]
        logged.staged += [Path(path) for path in paths if path]
    elif kind == "preempting":
        logged.preempted = True
    elif kind == "exit":
        logged.exit_code = record.exit.exit_code


def items(found: Any) -> dict[str, Any]:
    """Keys and values of the items of a record; nested keys are joined by dots."""
    return {key_of(item): value_of(item) for item in found}


def key_of(item: Any) -> str:
    """The key of an item."""
    return ".".join(item.nested_key) or item.key


def value_of(item: Any) -> Any:
    """The value of an item, which is JSON; or typed, where a setting of W&B has it so."""
    typed = "value" in item.DESCRIPTOR.oneofs_by_name
    kind = (item.WhichOneof("value") if typed else None) or "value_json"
    if kind == "none":
        return None
    value = getattr(item, kind)
    return json.loads(value) if kind in ("json", "value_json") else value


def heal(path: Path) -> bool:
    """Cut a log behind its last whole record; tell whether there was anything to cut.

    What a killed process has half written keeps W&B from ever taking the log for synced.
    """
    end = max((end for end, _ in raw_records(path)), default=len(START))
    content = path.read_bytes()
    if len(content) == end:
        return False
    with replacing(path) as file:
        file.write(content[:end])
    return True
