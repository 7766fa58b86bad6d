"""ImageNet in 32 x 32 and 64 x 64 pixels (van den Oord, Kalchbrenner & Kavukcuoglu, 2016)."""

from dataclasses import dataclass
from functools import partial

from .dataset import File, Source
from .pixels import TwoFiles, convert, raw_names

N_TRAIN, N_VALIDATION, N_TEST = 1_281_149, 10_000, 49_999


@dataclass(frozen=True, kw_only=True)
class ImageNet(TwoFiles):
    """Downsampled photographs (3, side, side) of 256 levels, memory-mapped.

    The published validation set is the test set, as in the papers; the last 10,000 of the
    training images, in the order of their names, are for validation. The later release by
    Chrabaszcz et al. (1,281,167 and 50,000 images) is sampled otherwise and is refused by its
    sizes: bits/dim on it are lower.
    """

    sizes: tuple[int, int, int] = (N_TRAIN - N_VALIDATION, N_VALIDATION, N_TEST)


def downsampled(side: int) -> ImageNet:
    """ImageNet of side x side pixels."""
    shape = (3, side, side)
    files = tuple(
        File(
            f"imagenet{side}/{split}.npy",
            raw=raw_names(f"imagenet{side}/{split}_{side}x{side}"),
            convert=partial(convert, shape=(n, *shape)),
        )
        for split, n in (("train", N_TRAIN), ("valid", N_TEST))
    )
    return ImageNet(
        name=f"imagenet{side}",
        title=f"ImageNet {side}x{side}",
        event_shape=shape,
        sources=(Source(files=files, about="the release of 2016, which nobody serves any more"),),
    )


IMAGENET32 = downsampled(32)
IMAGENET64 = downsampled(64)
