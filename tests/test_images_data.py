"""Sets of images: published files as torchvision reads them, and conversions of others."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torchvision.datasets as published
from PIL import Image

from nfbench.data import DATA, File, MissingDataError, Source, data_root, fingerprint
from nfbench.data.celeba import BOX, CELEBA, PARTITION, convert_faces
from nfbench.data.cifar10 import CIFAR10, CIFAR10_40K, NAMES
from nfbench.data.fashion_mnist import FASHION_MNIST
from nfbench.data.imagenet import IMAGENET32
from nfbench.data.lsun import LSUN_TOWER, convert_places
from nfbench.data.manage import prepare, status, verify
from nfbench.data.mnist import MNIST
from nfbench.data.mnist import NAMES as IDX_NAMES
from nfbench.data.pixels import convert, mapped
from nfbench.data.svhn import SVHN
from nfbench.errors import UsageError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(256, size=(12, 3, 32, 32), dtype=np.uint8)
CLASSES = np.arange(12) % 10


# Published files ---------------------------------------------------------------------------------


def checksums(source: Source) -> list[tuple[str, str]]:
    return [(Path(f.name).name, str(f.checksum).removeprefix("md5:")) for f in source.files]


@pytest.mark.parametrize(
    ("ours", "theirs"), [(MNIST, published.MNIST), (FASHION_MNIST, published.FashionMNIST)]
)
def test_idx_files_have_the_addresses_and_checksums_of_torchvision(ours: Any, theirs: Any) -> None:
    (source,) = ours.sources
    assert checksums(source) == theirs.resources
    for file in source.files:
        assert file.url in [mirror + Path(file.name).name for mirror in theirs.mirrors]


def test_colour_files_have_the_addresses_and_checksums_of_torchvision() -> None:
    pickles = CIFAR10.sources[1]
    theirs = published.CIFAR10
    assert checksums(pickles) == [(theirs.filename, theirs.tgz_md5)]
    assert pickles.files[0].url == theirs.url
    assert tuple(name for name, _ in theirs.train_list + theirs.test_list) == NAMES
    for file in SVHN.sources[0].files:
        split = Path(file.name).name.partition("_")[0]
        assert [file.url, Path(file.name).name, str(file.checksum)[4:]] == (
            published.SVHN.split_list[split]
        )


def idx(array: np.ndarray) -> bytes:
    return np.array([0x0800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(MNIST, published.MNIST), (FASHION_MNIST, published.FashionMNIST)]
)
def test_idx_images_are_those_of_torchvision(tmp_path: Path, ours: Any, theirs: Any) -> None:
    grey = RNG.integers(256, size=(9, 28, 28), dtype=np.uint8)
    arrays = (grey[:7], np.arange(7, dtype=np.uint8), grey[7:], np.arange(2, dtype=np.uint8))
    raw = tmp_path / theirs.__name__ / "raw"
    raw.mkdir(parents=True)
    (tmp_path / ours.name).mkdir()
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        (tmp_path / ours.name / name).write_bytes(gzip.compress(idx(array)))
        (raw / name.removesuffix(".gz")).write_bytes(idx(array))
    splits = replace(ours, sizes=(5, 2, 2), known={}).load(tmp_path)
    rest, test = (theirs(tmp_path, train=train) for train in (True, False))
    assert np.array_equal(np.concatenate([splits.train, splits.val])[:, 0], rest.data.numpy())
    assert np.array_equal(splits.test[:, 0], test.data.numpy())
    assert splits.labels is not None
    assert splits.labels["val"].tolist() == rest.targets[5:].tolist()


PurePickler: Any = vars(pickle)["_Pickler"]


class Python2Pickler(PurePickler):  # type: ignore[misc]
    """Strings and bytes alike as the byte strings of Python 2."""

    dispatch: ClassVar[dict[type, Any]] = dict(PurePickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        value = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    return file.getvalue()


def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two images a batch, flat."""
    return {
        name: (COLOURS[i : i + 2].reshape(2, -1), CLASSES[i : i + 2])
        for name, i in zip(NAMES, range(0, 12, 2), strict=True)
    }


def lay_pickles(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, (rows, labels) in batches().items():
        content = {"batch_label": name, "labels": labels.tolist(), "data": rows}
        (folder / name).write_bytes(python2(content))
    (folder / "batches.meta").write_bytes(python2({"label_names": list("abcdefghij")}))


def lay_cifar(root: Path, kind: str) -> None:
    """CIFAR-10 of twelve images below a data root, as it is published or as torchvision has it."""
    folder = root / "cifar10" / "cifar-10-batches-py"
    if kind != "binary":
        lay_pickles(folder)
    if kind == "folder":
        return
    folder.parent.mkdir(exist_ok=True)
    with tarfile.open(folder.parent / f"cifar-10-{kind}.tar.gz", "w:gz") as tar:
        if kind == "python":
            tar.add(folder, folder.name)
            for path in folder.iterdir():
                path.unlink()
            return
        for name, (rows, labels) in reversed(batches().items()):
            content = np.column_stack([labels, rows]).astype(np.uint8).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


SMALL_CIFAR = replace(CIFAR10, sizes=(7, 3, 2))


@pytest.mark.parametrize("kind", ["binary", "python", "folder"])
def test_cifar10_is_that_of_torchvision_from_any_source(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_cifar(tmp_path, kind)
    lay_pickles(tmp_path / "theirs" / "cifar-10-batches-py")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    rest, test = (published.CIFAR10(tmp_path / "theirs", train=train) for train in (True, False))
    splits = SMALL_CIFAR.load(tmp_path)
    ours = np.concatenate([splits.train, splits.val]).transpose(0, 2, 3, 1)
    assert np.array_equal(ours, rest.data)
    assert np.array_equal(splits.test.transpose(0, 2, 3, 1), test.data)
    assert splits.labels is not None
    assert [*splits.labels["train"], *splits.labels["val"]] == rest.targets
    assert splits.labels["test"].tolist() == test.targets
    assert all(array.flags.c_contiguous for array in splits.arrays.values())
    assert kind in splits.source or kind == "folder"


def test_both_splits_of_cifar10_cut_the_same_images(tmp_path: Path) -> None:
    assert CIFAR10.sizes == (45_000, 5_000, 10_000)
    assert CIFAR10_40K.sizes == (40_000, 10_000, 10_000)
    lay_cifar(tmp_path, "binary")
    few, many = (
        replace(SMALL_CIFAR, sizes=sizes).load(tmp_path) for sizes in ((4, 6, 2), (7, 3, 2))
    )
    assert np.array_equal(few.train, many.train[:4])
    assert np.array_equal(few.val[3:], many.val)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": Evil(), "labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": Evil()}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]}),
        pickle.dumps({"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]}),
    ],
)
def test_a_pickle_of_something_else_is_refused_and_not_run(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_cifar(tmp_path, "folder")
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        SMALL_CIFAR.load(tmp_path)
    assert capsys.readouterr().out == ""


def test_an_archive_without_a_batch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"))
    with pytest.raises(UsageError, match=r"tar\.gz: cannot be read \(no data_batch_2, data_batch"):
        SMALL_CIFAR.load(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"tar\.gz: cannot be read"):
        SMALL_CIFAR.load(tmp_path)


needs_subset = pytest.mark.skipif(
    not DATA["cifar10_subset"].sources[0].is_in(data_root()), reason="not here"
)


@needs_subset
def test_the_subset_is_the_beginning_of_cifar10_in_its_order() -> None:
    verify("cifar10_subset")
    splits = DATA["cifar10_subset"].load()
    assert splits.labels is not None
    assert splits.train[0, 0, 0, :8].tolist() == [59, 43, 50, 68, 98, 119, 139, 145]
    assert splits.labels["train"][:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    labels = np.concatenate(list(splits.labels.values()))
    counts = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413]
    assert np.bincount(labels).tolist() == counts
    assert "first 4,000 training images" in DATA["cifar10_subset"].title


# SVHN --------------------------------------------------------------------------------------------

SMALL_SVHN = replace(SVHN, sizes=(40, 30, 20), n_held_out=(2, 1))


def lay_svhn(root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images that hold their own number, and labels 1 to 10, by file."""
    from scipy.io import savemat

    made = {}
    for offset, (split, n) in enumerate({"train": 60, "extra": 30, "test": 20}.items()):
        number = np.arange(n, dtype=np.uint8) + np.uint8(80 * offset)
        images = np.broadcast_to(number, (32, 32, 3, n)).copy()
        images[1:] = RNG.integers(256, size=(31, 32, 3, n))
        labels = RNG.permutation(np.arange(n) % 10 + 1).astype(np.uint8)[:, None]
        made[split] = (images, labels)
        (root / "svhn").mkdir(exist_ok=True, parents=True)
        savemat(
            root / "svhn" / f"{split}_32x32.mat", {"X": images, "y": labels}, do_compression=True
        )
    return made


def test_svhn_is_that_of_torchvision_divided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_svhn(tmp_path)
    splits = SMALL_SVHN.load(tmp_path)
    assert splits.labels is not None
    monkeypatch.setattr(published.SVHN, "_check_integrity", lambda _: True)
    theirs = {
        split: published.SVHN(tmp_path / "svhn", split=split)
        for split in ("train", "extra", "test")
    }
    assert np.array_equal(splits.test, theirs["test"].data)
    assert splits.labels["test"].tolist() == theirs["test"].labels.tolist()
    named = {
        int(image[0, 0, 0]): (image.tobytes(), int(label))
        for split in ("train", "extra")
        for image, label in zip(theirs[split].data, theirs[split].labels, strict=True)
    }
    for split in ("train", "val"):
        images = getattr(splits, split)
        for image, label in zip(images, splits.labels[split], strict=True):
            assert named[int(image[0, 0, 0])] == (image.tobytes(), label)


def test_svhn_holds_out_as_many_of_each_class_and_never_trains_on_them(tmp_path: Path) -> None:
    files = lay_svhn(tmp_path)
    splits = SMALL_SVHN.load(tmp_path)
    assert splits.labels is not None
    train, val = (set(array[:, 0, 0, 0].tolist()) for array in (splits.train, splits.val))
    assert train | {number for number in val if number < 60} == set(range(60))
    assert not train & val
    assert np.bincount(splits.labels["val"]).tolist() == [3] * 10
    # The draw of Pylearn2, written out: one stream through both files, a shuffle a class.
    stream = np.random.RandomState(322)
    expected = set()
    for offset, (split, n) in ((0, ("train", 2)), (80, ("extra", 1))):
        for label in range(1, 11):
            found = np.nonzero(files[split][1] == label)[0]
            stream.shuffle(found)
            expected |= set((found[:n] + offset).tolist())
    assert val == expected


def test_a_broken_mat_file_is_refused_by_name(tmp_path: Path) -> None:
    lay_svhn(tmp_path)
    for content in (b"", b"nothing" * 99):
        (tmp_path / "svhn" / "extra_32x32.mat").write_bytes(content)
        with pytest.raises(UsageError, match=r"extra_32x32\.mat: cannot be read"):
            SMALL_SVHN.load(tmp_path)


# Conversions -------------------------------------------------------------------------------------


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, "png")
    return file.getvalue()


def pack(path: Path, images: Mapping[str, bytes]) -> None:
    """Image files, and others that are none, into a folder, a zip or a tar, last name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {"._0001.png": b"", "list.txt": b"", **dict(reversed(images.items()))}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"inner/{name}", content)
    elif path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(f"inner/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        (path / "inner").mkdir(parents=True)
        for name, content in files.items():
            (path / "inner" / name).write_bytes(content)


def lay_images(path: Path, images: np.ndarray) -> None:
    """Images (n, C, H, W) as whatever the name of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, images.transpose(0, 2, 3, 1))
    elif path.suffix == ".npz":
        np.savez(path, images)
    else:
        pack(path, {f"{i:04}.png": png(image) for i, image in enumerate(images)})


def small_imagenet() -> Any:
    """ImageNet of twelve images: five to train, three to validate, four to test."""
    (source,) = IMAGENET32.sources
    files = tuple(
        replace(file, convert=partial(convert, shape=(n, 3, 32, 32)))
        for file, n in zip(source.files, (8, 4), strict=True)
    )
    return replace(IMAGENET32, sizes=(5, 3, 4), sources=(replace(source, files=files),))


@pytest.mark.parametrize("container", [".tar", ".zip", "", ".npz", ".npy"])
def test_images_are_converted_once_and_mapped(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = small_imagenet()
    monkeypatch.setitem(DATA, "imagenet32", dataset)
    folder = tmp_path / "imagenet32"
    with pytest.raises(MissingDataError, match=r"made by .* prepare imagenet32.*train_32x32\.tar"):
        prepare("imagenet32", tmp_path)
    lay_images(folder / f"train_32x32{container}", COLOURS[:8])
    lay_images(folder / f"valid_32x32{container}", COLOURS[8:])
    with pytest.raises(MissingDataError, match=r"made by .* prepare imagenet32"):
        dataset.load(tmp_path)
    assert prepare("imagenet32", tmp_path) == folder / "train.npy"
    splits = dataset.load(tmp_path)
    assert np.array_equal(np.concatenate(list(splits.arrays.values())), COLOURS)
    assert all(isinstance(array, np.memmap) for array in splits.arrays.values())
    assert not any(array.flags.writeable for array in splits.arrays.values())
    assert status("imagenet32", tmp_path).state == "ready"
    in_memory = replace(splits, **{k: np.array(v) for k, v in splits.arrays.items()})
    assert verify("imagenet32", tmp_path) == fingerprint(in_memory)
    (folder / f"train_32x32{container}").rename(tmp_path / "elsewhere")
    prepare("imagenet32", tmp_path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOURS[:7], "expected 8 images, got 7"),
        (COLOURS[:9], "expected 8 images, got 9"),
        (COLOURS[:8, :, 1:], r"expected uint8 of shape \(3, 32, 32\) for image 1, got"),
    ],
)
def test_other_images_are_refused_and_nothing_is_left(
    images: np.ndarray, message: str, tmp_path: Path
) -> None:
    raw, path = tmp_path / "raw.zip", tmp_path / "made" / "train.npy"
    lay_images(raw, images)
    with pytest.raises(UsageError, match=message):
        convert(raw, path, shape=(8, 3, 32, 32))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.zip", b"x"), ("a.tar", b"x" * 600), ("a.npy", b""), ("a.npz", b"x"), ("b/0.png", b"x")],
)
def test_broken_containers_and_images_are_refused_by_name(
    name: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    raw = path.parent if path.parent != tmp_path else path
    with pytest.raises(UsageError, match=rf"{raw.name}: cannot be read"):
        convert(raw, tmp_path / "made.npy", shape=(8, 3, 32, 32))


def test_arrays_that_are_no_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", COLOURS, CLASSES)
    np.save(tmp_path / "flat.npy", COLOURS.reshape(12, -1))
    np.save(tmp_path / "floats.npy", COLOURS.astype(np.float32))
    for name in ("two.npz", "flat.npy", "floats.npy"):
        with pytest.raises(UsageError, match=r"cannot be read|expected"):
            convert(tmp_path / name, tmp_path / "made.npy", shape=COLOURS.shape)
    for name, shape in (("floats.npy", COLOURS.shape), ("flat.npy", (12, 3))):
        with pytest.raises(UsageError, match=rf"{name}: expected uint8 of shape"):
            mapped(tmp_path / name, shape)


def jpeg(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    pixels = RNG.integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


@pytest.fixture
def faces(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """Six aligned faces and their list of partitions."""
    made = {f"{i:06}.jpg": jpeg((178, 218)) for i in range(1, 7)}
    pack(tmp_path / "celeba" / "img_align_celeba.zip", made)
    lines = [f"{name} {part}\n" for name, part in zip(made, (0, 0, 0, 1, 2, 2), strict=True)]
    (tmp_path / "celeba" / PARTITION).write_text("".join(lines))
    return tmp_path, made


def test_faces_are_cropped_and_cut_as_the_papers_have_them(
    faces: tuple[Path, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, made = faces
    file = CELEBA.sources[0].files[0]
    small = replace(file, convert=partial(convert_faces, sizes=(3, 1, 2)))
    source = replace(CELEBA.sources[0], files=(small,))
    dataset = replace(CELEBA, sizes=(3, 1, 2), sources=(source,))
    monkeypatch.setitem(DATA, "celeba", dataset)
    prepare("celeba", root)
    splits = dataset.load(root)
    ours = np.concatenate(list(splits.arrays.values()))
    for image, content in zip(ours, made.values(), strict=True):
        whole = np.asarray(Image.open(io.BytesIO(content)))
        cropped = Image.fromarray(whole[40:188, 15:163])
        expected = np.asarray(cropped.resize((64, 64), Image.Resampling.BILINEAR))
        assert np.array_equal(image.transpose(1, 2, 0), expected)
    assert [len(array) for array in splits.arrays.values()] == [3, 1, 2]
    assert BOX == (15, 40, 163, 188)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(" 1", " 0"), "expected .* marked 0, 1 and 2 in this order"),
        (lambda text: text[: text.index("\n") + 1], "expected .* marked 0, 1 and 2"),
        (
            lambda text: text.replace("000002", "000009"),
            r"expected the image 000009\.jpg next, got",
        ),
        (lambda _: "", "cannot be read"),
    ],
)
def test_faces_other_than_those_listed_are_refused(
    faces: tuple[Path, dict[str, bytes]], change: Callable[[str], str], message: str
) -> None:
    root, _ = faces
    partition = root / "celeba" / PARTITION
    partition.write_text(change(partition.read_text()))
    raw = root / "celeba" / "img_align_celeba.zip"
    with pytest.raises(UsageError, match=message):
        convert_faces(raw, root / "made.npy", sizes=(3, 1, 2))


def test_faces_of_another_size_are_refused(tmp_path: Path) -> None:
    pack(tmp_path / "faces.zip", {"1.jpg": jpeg((64, 64))})
    (tmp_path / PARTITION).write_text("1.jpg 0\n")
    with pytest.raises(UsageError, match=r"expected aligned images of \(178, 218\)"):
        convert_faces(tmp_path / "faces.zip", tmp_path / "made.npy", sizes=(1, 0, 0))


def test_places_are_crops_of_the_shrunken_images(tmp_path: Path) -> None:
    made = {
        f"{i}.jpg": jpeg(size) for i, size in enumerate([(256, 320), (341, 256), (96, 96)] * 4)
    }
    pack(tmp_path / "places.tar", made)
    for name in ("one", "two"):
        convert_places(tmp_path / "places.tar", tmp_path / f"{name}.npy", n=12)
    ours, again = (np.load(tmp_path / f"{name}.npy") for name in ("one", "two"))
    assert np.array_equal(ours, again)
    corners = set()
    for image, name in zip(ours, sorted(made), strict=True):
        whole = Image.open(io.BytesIO(made[name]))
        ratio = 96 / min(whole.size)
        size = (round(whole.width * ratio), round(whole.height * ratio))
        assert min(size) == 96
        small = np.asarray(whole.resize(size, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        windows = np.lib.stride_tricks.sliding_window_view(small, (3, 64, 64))[0]
        found = np.argwhere((windows == image).all((2, 3, 4)))
        assert len(found) == 1
        corners.add(tuple(found[0].tolist()))
    assert len(corners) > 8


def test_the_places_keep_some_training_images_for_validation() -> None:
    assert sum(LSUN_TOWER.sizes[:2]) == 708_264
    assert {DATA[f"lsun_{c}"].sizes[1:] for c in ("bedroom", "tower", "church_outdoor")} == {
        (3_000, 300)
    }
    assert sum(IMAGENET32.sizes[:2]) == 1_281_149


def test_what_files_are_made_from_is_found_in_order(tmp_path: Path) -> None:
    file = File("made", raw=("first", "second"))
    assert file.origin(tmp_path) is None
    for name in ("second", "first", "made"):
        (tmp_path / name).mkdir()
        assert file.origin(tmp_path) == tmp_path / name


# The border of MNIST -----------------------------------------------------------------------------


@pytest.mark.skipif(not MNIST.sources[0].is_in(data_root()), reason="not here")
def test_padded_mnist_is_mnist_with_a_border_that_no_mean_is_over() -> None:
    padded, plain = DATA["mnist_padded"].load(), MNIST.load()
    for ours, theirs in zip(padded.arrays.values(), plain.arrays.values(), strict=True):
        assert np.array_equal(ours[:, :, 2:-2, 2:-2], theirs)
        assert ours.sum(dtype=np.int64) == theirs.sum(dtype=np.int64)
    assert DATA["mnist_padded"].n_dims == MNIST.n_dims == 784
    assert CIFAR10.n_dims == 3072
    verify("mnist_padded")
