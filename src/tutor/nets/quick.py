"""Two layers of torch, computed the quick way on a CPU.

The mathematics, the parameters, their names and what is printed are those of torch's own layers:
weights load either way, and a checkpoint is taken up by a model that prints the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class Doubling(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` that doubles the sides: filters of 4x4, stride 2, padding 1.

    The processor's library for convolutions is slow in two places where decoders spend their time:
    in the gradient of the bias, and in a last layer with one channel.  Both are mended here.

    Images ``(n, inputs, H, W)`` become ``(n, outputs, 2 H, 2 W)``: each pixel adds its channels,
    times the filters, to 4x4 pixels of the output, two pixels further than its neighbour.  Results
    differ from torch's by rounding.

    Args:
        inputs: number of channels.
        outputs: number of channels.

    Example:
        >>> layer = Doubling(3, 1)
        >>> layer
        ConvTranspose2d(3, 1, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
        >>> layer(torch.zeros(5, 3, 8, 8)).shape
        torch.Size([5, 1, 16, 16])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        if self.out_channels == 1:
            return _OneChannel.apply(x, self.weight.to(x.dtype)) + self.bias[:, None, None]
        # The bias apart: its gradient is then a sum, which takes a hundredth of the time.
        out = F.conv_transpose2d(x, self.weight, None, self.stride, self.padding)
        return out.add_(self.bias.to(out.dtype)[:, None, None])

    def _get_name(self) -> str:
        return "ConvTranspose2d"


class InPlaceReLU(nn.ReLU):
    """`nn.ReLU` that writes over its input.

    Convolutions do not need their output again, and fresh memory for images of 32 channels costs
    more time than the maximum itself.  So use it only behind a layer, never on a tensor that
    somebody else holds.

    Example:
        >>> InPlaceReLU()
        ReLU()
        >>> x = torch.tensor([-1.0, 2.0])
        >>> InPlaceReLU()(x) is x, x
        (True, tensor([0., 2.]))
    """

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def _get_name(self) -> str:
        return "ReLU"

    def extra_repr(self) -> str:
        return ""


class _OneChannel(torch.autograd.Function):
    """All pixels times all filters in one matrix product; `fold` adds up what falls on a pixel.

    The gradient of a transposed convolution is a convolution, and that the library does well.
    """

    generate_vmap_rule = True  # torch.func may run many decoders at once

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        columns = weight.flatten(1).t() @ x.flatten(2)  # (n, 16, H * W)
        columns = columns.to(torch.promote_types(columns.dtype, torch.float32))
        return F.fold(columns, (2 * height, 2 * width), 4, padding=1, stride=2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        # One channel is first and last at once; said to be last, as it is in x, nothing is copied.
        slope = slope.to(x.dtype).reshape(len(x), *slope.shape[2:], 1).movedim(-1, 1)
        for_x = F.conv2d(slope, weight, stride=2, padding=1)
        return for_x, conv2d_weight(slope, weight.shape, x, stride=2, padding=1)
