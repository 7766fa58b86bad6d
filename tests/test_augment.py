"""Sets of images on their way to the model: memory-mapped splits, changes at random."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from harness import CPU, Rows, changed, comparable, write_table
from torch import Tensor

from nfbench.config import load
from nfbench.data import DATA, fingerprint
from nfbench.data.augment import AUGMENTATIONS, augment
from nfbench.data.base import DataModule
from nfbench.errors import UsageError
from nfbench.run import run
from nfbench.schedule import Schedule
from nfbench.sections import Data

# Memory-mapped splits ----------------------------------------------------------------------------


def as_mapped(dataset: Rows, folder: Path) -> Rows:
    """The same set, memory-mapped and read-only."""
    arrays = {}
    for name, array in dataset.splits.arrays.items():
        np.save(folder / f"{name}.npy", array)
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return replace(dataset, splits=replace(dataset.splits, **arrays))


def images(n: int = 20, seed: int = 0) -> Rows:
    """Small colour images; n to train, n / 2 for each evaluation."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(256, size=(m, 3, 8, 8), dtype=np.uint8) for m in (n, n // 2, n // 2)]
    made = Rows.of(*rows)
    labels = {"train": np.arange(n) % 10}
    return replace(made, splits=replace(made.splits, labels=labels), levels=256, n_classes=10)


def data_module(dataset: Rows, start: int = 0, **options: Any) -> DataModule:
    data = DataModule(dataset, batch_size=4, seed=3, eval_batch_size=4, **options)
    data.setup()
    data.schedule, data.step = Schedule(5, 20, 10, 3), lambda: start
    return data


@pytest.mark.parametrize("changes", [[], ["flip", "shift"]])
def test_mapped_batches_are_those_from_memory(changes: list[str], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = data_module(as_mapped(images(), tmp_path), augment=changes)
    memory = data_module(images(), augment=changes)
    assert maps.is_mapped and not memory.is_mapped
    assert maps.describe() == memory.describe()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        ours, theirs = (list(getattr(data, loader)()) for data in (maps, memory))
        assert len(ours) > 2
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert {batch.dtype for batch in ours} == {torch.uint8}


def test_a_mapped_training_set_stays_on_the_host_and_its_batches_move(tmp_path: Path) -> None:
    memory, maps = data_module(images()), data_module(as_mapped(images(), tmp_path))
    assert memory.device == maps.device == CPU
    for data, kept in ((memory, "meta"), (maps, "cpu")):
        data.to("meta")  # a device where nothing can be computed, but there are shapes
        assert data.device.type == data.val.device.type == data.test.device.type == "meta"
        assert data.train.device.type == kept
        chunk = next(iter(data.train_dataloader()))
        assert (chunk.device.type, chunk.shape) == ("meta", (3, 4, 3, 8, 8))


def test_a_mapped_set_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = images().splits
    whole = fingerprint(splits)
    monkeypatch.setattr("nfbench.data.dataset.BLOCK_BYTES", 3 * 3 * 64 + 1)
    assert fingerprint(splits) == fingerprint(as_mapped(images(), tmp_path).splits) == whole


ROW = {
    "title": "MAF",
    "flow": {"name": "maf", "layers": 1, "hidden": [8], "batch_norm": False},
    "data": {"batch_size": 4, "augment": ["flip", "shift"]},
    "preprocess": {"dequantize": "uniform", "logit": 0.05},
    "training": {"max_steps": 12, "validate_every": 6, "chunk": 2},
    "cells": {"digits": {}},
}


def test_a_run_on_a_mapped_set_gives_the_record_of_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = []
    for name, dataset in (("mapped", as_mapped(images(), tmp_path)), ("memory", images())):
        monkeypatch.setitem(DATA, "digits", replace(dataset, name="digits"))
        root = write_table(tmp_path / name, maf=ROW)
        records.append(run(load("tiny/maf", "digits", root=root), root=root, device="cpu"))
    assert comparable(records[0]) == comparable(records[1])
    assert records[0].status == "done"
    plain = changed(ROW, data={"augment": []})
    root = write_table(tmp_path / "plain", maf=plain)
    other = run(load("tiny/maf", "digits", root=root), root=root, device="cpu")
    assert other.metrics["test/log_likelihood"] != records[0].metrics["test/log_likelihood"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_mapped_set_is_trained_on_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = replace(as_mapped(images(), tmp_path), name="digits")
    monkeypatch.setitem(DATA, "digits", dataset)
    root = write_table(tmp_path / "mapped", maf=ROW)
    assert run(load("tiny/maf", "digits", root=root), root=root, device="cuda").status == "done"


# Changes at random -------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 200, height: int = 32, width: int = 32) -> Tensor:
    return torch.randint(256, (n, 3, height, width), dtype=torch.uint8)


def test_flips_mirror_half_of_the_images() -> None:
    before = batch(1000, 8, 6)
    after = augment(before, ["flip"], generator())
    mirrored = [torch.equal(a, torch.flip(b, (-1,))) for a, b in zip(after, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 400 < sum(mirrored) < 600
    assert after.dtype == torch.uint8


def shifted(image: np.ndarray, down: int, right: int, reach: int) -> np.ndarray:
    """What an image looks like from a window of its size in itself with its edges repeated."""
    wide = np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    top, left = reach - down, reach - right
    return wide[:, top : top + image.shape[1], left : left + image.shape[2]]


def test_shifts_are_windows_of_the_image_with_its_edges_repeated() -> None:
    before = batch(300, 32, 20)
    after = augment(before, ["shift"], generator())
    found = []
    for image, moved in zip(before.numpy(), after.numpy(), strict=True):
        fitting = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-2, 3)
            if np.array_equal(shifted(image, down, right, 3), moved)
        ]
        assert len(fitting) == 1
        found += fitting
    down, right = np.array(found).T
    assert set(down.tolist()) == set(range(-3, 4))
    assert set(right.tolist()) == set(range(-2, 3))
    assert np.bincount(down + 3).min() > 20
    assert np.bincount(right + 2).min() > 35
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2


@pytest.mark.parametrize("names", [["flip", "shift"], ["shift", "flip"]])
def test_changes_follow_one_another(names: list[str]) -> None:
    before, one, stepwise = batch(), generator(5), generator(5)
    after = augment(before, names, one)
    expected = augment(augment(before, names[:1], stepwise), names[1:], stepwise)
    assert torch.equal(after, expected)
    for a, b in zip(after, before, strict=True):
        assert set(a.flatten().tolist()) <= set(b.flatten().tolist())


def test_no_change_is_the_image_itself() -> None:
    before = batch(5)
    assert torch.equal(augment(before, [], generator()), before)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_resume_draws_the_changes_of_an_uncut_run(conditional: bool) -> None:
    options = {"augment": ["flip", "shift"], "conditional": conditional}

    def chunks(start: int) -> list[Any]:
        return list(data_module(images(), start, **options).train_dataloader())

    whole = chunks(0)
    torch.manual_seed(99)
    assert [len(c[0] if conditional else c) for c in whole] == [3, 3, 3, 1]
    for skipped in (1, 2, 3):
        resumed = chunks(3 * skipped)
        for ours, theirs in zip(resumed, whole[skipped:], strict=True):
            pairs = zip(ours, theirs, strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_chunks_and_ranks_draw_changes_of_their_own() -> None:
    data = data_module(images(), augment=["flip"])
    loader = data.train_dataloader()
    chunk = torch.from_numpy(images().splits.train[:12]).view(3, 4, 3, 8, 8)
    at_step = [loader.changed(chunk, start) for start in range(4)]
    loader.order = replace(loader.order, rank=1, world_size=2)
    at_step.append(loader.changed(chunk, 0))
    assert len({made.numpy().tobytes() for made in at_step}) == 5


def test_only_training_batches_change() -> None:
    data = data_module(images(), augment=["flip", "shift"])
    assert torch.equal(torch.cat(list(data.val_dataloader())), data.val)
    assert torch.equal(torch.cat(list(data.test_dataloader())), data.test)
    chunks = torch.cat(list(data.train_dataloader()))
    assert not torch.equal(chunks, data.train[data.order.indices(0, 10)])


def test_the_settings_know_the_changes_that_there_are() -> None:
    kind = Data.__dataclass_fields__["augment"].type
    assert set(get_args(get_args(kind)[0])) == set(AUGMENTATIONS)
    with pytest.raises(UsageError, match=r"data\.augment: expected some of flip, shift; got rot"):
        DataModule(images(), batch_size=4, augment=["flip", "rot"])
    with pytest.raises(UsageError, match=r"data\.augment: expected \[\] for rows"):
        DataModule(Rows.of(*[np.zeros((4, 2), np.float32)] * 3), batch_size=4, augment=["flip"])


def test_an_unknown_change_is_refused_where_it_stands(tmp_path: Path) -> None:
    root = write_table(tmp_path, maf=changed(ROW, data={"augment": ["rot"]}))
    with pytest.raises(UsageError, match=r"maf\.yaml: data\.augment: expected list of 'flip' or"):
        load("tiny/maf", "digits", root=root)
