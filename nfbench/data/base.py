"""The DataModule every data set shares: tensors on the training device, batches by one gather.

A training set that is memory-mapped stays on the host: it is gathered there, and batches move.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from nfbench.errors import UsageError
from nfbench.schedule import Schedule
from nfbench.seeds import mix

from .augment import AUGMENTATIONS, binarize
from .batches import BatchOrder, ChunkLoader, RowLoader
from .dataset import Dataset, Splits, fingerprint

WHOLE = 4  # a stream of random numbers of its own, beside the phases of module.py


class DataModule(pl.LightningDataModule):
    """A data set's three splits as tensors that follow the training device.

    Args:
        dataset: where the arrays come from.
        batch_size: training rows in one optimizer step, of all ranks together.
        seed: of the batch order (the run's seed).
        data_seed: of the data set itself, where it is synthetic or its split depends on one.
        eval_batch_size: rows in one evaluation batch.
        conditional: whether training batches come with their labels.
        augment: names of random changes to training images, in ``AUGMENTATIONS``.

    Raises:
        UsageError: if there is no such change, or the data are no images.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        data_seed: int = 0,
        eval_batch_size: int = 8192,
        conditional: bool = False,
        augment: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_changes(augment, dataset)
        self.dataset, self.data_seed = dataset, data_seed
        self.batch_size, self.seed, self.eval_batch_size = batch_size, seed, eval_batch_size
        self.conditional, self.changes = conditional, tuple(augment)
        self.device = torch.device("cpu")
        self.labels: Tensor | None = None
        self.schedule: Schedule | None = None
        self.step: Callable[[], int] = lambda: 0
        self.is_read = False

    def setup(self, stage: str | None = None) -> None:
        """Read the data set once, on the CPU."""
        if self.is_read:
            return
        splits = self.dataset.load(seed=self.data_seed)
        # What is trained given labels depends on them too: another source, another fingerprint.
        self.source = f"{splits.source} with labels" if self.conditional else splits.source
        self.fingerprint = fingerprint(splits, labels=self.conditional)
        known = self.dataset.known.get(self.source, self.fingerprint)
        if self.fingerprint != known:
            raise UsageError(
                f"{self.dataset.name}: expected the fingerprint {known} from {self.source}, got "
                f"{self.fingerprint}; see nfbench data verify {self.dataset.name}"
            )
        self.is_mapped = isinstance(splits.train, np.memmap)
        self.rows, self.val, self.test = map(as_tensor, splits.arrays.values())
        if self.conditional:
            self.labels = training_labels(self.dataset, splits)
        self.is_read = True

    def to(self, device: torch.device | str) -> None:
        """Move the splits to the training device, or of a mapped training set the batches."""
        self.device = torch.device(device)
        self.val, self.test = self.val.to(device), self.test.to(device)
        if not self.is_mapped:
            self.rows = self.rows.to(device)
        if self.labels is not None:
            self.labels = self.labels.to(device)

    @property
    def train(self) -> Tensor:
        """The training rows as a model sees them; of a stochastic set one draw, by the seed."""
        if not self.dataset.stochastic:
            return self.rows
        generator = torch.Generator(self.rows.device).manual_seed(mix(self.seed, WHOLE, 0, 1))
        return binarize(self.rows, generator)

    def __str__(self) -> str:
        """Name, source and sizes; Lightning's own asks the loaders for sizes that they lack."""
        if not self.is_read:
            return f"{self.dataset.name}, not read yet"
        text = (
            "{name} from {source}: {n_train:,} training, {n_val:,} validation, "
            "{n_test:,} test points"
        )
        return text.format_map(self.describe())

    def describe(self) -> dict[str, object]:
        """The section of a record on the data."""
        return {
            "name": self.dataset.name,
            "source": self.source,
            "n_train": len(self.rows),
            "n_val": len(self.val),
            "n_test": len(self.test),
            "fingerprint": self.fingerprint,
        }

    @property
    def place(self) -> tuple[int, int]:
        """The rank of this process in training, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def order(self) -> BatchOrder:
        """The order of the training batches on this rank."""
        return BatchOrder(len(self.rows), self.batch_size, self.seed, *self.place)

    def train_dataloader(self) -> ChunkLoader:
        """Chunks of training batches, as ``schedule`` cuts them."""
        if self.schedule is None:
            raise ValueError("schedule: expected the run's Schedule before training, got none")
        return ChunkLoader(
            self.rows,
            self.labels,
            self.order,
            self.schedule,
            self.step,
            device=self.device,
            changes=self.changes,
            stochastic=self.dataset.stochastic,
        )

    def val_dataloader(self) -> RowLoader:
        """The rank's batches of the validation rows."""
        return RowLoader(self.val, self.eval_batch_size, *self.place)

    def test_dataloader(self) -> RowLoader:
        """The rank's batches of the test rows."""
        return RowLoader(self.test, self.eval_batch_size, *self.place)


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor, without a copy; nothing here writes into one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def check_changes(names: Sequence[str], dataset: Dataset) -> None:
    """Refuse random changes that there are not, or data that are no images."""
    if unknown := [name for name in names if name not in AUGMENTATIONS]:
        known = ", ".join(AUGMENTATIONS)
        raise UsageError(f"data.augment: expected some of {known}; got {', '.join(unknown)}")
    if names and len(dataset.event_shape) != 3:
        raise UsageError(
            f"data.augment: expected [] for {dataset.name}, which are no images but of shape "
            f"{dataset.event_shape}; got {list(names)}"
        )


def training_labels(dataset: Dataset, splits: Splits) -> Tensor:
    """The labels of the training rows, integers (n,).

    Raises:
        UsageError: if there is not one in 0..n_classes-1 for every row.
    """
    labels = torch.as_tensor((splits.labels or {}).get("train", ())).long()
    n_classes = dataset.n_classes or 0
    fitting = labels.shape == (len(splits.train),) and labels.min() >= 0
    if not fitting or labels.max() >= n_classes:
        raise UsageError(
            f"{dataset.name}: expected a label in 0..{n_classes - 1} for each of "
            f"{len(splits.train)} training rows, got {len(labels)} labels; "
            "data.condition=none needs none"
        )
    return labels
