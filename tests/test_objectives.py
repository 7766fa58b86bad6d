"""Objectives of continuous flows: what minimizes them, what they add, which models they take."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import MAF, changed, fit, normal_rows, write_table
from torch import Tensor, nn
from torch.distributions import Normal

from nfbench import checkpoint
from nfbench.build import build_model
from nfbench.config import load
from nfbench.data import DATA
from nfbench.distributions.base import StandardNormal
from nfbench.errors import UsageError
from nfbench.flows import FLOWS
from nfbench.flows.class_conditional import ClassConditional
from nfbench.flows.flow import Flow
from nfbench.flows.preprocessed import Preprocessed
from nfbench.nets.field import Field
from nfbench.nets.mlp_field import MLPField
from nfbench.objectives import (
    check_endpoints,
    check_penalties,
    check_teacher,
    flow_matching,
    maximum_likelihood,
    ot_flow_matching,
    reflow,
    regularized_likelihood,
)
from nfbench.objectives.endpoints import take_apart
from nfbench.objectives.pairing import pair_optimally
from nfbench.run import run
from nfbench.schedule import Schedule
from nfbench.training import build_module, build_schedule
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.logit import Logit
from nfbench.transforms.ode import ODE
from nfbench.transforms.rescale import Rescale

MEAN, SD, T = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.6, 2.0
FINE = {"atol": 1e-9, "rtol": 1e-9}
MATCHING = (flow_matching, ot_flow_matching)


class Optimal(Field):
    """E[(1 - sigma) noise - data | x_s = x] / T for data N(m, sd^2 I), and changes of it."""

    n_dims = 2

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = sigma
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        s = t / T
        a, b = 1 - s, self.sigma + (1 - self.sigma) * s
        slope = ((1 - self.sigma) * b - a * SD**2) / (a**2 * SD**2 + b**2)
        return (self.scale * slope * (x - a * MEAN) - MEAN + self.shift) / T


class Straight(Optimal):
    """The field of the straight paths from x to (x - m) / sd."""

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        s = t / T
        z = (x - (1 - s) * MEAN) / ((1 - s) * SD + s)
        return (z - (MEAN + SD * z)) / T


def optimal(sigma: float = 0.0) -> Flow:
    ode = ODE(Optimal(sigma), T=T, trace="exact", **FINE)
    return Flow(StandardNormal([2]), ode).double()


def straight() -> Flow:
    return Flow(StandardNormal([2]), ODE(Straight(), T=T)).double()


def data(n: int) -> Tensor:
    return MEAN + SD * torch.randn(n, 2, dtype=torch.float64)


def least(sigma: float) -> float:
    """The variance that is left of the displacement given x_s, averaged over s by quadrature."""
    s = (np.arange(100_000) + 0.5) / 100_000
    a, b, c = 1 - s, sigma + (1 - sigma) * s, 1 - sigma
    left = c**2 + SD**2 - (c * b - a * SD**2) ** 2 / (a**2 * SD**2 + b**2)
    return float(2 * left.mean())


def small(**settings: Any) -> Flow:
    torch.manual_seed(0)
    return Flow(StandardNormal([2]), ODE(MLPField(2, hidden=[8], layer="concat"), **settings))


def test_the_least_loss_of_normal_data_is_a_closed_form() -> None:
    assert least(0.0) == pytest.approx(math.pi * SD, rel=1e-6)  # D sd pi / 2


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_flow_matching_is_least_at_the_conditional_expectation(sigma: float) -> None:
    model = optimal(sigma)
    torch.manual_seed(0)
    losses = torch.stack([flow_matching(model, data(2000), sigma_min=sigma) for _ in range(50)])
    error = float(losses.detach().std() / 50**0.5)
    assert float(losses.detach().mean()) == pytest.approx(least(sigma), abs=4 * error)
    field = model.transform.field
    slopes = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, [*field.parameters()], retain_graph=True)
                ]
            )
            for loss in losses
        ]
    )
    assert (slopes.mean(0).abs() < 4 * slopes.std(0) / 50**0.5).all()
    assert slopes.std(0).max() < 1
    for parameter, change in ((field.scale, 0.3), (field.scale, -0.3), (field.shift, 0.3)):
        torch.manual_seed(0)
        with torch.no_grad():
            parameter.add_(change)
            changed = [flow_matching(model, data(2000), sigma_min=sigma) for _ in range(50)]
            parameter.sub_(change)
        assert torch.stack(changed).mean() > losses.mean() + 0.02


def test_the_optimal_field_transports_noise_to_the_data_with_their_density() -> None:
    model = optimal().eval()
    torch.manual_seed(0)
    x, z = data(50), torch.randn(50, 2, dtype=torch.float64)
    truth = Normal(MEAN, SD).log_prob(x).sum(1)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(x), truth, rtol=0, atol=1e-6)
        torch.testing.assert_close(model.transform.generate(z), MEAN + SD * z, rtol=0, atol=1e-6)


def test_pairs_are_those_of_the_best_permutation() -> None:
    torch.manual_seed(0)
    for _ in range(5):
        noise, data = torch.randn(6, 2, 2), torch.randn(6, 2, 2) + 1
        costs = {p: float((data - noise[list(p)]).square().sum()) for p in permutations(range(6))}
        best = min(costs, key=costs.__getitem__)
        assert torch.equal(pair_optimally(noise, data), noise[list(best)])


def test_pairs_are_made_within_a_context() -> None:
    torch.manual_seed(0)
    noise, data = torch.randn(7, 2), torch.randn(7, 2)
    codes = torch.eye(3)[[0, 1, 0, 2, 1, 0, 1]]
    found = pair_optimally(noise, data, codes)
    for code in torch.eye(3):
        rows = torch.nonzero((codes == code).all(1)).flatten()
        orders = [list(order) for order in permutations(range(len(rows)))]
        costs = [float((data[rows] - noise[rows][order]).square().sum()) for order in orders]
        best = orders[int(np.argmin(costs))]
        assert torch.equal(found[rows], noise[rows][best])


def test_optimal_pairs_are_nearer_and_their_paths_nearer_to_straight() -> None:
    """The least loss is what paths that cross leave: with optimal pairs almost nothing."""
    torch.manual_seed(0)
    x, noise = data(256), torch.randn(256, 2, dtype=torch.float64)
    far, near = ((x - z).square().sum(1).mean() for z in (noise, pair_optimally(noise, x)))
    transport = float(MEAN.square().sum() + 2 * (1 - SD) ** 2)  # W2^2 of the two normals
    assert near < 0.7 * far
    assert float(near) == pytest.approx(transport, abs=0.25)


def test_optimal_pairs_of_normal_rows_follow_the_map_of_the_two_normals() -> None:
    """The field of x -> (x - m) / sd, straight paths, is nearly free of loss."""
    torch.manual_seed(0)
    model = straight()
    x = data(512)
    assert ot_flow_matching(model, x) < 0.15 * flow_matching(model, x)


def test_penalties_are_added_with_their_weights() -> None:
    names = ("kinetic", "jacobian", "path")
    model = small(regularize=names, trace="hutchinson")
    x = torch.randn(20, 2)
    torch.manual_seed(1)
    plain = maximum_likelihood(model, x)
    penalties = {name: model.transform.penalties[name] for name in names}
    parameters = list(model.parameters())
    weights = {"kinetic": 0.5, "jacobian": 0.25, "path": 2.0}
    expected = plain + sum(weights[name] * penalties[name] for name in names)
    settings = {f"{name}_weight": weight for name, weight in weights.items()}
    torch.manual_seed(1)
    found = regularized_likelihood(model, x, **settings)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert found - plain > 1e-3
    pairs = zip(
        *(torch.autograd.grad(loss, parameters) for loss in (found, expected)), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("regularize", "weights", "message"),
    [
        ((), {"kinetic_weight": 1.0}, r"flow.regularize, \[\], .* got weights for \['kinetic'\]"),
        (("kinetic", "path"), {"path_weight": 1.0}, r"\['kinetic', 'path'\], .* for \['path'\]"),
        (("kinetic",), {}, "expected a positive weight"),
    ],
)
def test_weights_and_penalties_that_do_not_match_are_refused(
    regularize: tuple[str, ...], weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_penalties(small(regularize=regularize), **weights)
    check_penalties(small(regularize=["kinetic"]), kinetic_weight=0.1)


def test_the_state_starts_behind_the_preprocessing_and_the_transforms_before() -> None:
    before = Compose([Compose([Rescale(2.0, 1.0)]), Logit(0.05)])
    flow = small()
    flow.transform = Compose([Rescale(3.0, 0.0), Compose([flow.transform])])
    model = Preprocessed(before, flow)
    x = 0.5 + 0.4 * torch.rand(4, 2)
    y = 0.05 + 0.9 * (2 * x - 1)
    torch.testing.assert_close(take_apart(model).start(x, None), 3 * (y.log() - (1 - y).log()))


def test_reflow_of_normal_data_is_least_where_paths_are_straight() -> None:
    """The teacher takes z to m + sd z; the pairs' own straight paths are free of loss."""
    torch.manual_seed(0)
    teacher, x = optimal().requires_grad_(False), data(200)
    assert reflow(straight(), x, teacher=teacher) < 1e-12
    student = optimal()
    loss = reflow(student, x, teacher=teacher)
    assert loss > 0.01
    loss.backward()
    assert student.transform.field.scale.grad.abs() > 0.01
    assert teacher.transform.field.scale.grad is None


def test_reflow_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected training\.teacher, a run of the same flow"):
        check_teacher(small())


@pytest.mark.parametrize("objective", MATCHING)
def test_integers_with_labels_train_a_field(objective: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    field = MLPField(2, hidden=[8], layer="concat", context_features=3)
    classes = ClassConditional(Flow(StandardNormal([2]), ODE(field)), 3)
    model = Preprocessed(Compose([Dequantize(4), Logit(0.05)]), classes)
    x, labels = torch.randint(4, (16, 2), dtype=torch.uint8), torch.randint(3, (16,))
    check_endpoints(model)
    torch.manual_seed(1)
    loss = objective(model, x, labels)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in field.parameters())
    torch.manual_seed(1)
    assert objective(model, x, (labels + 1) % 3) != loss
    with pytest.raises(ValueError, match="this flow is conditional"):
        objective(model, x)


@pytest.mark.parametrize("objective", MATCHING)
def test_objectives_draw_from_torch_alone(objective: Callable[..., Tensor]) -> None:
    model, x = small(), torch.randn(16, 2)
    losses = []
    for seed in (0, 1):
        np.random.seed(seed)
        state = np.random.get_state()[1].tolist()
        torch.manual_seed(5)
        losses.append(objective(model, x, sigma_min=0.1))
        assert np.random.get_state()[1].tolist() == state
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], objective(model, x, sigma_min=0.1))


@pytest.mark.parametrize("objective", MATCHING)
def test_a_field_that_is_matched_has_a_likelihood_that_rises(objective: Any) -> None:
    torch.manual_seed(0)
    field = MLPField(2, hidden=[32, 32], layer="concat", activation="tanh")
    model = Flow(StandardNormal([2]), ODE(field, T=0.5, gradient="replay"))
    dataset = normal_rows(500)
    x = torch.from_numpy(dataset.splits.test)
    with torch.no_grad():
        before = model.eval().log_prob(x).mean()
    model.train()
    fit(
        model,
        dataset,
        Schedule(5, 300, 300, 50, learning_rate=5e-3),
        batch_size=100,
        objective=objective,
    )
    mean, covariance = x.mean(0), x.T.cov()
    truth = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).mean()
    with torch.no_grad():
        after = model.eval().log_prob(x).mean()
    assert truth - after < 0.1 * (truth - before)


def bad(*transforms: Transform) -> Flow:
    return Flow(StandardNormal([2]), Compose(transforms))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FLOWS["maf"]((2,), layers=1, hidden=[4]), "got 0 in the transforms Autoreg"),
        (lambda: bad(small().transform, small().transform), "got 2 in the transforms ODE, ODE"),
        (lambda: bad(small().transform, Rescale(2.0, 0.0)), "transforms ODE, Rescale"),
        (lambda: small(train_T=True), "got transform.sqrt_T"),
        (
            lambda: bad(Compose([]), FLOWS["planar"]((2,), layers=1).transform, small().transform),
            "no trained parameters but those of the ODE's field",
        ),
    ],
)
def test_models_that_cannot_be_matched_are_refused(make: Callable[[], Flow], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_endpoints(make())


@pytest.mark.parametrize("sigma", [-0.1, 1.0])
def test_a_size_of_noise_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"sigma_min: expected a number in \[0, 1\)"):
        check_endpoints(small(), sigma_min=sigma)


FFJORD = changed(MAF, flow={"name": "ffjord", "layers": None, "hidden": [8], "train_T": False})
del FFJORD["flow"]["layers"]


@pytest.mark.parametrize(
    ("row", "objective", "settings", "message"),
    [
        (MAF, "flow_matching", {}, "tiny/row: training.objective: flow_matching of flow 'maf'"),
        (MAF, "maximum_likelihood", {"sigma_min": 0.1}, "training.sigma_min: expected 0.0"),
        (FFJORD, "flow_matching", {"path_weight": 0.1}, "training.path_weight: expected 0.0"),
        (FFJORD, "regularized_likelihood", {"path_weight": 0.1}, "flow 'ffjord': expected a"),
        (FFJORD, "luck", {}, "reflow.*; got 'luck'"),
    ],
)
def test_an_experiment_with_the_wrong_objective_is_refused(
    tmp_path: Path, row: Any, objective: str, settings: dict[str, float], message: str
) -> None:
    write_table(tmp_path, row=changed(row, training={"objective": objective, **settings}))
    with pytest.raises(UsageError, match=message):
        module_of(tmp_path)


def test_an_experiment_hands_its_settings_to_the_objective(tmp_path: Path) -> None:
    training = {"objective": "flow_matching", "sigma_min": 0.1}
    write_table(tmp_path, row=changed(FFJORD, training=training))
    objective: partial[Tensor] = module_of(tmp_path).gradient.objective
    assert objective.func is flow_matching
    assert objective.keywords == {"sigma_min": 0.1}


def test_a_teacher_is_a_run_of_the_same_flow(tmp_path: Path) -> None:
    short = {"max_steps": 2, "validate_every": 2, "chunk": 2}
    base = changed(FFJORD, flow={"atol": 1e-2, "rtol": 1e-2, "gradient": "replay"}, training=short)
    row = changed(base, training={"objective": "reflow", "teacher": "tiny/cfm"})
    other = changed(row, flow={"hidden": [4]})
    cfm = changed(base, training={"objective": "flow_matching"})
    write_table(tmp_path, cfm=cfm, row=row, other=other)
    with pytest.raises(UsageError, match=r"expected a run that is done.*nfbench run tiny/cfm"):
        module_of(tmp_path)
    run(load("tiny/cfm", "pinwheel", root=tmp_path), root=tmp_path, device="cpu")
    teacher = module_of(tmp_path).gradient.objective.keywords["teacher"]
    path = tmp_path / "runs/tiny/cfm/pinwheel/0/best.pt"
    kept = checkpoint.load(path)["model"]
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    module = module_of(tmp_path, overrides=[f"training.teacher={path}"])
    assert module.gradient.objective(module.model, torch.randn(4, 2), None) > 0
    with pytest.raises(UsageError, match="expected the same flow"):
        module_of(tmp_path, "other")


def module_of(root: Path, row: str = "row", overrides: Sequence[str] = ()) -> Any:
    experiment = load(f"tiny/{row}", "pinwheel", overrides=overrides, root=root)
    model = build_model(experiment, DATA["pinwheel"])
    return build_module(experiment, model, build_schedule(experiment, 10), root=root)
