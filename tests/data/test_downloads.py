"""Downloads from a server on this machine that knows ranges and drops connections."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from nfbench.data import DATA, File, Source
from nfbench.data.download import (
    BLOCK_BYTES,
    ResumingDownloader,
    check_hash,
    download,
    extract,
    record_sha256,
    recorded_sha256,
    sidecar,
)
from nfbench.data.manage import prepare
from nfbench.errors import UsageError

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`, or `contents[path]`; drops the i-th answer after `cuts[i]` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cuts: list[int] = []
        self.knows_ranges = True
        self.failures: list[int] = []
        self.starts: list[int] = []

    @property
    def url(self) -> str:
        return self.address("data.bin")

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        content = server.contents.get(self.path, server.content)
        total = len(content)
        server.asked.append(self.path)
        asked = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        start = int(asked) if server.knows_ranges else 0
        server.starts.append(start)
        if server.failures:
            self.send_error(server.failures.pop(0))
            return
        if start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: server.cuts.pop(0)] if server.cuts else rest)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, n_tries: int = 3) -> bytes:
    downloader = ResumingDownloader(
        folder / "file.part", progress=False, n_tries=n_tries, pause_seconds=0
    )
    downloader(server.url, str(folder / "file"), None)
    return (folder / "file").read_bytes()


def test_download_has_its_name_its_content_and_its_hash_beside_it(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "data.bin"
    download(server.url, path, f"md5:{MD5}", progress=False)
    assert path.read_bytes() == CONTENT
    assert sidecar(path).read_text() == f"{SHA256}  data.bin\n"
    assert sorted(file.name for file in path.parent.iterdir()) == ["data.bin", "data.bin.sha256"]


def test_dropped_connections_are_taken_up_where_they_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [6 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1]
    assert fetch(server, tmp_path) == CONTENT
    assert server.starts == [0, 6 * BLOCK_BYTES, 9 * BLOCK_BYTES]
    assert not (tmp_path / "file.part").exists()


def test_part_of_an_earlier_call_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:120_000])
    download(server.url, tmp_path / "data.bin", f"sha256:{SHA256}", progress=False)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.starts == [120_000]


def test_part_that_is_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "data.bin", f"sha256:{SHA256}", progress=False)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.cuts = [100_000]
    assert fetch(server, tmp_path) == CONTENT
    assert server.starts == [0, 0]


def test_server_that_recovers_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.failures = [503, 503]
    assert fetch(server, tmp_path) == CONTENT


def test_download_that_brings_nothing_gives_up_and_keeps_the_part(
    server: Server, tmp_path: Path
) -> None:
    server.cuts = [BLOCK_BYTES, 0, 0, 0]
    with pytest.raises(UsageError, match=f"after {BLOCK_BYTES} bytes .* continues from there"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:BLOCK_BYTES]
    assert fetch(server, tmp_path) == CONTENT


def test_answer_no_is_final(server: Server, tmp_path: Path) -> None:
    server.failures = [404, 404]
    with pytest.raises(UsageError, match="404"):
        fetch(server, tmp_path)
    assert len(server.starts) == 1


def test_wrong_content_is_refused_by_name_and_not_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    with pytest.raises(UsageError, match=r"data\.bin: the download .* not the file expected"):
        download(server.url, path, f"sha256:{'0' * 64}", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_there_and_right_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    download(server.url, tmp_path / "data.bin", f"md5:{MD5}", progress=False)
    assert server.starts == []


def test_without_a_checksum_later_downloads_have_to_be_like_the_first(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "data.bin"
    download(server.url, path, None, progress=False)
    assert recorded_sha256(path) == SHA256
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(UsageError, match=r"data\.bin"):
        download(server.url, path, None, progress=False)
    assert not path.exists()


def test_changed_file_fails_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(CONTENT)
    record_sha256(path)
    check_hash(path, f"sha256:{recorded_sha256(path)}")
    check_hash(path, f"md5:{MD5}")
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UsageError, match=rf"data\.bin: expected sha256 {SHA256}"):
        check_hash(path, f"sha256:{recorded_sha256(path)}")


@pytest.fixture
def two_files(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A data set, `mnist` by name, of two files that the server has: their content by name."""
    contents = {name: np.random.default_rng(i).bytes(1000) for i, name in enumerate("ab")}
    files = tuple(
        File(f"two/{name}", server.address(name), f"md5:{hashlib.md5(content).hexdigest()}")
        for name, content in contents.items()
    )
    server.contents = {f"/{name}": content for name, content in contents.items()}
    source = Source(files=files, about="two files")
    monkeypatch.setitem(DATA, "mnist", replace(DATA["mnist"], sources=(source,)))
    return contents


def test_each_file_of_a_source_is_downloaded_from_its_own_address(
    server: Server, tmp_path: Path, two_files: dict[str, bytes]
) -> None:
    assert prepare("mnist", tmp_path, progress=False) == tmp_path / "two" / "a"
    assert server.asked == ["/a", "/b"]
    for name, content in two_files.items():
        path = tmp_path / "two" / name
        assert path.read_bytes() == content
        assert recorded_sha256(path) == hashlib.sha256(content).hexdigest()


def test_only_the_files_that_are_missing_are_downloaded(
    server: Server, tmp_path: Path, two_files: dict[str, bytes]
) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a").write_bytes(two_files["a"])
    prepare("mnist", tmp_path, progress=False)
    assert server.asked == ["/b"]


@pytest.mark.usefixtures("two_files")
def test_wrong_file_among_several_is_refused_by_name(server: Server, tmp_path: Path) -> None:
    server.contents["/b"] = b"another"
    with pytest.raises(UsageError, match=r"two/b: the download .* not the file expected"):
        prepare("mnist", tmp_path, progress=False)
    assert not (tmp_path / "two" / "b").exists()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_only_the_files_asked_for_leave_the_archive(tmp_path: Path) -> None:
    archive, root = tmp_path / "data.tar.gz", tmp_path / "root"
    write_tar(archive, {"../evil": b"no", "data/a/b": b"yes", "data/c": b"no", "data/d": b"too"})
    extract(archive, "data/", ["a/b", "d"], root)
    files = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert files == {"a/b", "a/b.sha256", "d", "d.sha256"}
    assert (root / "a/b").read_bytes() == b"yes"


def test_member_that_is_missing_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "data.tar.gz"
    write_tar(archive, {"data/a": b"a"})
    with pytest.raises(UsageError, match=r"data\.tar\.gz: expected the members \['data/b'\]"):
        extract(archive, "data/", ["a", "b"], tmp_path)


def test_archive_cut_short_is_refused_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    archive, root = tmp_path / "data.tar.gz", tmp_path / "root"
    write_tar(archive, {"data/a": CONTENT})
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(UsageError, match=r"data\.tar\.gz: cannot be read"):
        extract(archive, "data/", ["a"], root)
    assert list(root.iterdir()) == []
