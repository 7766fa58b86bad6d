"""Redrawn patches of BSDS300 against all patches of small images, listed one by one."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfbench.data import fingerprint
from nfbench.data.bsds300_redrawn import BLOCK, TAR, TGZ, Bsds300Redrawn, grey
from nfbench.data.manage import status
from nfbench.errors import UsageError

WIDTH, HEIGHT = 14, 11
SMALL = Bsds300Redrawn(
    sizes=(BLOCK + 1000, 300, 400), image_size=(WIDTH, HEIGHT), n_images=(3, 1, 2)
)
# In the order of their names; those with 15 are turned.
TRAIN = ("train/1002.jpg", "train/15.jpg", "train/20.jpg", "train/3.jpg")
TEST = ("test/1.jpg", "test/15.jpg")


def jpeg(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG of random colors."""
    colors = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colors).save(file, "JPEG", quality=95)
    return file.getvalue()


def images() -> dict[str, bytes]:
    names = [*TRAIN, *TEST]
    turned = {name: jpeg(i, HEIGHT, WIDTH) for i, name in enumerate(names) if "15" in name}
    return {name: jpeg(i) for i, name in enumerate(names)} | turned


def write(root: Path, contents: dict[str, bytes], name: str = TAR, prefix: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for place, content in contents.items():
            member = tarfile.TarInfo(prefix + place)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def all_patches(names: tuple[str, ...]) -> np.ndarray:
    """Every patch of some images, by image, row and column, (n, 64) float64."""
    patches = []
    for name in names:
        levels = np.asarray(Image.open(io.BytesIO(images()[name])).convert("L")).astype(float)
        for row in range(levels.shape[0] - 7):
            for column in range(levels.shape[1] - 7):
                patches.append(levels[row : row + 8, column : column + 8].ravel())
    return np.array(patches)


def test_patches_are_those_of_the_recipe_written_out(tmp_path: Path) -> None:
    write(tmp_path, images())
    splits = SMALL.load(tmp_path)
    rng = np.random.default_rng(0)
    for rows, names in zip(splits.arrays.values(), (TRAIN[:3], TRAIN[3:], TEST), strict=True):
        patches = all_patches(names)
        places = rng.integers(len(patches), size=len(rows))
        for row, place in zip(rows, places, strict=True):
            x = (patches[place] + rng.random(64, np.float32).astype(float)) / 256
            assert np.array_equal(row, (x - sum(x) / 64)[:63].astype(np.float32))


def test_every_row_is_a_patch_of_its_own_images_with_noise_of_one_level(tmp_path: Path) -> None:
    write(tmp_path, images())
    splits = SMALL.load(tmp_path)
    for rows, names in zip(splits.arrays.values(), (TRAIN[:3], TRAIN[3:], TEST), strict=True):
        # The mean is zero over all 64 pixels, so that the last is minus the sum of the others.
        shapes = 256 * np.column_stack([rows[:500], -rows[:500].sum(axis=1)]).astype(float)
        patches = all_patches(names)
        shapes = shapes[:, None] - (patches - patches.mean(axis=1, keepdims=True))
        is_it = np.ptp(shapes, axis=2) < 1.001
        assert (is_it.sum(axis=1) == 1).all()
        noise = shapes[is_it]
        assert noise.var() == pytest.approx(1 / 12 * 63 / 64, rel=0.05)
        assert len(set(is_it.argmax(axis=1))) > 0.9 * len(patches)


def test_archives_of_any_order_and_folder_give_the_same_patches(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    write(plain, images())
    other = {"iids_train.txt": b"15\n", "images/train/._15.jpg": b"junk"}
    backwards = dict(reversed(images().items()))
    write(packed, other | {f"images/{k}": v for k, v in backwards.items()}, TGZ, "BSDS300/")
    one, two = SMALL.load(plain), SMALL.load(packed)
    assert (one.source, two.source) == (f"{TAR} drawn with 0", f"{TGZ} drawn with 0")
    assert fingerprint(one) == fingerprint(two)


def test_the_seed_of_the_data_draws_the_patches(tmp_path: Path) -> None:
    write(tmp_path, images())
    one, same, other = (SMALL.load(tmp_path, seed) for seed in (0, 0, 1))
    assert fingerprint(one) == fingerprint(same)
    assert other.source == f"{TAR} drawn with 1"
    for a, b in zip(one.arrays.values(), other.arrays.values(), strict=True):
        # Farther apart than two draws of the noise of one patch.
        assert (np.abs(a - b).max(axis=1) > 2 / 256).mean() > 0.9


def test_grey_is_the_luma_of_the_colors() -> None:
    colors = np.asarray(Image.open(io.BytesIO(jpeg(0)))).astype(float)
    luma = colors @ [0.299, 0.587, 0.114]
    assert np.abs(grey("1.jpg", jpeg(0), (WIDTH, HEIGHT)) - luma).max() < 0.51


def test_links_are_no_images(tmp_path: Path) -> None:
    path = write(tmp_path, {k: v for k, v in images().items() if k != TRAIN[0]})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo(TRAIN[0])
        link.type, link.linkname = tarfile.SYMTYPE, TRAIN[1]
        tar.addfile(link)
    with pytest.raises(UsageError, match=r"images\.tar: expected 4 images .* 2 .*, got 3 and 2"):
        SMALL.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [(jpeg(0, 14, 12), r"train/3\.jpg: expected \(14, 11\) pixels"), (b"junk", "cannot identify")],
)
def test_another_image_is_refused_by_name(tmp_path: Path, content: bytes, told: str) -> None:
    write(tmp_path, images() | {TRAIN[3]: content})
    with pytest.raises(UsageError, match=rf"images\.tar: cannot be read .*{told}"):
        SMALL.load(tmp_path)


def test_archive_cut_short_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, images())
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"images\.tar: "):
        SMALL.load(tmp_path)


def test_archive_of_another_kind_is_corrupt(tmp_path: Path) -> None:
    path = write(tmp_path, images())
    assert status("bsds300_redrawn", tmp_path).state == "ready"
    path.write_bytes(b"<html>not found</html>" * 100)
    assert status("bsds300_redrawn", tmp_path).state == "corrupt"


def test_images_of_the_wrong_number_are_refused(tmp_path: Path) -> None:
    write(tmp_path, images())
    with pytest.raises(UsageError, match="expected 5 images"):
        replace(SMALL, n_images=(4, 1, 2)).load(tmp_path)
