"""The one LightningModule: any density model, any objective, any optimizer."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from nfbench.density import DensityModel
from nfbench.flat import flatten, tie_gradients
from nfbench.gradient import Gradient
from nfbench.matmul import matmul_precision
from nfbench.metrics import Summary, summarize
from nfbench.nets.running import running_statistics
from nfbench.nfe import NfeMeter, meter_of
from nfbench.objectives import Objective
from nfbench.processes import average, gather_rows, place
from nfbench.schedule import Schedule
from nfbench.seeds import mix
from nfbench.selection import Selection
from nfbench.shard import Shard

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adamax": torch.optim.Adamax,
}
# Minibatches (k, B, *event), alone or with what they are conditioned on (k, B, ...).
Chunk = Tensor | tuple[Tensor, Tensor]
# Separate streams of random numbers for the phases of a run; 3 and 4 are those of the data.
TRAINING, VALIDATION, TEST = range(3)
IMPORTANCE, LATENTS, DIVERGENCE = range(5, 8)


class NonFiniteLossError(RuntimeError):
    """A training loss that is NaN or infinite; names the step."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"loss is {loss} at step {step}")
        self.step, self.loss = step, loss


class DensityModule(pl.LightningModule):
    """Trains a density model by chunks: a Lightning "batch" is k minibatches, k optimizer steps.

    All randomness inside a chunk comes from a generator seeded by (seed, step), so that a run
    that was cut and resumed at a chunk end draws what an uncut one draws.

    Args:
        model: what is trained.
        objective: (model, batch, context) -> scalar loss; with a fourth argument, the weight of
            what is annealed, while the schedule anneals.
        schedule: fixed points of the run and the learning rate.
        selection: keeps the best validation.
        criterion: (model, rows) -> (B,) that validations compare in training, in nats, the larger
            the better; without one the log-likelihood.
        optimizer: name in ``OPTIMIZERS``; fused where torch has it.
        weight_decay: L2 penalty on all parameters, added to the gradient.
        clip_norm: largest norm of the gradient, or None.
        ema_decay: decay of a moving average of the weights, evaluated in their place, or None.
        matmul_precision: torch's, of float32 matrices in training.
        shard: each of several processes keeps the optimizer's state of its part of the weights.
        compile: compile the gradient of the objective (costs seconds to minutes at the start).
        seed: of everything random in training and evaluation.
    """

    model: DensityModel
    weights: nn.Parameter  # all trained ones as one vector, once the optimizer is there
    shard: Shard | None
    nfe: NfeMeter | None = None  # of a model with ODEs

    def __init__(
        self,
        model: DensityModel,
        objective: Objective,
        schedule: Schedule,
        selection: Selection,
        *,
        criterion: Callable[[DensityModel, Tensor], Tensor] | None = None,
        optimizer: str = "adam",
        adam_beta2: float = 0.999,
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        matmul_precision: str = "highest",
        shard: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if optimizer not in OPTIMIZERS:
            raise ValueError(
                f"training.optimizer: expected one of {', '.join(OPTIMIZERS)}; got {optimizer!r}"
            )
        self.automatic_optimization = False
        self.model, self.schedule, self.selection = model, schedule, selection
        self.criterion, self.compiled = criterion, compile
        self.optimizer_name, self.weight_decay = optimizer, weight_decay
        self.adam_betas, self.adam_eps = (0.9, adam_beta2), adam_eps
        self.clip_norm, self.ema_decay, self.seed = clip_norm, ema_decay, seed
        self.matmul_precision = matmul_precision
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.gradient = Gradient(model, objective, self.trained, compile=compile)
        self.sharded, self.shard = shard, None
        self.step = 0
        self.improved = False
        self.summary: Summary | None = None
        self.phase = VALIDATION
        self.parts: list[tuple[int, Tensor]] = []
        self.log_probs = torch.empty(0)  # of each row of the last evaluation
        self.nfe = meter_of(model)
        self.average: Tensor | None = None
        self.optimizer_state: dict[str, Any] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of all weights as one vector, with the state of the run it continues."""
        self.weights = flatten(self.trained)
        self.shard = Shard(self.weights) if self.sharded else None
        if self.average is not None:
            self.average = self.average.to(self.weights.device)
        optimizer = OPTIMIZERS[self.optimizer_name](
            [self.shard.part if self.shard else self.weights],
            lr=self.schedule.learning_rate,
            betas=self.adam_betas,
            eps=self.adam_eps,
            weight_decay=self.weight_decay,
        )
        if (state := self.optimizer_state) is not None:
            optimizer.load_state_dict(self.shard.own(state) if self.shard else state)
        return optimizer

    def whole_optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state of all weights; all processes must call it."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        state = optimizer.state_dict()
        return self.shard.whole(state) if self.shard else state

    def training_step(self, chunk: Chunk, batch_idx: int) -> dict[str, Tensor]:
        """Take an optimizer step on each minibatch of a chunk; return their losses (k,)."""
        first = self.step
        self.draw_from(TRAINING, first)
        optimizer = self.optimizers()
        # Lightning drops all gradients at the start and before each validation.
        if self.weights.grad is None:
            tie_gradients(self.weights, self.trained)
            if self.shard:
                self.shard.tie_gradient()
        steps = (self.optimize(optimizer, *b, self.manual_backward) for b in minibatches(chunk))
        losses = average(torch.stack(list(steps)))
        bad = torch.nonzero(~torch.isfinite(losses)).flatten()
        if len(bad):
            raise NonFiniteLossError(first + int(bad[0]), losses[bad[0]].item())
        for statistic in running_statistics(self.model):
            average(statistic)
        if self.nfe is not None:
            self.nfe.end_chunk()
        return {"losses": losses}

    def optimize(
        self,
        optimizer: Any,
        x: Tensor,
        context: Tensor | None = None,
        backward: Callable[[Tensor], None] = Tensor.backward,
    ) -> Tensor:
        """One optimizer step on the minibatch ``x``; its loss, left on the device.

        Of several processes each has a part of the minibatch, and its loss is that of the part.
        """
        for group in optimizer.param_groups:
            group["lr"] = self.rate()
        assert self.weights.grad is not None
        self.weights.grad.zero_()
        beta = self.schedule.beta(self.step)
        weight = () if beta == 1 else (torch.full((), beta, device=x.device),)
        with matmul_precision(self.matmul_precision):
            loss = self.gradient.add(self.weights, x, context, *weight, backward=backward)
        average(self.weights.grad)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        optimizer.step()
        if self.shard:
            self.shard.gather()
        if self.ema_decay is not None:
            self.follow(1 - self.ema_decay)
        self.step += 1
        return loss

    def follow(self, part: float) -> None:
        """Move the average by a part of its way to the weights; it starts at those of step 1."""
        if self.average is None:
            self.average = self.weights.detach().clone()
        else:
            self.average.lerp_(self.weights.detach(), part)

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.schedule.rate(self.step) * self.selection.rate_factor

    def draw_from(self, phase: int, step: int) -> None:
        """Seed torch's generators by the phase and the step, on every rank differently."""
        torch.manual_seed(mix(self.seed, phase, step, self.global_rank))

    def draw_for(self, phase: int, batch: int) -> None:
        """Seed torch's generators by the phase and a batch of evaluation, whoever evaluates it."""
        torch.manual_seed(mix(self.seed, phase, batch, 0))

    def on_validation_start(self) -> None:
        """Evaluate the averaged weights, and the statistics of the whole training set."""
        self.phase, self.parts = VALIDATION, []
        self.swap_average()
        if self.model.needs_calibration:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.draw_for(VALIDATION, 0)
            self.model.calibrate(data.train, data.labels)

    def on_test_start(self) -> None:
        """Start collecting log-likelihoods."""
        self.phase, self.parts = TEST, []
        if self.nfe is not None:
            self.nfe.begin_evaluation()

    def on_test_epoch_end(self) -> None:
        """Close the count of evaluations."""
        self.collect()
        if self.nfe is not None:
            self.nfe.end_evaluation()

    def validation_step(self, x: Tensor, batch_idx: int) -> None:
        """Keep the log-likelihood of each row, or in training the criterion, in nats.

        Random numbers depend on the batch alone, so that they are the same at every evaluation.
        """
        rank, size = place()
        batch = rank + size * batch_idx
        self.draw_for(self.phase, batch)
        if self.criterion is not None and self.trainer.state.fn == TrainerFn.FITTING:
            values = self.criterion(self.model, x)
        else:
            values = self.model.log_prob(x)
        self.parts.append((batch, values.double()))

    def test_step(self, x: Tensor, batch_idx: int) -> None:
        """Keep the log-likelihood of each row, in nats, and what it took to find it."""
        self.validation_step(x, batch_idx)
        if self.nfe is not None:
            self.nfe.end_batch(len(x))

    def collect(self) -> None:
        """Put the log-likelihoods (n,) of all processes together, in the order of the rows."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.test if self.phase == TEST else data.val
        parts = ((batch * data.eval_batch_size, part) for batch, part in self.parts)
        self.log_probs = gather_rows(len(rows), parts, self.device)

    def on_validation_epoch_end(self) -> None:
        """Compare with the best validation so far; stop at the end of the run or of patience."""
        self.collect()
        self.summary = summarize(self.log_probs)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.improved = self.selection.update(self.step, self.summary.mean)
            if self.nfe is not None:
                self.nfe.end_interval()
            self.trainer.should_stop = self.selection.exhausted or self.schedule.ends_at(self.step)

    def on_validation_end(self) -> None:
        """Go back to the weights in training."""
        self.swap_average()

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange the weights and their moving average, if there is one."""
        if self.average is not None:
            kept = self.weights.detach().clone()
            self.weights.copy_(self.average)
            self.average.copy_(kept)


def minibatches(chunk: Chunk) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The k minibatches (B, *event) of a chunk with their context, if there is one."""
    if isinstance(chunk, Tensor):
        return ((x, None) for x in chunk.unbind(0))
    rows, context = chunk
    return zip(rows.unbind(0), context.unbind(0), strict=True)
