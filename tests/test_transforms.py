"""Every transform keeps its contract: log-determinants, round trips, gradients, precision."""

import copy
from collections.abc import Callable

import pytest
import torch
from image_cases import IMAGE_CASES, SMALL
from image_cases import coupling as image_coupling
from ode_cases import ODE_CASES
from oracles import (
    check_contract,
    check_gradients,
    close,
    concrete_subclasses,
    randomize,
    through_file,
    two_ways,
)
from torch import nn
from transform_case import N_CONTEXT, Case

import nfbench.transforms
from nfbench.nets.made import MADE
from nfbench.nets.mlp import MLP
from nfbench.transforms.actnorm import ActNorm
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose, Transform
from nfbench.transforms.contextual import Contextual
from nfbench.transforms.coupling import Coupling, ShiftAndScale
from nfbench.transforms.dequantize import Dequantize
from nfbench.transforms.elementwise import SCALES, Additive, Affine, Elementwise, Gate
from nfbench.transforms.identity import Identity
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.logit import Logit
from nfbench.transforms.lu import LULinear
from nfbench.transforms.multiscale import MultiScale
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.orthogonal import Orthogonal
from nfbench.transforms.permute import Permute
from nfbench.transforms.planar import Planar
from nfbench.transforms.quantize import Quantize
from nfbench.transforms.radial import Radial
from nfbench.transforms.rescale import Rescale
from nfbench.transforms.reshape import Flatten
from nfbench.transforms.running_norm import RunningNorm
from nfbench.transforms.scaling import DiagonalScaling
from nfbench.transforms.spline import RationalQuadratic
from nfbench.transforms.squeeze import Squeeze
from nfbench.transforms.sylvester import KINDS, Sylvester
from nfbench.transforms.variational import VariationalDequantize
from nfbench.transforms.whiten import Whiten

pytestmark = pytest.mark.usefixtures("float64")

BOUND = 0.8  # small, so that clamp and tanh bind for some dimensions


def made(features: int, *, reverse: bool = False, context: int = 0) -> MADE:
    return MADE(features, hidden=(16, 16), reverse=reverse, context_features=context)


def autoregressive(
    features: int, scale: str = "exp", *, reverse: bool = False, context: int = 0
) -> Transform:
    return Autoregressive(
        made(features, reverse=reverse, context=context), Affine(scale=scale, bound=BOUND)
    )


def coupling(
    features: int, scale: str = "exp", *, swap: bool = False, context: int = 0
) -> Transform:
    first = (features + 1) // 2
    fixed, mapped = (features - first, first) if swap else (first, features - first)
    nets = (
        MLP(fixed, mapped, hidden=(16,), activation="tanh", context_features=context)
        for _ in range(2)
    )
    return Coupling(
        ShiftAndScale(*nets), Affine(scale=scale, bound=BOUND), n_first=first, swap=swap
    )


def one_net_coupling() -> Transform:
    return Coupling(MLP(3, 2, n_parameters=2, hidden=(16,)), Affine(), n_first=3)


def spline(features: int, *, context: int = 0) -> Transform:
    net = MADE(
        features, n_parameters=11, hidden=(16, 16, 16), residual=True, context_features=context
    )
    return Autoregressive(net, RationalQuadratic(bins=4))


def spline_coupling() -> Transform:
    net = MLP(3, 2, n_parameters=11, hidden=(16, 16, 16), residual=True)
    return Coupling(net, RationalQuadratic(bins=4, tail_bound=1.5, temperature=2.0), n_first=3)


def set_act_norm(features: int) -> Transform:
    norm = ActNorm(features)
    norm.set_from(torch.randn(9, features))
    return norm


def contextual() -> Transform:
    return Contextual(coupling(3, context=4), nn.Linear(N_CONTEXT, 4))


def stack() -> Transform:
    inner = Compose([coupling(5), Permute([4, 2, 0, 1, 3]), BatchNorm(5)])
    return Compose([Flatten((5,)), inner, autoregressive(5, reverse=True), BatchNorm(5)])


CASES: dict[type, list[Case]] = {
    Autoregressive: [
        *(Case(scale, lambda s=scale: autoregressive(5, s), (5,)) for scale in SCALES),
        Case("gate", lambda: Autoregressive(made(5), Gate()), (5,)),
        Case("one dimension", lambda: autoregressive(1), (1,)),
        Case(
            "one dimension, context",
            lambda: autoregressive(1, context=N_CONTEXT),
            (1,),
            conditional=True,
        ),
        Case("two dimensions", lambda: autoregressive(2), (2,)),
        Case("residual spline", lambda: spline(5), (5,)),
        Case(
            "residual spline, context",
            lambda: spline(3, context=N_CONTEXT),
            (3,),
            conditional=True,
        ),
        Case("residual spline, one dimension", lambda: spline(1), (1,)),
        Case("reverse", lambda: autoregressive(5, reverse=True), (5,)),
        Case(
            "reverse, context",
            lambda: autoregressive(5, reverse=True, context=N_CONTEXT),
            (5,),
            conditional=True,
        ),
    ],
    Coupling: [
        *(Case(scale, lambda s=scale: coupling(5, s), (5,)) for scale in SCALES),
        Case("two dimensions", lambda: coupling(2), (2,)),
        Case("swap, odd", lambda: coupling(5, swap=True), (5,)),
        Case(
            "swap, context",
            lambda: coupling(5, swap=True, context=N_CONTEXT),
            (5,),
            conditional=True,
        ),
        Case("one net", one_net_coupling, (5,)),
        Case("residual spline", spline_coupling, (5,)),
        Case("additive", lambda: Coupling(MLP(3, 2), Additive(), n_first=3), (5,)),
        Case("gate", lambda: Coupling(MLP(3, 2, n_parameters=2), Gate(), n_first=3), (5,)),
        Case("image", lambda: image_coupling(4), (4, 2, 3), disturbance=SMALL),
    ],
    ActNorm: [
        Case("one dimension", lambda: set_act_norm(1), (1,)),
        Case("five dimensions", lambda: set_act_norm(5), (5,)),
        Case("image", lambda: set_act_norm(2), (2, 3, 2)),
    ],
    Identity: [
        Case("vector", Identity, (5,)),
        Case("context", lambda: Identity(context_features=N_CONTEXT), (5,), conditional=True),
    ],
    Contextual: [Case("linear", contextual, (3,), conditional=True)],
    DiagonalScaling: [Case("five dimensions", lambda: DiagonalScaling(5), (5,))],
    LULinear: [
        Case("one dimension", lambda: LULinear(1), (1,)),
        Case("five dimensions", lambda: LULinear(5), (5,)),
    ],
    Orthogonal: [
        Case("one dimension", lambda: Orthogonal(1), (1,)),
        Case("five dimensions", lambda: Orthogonal(5), (5,)),
    ],
    BatchNorm: [
        Case("one dimension", lambda: BatchNorm(1), (1,)),
        Case("five dimensions", lambda: BatchNorm(5), (5,)),
    ],
    Whiten: [
        Case("one dimension", lambda: Whiten(1), (1,)),
        Case("five dimensions", lambda: Whiten(5), (5,)),
        Case("classes", lambda: Whiten(5, context_features=N_CONTEXT), (5,), conditional=True),
    ],
    Permute: [
        Case("one dimension", lambda: Permute([0]), (1,)),
        Case("two dimensions", lambda: Permute([1, 0]), (2,)),
        Case("not its own inverse", lambda: Permute([1, 2, 3, 4, 0]), (5,)),
    ],
    Flatten: [
        Case("vector", lambda: Flatten((4,)), (4,)),
        Case("image", lambda: Flatten((1, 2, 3)), (1, 2, 3)),
    ],
    Logit: [
        Case("alpha 0.05", lambda: Logit(0.05), (5,), in_unit_interval=True),
        Case("alpha 1e-6", lambda: Logit(1e-6), (5,), in_unit_interval=True),
        Case("no alpha, image", lambda: Logit(0.0), (1, 2, 3), in_unit_interval=True),
        Case("one-sided", lambda: Logit(0.05, form="one_sided"), (5,), in_unit_interval=True),
    ],
    Rescale: [
        Case("shift", lambda: Rescale(shift=0.5), (1, 2, 3)),
        Case("scale", lambda: Rescale(scale=2.0, shift=1.0), (1, 2, 3)),
    ],
    Inverse: [
        Case("autoregressive", lambda: Inverse(autoregressive(5)), (5,)),
        Case(
            "context",
            lambda: Inverse(autoregressive(3, context=N_CONTEXT)),
            (3,),
            conditional=True,
        ),
        Case("of an inverse", lambda: Inverse(Inverse(coupling(5))), (5,)),
    ],
    Planar: [
        Case("one dimension", lambda: Planar(1, layers=3), (1,)),
        Case("five dimensions", lambda: Planar(5, layers=3), (5,)),
        Case(
            "context",
            lambda: Planar(3, layers=2, context_features=N_CONTEXT),
            (3,),
            conditional=True,
        ),
    ],
    Radial: [
        Case("one dimension", lambda: Radial(1, layers=3), (1,)),
        Case("five dimensions", lambda: Radial(5, layers=3), (5,)),
        Case(
            "context",
            lambda: Radial(3, layers=2, context_features=N_CONTEXT),
            (3,),
            conditional=True,
        ),
    ],
    Sylvester: [
        *(Case(kind, lambda k=kind: Sylvester(4, layers=2, kind=k), (4,)) for kind in KINDS),
        *(
            Case(
                f"{kind}, context",
                lambda k=kind: Sylvester(3, layers=2, kind=k, context_features=N_CONTEXT),
                (3,),
                conditional=True,
            )
            for kind in KINDS
        ),
    ],
    Compose: [
        Case("empty", lambda: Compose([]), (5,)),
        Case("nested", stack, (5,)),
        Case(
            "context for some",
            lambda: Compose([BatchNorm(3), coupling(3, context=N_CONTEXT)]),
            (3,),
            conditional=True,
        ),
    ],
}
CASES |= IMAGE_CASES | ODE_CASES
# Other events than those of the data: images become vectors, or other images.
RESHAPING = Flatten | Squeeze | MultiScale
# Not differentiable: their contract is in test_preprocessing.py and test_variational.py.
ELSEWHERE = {Quantize, Dequantize, VariationalDequantize}

ALL = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{cls.__name__}-{case.label}")
        for cls in CASES
        for case in CASES[cls]
    ],
)


def test_every_transform_has_a_case() -> None:
    found = set(concrete_subclasses(Transform, nfbench.transforms))
    assert found == set(CASES) | ELSEWHERE, "give the new transform a case in CASES"
    assert all(CASES.values())
    assert set(concrete_subclasses(Elementwise, nfbench.transforms)) == {
        Additive,
        Affine,
        Gate,
        RationalQuadratic,
    }


@ALL
def test_log_dets_match_autograd_and_both_ways_undo_each_other(case: Case) -> None:
    transform, x, z = case.transform(), case.data(), case.data()
    if not case.in_unit_interval:
        z = transform(z, case.context())[0].detach() + torch.randn(())
    check_contract(transform, x, z, case.context())


@ALL
@pytest.mark.parametrize("backwards", [True, False])
def test_the_steps_end_where_the_transform_does(case: Case, backwards: bool) -> None:
    transform, context = case.transform(), case.context()
    start = transform(case.data(), context)[0] if backwards else case.data()
    names, points = ["start"], [start]
    for name, moved in transform.steps(start, context, backwards=backwards):
        names.append(name)
        points.append(moved)
    close(points[-1], (transform.inverse if backwards else transform)(start, context)[0])
    assert len(points) == 1 + n_maps(transform)
    assert Compose.__name__ not in names
    assert Inverse.__name__ not in names


def n_maps(transform: Transform) -> int:
    """How many maps a transform consists of."""
    if isinstance(transform, Compose):
        return sum(n_maps(part) for part in transform.parts)
    if isinstance(transform, Inverse | Contextual):
        return n_maps(transform.transform)
    return transform.layers if isinstance(transform, Planar | Radial | Sylvester) else 1


@ALL
def test_gradient_reaches_every_parameter_both_ways(case: Case) -> None:
    transform = case.transform()
    if any(parameter.requires_grad for parameter in transform.parameters()):
        for way in two_ways(transform, case.context(64)):
            image, log_det = way(case.data(64))
            check_gradients(transform, image.square().sum() + log_det.sum())


@ALL
def test_a_transform_read_from_a_file_is_the_same(case: Case) -> None:
    transform, x, context = case.transform(), case.data(), case.context()
    copy_of_it = case.build().eval()
    copy_of_it.load_state_dict(through_file(transform))
    for way, same_way in zip(
        two_ways(transform, context), two_ways(copy_of_it, context), strict=True
    ):
        for tensor, same in zip(way(x), same_way(x), strict=True):
            assert torch.equal(tensor, same)


@ALL
def test_training_mode_changes_nothing_without_batch_statistics(case: Case) -> None:
    transform, x, context = case.transform(), case.data(), case.context()
    if not any(isinstance(module, BatchNorm | RunningNorm) for module in transform.modules()):
        expected = [way(x) for way in two_ways(transform, context)]
        for way, (image, log_det) in zip(
            two_ways(transform.train(), context), expected, strict=True
        ):
            assert torch.equal(way(x)[0], image)
            assert torch.equal(way(x)[1], log_det)


@ALL
def test_float32_stays_close_to_float64(case: Case) -> None:
    transform, x, context = case.transform(), case.data(), case.context()
    single = copy.deepcopy(transform).float()
    rough_context = None if context is None else context.float()
    for way, rough_way in zip(
        two_ways(transform, context), two_ways(single, rough_context), strict=True
    ):
        for exact, rough in zip(way(x), rough_way(x.float()), strict=True):
            assert rough.dtype == torch.float32
            torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=1e-4)


@ALL
def test_results_stay_on_the_device_of_the_module(case: Case) -> None:
    transform = case.transform().to("meta")
    context = case.context()
    for way in two_ways(transform, None if context is None else context.to("meta")):
        image, log_det = way(case.data().to("meta"))
        assert image.is_meta
        assert log_det.is_meta


@ALL
@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_one_and_none(case: Case, n: int) -> None:
    transform = case.transform()
    for way in two_ways(transform, case.context(n)):
        with torch.no_grad():
            image, log_det = way(case.data(n))
        assert image.shape == (n, *case.event_shape) or isinstance(transform, RESHAPING)
        assert log_det.shape == (n,)
        assert image.isfinite().all()


@ALL
def test_memory_layout_does_not_matter(case: Case) -> None:
    transform, x, context = case.transform(), case.data(), case.context()
    scattered = torch.stack([x, -x], dim=-1)[..., 0]
    assert x.numel() == 1 or not scattered.is_contiguous()
    for way in two_ways(transform, context):
        for tensor, same in zip(way(x), way(scattered), strict=True):
            close(same, tensor)


@pytest.mark.parametrize("scale", ["tanh", "clamp"])
@pytest.mark.parametrize("build", [autoregressive, coupling])
def test_bounded_scales_survive_extreme_rows(scale: str, build: Callable[..., Transform]) -> None:
    transform = build(5, scale)
    randomize(transform)
    x = torch.tensor([-1e4, 1e4, 0.0])[torch.randint(3, (16, 5))]
    (z, log_det), (x_from, log_det_from) = transform(x), transform.inverse(x)
    torch.testing.assert_close(transform.inverse(z)[0], x, rtol=1e-9, atol=1e-6)
    assert z.isfinite().all()
    assert x_from.isfinite().all()
    assert log_det.abs().max() <= 5 * BOUND
    assert log_det_from.abs().max() <= 5 * BOUND
