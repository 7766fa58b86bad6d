"""When things happen in a run: chunk ends, validations, the end, and the learning rate.

Pure functions of the step. Imports no torch, so that a resumed run, a cost estimate and a plan
all ask the same object.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from nfbench.errors import UsageError

SHAPES = ("constant", "cosine", "exponential", "plateau")


@dataclass(frozen=True)
class Schedule:
    """The fixed points of a run, in optimizer steps.

    Args:
        steps_per_epoch: batches in one pass over the training set. max_steps: last step, or None
        to go on until early stopping. validate_every: steps between two validations. chunk: steps
        between two chunk ends, counted from the last validation. learning_rate: peak learning
        rate. shape: ``constant``, ``cosine`` (to zero at max_steps), ``exponential`` (multiplied
        by decay_per_epoch after each epoch) or ``plateau`` (cut by the validations, see module).
        warmup_steps: steps of linear warm-up from zero. anneal_start, anneal_steps: the
        weight of what is annealed is ``min(1, anneal_start + t / anneal_steps)`` after t steps.

    Raises:
        UsageError: if a cosine has no end, or a number is out of range.
    """

    steps_per_epoch: int
    max_steps: int | None
    validate_every: int
    chunk: int = 64
    learning_rate: float = 1e-3
    shape: str = "constant"
    warmup_steps: int = 0
    decay_per_epoch: float = 0.99
    anneal_start: float = 0.0
    anneal_steps: int = 0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UsageError(
                f"training.schedule: expected one of {', '.join(SHAPES)}; got {self.shape!r}"
            )
        if self.shape == "cosine" and self.max_steps is None:
            raise UsageError(
                "training.schedule: cosine needs training.max_steps or training.max_epochs, "
                "got neither"
            )
        for name in ("validate_every", "chunk"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"training.{name}: expected a positive number of steps, "
                    f"got {getattr(self, name)}"
                )

    def chunk_ends(self, start: int) -> Iterator[int]:
        """The chunk ends after step ``start``, up to the next validation or the end of the run."""
        origin = start - start % self.validate_every
        last = origin + self.validate_every
        if self.max_steps is not None:
            last = min(last, self.max_steps)
        step = start
        while step < last:
            step = min(origin + ((step - origin) // self.chunk + 1) * self.chunk, last)
            yield step

    def validates_at(self, step: int) -> bool:
        """Whether a validation follows step number ``step``."""
        return step % self.validate_every == 0 or self.ends_at(step)

    def ends_at(self, step: int) -> bool:
        """Whether the run has no step after ``step``."""
        return self.max_steps is not None and step >= self.max_steps

    def rate(self, step: int) -> float:
        """The learning rate of the step after ``step`` finished ones, before any plateau cut."""
        rate = self.learning_rate
        if step < self.warmup_steps:
            rate *= (step + 1) / self.warmup_steps
        if self.shape == "cosine" and self.max_steps:
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.max_steps)))
        if self.shape == "exponential":
            rate *= self.decay_per_epoch ** (step // self.steps_per_epoch)
        return rate

    def beta(self, step: int) -> float:
        """The weight of what is annealed, in the step after ``step`` finished ones; 1 without."""
        if self.anneal_steps == 0:
            return 1.0
        return min(1.0, self.anneal_start + step / self.anneal_steps)
