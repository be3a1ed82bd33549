"""FID and its relatives by torch-fidelity, with the provenance without which such a number means nothing.

The only importer of torch_fidelity.
"""

import functools
import os
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch_fidelity
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from ganduel import checkpoint
from ganduel.data.loading import ImageSet, Pair
from ganduel.data.recipe import decode
from ganduel.data.sources import folder as find_images
from ganduel.errors import UserError
from ganduel.evaluation.features import WIDTH, check_features, digit_weights, load_classifier
from ganduel.files import file_hash

FIDELITY_VERSION = torch_fidelity.__version__
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_PAGE = "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"
EXTRACTORS = {"inception": "inception-v3-compat", "digits": "ganduel-digits"}
# torch-fidelity's names of the results
RESULTS = {
    "fid": ["frechet_inception_distance"],
    "kid": ["kernel_inception_distance_mean", "kernel_inception_distance_std"],
    "isc": ["inception_score_mean", "inception_score_std"],
    "prc": ["precision", "recall"],
}


class DigitExtractor(FeatureExtractorBase):
    """The digit classifier as torch-fidelity wants it."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str, **_: Any):
        super().__init__(name, features_list)
        self.classifier = load_classifier(Path(feature_extractor_weights_path))

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (str(WIDTH), "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else str(WIDTH)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(self.get_provided_features_list(), self.classifier(images), strict=True))
        return tuple(named[name] for name in self.features_list)


torch_fidelity.register_feature_extractor(EXTRACTORS["digits"], DigitExtractor)


@dataclass(frozen=True)
class Features:
    """A feature extractor with its weights. `note` says what is to be known of them."""

    kind: str  # inception, digits
    weights: Path
    note: str = ""

    @functools.cached_property
    def identity(self) -> str:
        return f"{self.kind}-{file_hash(self.weights)[:8]}"


def find_features(kind: str, weights: str | None, images: ImageSet | Pair | None, folder: Path) -> Features:
    """The extractor of this name, with the given file of weights; without one Inception's are downloaded and a digit
    classifier is trained on the labels of `images` and kept in `folder`.

    Raises UserError where that cannot be.
    """
    check_features(kind, weights, images)
    if weights is not None:
        path = Path(weights)
        if kind == "inception":
            checkpoint.read(path, "file of weights")  # torch-fidelity would run what code it holds
        return Features(kind, path)
    if kind == "digits" and isinstance(images, ImageSet):
        path, accuracy = digit_weights(images, folder)
        return Features(kind, path, f"classifier right on {accuracy:.1%} of held-out images")
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                f"{INCEPTION_PAGE.replace('tag', 'download')}/{INCEPTION}", str(path), hash_prefix="6726825d"
            )
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"metric.features=inception needs {INCEPTION} (96 MB), which cannot be downloaded ({error}): get it "
                f"from {INCEPTION_PAGE} and put it into {path.parent}, or name it with metric.weights=FILE"
            ) from error
    return Features(kind, path)


class Batched(Dataset):
    """Images as torch-fidelity wants them, uint8 (3, H, W), made a batch at a time and in order; nothing is kept."""

    def __init__(self, make: Callable[[range], Tensor], count: int, batch: int):
        """`make` takes the numbers of images to uint8 images (N, C, H, W)."""
        self.make, self.count, self.batch = make, count, batch
        self.current: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        first = i - i % self.batch
        if self.current is None or self.current[0] != first:
            self.current = first, self.make(range(first, min(first + self.batch, self.count))).cpu()
        return as_rgb(self.current[1][i - first])


class Folder(Dataset):
    """The images of a folder, as they are."""

    def __init__(self, path: str):
        if not Path(path).is_dir():
            raise UserError(f"folders: {path} is no folder; give two, as in folders=[real,fake]")
        source = find_images(path, None)
        self.identity = source.stamp[:16]
        self.originals = source.scan()
        self.shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.originals.names)

    def __getitem__(self, i: int) -> Tensor:
        name = self.originals.names[i]
        try:
            encoded = self.originals.read(i)
            assert isinstance(encoded, bytes)
            pixels = decode(encoded, "RGB")
        except MemoryError:
            raise
        except Exception as error:  # decoders raise whatever a broken file leads them to
            raise UserError(f"folders: {name} cannot be read ({error})") from error
        self.shape = self.shape or pixels.shape
        if pixels.shape != self.shape:
            sizes = " and ".join(f"{width}x{height}" for _, height, width in (self.shape, pixels.shape))
            raise UserError(f"folders: {name} differs in size ({sizes}); all images of a folder must be of one")
        return torch.from_numpy(pixels)


def as_rgb(image: Tensor) -> Tensor:
    """(1 or 3, H, W) to (3, H, W)."""
    return image.expand(3, -1, -1) if len(image) == 1 else image


def measure(
    fake: Dataset,
    real: Dataset,
    features: Features,
    which: list[str],
    *,
    reference: str | None,
    cache: Path | None,
    device: torch.device,
    batch: int,
) -> dict[str, float]:
    """The metrics by their names in `RESULTS`' keys: fid, kid and kid_std, isc and isc_std, precision and recall.

    `reference` identifies the real images; their statistics are kept under `cache` with it and with the weights' hash
    in their name, so that changed images or weights never meet old statistics.
    """
    counts = len(fake), len(real)  # type: ignore[arg-type]
    least = 4 if "prc" in which else 2  # a third neighbour, a covariance
    if min(counts) < least:
        raise UserError(
            f"metric: {counts[0]} generated and {counts[1]} real images are too few; {least} or more of each"
        )
    name = f"{reference}-{counts[1]}-{features.identity}" if reference and cache else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = torch_fidelity.calculate_metrics(
            input1=fake,
            input2=real,
            **dict.fromkeys(which, True),
            feature_extractor=EXTRACTORS[features.kind],
            feature_extractor_weights_path=str(features.weights),
            kid_subset_size=min(1000, *counts),
            cuda=device.type == "cuda",
            batch_size=batch,
            save_cpu_ram=True,  # no worker processes: the images are in memory
            cache=name is not None,
            input2_cache_name=name,
            cache_root=None if cache is None else os.fspath(cache),
            verbose=False,
        )
    short = {
        "kernel_inception_distance_std": "kid_std",
        "inception_score_std": "isc_std",
        "precision": "precision",
        "recall": "recall",
    }
    return {short.get(long, metric): float(results[long]) for metric in which for long in RESULTS[metric]}
