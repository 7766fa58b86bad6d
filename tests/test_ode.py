"""Continuous flows against closed forms, torchdiffeq alone, and backpropagation."""

import copy
import gc
import math
import weakref
from collections.abc import Callable
from itertools import product

import pytest
import torch
from ode_cases import Generic, Linear
from oracles import close, randomize, through_file
from torch import Tensor, nn
from torchdiffeq import odeint

from nfbench.distributions.base import StandardNormal
from nfbench.errors import FailedRunError, OdeError
from nfbench.flows.flow import Flow
from nfbench.nets.field import Field
from nfbench.nets.mlp_field import MLPField
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.ode import ODE, count_nfe
from nfbench.transforms.permute import Permute
from nfbench.transforms.reversible import Reversible

pytestmark = pytest.mark.usefixtures("float64")

GRADIENTS = ("adjoint", "autograd", "replay")
ALL = pytest.mark.parametrize("gradient", GRADIENTS)
B, D, N_CONTEXT = 3, 2, 2
EXACT = {"atol": 1e-11, "rtol": 1e-11, "trace": "exact"}
NOTHING = {"forward": (0, 0), "backward": (0, 0), "evaluation": (0, 0), "sampling": (0, 0)}
REGULARIZERS = ("kinetic", "jacobian", "path")


def mlp(*, context: int = 0, dims: int = D) -> MLPField:
    field = MLPField(dims, hidden=(6, 5), context_features=context)
    randomize(field, 1.5)
    return field


class Counted(Generic):
    """A field that counts its own calls, and those for a derivative."""

    def __init__(self, field: Field) -> None:
        super().__init__(field)
        self.calls = self.derivatives = 0

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(t, x, context)

    def pull(self, *args: object, **options: object) -> object:
        self.derivatives += 1
        return super().pull(*args, **options)


def within(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Closed forms -----------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("time", [0.3, 1.7])
def test_a_linear_field_is_a_matrix_exponential(gradient: str, time: float) -> None:
    matrix = torch.randn(D, D)
    ode, x = ODE(Linear(matrix), T=time, gradient=gradient, **EXACT).eval(), torch.randn(B, D)
    for way, sign in ((ode, 1), (ode.inverse, -1)):
        moved, log_det = way(x)
        within(moved, x @ torch.matrix_exp(sign * ode.sqrt_T**2 * matrix).t(), 1e-8)
        within(log_det, (sign * ode.sqrt_T**2 * matrix.trace()).expand(B), 1e-8)


@ALL
def test_penalties_of_a_rotation(gradient: str) -> None:
    """The speed of a rotation is constant, its Jacobian orthogonal, whatever is drawn."""
    ode = ODE(
        Linear(torch.tensor([[0.0, -2.0], [2.0, 0.0]])),
        T=0.7,
        gradient=gradient,
        regularize=REGULARIZERS,
        **EXACT,
    )
    x = torch.randn(B, D)
    for way in (ode, ode.inverse):
        way(x)
        within(ode.penalties["kinetic"], 0.7 * 4 * x.square().sum(1).mean(), 1e-6)
        within(ode.penalties["path"], 0.7 * 2 * x.norm(dim=1).mean(), 1e-6)
        within(ode.penalties["jacobian"], torch.tensor(0.7 * 4 * D), 1e-6)
    ode.eval()(x)
    assert ode.penalties == {}


# Solvers ----------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("backwards", [False, True])
def test_torchdiffeq_alone_gives_the_same(gradient: str, backwards: bool) -> None:
    field, x, context = mlp(context=N_CONTEXT), torch.randn(B, D), torch.randn(B, N_CONTEXT)

    def system(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        rows = [
            torch.autograd.functional.jacobian(lambda p, i=i: field(t, p, context)[i], state[0])
            for i in range(B)
        ]
        traces = [row[:, i].trace() for i, row in enumerate(rows)]
        return field(t, state[0], context), torch.stack(traces)

    times = torch.tensor([1.0, 0.0] if backwards else [0.0, 1.0])
    moved, log_det = odeint(system, (x, torch.zeros(B)), times, atol=1e-10, rtol=1e-10)
    ode = ODE(field, gradient=gradient, **EXACT).eval()
    found = (ode.inverse if backwards else ode)(x, context)
    within(found[0], moved[1].detach(), 1e-8)
    within(found[1], log_det[1].detach(), 1e-8)
    within(ode.generate(x, context, backwards=backwards), moved[1].detach(), 1e-8)


@pytest.mark.parametrize("solver", ["dopri8", "bosh3", "rk4", "heun3", "implicit_adams"])
def test_other_solvers(solver: str) -> None:
    fixed = solver in ("rk4", "heun3", "implicit_adams")
    field, x = mlp(), torch.randn(B, D)
    ode = ODE(field, solver=solver, step_size=0.02 if fixed else None, atol=1e-7, rtol=1e-7)
    expected = ODE(field, gradient="replay", **EXACT).eval()(x)
    for found, exact in zip(ode.eval()(x), expected, strict=True):
        within(found, exact, 1e-4)


@ALL
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_there_and_back_within_the_tolerance(gradient: str, tolerance: float) -> None:
    ode = ODE(mlp(), gradient=gradient, atol=tolerance, rtol=tolerance).eval()
    z = torch.randn(B, D)
    x, log_det = ode.inverse(z)
    back, there = ode(x)
    within(back, z, 100 * tolerance)
    within(there, -log_det, 100 * tolerance)
    within(ode.generate(z), x, 100 * tolerance)


def test_our_solver_takes_the_steps_of_torchdiffeq() -> None:
    """They differ in the last step alone, which torchdiffeq would take beyond the end."""
    field, x = mlp(), torch.randn(20, D)
    counts = []
    for gradient in ("adjoint", "replay"):
        ode = ODE(field, T=3.0, gradient=gradient, atol=1e-8, rtol=1e-8).eval()
        ode(x)
        counts.append(ode.nfe["evaluation"][1])
    assert counts[1] > 60
    assert abs(counts[0] - counts[1]) <= 12


def test_float32_is_as_accurate_as_it_can_be() -> None:
    field, x = mlp(), torch.randn(B, D)
    exact = ODE(field, gradient="replay", **EXACT).eval()(x)
    for gradient in GRADIENTS:
        single = ODE(copy.deepcopy(field), gradient=gradient, **EXACT).eval().float()
        for rough, fine in zip(single(x.float()), exact, strict=True):
            assert rough.dtype == torch.float32
            within(rough.double(), fine, 1e-5)


# Gradients --------------------------------------------------------------------------------------


def reference(
    ode: ODE, x: Tensor, context: Tensor | None, probes: Tensor | None, backwards: bool
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The same integrals by torchdiffeq, tight, backpropagated through its steps."""

    def system(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        velocity, divergence = Generic(ode.field).divergence(t, state[0], None, context)
        found = [velocity, divergence]
        if probes is not None:
            rows = Generic(ode.field).vjp(t, state[0], probes, context)[1]
            found[1] = (rows * probes).sum(2).mean(0)
            found += [velocity.square().sum(1), rows.square().sum(2).mean(0), velocity.norm(dim=1)]
        return tuple(found)

    time = ode.sqrt_T.square()
    times = torch.stack([time, 0 * time] if backwards else [0 * time, time])
    zeros = [torch.zeros(len(x))] * (1 if probes is None else 4)
    moved, log_det, *integrals = odeint(system, (x, *zeros), times, atol=1e-9, rtol=1e-9)
    sign = -1 if backwards else 1
    penalties = {n: sign * i[1].mean() for n, i in zip(REGULARIZERS, integrals, strict=False)}
    return moved[1], log_det[1], penalties


def loss_of(moved: Tensor, log_det: Tensor, penalties: dict[str, Tensor]) -> Tensor:
    loss = (moved * torch.linspace(1, 2, moved.numel()).view_as(moved)).sum()
    return loss + (log_det * torch.arange(1.0, len(log_det) + 1)).sum() + sum(penalties.values())


@ALL
@pytest.mark.parametrize(
    ("trace", "backwards"), [*product(["exact", "hutchinson"], [False, True])]
)
def test_gradients_are_those_of_a_tight_solve(
    gradient: str, trace: str, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    regularize = REGULARIZERS if trace == "hutchinson" else ()
    ode = ODE(
        mlp(context=N_CONTEXT),
        T=0.6,
        train_T=True,
        atol=1e-8,
        rtol=1e-8,
        gradient=gradient,
        trace=trace,
        probes=2,
        regularize=regularize,
    )
    x, context = torch.randn(B, D, requires_grad=True), torch.randn(B, N_CONTEXT)
    context.requires_grad_()
    probes = ode.draw(x.detach())
    monkeypatch.setattr(ode, "draw", lambda points: probes)
    leaves = [x, context, *ode.parameters()]
    expected = reference(ode, x, context, probes if regularize else None, backwards)
    wanted = torch.autograd.grad(loss_of(*expected), leaves, materialize_grads=True)
    found = (*(ode.inverse if backwards else ode)(x, context), ode.penalties)
    assert set(found[2]) == set(regularize)
    for name, value in found[2].items():
        within(value, expected[2][name], 1e-6)
    got = torch.autograd.grad(loss_of(*found), leaves, allow_unused=True)
    names = ["x", "context", *dict(ode.named_parameters())]
    for name, mine, exact in zip(names, got, wanted, strict=True):
        assert exact.any(), name
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: n + m)


@ALL
def test_gradients_of_generated_points(gradient: str) -> None:
    ode, z = ODE(mlp(), gradient=gradient, **EXACT), torch.randn(B, D, requires_grad=True)
    leaves = [z, *ode.parameters()]
    points = [ode.generate(z), ode.inverse(z)[0]]
    first, second = (torch.autograd.grad(p.square().sum(), leaves) for p in points)
    for mine, expected in zip(first, second, strict=True):
        within(mine, expected, 1e-7)


@ALL
def test_what_takes_no_gradient_gets_none(gradient: str) -> None:
    ode = ODE(mlp(context=N_CONTEXT), gradient=gradient)
    frozen = ode.field.layers.bias.requires_grad_(False)
    x, context = torch.randn(B, D), torch.randn(B, N_CONTEXT)
    z, log_det = ode(x, context)
    (z.sum() + log_det.sum()).backward()
    assert frozen.grad is None
    assert x.grad is context.grad is None
    assert all(p.grad is not None for p in ode.parameters() if p.requires_grad)
    with torch.no_grad():
        assert not ode(x, context)[0].requires_grad


@ALL
def test_a_graph_can_be_used_twice(gradient: str) -> None:
    ode, x = ODE(mlp(), gradient=gradient, trace="exact"), torch.randn(B, D, requires_grad=True)
    z, log_det = ode(x)
    loss = z.sum() + log_det.sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    close(first, second)


# Estimates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_estimated_log_dets_are_unbiased_and_know_their_error(noise: str) -> None:
    options = {"gradient": "replay", "atol": 1e-6, "rtol": 1e-6, "noise": noise}
    field, x = mlp(dims=4), torch.randn(5, 4)
    exact = ODE(field, **options).eval()
    ode = ODE(field, exact_dims=0, probes=200, **options).eval()
    assert exact.likelihood == "exact"
    assert ode.likelihood == "estimate"
    z, log_det = ode(x)
    within(z, exact(x)[0], 1e-5)
    assert exact.log_det_se is None
    error = (log_det - exact(x)[1]).abs()
    assert ode.log_det_se.shape == (5,)
    assert (error < 4 * ode.log_det_se + 1e-4).all()
    assert (ode.log_det_se > 0.001).all()
    spread = torch.stack([ode(x)[1] for _ in range(12)]).std(0)
    assert (spread / ode.log_det_se).log().abs().max() < math.log(2.5)


def test_noise_is_drawn_once_a_solve_from_the_generator() -> None:
    ode, x = ODE(mlp(), gradient="replay", exact_dims=0, probes=3), torch.randn(B, D)
    for noise, values in (("rademacher", {-1.0, 1.0}), ("gaussian", None)):
        ode.noise = noise
        drawn = ode.draw(torch.zeros(4000, D))
        assert drawn.shape == (3, 4000, D)
        within(drawn.mean(), torch.tensor(0.0), 0.03)
        within(drawn.var(), torch.tensor(1.0), 0.04)
        assert values is None or set(drawn.unique().tolist()) == values
    pairs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        pairs.append(ode(x)[1])
    assert torch.equal(pairs[0], pairs[1])
    assert not torch.equal(pairs[0], pairs[2])


def test_training_follows_the_trace_and_evaluation_the_dimensions() -> None:
    x = torch.randn(B, 4)
    for trace, exact_dims, training, evaluation in (
        ("hutchinson", 4, False, True),
        ("hutchinson", 3, False, False),
        ("exact", 3, True, True),
    ):
        ode = ODE(mlp(dims=4), gradient="replay", trace=trace, exact_dims=exact_dims)
        assert ode.likelihood == ("exact" if evaluation else "estimate")
        assert Compose([ode]).likelihood == Inverse(ode).likelihood == ode.likelihood
        for mode, same in ((True, training), (False, evaluation)):
            ode.train(mode)
            assert torch.equal(ode(x)[1], ode(x)[1]) == same


# Counts -----------------------------------------------------------------------------------------


WRAPS: dict[str, Callable[[Transform], Transform]] = {
    "alone": lambda ode: ode,
    "composed": lambda ode: Compose([Permute([1, 0]), Compose([ode])]),
    "inverse": Inverse,
}


@ALL
@pytest.mark.parametrize("wrap", WRAPS)
def test_evaluations_are_counted_by_phase(gradient: str, wrap: str) -> None:
    ode = ODE(Counted(mlp()), gradient=gradient, train_T=True)
    model = WRAPS[wrap](ode)

    def calls() -> int:
        found, ode.field.calls = ode.field.calls, 0
        return found

    assert count_nfe(model) == NOTHING
    z, log_det = model(torch.randn(B, D))
    forward = calls()
    (z.sum() + log_det.sum()).backward()
    backward = calls()
    model.inverse(torch.randn(B, D))
    inverse = calls()
    model.eval()
    model(torch.randn(B, D))
    model.inverse(torch.randn(B, D))
    evaluation = calls()
    ode.field.derivatives = 0
    model.generate(torch.randn(B, D))
    sampling = calls()
    assert ode.field.derivatives == 0
    expected = {
        "forward": (2, forward + inverse),
        "backward": (int(gradient != "autograd"), backward),
        "evaluation": (2, evaluation),
        "sampling": (1, sampling),
    }
    assert min(forward, inverse, evaluation, sampling) > 6
    assert (backward > 0) == (gradient != "autograd")
    assert count_nfe(model) == expected
    assert count_nfe(model, reset=True) == expected
    assert count_nfe(model) == NOTHING
    model.generate(torch.randn(B, D))
    assert ode.pop_nfe()["sampling"] == (1, calls())
    assert ode.nfe == NOTHING


@ALL
def test_a_reversible_chain_evaluates_backwards(gradient: str) -> None:
    ode = ODE(Counted(mlp()), gradient=gradient, trace="exact", atol=1e-8, rtol=1e-8)
    x = torch.randn(B, D)
    plain = Compose([copy.deepcopy(ode)])
    for chain in (plain, Reversible([ode])):
        z, log_det = chain(x)
        (z.square().sum() + log_det.sum()).backward()
    for mine, expected in zip(ode.parameters(), plain.parameters(), strict=True):
        within(mine.grad, expected.grad, 1e-5)
    assert ode.nfe["sampling"] == ode.nfe["evaluation"] == (0, 0)
    assert sum(n for _, n in ode.nfe.values()) == ode.field.calls
    assert ode.nfe["forward"][0] == 1
    ode.regularize = ("path",)
    with pytest.raises(ValueError, match="expected none inside of Reversible"):
        ode.retrace(x)


def test_sampling_a_flow_evaluates_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [mlp(), mlp()]
    parts = [ODE(fields[0], gradient="replay"), Inverse(ODE(fields[1], exact_dims=0))]
    flow = Flow(StandardNormal((D,)), Compose(parts)).eval()
    refuse = pytest.fail
    for name in ("divergence", "vjp"):
        monkeypatch.setattr(MLPField, name, lambda *a, **k: refuse("a divergence was evaluated"))
    assert flow.sample(5).shape == (5, D)
    assert [n for n, _ in count_nfe(flow).values()] == [0, 0, 0, 2]
    assert len(list(flow.transform.steps(torch.randn(5, D)))) == 2
    monkeypatch.undo()
    torch.manual_seed(1)
    samples = flow.sample(5)
    torch.manual_seed(1)
    within(samples, flow.transform.inverse(flow.base.sample(5))[0], 1e-3)


# Failures ---------------------------------------------------------------------------------------


class Explosion(Field):
    """dx/dt = x^2 reaches infinity at t = 1/x."""

    n_dims = D

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x.square()


class Stiff(Field):
    """Falls to cos t within a millionth of the time; all later steps must stay as short."""

    n_dims = D

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return -1e6 * (x - torch.cos(t))


class Undefined(Field):
    """NaN after t = 0.5."""

    n_dims = D

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x * torch.sqrt(0.5 - t)


@ALL
def test_an_explosion_is_located(gradient: str) -> None:
    ode = ODE(Explosion(), gradient=gradient, max_evaluations=3000)
    with pytest.raises(OdeError, match=r"at t = 0\.(49999|5\d*), with steps of .*; try a higher"):
        ode(torch.full((B, D), 2.0))


@ALL
def test_a_stiff_field_costs_too_much(gradient: str) -> None:
    ode = ODE(Stiff(), gradient=gradient, max_evaluations=500)
    message = r"more than 500 evaluations at t = 0\.000.*, with steps of .*largest \|velocity\|"
    with pytest.raises(OdeError, match=message):
        ode.generate(torch.ones(B, D), backwards=False)
    assert ode.nfe["sampling"] == (1, 501)


@ALL
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_nan_is_named(gradient: str, start: float) -> None:
    ode = ODE(Undefined(), gradient=gradient, T=1.0)
    points = torch.ones(B, D)
    with pytest.raises(OdeError, match=r"the field is NaN at t = .*, at finite points"):
        ode(points) if start == 0 else ode.inverse(points)
    with pytest.raises(OdeError, match="where points are not finite"):
        ode.generate(torch.full((B, D), torch.nan))


def test_a_fixed_step_gives_no_nan_silently() -> None:
    ode = ODE(Undefined(), solver="rk4", step_size=0.25)
    with pytest.raises(OdeError, match="the solution is not finite"):
        ode(torch.ones(B, D))


def test_the_way_back_fails_as_clearly() -> None:
    ode = ODE(mlp(), max_evaluations=1000)
    z, log_det = ode(torch.randn(B, D))
    ode.field.layers.bias.data.fill_(torch.nan)
    with pytest.raises(OdeError, match=r"no solution of the adjoint equation.*the field is NaN"):
        (z.sum() + log_det.sum()).backward()


@ALL
def test_a_graph_that_is_dropped_leaves_no_memory(gradient: str) -> None:
    ode = ODE(mlp(), gradient=gradient)
    gc.collect()
    gc.disable()
    try:
        z, log_det = ode(torch.randn(B, D))
        node = weakref.ref(z.grad_fn)
        (z.sum() + log_det.sum()).backward()
        del z, log_det
        assert node() is None
    finally:
        gc.enable()


@ALL
def test_parameters_may_not_change_before_the_gradient(gradient: str) -> None:
    ode = ODE(mlp(), gradient=gradient)
    loss = ode(torch.randn(B, D))[0].sum()
    with torch.no_grad():
        ode.field.layers.bias.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_failed_integration_is_a_failed_run() -> None:
    error = OdeError("what happened")
    assert isinstance(error, FailedRunError)
    assert error.failure["kind"] == "diverging ODE"
    assert error.failure["message"] == str(error) == "what happened"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "none"}, "gradient: expected one of adjoint, autograd, replay; got 'none'"),
        ({"trace": "best"}, "trace: expected one of hutchinson, exact"),
        ({"noise": "white"}, "noise: expected one of rademacher, gaussian"),
        ({"solver": "dopri9"}, "solver: expected one of dopri5"),
        ({"norm": "l2"}, "norm: expected one of rms, max; got 'l2'"),
        ({"T": 0.0}, "T: expected a positive number, got 0.0"),
        ({"probes": 0}, "probes: expected a positive number"),
        ({"solver": "rk4"}, "step_size: expected a positive number with solver=rk4, .* got null"),
        ({"step_size": 0.1}, "step_size: expected null with solver=dopri5, .* got 0.1; .* euler"),
        ({"solver": "bosh3", "gradient": "replay"}, "expected adjoint or autograd"),
        ({"regularize": ["energy"]}, "expected some of kinetic, jacobian, path; got"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ODE(mlp(), **options)


# State ------------------------------------------------------------------------------------------


def test_copies_and_files() -> None:
    ode = ODE(mlp(), T=0.5, train_T=True, gradient="replay", regularize=REGULARIZERS)
    x = torch.randn(B, D)
    ode(x)
    assert all(penalty.requires_grad for penalty in ode.penalties.values())
    twin = copy.deepcopy(ode)
    assert twin.penalties == {}
    assert twin.nfe == ode.nfe
    other = ODE(mlp(), train_T=True, gradient="replay", regularize=REGULARIZERS)
    other.load_state_dict(through_file(ode))
    for same in (twin, other):
        assert torch.equal(same.eval()(x)[0], ode.eval()(x)[0])
    fixed = ODE(mlp(), T=2.0)
    assert set(fixed.state_dict()) == set(ode.state_dict())
    assert isinstance(ode.sqrt_T, nn.Parameter)
    assert not isinstance(fixed.sqrt_T, nn.Parameter)
