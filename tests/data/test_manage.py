"""Status, preparation and verification of data sets, from files laid down by the tests."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfbench.data import DATA, File, MissingDataError, Source, fingerprint
from nfbench.data.download import record_sha256, sidecar
from nfbench.data.manage import prepare, status, verify
from nfbench.data.miniboone import Miniboone
from nfbench.errors import UsageError

ROWS = np.random.default_rng(0).normal(size=(100, 3))
HEAD = (10, hashlib.sha256(ROWS[:10].tobytes()).hexdigest())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Miniboone:
    """MINIBOONE of 100 rows in the place of the real one."""
    dataset = Miniboone(sizes=(81, 9, 10), event_shape=(3,), head=HEAD)
    monkeypatch.setitem(DATA, "miniboone", dataset)
    return dataset


def write(root: Path) -> Path:
    path = root / "miniboone" / "data.npy"
    path.parent.mkdir()
    np.save(path, ROWS)
    return path


def serve(monkeypatch: pytest.MonkeyPatch, dataset: Miniboone, **source: Any) -> None:
    first = replace(dataset.sources[0], **source)
    monkeypatch.setitem(DATA, "miniboone", replace(dataset, sources=(first,)))


@pytest.mark.usefixtures("small")
def test_status_goes_from_missing_to_ready_to_corrupt(tmp_path: Path) -> None:
    assert status("miniboone", tmp_path).state == "missing"
    path = write(tmp_path)
    row = status("miniboone", tmp_path)
    assert (row.state, row.n_bytes) == ("ready", path.stat().st_size)
    assert tmp_path / row.where == path
    path.write_bytes(path.read_bytes()[:-8])
    assert status("miniboone", tmp_path).state == "corrupt"


@pytest.mark.parametrize(
    "file",
    [
        "BSDS300/BSDS300.hdf5",
        "hepmass/1000_train.csv",
        "hepmass/1000_train.csv.gz",
        "power/household_power_consumption.npz",
        "power/household_power_consumption.zip",
    ],
)
def test_empty_file_of_any_kind_is_corrupt(tmp_path: Path, file: str) -> None:
    found = [d for d in DATA.values() if any(file in source.names for source in d.sources)]
    (name,) = (dataset.name for dataset in found)
    for suffix in ("train", "test"):
        path = tmp_path / file.replace("train", suffix)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert status(name, tmp_path).state == "corrupt"


def test_generated_sets_are_ready_and_need_no_file(tmp_path: Path) -> None:
    row = status("moons", tmp_path / "nowhere")
    assert (row.state, row.where, row.n_bytes) == ("ready", "generated", 0)
    assert prepare("moons", tmp_path / "nowhere") == tmp_path / "nowhere"
    assert verify("moons", tmp_path / "nowhere") == fingerprint(DATA["moons"].load())


def test_prepare_leaves_files_that_are_there_alone(small: Miniboone, tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.stat().st_mtime_ns
    assert prepare("miniboone", tmp_path, progress=False) == path
    assert path.stat().st_mtime_ns == before
    assert verify("miniboone", tmp_path) == fingerprint(small.load(tmp_path))


@pytest.mark.usefixtures("small")
def test_prepare_refuses_a_broken_file_by_name(tmp_path: Path) -> None:
    write(tmp_path).write_bytes(b"")
    with pytest.raises(UsageError, match=r"data\.npy: cannot be read"):
        prepare("miniboone", tmp_path, progress=False)


def test_prepare_unpacks_the_archive_kept_from_another_set(
    small: Miniboone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    origin = tmp_path / "origin"
    origin.mkdir()
    root = tmp_path / "root"
    archive = root / "downloads" / "maf2017_data.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(write(origin), "data/miniboone/data.npy")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    kept = File(
        "downloads/maf2017_data.tar.gz", "http://127.0.0.1:1/none", checksum=f"sha256:{digest}"
    )
    serve(monkeypatch, small, archive=kept)
    path = prepare("miniboone", root, progress=False)
    assert path == root / "miniboone" / "data.npy"
    assert sidecar(path).is_file()
    assert np.array_equal(np.load(path), ROWS)


def test_prepare_converts_the_raw_file_that_is_there(
    small: Miniboone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(raw: Path, path: Path) -> None:
        np.save(path, pickle.loads(raw.read_bytes()))

    file = File("miniboone/data.npy", raw=("miniboone/none", "miniboone/raw"), convert=convert)
    serve(monkeypatch, small, files=(file,))
    (tmp_path / "miniboone").mkdir()
    (tmp_path / "miniboone" / "raw").write_bytes(pickle.dumps(ROWS))
    path = prepare("miniboone", tmp_path, progress=False)
    assert np.array_equal(np.load(path), ROWS)
    assert sidecar(path).is_file()


def test_prepare_without_an_address_says_what_to_do(
    small: Miniboone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand = Source(files=(File("miniboone/data.npy"),), about="rows")
    monkeypatch.setitem(DATA, "miniboone", replace(small, sources=(by_hand,)))
    with pytest.raises(MissingDataError, match="be put there by hand"):
        prepare("miniboone", tmp_path, progress=False)
    with pytest.raises(MissingDataError, match="by hand"):
        prepare("miniboone", tmp_path, source="miniboone/data.npy", progress=False)


@pytest.mark.usefixtures("small")
def test_unknown_names_are_answered_with_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'minibone'; did you mean 'miniboone'"):
        status("minibone", tmp_path)
    with pytest.raises(UsageError, match=r"unknown source 'x' .*miniboone/data\.npy"):
        prepare("miniboone", tmp_path, source="x")


@pytest.mark.usefixtures("small")
def test_verify_notices_a_file_that_changed_since_it_was_prepared(tmp_path: Path) -> None:
    path = write(tmp_path)
    record_sha256(path)
    verify("miniboone", tmp_path)
    changed = ROWS.copy()
    changed[-1, -1] += 1e-9
    np.save(path, changed)
    with pytest.raises(UsageError, match=r"data\.npy: expected sha256"):
        verify("miniboone", tmp_path)


def test_verify_compares_with_the_known_fingerprint(
    small: Miniboone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    for known, accepted in ((verify("miniboone", tmp_path), True), ("0" * 64, False)):
        judged = replace(small, known={"miniboone/data.npy": known})
        monkeypatch.setitem(DATA, "miniboone", judged)
        if accepted:
            assert verify("miniboone", tmp_path) == known
        else:
            with pytest.raises(UsageError, match="expected the fingerprint 0000"):
                verify("miniboone", tmp_path)
