"""What a transform cannot take it refuses, and says what would work."""

from collections.abc import Callable

import pytest
import torch

from nfbench.nets.made import MADE
from nfbench.transforms.elementwise import Affine
from nfbench.transforms.inverse import Inverse
from nfbench.transforms.logit import Logit
from nfbench.transforms.normalize import BatchNorm
from nfbench.transforms.permute import Permute
from nfbench.transforms.whiten import Whiten


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Permute([0, 0, 2]), "permutation of 0..2"),
        (lambda: Logit(0.5), r"alpha in \[0, 0.5\)"),
        (lambda: Affine(scale="tan"), "one of exp, .*got 'tan'"),
        (lambda: Affine(bound=0), "positive number"),
        (lambda: Inverse(BatchNorm(2)), "without data statistics"),
        (lambda: Whiten(2).calibrate(torch.ones(9, 2)), "singular"),
        (
            lambda: MADE(2, context_features=1)(torch.zeros(1, 2)),
            "got none; this flow is conditional",
        ),
    ],
)
def test_errors_say_what_was_expected(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
