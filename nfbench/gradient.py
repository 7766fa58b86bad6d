"""The gradient of an objective, compiled if asked to as one function of all weights.

Forward and backward pass then are one graph, where autograd would walk over a node for each
operation and each parameter: steps of small nets in small batches take a half to two thirds of the
time on a CPU. On a GPU the launches of its kernels, which take longer than the kernels do, are
recorded once and then replayed as one (CUDA graphs). Torch checks before each call that nothing
that it compiled for has changed; of a model, which is thousands of attributes, that is left out.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nfbench.density import DensityModel
from nfbench.errors import UsageError
from nfbench.flat import padded
from nfbench.nets.first_batch import FirstBatch
from nfbench.nets.running import RunningStatistics
from nfbench.objectives import Objective
from nfbench.transforms.ode import ODE

log = logging.getLogger("nfbench")
# Options of torch.compile for a backend; on a CPU these do nothing.
OPTIONS: dict[str, dict[str, Any]] = {"inductor": {"triton.cudagraphs": True}}
NUMBERS = itertools.count()  # of the gradients that are compiled


class Gradient:
    """Adds the gradient of an objective to that of all weights.

    Args:
        model: what the objective is of.
        objective: (model, *arguments) -> scalar loss.
        trained: the parameters that the weights are made of.
        compile: compile the gradient, or of a model that has one of its own, or that every batch
            changes, or an ODE, the objective alone.
        backend: that of torch.compile.
    """

    def __init__(
        self,
        model: DensityModel,
        objective: Objective,
        trained: Sequence[nn.Parameter],
        *,
        compile: bool = False,
        backend: str = "inductor",
    ) -> None:
        self.model, self.objective, self.plain = model, objective, objective
        self.compiled: Callable[..., tuple[Tensor, Tensor]] | None = None
        self.is_proven = False
        self.waiting = [part for part in model.modules() if isinstance(part, FirstBatch)]
        if compile:
            # Torch compiles the same code eight times and no more; a sweep trains more models.
            torch.compiler.reset()
            self.objective = torch.compile(objective, dynamic=False, backend=backend)
        if compile and is_function(model):
            self.compiled = compile_gradient(model, objective, trained, backend=backend)

    def add(
        self, weights: nn.Parameter, *arguments: Any, backward: Callable[[Tensor], None]
    ) -> Tensor:
        """Add it to ``weights.grad``, by ``backward`` where it is autograd's; the loss.

        What the first batch sets is waited for, and that batch is not compiled for.

        Raises:
            UsageError: if torch fails to compile the objective.
        """
        self.waiting = [part for part in self.waiting if part.is_waiting]
        if self.compiled is not None and not self.waiting:
            drawn = None if self.is_proven else random_state(weights.device)
            try:
                gradient, loss = self.compiled(weights, *arguments)
            except Exception as error:  # one of the model's own is raised again below
                log.debug("the objective is compiled without its gradient: %s", error)
                self.compiled = None
                if drawn is not None:  # so that a resumed run draws what an uncut one does
                    restore(drawn, weights.device)
            else:
                self.is_proven = True
                assert weights.grad is not None
                weights.grad += gradient
                return loss.clone()  # the next replay writes where this one has its loss
        objective = self.plain if self.waiting else self.objective
        try:
            loss = objective(self.model, *arguments)
            backward(loss)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            told = str(error.inner_exception).strip() or type(error.inner_exception).__name__
            raise UsageError(
                "--compile: expected a training step that torch can compile, but its compiler "
                f"says: {told.splitlines()[-1].strip()}; run without --compile"
            ) from error
        return loss.detach()


class Loss(nn.Module):
    """An objective of a model as a module, whose parameters can be exchanged."""

    def __init__(self, model: nn.Module, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *arguments: Any) -> Tensor:
        """The objective of the model."""
        return self.objective(self.model, *arguments)


def is_function(model: nn.Module) -> bool:
    """Whether the density changes nothing in training, once a first batch has been seen.

    An ODE counts its evaluations, and a trial that fails would be counted too.
    """
    return not any(isinstance(part, ODE | RunningStatistics) for part in model.modules())


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of the CPU's generator and of that of a GPU."""
    of_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), of_gpu


def restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Set the generators to states they had."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def compile_gradient(
    model: nn.Module,
    objective: Callable[..., Tensor],
    trained: Sequence[nn.Parameter],
    *,
    backend: str,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """``(dL/dw, L)`` of an objective L and the trained parameters as one vector w, compiled.

    Raises, when called:
        Exception: if torch.func cannot differentiate the model, which has a gradient of its own
            (RuntimeError), say, or asks what is a parameter (AttributeError).
    """
    loss, own = loss_of_weights(model, objective, trained), next(NUMBERS)

    def numbered(weights: Tensor, number: int, *arguments: Any) -> Tensor:
        """The loss of the gradient of this number."""
        return loss(weights, *arguments)

    gradient = torch.func.grad_and_value(numbered)
    options = OPTIONS.get(backend, {}) | {"guard_filter_fn": worth_checking}
    compiled = torch.compile(gradient, dynamic=False, backend=backend, options=options)
    return torch.no_grad()(lambda weights, *arguments: compiled(weights, own, *arguments))


def worth_checking(guards: Sequence[Any]) -> list[bool]:
    """Which of torch's guards to check before each call: those of all that is not the model.

    The closure holds it. In training it stays as it is (see `is_function`), but for its weights,
    which are an argument, and its buffers, which are read at each call. That it is this model's
    gradient, and not another's, whose code is the same, tells its number, an argument too.
    """
    return ["__closure__" not in guard.name for guard in guards]


def loss_of_weights(
    model: nn.Module, objective: Callable[..., Tensor], trained: Sequence[nn.Parameter]
) -> Callable[..., Tensor]:
    """``L(w, *arguments)`` of an objective L and the trained parameters as one vector w."""
    found = {parameter: f"model.{name}" for name, parameter in model.named_parameters()}
    names = [found[parameter] for parameter in trained]
    # Taken now, so that a call need not look at the parameters themselves.
    rooms, shapes = [padded(each) for each in trained], [each.shape for each in trained]
    loss = Loss(model, objective)

    def value(weights: Tensor, *arguments: Any) -> Tensor:
        """The loss at these weights."""
        parameters = {
            name: piece[: shape.numel()].view(shape)
            for name, piece, shape in zip(names, weights.split(rooms), shapes, strict=True)
        }
        result: Tensor = torch.func.functional_call(loss, parameters, arguments)
        return result

    return value
