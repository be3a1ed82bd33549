"""Feature extractors for metrics, and where to find their weights."""

import functools
import os
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch_fidelity.utils import create_feature_extractor

from ganduel import checkpoint
from ganduel.data.loading import ImageSet, Pair
from ganduel.evaluation.digit_classifier import check_features, digit_weights, load_classifier
from ganduel.system.errors import UserError
from ganduel.system.files import file_hash


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
DINO_CODE = "facebookresearch_dinov2_main"  # torch.hub's folder for DINOv2's code


@dataclass(frozen=True)
class Features:
    """A feature extractor with its weights. `note` is a remark on them for the reader of a metric."""

    kind: str  # inception, digits, clip, dinov2
    weights: Path
    note: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights."""
        return file_hash(self.weights)

    @property
    def identity(self) -> str:
        return f"{self.kind}-{self.digest[:8]}"

    @property
    def classifies(self) -> bool:
        """Whether the extractor also gives logits. The inception score needs them."""
        return self.kind == "digits" or len(PUBLISHED[self.kind].layers) > 1

    @functools.cached_property
    def extractor(self) -> nn.Module:
        """A network from images (N, 3, H, W), uint8, to features (N, F) and, if it classifies, logits (N, K)."""
        if self.kind == "digits":
            return load_classifier(self.weights)
        published = PUBLISHED[self.kind]
        network = create_feature_extractor(
            published.name,
            list(published.layers),
            cuda=False,
            feature_extractor_weights_path=None if self.kind == "dinov2" else str(self.weights),
            verbose=False,
        )
        return network.to(memory_format=torch.channels_last)  # 1.5 times as fast on a CPU, with the same features


def find_features(kind: str, weights: str | None, images: ImageSet | Pair | None, folder: Path) -> Features:
    """The feature extractor `kind`: "inception", "digits", "clip" or "dinov2".

    `weights` is its weight file. If it is None, the weights of Inception or CLIP are downloaded, and a digit classifier
    is trained on the labels of `images` and saved in `folder`. Raises UserError if the weights are not available.
    """
    check_features(kind, weights, images)
    if kind == "dinov2":
        return Features(kind, dino_weights(weights))
    if weights is not None:
        path = Path(weights)
        if kind == "inception":
            checkpoint.read(path, "file of weights")  # checks it, because torch-fidelity would run code in the file
        return Features(kind, path)
    if kind == "digits" and isinstance(images, ImageSet):
        path, accuracy = digit_weights(images, folder)
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
    download fails.
    """
    if not path.exists():
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
