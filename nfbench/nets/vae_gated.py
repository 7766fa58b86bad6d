"""The gated convolutional encoder and decoder of van den Berg et al. 2018."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5
SHRINK = 4  # of height and width, by two layers of stride 2
ENCODER = ((32, 1), (32, 2), (64, 1), (64, 2), (64, 1))  # channels and stride of each layer
FIRST = 64  # channels of the decoder's first layer, which makes a map of one vector
DECODER = ((64, 1), (32, 2), (32, 1), (32, 2), (32, 1))


class GatedEncoder(nn.Module):
    """Features of images: (B, *event) on [0, 1] -> (B, features).

    Gated 5x5 convolutions of 32, 32, 64, 64 and 64 channels and strides 1, 2, 1, 2, 1, zeros
    around, and one over all that is left, gated too; a layer has no activation but its gate
    (authors' code of van den Berg et al. 2018).

    Raises:
        ValueError: if the events are not images (C, H, W), H and W multiples of 4.
    """

    def __init__(self, event_shape: Sequence[int], *, features: int = 256) -> None:
        super().__init__()
        n_in, rest = smallest_map(event_shape)
        layers = []
        for n_out, stride in ENCODER:
            layers.append(GatedConv(n_in, n_out, (KERNEL, KERNEL), stride=stride))
            n_in = n_out
        layers.append(GatedConv(n_in, features, rest, padding=0))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, features)."""
        return self.layers(x).flatten(1)


class GatedDecoder(nn.Module):
    """Parameters of each dimension of images: (B, latent) -> (B, n_parameters, *event).

    A gated transposed convolution from 1x1 to H/4 x W/4, five of 5x5, of 64, 64, 32, 32, 32 and 32
    channels and strides 1, 1, 2, 1, 2, 1, and a 1x1 convolution; a layer has no activation but its
    gate. More than 32 parameters would be a linear function of 32 channels: a 5x5 convolution
    makes ``n_parameters`` channels first, as for Frey Faces (authors' code of van den Berg et al.
    2018). A transposed convolution of stride 1 is a convolution, and is one here.

    Raises:
        ValueError: if the events are not images (C, H, W), H and W multiples of 4.
    """

    def __init__(self, latent: int, event_shape: Sequence[int], *, n_parameters: int = 1) -> None:
        super().__init__()
        channels, rest = smallest_map(event_shape)
        self.parameters_shape = (n_parameters, channels)
        layers: list[nn.Module] = [GatedConv(latent, FIRST, rest, padding=0, transposed=True)]
        n_in = FIRST
        for n_out, stride in DECODER:
            kernel = (KERNEL, KERNEL)
            layers.append(GatedConv(n_in, n_out, kernel, stride=stride, transposed=stride > 1))
            n_in = n_out
        if n_parameters > n_in:
            layers.append(nn.Conv2d(n_in, n_parameters, KERNEL, padding=KERNEL // 2))
            n_in = n_parameters
        layers.append(nn.Conv2d(n_in, n_parameters * channels, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, latent) to (B, n_parameters, C, H, W)."""
        return self.layers(z[:, :, None, None]).unflatten(1, self.parameters_shape)


class GatedConv(nn.Module):
    """``(W * x + b) sigmoid(V * x + c)``, both from one convolution of twice the channels.

    Padded by half the kernel unless told otherwise; a transposed one multiplies height and width
    by its stride. All start as U(-r, r), r^-2 = n_in times the kernel's size, transposed or not,
    as torch's convolutions did when the paper was written.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: tuple[int, int],
        *,
        stride: int = 1,
        padding: int = KERNEL // 2,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        if transposed:
            self.conv = nn.ConvTranspose2d(
                n_in, 2 * n_out, kernel, stride, padding, output_padding=stride - 1
            )
        else:
            self.conv = nn.Conv2d(n_in, 2 * n_out, kernel, stride, padding)
        bound = (n_in * kernel[0] * kernel[1]) ** -0.5
        for parameter in self.conv.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H', W')."""
        return F.glu(self.conv(x), dim=1)


def smallest_map(event_shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """The channels of images, and height and width of what two strides of 2 leave of them.

    Raises:
        ValueError: if the events are not images (C, H, W), H and W multiples of 4.
    """
    shape = tuple(event_shape)
    if len(shape) != 3 or any(size < SHRINK or size % SHRINK for size in shape[1:]):
        raise ValueError(
            f"event_shape: expected images (C, H, W), H and W multiples of {SHRINK}, for the "
            f"networks gated; got {shape}; mlp and maxout take any shape"
        )
    channels, height, width = shape
    return channels, (height // SHRINK, width // SHRINK)
