"""Features of a small digit classifier: Inception, trained on photographs, says little about 28x28 grey digits.

Trained once on a labelled set and kept beside its packed copy; always the same seed, so that two machines get the same
features but for rounding.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.data.loading import ImageSet, Pair
from ganduel.errors import UserError
from ganduel.models.efficientnet import VARIANTS, find_weights
from ganduel.terminal import progress

VERSION = 1  # of the network and its training: numbers of different versions do not compare
SIZE = 28  # pixels a side that the classifier sees
WIDTH = 64  # features an image
STEPS, BATCH, RATE = 300, 128, 1e-2


class DigitClassifier(nn.Module):
    """Images (N, C, H, W), uint8, to the features (N, 64) and the logits (N, classes) of a small convolutional
    network."""

    def __init__(self, classes: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (SIZE // 4) ** 2, WIDTH),
            nn.ReLU(),
        )
        self.classes = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grey = images.float().mean(1, keepdim=True) / 127.5 - 1
        if grey.shape[-1] != SIZE:
            grey = F.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
        features = self.convolutions(grey)
        return features, self.classes(features)


def check_features(kind: str, weights: str | None, images: ImageSet | Pair | None) -> None:
    """Raise UserError for what can be known to be missing before anything is downloaded or trained."""
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"metric.weights={weights}: there is no such file")
    if kind in VARIANTS:
        find_weights(kind, weights)
    if kind == "digits" and weights is None and (images is None or images.labels is None or images.labels.ndim != 1):
        raise UserError(
            f"metric.features=digits needs a labelled set, and {images.about['name'] if images else 'a folder'} has no "
            "labels: set metric.features=auto, or metric.weights to a classifier trained on another set"
        )


def digit_weights(images: ImageSet, folder: Path) -> tuple[Path, float]:
    """The file of a classifier for this labelled set, trained where there is none yet, and its accuracy on images it
    has not seen."""
    path = folder / f"digit-features-{VERSION}-{images.about['content'][:8]}.pt"
    if not path.exists():
        model, accuracy = train(images)
        checkpoint.save(path, {"classifier": model.state_dict(), "accuracy": accuracy})
    return path, float(checkpoint.load(path, needs=("classifier", "accuracy"))["accuracy"])


def load_classifier(path: Path) -> DigitClassifier:
    """Read a file made by `digit_weights`. Raises UserError for anything else."""
    try:
        state = checkpoint.load(path, needs=("classifier",))["classifier"]
        model = DigitClassifier(len(state["classes.bias"]))
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"metric.weights={path}: holds no digit classifier of this version of ganduel") from error
    return model.eval().requires_grad_(False)


def train(images: ImageSet) -> tuple[DigitClassifier, float]:
    """A classifier of all labelled images but every tenth, on which its accuracy is taken."""
    index = torch.arange(len(images.store))
    held_out = index % 10 == 0
    fitted, tested = index[~held_out], index[held_out]
    assert images.labels is not None
    labels = images.labels
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = DigitClassifier(int(labels.max()) + 1).to(images.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
        for _ in progress(iterable=range(STEPS), desc="training the digit classifier", unit=" steps", leave=False):
            choice = fitted[torch.randint(len(fitted), (BATCH,))]
            loss = F.cross_entropy(model(images.gather(choice))[1], labels[choice].to(images.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    right = [(model(images.gather(part))[1].argmax(1).cpu() == labels[part]).sum() for part in tested.split(1000)]
    return model.cpu(), float(sum(right)) / len(tested)
