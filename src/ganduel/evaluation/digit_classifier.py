"""A small digit classifier as a feature extractor, because Inception was trained on photographs and says little about
28x28 grey digits.

The classifier is trained once on a labelled set and saved beside the packed copy. The seed is fixed, so two machines
get the same features except for rounding.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganduel import checkpoint
from ganduel.data.image_set import ImageSet, Pair
from ganduel.models.efficientnet import VARIANTS, find_weights
from ganduel.system.errors import UserError
from ganduel.system.files import parsing
from ganduel.system.terminal import progress

VERSION = 1  # of the network and its training: metrics of different versions are not comparable
SIZE = 28  # pixels a side of the classifier's input
WIDTH = 64  # features per image
STEPS, BATCH, RATE = 300, 128, 1e-2
LONGER = 7  # times as many steps to count modes: one misread digit makes a stack look like another mode


class DigitClassifier(nn.Module):
    """A small convolutional network: from images (N, C, H, W), uint8, to features (N, 64) and logits (N, classes)."""

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
    """Raise UserError for missing weights or labels, before anything is downloaded or trained."""
    if weights is not None and not Path(weights).is_file():
        raise UserError(f"metric.weights={weights}: there is no such file")
    if kind in VARIANTS:
        find_weights(kind, weights)
    if kind == "digits" and weights is None and (images is None or images.labels is None or images.labels.ndim != 1):
        raise UserError(
            f"metric.features=digits needs a labelled set, and {images.about['name'] if images else 'a folder'} has no "
            "labels: set metric.features=auto, or metric.weights to a classifier trained on another set"
        )


def digit_weights(images: ImageSet, folder: Path, use: Literal["features", "modes"]) -> tuple[Path, float]:
    """The file of a classifier for this labelled set, and its accuracy on held-out images, from 0 to 1.

    If the file does not exist yet or is damaged, the classifier is trained and saved in `folder`. For modes, the
    training is `LONGER`.
    """
    path = folder / f"digit-{use}-{VERSION}-{images.about['content'][:8]}.pt"
    try:
        return path, float(checkpoint.load(path, needs=("classifier", "accuracy"))["accuracy"])
    except UserError:
        model, accuracy = train(images, STEPS * (LONGER if use == "modes" else 1))
        checkpoint.save(path, {"classifier": model.state_dict(), "accuracy": accuracy})
        return path, accuracy


def load_classifier(path: Path) -> DigitClassifier:
    """Load a classifier from a file of `digit_weights`. Raises UserError for any other file."""
    with parsing(path, "a digit classifier of this version of ganduel", "metric.weights=FILE names another"):
        state = checkpoint.load(path, needs=("classifier",))["classifier"]
        model = DigitClassifier(len(state["classes.bias"]))
        model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def train(images: ImageSet, steps: int) -> tuple[DigitClassifier, float]:
    """Train a classifier for some `steps` on nine tenths of the labelled images. Its accuracy is that on every tenth
    image."""
    index = torch.arange(len(images.store))
    held_out = index % 10 == 0
    fitted, tested = index[~held_out], index[held_out]
    assert images.labels is not None
    labels = images.labels
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = DigitClassifier(int(labels.max()) + 1).to(images.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in progress(iterable=range(steps), desc="training the digit classifier", unit=" steps", leave=False):
            choice = fitted[torch.randint(len(fitted), (BATCH,))]
            loss = F.cross_entropy(model(images.gather(choice))[1], labels[choice].to(images.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    right = [(model(images.gather(part))[1].argmax(1).cpu() == labels[part]).sum() for part in tested.split(1000)]
    return model.cpu(), float(sum(right)) / len(tested)
