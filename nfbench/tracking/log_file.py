"""W&B's transaction log, `run-<id>.wandb`: what a run logged, read without W&B's own machinery.

The file is `:W&B`, a magic number and a version (7 bytes), then LevelDB's framing: blocks of 32
KiB, in which a record is one chunk or several; a chunk is a CRC-32 of type and data, the length
of the data, the type (1 whole, 2 first, 3 middle, 4 last) and the data, a protobuf Record.

Imports no torch.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfbench.errors import UsageError

HEADER = struct.Struct("<4sHB")
START = HEADER.pack(b":W&B", 0xBEE1, 0)
CHUNK = struct.Struct("<IHB")
BLOCK = 32768
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
STEP = "trainer/global_step"  # the key of Lightning's for the training step of a row


@dataclass
class Logged:
    """What a log says of its run; ``exit_code`` is None if it was never finished.

    ``staged`` are the files of its artifacts that lie outside the run's folder, as absolute
    paths; a log is ``spoilt`` if records before its last one cannot be read.
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
    spoilt: bool = False


def read_log(path: Path) -> Logged:
    """What the whole records say.

    Raises:
        UsageError: no file of W&B, or a record that is none.
    """
    logged = Logged(path)
    for record in records(path):
        if record is None:
            logged.spoilt = True
        else:
            take(logged, record)
    return logged


def records(path: Path) -> Iterator[Any]:
    """Each whole record, and None where some before the next one are spoilt.

    Raises:
        UsageError: no file of W&B, or a record that is none.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2 as protocol

    for data in raw_records(path):
        if data is None:
            yield None
            continue
        record = protocol.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(data)
        except DecodeError as error:
            raise UsageError(f"{path}: expected records of W&B, got another: {error}") from error
        yield record


def raw_records(path: Path) -> Iterator[bytes | None]:
    """The bytes of each whole record, and None where some before the next one are spoilt.

    What cannot be read is left out up to the next block; at the end it is a cut, and no fault.

    Raises:
        UsageError: another kind of file.
    """
    content = path.read_bytes()
    if not START.startswith(content[: len(START)]):  # a process killed early leaves less
        raise UsageError(f"{path}: expected a log of W&B, got {content[: len(START)]!r}")
    position, parts, spoilt = len(START), list[bytes](), False
    while position + CHUNK.size <= len(content):
        end = position + BLOCK - position % BLOCK
        if end - position < CHUNK.size or not any(content[position:end]):
            position = end  # the rest of a block is padding
            continue
        checksum, length, kind = CHUNK.unpack_from(content, position)
        position += CHUNK.size
        data = content[position : position + length]
        if len(data) < length or zlib.crc32(bytes([kind]) + data) != checksum:
            position, parts, spoilt = end, [], True
            continue
        position += length
        if kind in (WHOLE, FIRST) or parts:  # else its first part was spoilt
            parts.append(data)
        if parts and kind in (WHOLE, LAST):
            if spoilt:
                yield None
            yield b"".join(parts)
            parts, spoilt = [], False


def framed(records: Iterable[bytes]) -> bytes:
    """The content of a log with these records."""
    content = bytearray(START)
    for record in records:
        rest, kinds = record, (WHOLE, FIRST)  # if it is whole in this chunk, and if not
        while True:
            if (left := BLOCK - len(content) % BLOCK) < CHUNK.size:
                content += bytes(left)
                left = BLOCK
            part, rest = rest[: left - CHUNK.size], rest[left - CHUNK.size :]
            kind = kinds[bool(rest)]
            checksum = zlib.crc32(bytes([kind]) + part)
            content += CHUNK.pack(checksum, len(part), kind) + part
            if not rest:
                break
            kinds = (LAST, MIDDLE)
    return bytes(content)


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


def marker(log: Path) -> Path:
    """What lies beside a log that W&B has taken whole."""
    return log.with_name(f"{log.name}.synced")


def last_log(directory: Path) -> Path | None:
    """The log of the last start of the run of a folder, which W&B names by its time."""
    logs = directory.glob("wandb/*run-*/*.wandb")
    return max(logs, key=lambda log: log.parent.name.removeprefix("offline-"), default=None)
