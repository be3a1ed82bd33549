"""Feature extractors for metrics, and where to find their weights."""

import functools
import os
import shlex
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.config.schema import EFFICIENTNET_SIDE, features_label, value_name
from ganduel.data.image_set import ImageSet, Pair
from ganduel.evaluation.digit_classifier import check_features, digit_weights, load_classifier
from ganduel.models.efficientnet import VARIANTS, find_weights, pretrained
from ganduel.system import distributed
from ganduel.system.errors import UserError
from ganduel.system.files import file_hash, parsing
from ganduel.system.terminal import say


class Published(NamedTuple):
    """A feature extractor of torch-fidelity and its weight file, with torch-fidelity's own names."""

    name: str
    layers: tuple[str, ...]  # the features and, for a classifier, the logits
    file: str
    url: str
    digest: str  # the first digits of the file's SHA-256
    size: str


PUBLISHED = {
    "inception": Published(
        "inception-v3-compat",
        ("2048", "logits_unbiased"),
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        "96 MB",
    ),
    "clip": Published(
        "clip-vit-b-32",
        ("clip",),
        "clip-vit-b-32-40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af.pt",
        "https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "40d36571",
        "354 MB",
    ),
    "dinov2": Published(
        "dinov2-vit-l-14",
        ("dinov2",),
        "dinov2_vitl14_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        "",
        "1.2 GB",
    ),
}
AT_ONCE = 8  # images that EfficientNet takes at once on a CPU; the feature maps of more do not fit the CPU's caches
DINO_CODE = "facebookresearch_dinov2_main"  # torch.hub's folder for DINOv2's code


@dataclass(frozen=True)
class Features:
    """A feature extractor with its weights. `note` is a remark on them for the reader of a metric."""

    kind: str  # a key of FEATURES
    weights: Path
    note: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights."""
        return file_hash(self.weights)

    @property
    def label(self) -> str:
        """The extractor's name, with its input size if that is our own choice."""
        return features_label(self.kind)

    @property
    def identity(self) -> str:
        """The label and the first digits of the weights' hash."""
        return f"{self.label}-{self.digest[:8]}"

    def named(self, values: dict[str, float]) -> dict[str, float]:
        """The values of metrics by their full names, which contain the extractor, except Inception and "digits"."""
        return {value_name(name, self.kind): value for name, value in values.items()}

    @property
    def classifies(self) -> bool:
        """Whether the extractor also gives logits. The inception score needs them."""
        return self.kind not in PUBLISHED or len(PUBLISHED[self.kind].layers) > 1

    @functools.cached_property
    def extractor(self) -> nn.Module:
        """A network from images (N, 3, H, W), uint8, to features (N, F) and, if it classifies, logits (N, K)."""
        if self.kind == "digits":
            return load_classifier(self.weights)
        if self.kind in VARIANTS:
            return Resized(pretrained(self.kind, str(self.weights)), EFFICIENTNET_SIDE)
        from torch_fidelity.utils import create_feature_extractor  # slow: it imports torchvision

        published = PUBLISHED[self.kind]
        with parsing(self.weights, f"the weights of {self.kind}", "metric.weights=FILE names another"):
            network = create_feature_extractor(
                published.name,
                list(published.layers),
                cuda=False,
                feature_extractor_weights_path=None if self.kind == "dinov2" else str(self.weights),
                verbose=False,
            )
        return network.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU, with the same features


class Resized(nn.Module):
    """Resizes images (N, 3, H, W), uint8, to squares in [-1, 1] and passes them to a network.

    Returns the network's features (N, F) and logits (N, K).
    """

    def __init__(self, network: nn.Module, side: int):
        """`side` is the width and height of the squares in pixels."""
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        parts = images.split(AT_ONCE if images.device.type == "cpu" else len(images))
        features, logits = zip(*(self.network(self.resized(part)) for part in parts), strict=True)
        return torch.cat(features), torch.cat(logits)

    def resized(self, images: Tensor) -> Tensor:
        """The input (N, 3, side, side) of the network. The interpolation is bicubic and antialiased."""
        size = self.side, self.side
        resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
        return (resized / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def seen_by_discriminator(model: Mapping[str, Any]) -> str:
    """The frozen network through which the discriminator of this configuration sees images; "" if there is none."""
    parts = model.get("discriminator") or {}
    return str((parts.get("network") or {}).get("name", ""))


def efficientnet_besides(seen: str) -> str:
    """The EfficientNet for metrics of a model whose D has `seen` images through a network of this name. It is another
    one, because the generator was trained to satisfy D's.
    """
    return "efficientnet_lite2" if seen == "efficientnet" else "efficientnet"


def resolved(kind: str, weights: str | None, seen: str = "") -> str:
    """`kind` itself or, if it is "auto", the extractor to use.

    "auto" means Inception if its weights are on this machine or `weights` names them, and EfficientNet if not. In that
    case, this prints how to download Inception's weights. `seen` is the network through which D sees images.
    """
    if kind != "auto":
        return kind
    inception = PUBLISHED["inception"]
    if distributed.first_says(weights is not None or (hub() / "checkpoints" / inception.file).exists()):
        return "inception"
    if distributed.is_main():
        folder, file = inception.url.rsplit("/", 1)
        say(
            f"Inception's weights ({inception.size}) are not here, so EfficientNet measures. Its\n"
            "values have other names and are not comparable with FID. For FID, type\n"
            f"  dir={shlex.quote(str(hub() / 'checkpoints'))}\n"
            f"  file={file}\n"
            f"  url={folder}\n"
            '  curl -fL --create-dirs -o "$dir/$file" "$url/$file"'
        )
    return efficientnet_besides(seen)


def find_features(kind: str, weights: str | None, images: ImageSet | Pair | None, folder: Path) -> Features:
    """The feature extractor `kind`, a key of FEATURES.

    `weights` is its weight file. If it is None, the weights of Inception or CLIP are downloaded, those of EfficientNet
    come from its Python package, and a digit classifier is trained on the labels of `images` and saved in `folder`.
    Raises UserError if the weights are not available.
    """
    check_features(kind, weights, images)
    if kind == "dinov2":
        return Features(kind, dino_weights(weights))
    if kind in VARIANTS:
        return Features(kind, find_weights(kind, weights))
    if weights is not None:
        path = Path(weights)
        if kind == "inception":
            checkpoint.read(path, "a file of weights")  # checks it, because torch-fidelity would run code in the file
        return Features(kind, path)
    if kind == "digits" and isinstance(images, ImageSet):
        path, accuracy = digit_weights(images, folder, "features")
        return Features(kind, path, f"classifier right on {accuracy:.1%} of held-out images")
    published, otherwise = PUBLISHED[kind], ", or name it with metric.weights=FILE"
    path = hub() / "checkpoints" / published.file
    key = f"metric.features={kind}"
    return Features(kind, needed(path, published.url, key, published.size, published.digest, otherwise))


def hub() -> Path:
    """PyTorch's folder for downloads."""
    return Path(torch.hub.get_dir())


def needed(path: Path, url: str, key: str, size: str, digest: str = "", otherwise: str = "") -> Path:
    """Download a published file unless it exists, and return its path.

    `key` names the setting that needs the file. Raises UserError with instructions, which end with `otherwise`, if the
    download fails or the file that exists is damaged.
    """
    if path.exists():
        if not file_hash(path).startswith(digest):
            raise UserError(
                f"{key}: {path} is not the published file, whose SHA-256 begins with {digest}: delete it, and it will "
                f"be downloaded again{otherwise}"
            )
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, os.fspath(path), hash_prefix=digest or None)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"{key} needs {path.name} ({size}), which cannot be downloaded ({error}): get it from {url} and put it "
                f"into {path.parent}{otherwise}"
            ) from error
    return path


def dino_weights(weights: str | None) -> Path:
    """The path of DINOv2's weights. Raises UserError if DINOv2 is not installed or if `weights` is given.

    DINOv2's networks come as code from the web. We never download and run code without being asked.
    """
    path = hub() / "checkpoints" / PUBLISHED["dinov2"].file
    if weights is not None:
        raise UserError(f"metric.weights={weights}: dinov2 always uses {path}; set metric.weights=null")
    if missing := [str(p) for p in (path, hub() / DINO_CODE) if not p.exists()]:
        raise UserError(
            f"metric.features=dinov2 needs {' and '.join(missing)}: once, where there is a network, run "
            "python -c \"import torch; torch.hub.load('facebookresearch/dinov2', 'dinov2_vitl14')\", which fetches "
            "code and weights (1.2 GB), or copy them there"
        )
    return path
