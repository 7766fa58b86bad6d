"""Transforms that take statistics from data: batch normalization and whitening."""

import pytest
import torch
import torch.nn.functional as F
from oracles import close, randomize

from nfbench.nets.made import MADE
from nfbench.transforms.autoregressive import Autoregressive
from nfbench.transforms.base import Compose
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.whiten import Whiten

pytestmark = pytest.mark.usefixtures("float64")


def test_batch_norm_trains_with_the_statistics_of_the_batch() -> None:
    norm = BatchNorm(3)
    randomize(norm)
    x = torch.randn(32, 3) * 2 + 1
    z, log_det = norm.train()(x)
    std = (((x - x.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
    close(z, (x - x.mean(0)) / std * norm.log_gain.exp() + norm.bias)
    close(log_det, (norm.log_gain - std.log()).sum().expand(32))
    assert torch.equal(norm.mean, torch.zeros(3)), "the batch must leave no trace"


def test_batch_norm_calibrated_evaluates_as_it_trains_on_the_whole_set() -> None:
    norm = BatchNorm(3)
    randomize(norm)
    x = torch.randn(100, 3) * 2 + 1
    image = norm.calibrate(x)
    for trained, evaluated in zip(norm.train()(x), norm.eval()(x), strict=True):
        close(evaluated, trained)
    close(image, norm(x)[0])


def test_composition_calibrates_each_part_on_what_the_parts_before_it_give() -> None:
    first, second = BatchNorm(5), BatchNorm(5)
    flow = Compose([first, Autoregressive(MADE(5), Affine()), second]).eval()
    randomize(flow)
    x = torch.randn(200, 5) * 3 - 1
    image = flow.calibrate(x, batch_size=64)
    close(flow(x)[0], image)
    close(image.mean(0), second.bias)
    close(first.mean, x.mean(0))


def test_whitened_data_have_no_mean_and_unit_covariance() -> None:
    whiten = Whiten(4)
    z = whiten.calibrate(torch.randn(100, 4).cumsum(1) + 5, batch_size=7)
    close(z.mean(0), torch.zeros(4))
    close(z.t() @ z / 100, torch.eye(4))


def test_each_class_is_whitened_by_its_own_mean_and_covariance() -> None:
    whiten, labels = Whiten(3, context_features=2), torch.arange(100) % 2
    x = torch.randn(100, 3).cumsum(1) * (1 + labels[:, None]) + 5 * labels[:, None]
    z = whiten.calibrate(x, F.one_hot(labels).double(), batch_size=7)
    for label in (0, 1):
        own = z[labels == label]
        close(own.mean(0), torch.zeros(3))
        close(own.t() @ own / 50, torch.eye(3))


def test_a_class_without_spread_is_named() -> None:
    codes = F.one_hot(torch.arange(20) % 2).double()
    with pytest.raises(ValueError, match=r"of class 1 \(10 rows, 2 dimensions\)"):
        Whiten(2, context_features=2).calibrate(torch.randn(20, 2) * (1 - codes[:, 1:]), codes)
