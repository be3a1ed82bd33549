"""Which features images are compared by, and where their weights are found."""

import functools
import os
import shlex
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.utils import create_feature_extractor

from ganduel import checkpoint, distributed
from ganduel.data.loading import ImageSet, Pair
from ganduel.errors import UserError
from ganduel.evaluation.features import check_features, digit_weights, load_classifier
from ganduel.files import file_hash
from ganduel.models.efficientnet import VARIANTS, find_weights, pretrained
from ganduel.schema import EFFICIENTNET_SIDE, features_label, value_name
from ganduel.terminal import say


class Published(NamedTuple):
    """An extractor of torch-fidelity's and its file of weights, as torch-fidelity itself would call it."""

    name: str
    layers: tuple[str, ...]  # features and, of a classifier, logits
    file: str
    url: str
    digest: str  # the beginning of its SHA-256
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
AT_ONCE = 8  # images that EfficientNet takes on a CPU: the maps of more do not stay in its memory caches
DINO_CODE = "facebookresearch_dinov2_main"  # the folder that torch.hub keeps it in


@dataclass(frozen=True)
class Features:
    """A feature extractor with its weights. `note` says what is to be known of them."""

    kind: str  # one of FEATURES
    weights: Path
    note: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights."""
        return file_hash(self.weights)

    @property
    def label(self) -> str:
        return features_label(self.kind)

    @property
    def identity(self) -> str:
        """The label and the beginning of the weights' hash."""
        return f"{self.label}-{self.digest[:8]}"

    def named(self, values: dict[str, float]) -> dict[str, float]:
        """Values of metrics under the names that they have with these features."""
        return {value_name(name, self.kind): value for name, value in values.items()}

    @property
    def classifies(self) -> bool:
        """Whether there are logits, which an inception score is of."""
        return self.kind not in PUBLISHED or len(PUBLISHED[self.kind].layers) > 1

    @functools.cached_property
    def extractor(self) -> nn.Module:
        """Images (N, 3, H, W), uint8, to their features (N, F) and, where it classifies, logits (N, K)."""
        if self.kind == "digits":
            return load_classifier(self.weights)
        if self.kind in VARIANTS:
            return Resized(pretrained(self.kind, str(self.weights)), EFFICIENTNET_SIDE)
        published = PUBLISHED[self.kind]
        network = create_feature_extractor(
            published.name,
            list(published.layers),
            cuda=False,
            feature_extractor_weights_path=None if self.kind == "dinov2" else str(self.weights),
            verbose=False,
        )
        return network.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU, with the same features


class Resized(nn.Module):
    """A network of images in [-1, 1], for images (N, 3, H, W), uint8, of any size."""

    def __init__(self, network: nn.Module, side: int):
        """The network sees squares of `side` pixels, bicubic and antialiased."""
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        parts = images.split(AT_ONCE if images.device.type == "cpu" else len(images))
        features, logits = zip(*(self.network(self.resized(part)) for part in parts), strict=True)
        return torch.cat(features), torch.cat(logits)

    def resized(self, images: Tensor) -> Tensor:
        size = self.side, self.side
        resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True).clamp(0, 255)
        return (resized / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def settled(kind: str, weights: str | None) -> str:
    """The features that `auto` stands for: Inception, where its file of weights is named or there, else EfficientNet,
    with a word on how to get Inception's."""
    if kind != "auto":
        return kind
    inception = PUBLISHED["inception"]
    if distributed.first_says(weights is not None or (hub() / "checkpoints" / inception.file).exists()):
        return "inception"
    if distributed.is_main():
        folder, file = inception.url.rsplit("/", 1)
        say(
            f"Inception's weights ({inception.size}) are not here, so EfficientNet measures. Its\n"
            "values have names of their own and do not compare with FID. For FID, type\n"
            f"  dir={shlex.quote(str(hub() / 'checkpoints'))}\n"
            f"  file={file}\n"
            f"  url={folder}\n"
            '  curl -fL --create-dirs -o "$dir/$file" "$url/$file"'
        )
    return "efficientnet"


def find_features(kind: str, weights: str | None, images: ImageSet | Pair | None, folder: Path) -> Features:
    """The extractor of this name, with the given file of weights; without one, Inception's or CLIP's are downloaded,
    EfficientNet's are those of its package, and a digit classifier is trained on the labels of `images` and kept in
    `folder`.

    Raises UserError where that cannot be.
    """
    check_features(kind, weights, images)
    if kind == "dinov2":
        return Features(kind, dino_weights(weights))
    if kind in VARIANTS:
        return Features(kind, find_weights(kind, weights))
    if weights is not None:
        path = Path(weights)
        if kind == "inception":
            checkpoint.read(path, "file of weights")  # torch-fidelity would run what code it holds
        return Features(kind, path)
    if kind == "digits" and isinstance(images, ImageSet):
        path, accuracy = digit_weights(images, folder)
        return Features(kind, path, f"classifier right on {accuracy:.1%} of held-out images")
    published, otherwise = PUBLISHED[kind], ", or name it with metric.weights=FILE"
    path = hub() / "checkpoints" / published.file
    key = f"metric.features={kind}"
    return Features(kind, needed(path, published.url, key, published.size, published.digest, otherwise))


def hub() -> Path:
    """Where PyTorch keeps what it has downloaded."""
    return Path(torch.hub.get_dir())


def needed(path: Path, url: str, key: str, size: str, digest: str = "", otherwise: str = "") -> Path:
    """A published file, downloaded where it is not there yet. Raises UserError where it cannot be had or is damaged,
    with what to do `otherwise`."""
    if path.exists():
        if not file_hash(path).startswith(digest):
            raise UserError(
                f"{key}: {path} is not the published file, whose SHA-256 begins with {digest}: delete it, to have it "
                f"downloaded again{otherwise}"
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
    """Where DINOv2 is. Its networks come as code, which we do not fetch and run unasked. Raises UserError."""
    path = hub() / "checkpoints" / PUBLISHED["dinov2"].file
    if weights is not None:
        raise UserError(f"metric.weights={weights}: those of dinov2 are taken from {path} alone; set null")
    if missing := [str(p) for p in (path, hub() / DINO_CODE) if not p.exists()]:
        raise UserError(
            f"metric.features=dinov2 needs {' and '.join(missing)}: once, where there is a network, run "
            "python -c \"import torch; torch.hub.load('facebookresearch/dinov2', 'dinov2_vitl14')\", which fetches "
            "code and weights (1.2 GB), or copy them there"
        )
    return path
