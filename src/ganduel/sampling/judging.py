"""Pictures of real and fake images with D's output: the modes `compare` and `histograms` of gan-sample, and the
histograms of a run."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganduel import batches, build, sharing
from ganduel.config.schema import Where, typed
from ganduel.data.image_set import to_bytes
from ganduel.game import SHOWN, Batch, Duel, Game, LatentGame
from ganduel.losses import AdversarialLoss
from ganduel.no_trace import no_trace
from ganduel.pictures import save_picture
from ganduel.sampling.figures import Panel, arrange, grid, plot
from ganduel.sampling.sampler import Sampler
from ganduel.sampling.trained import trained_on
from ganduel.system.errors import UserError
from ganduel.trainer import Trainer


class Face(NamedTuple):
    """The images of one duel, (N, C, H, W) in [-1, 1], and D's outputs, one per image, patch or pack."""

    name: str
    real: Tensor
    fake: Tensor
    of_real: Tensor
    of_fake: Tensor


def faces(game: Game, batch: Batch, size: int, generators: nn.ModuleDict | None = None) -> list[Face]:
    """The images and D's outputs for a batch, without augmentation, computed for `size` images at once.

    The game must be in evaluation mode. `generators` make the fakes; None means the game's own. If fakes have other
    classes than the real images, the batch holds them as "fake_label" (N,).
    """
    count = len(batch["seed"])
    size = min(size, count)
    size -= size % game.pack
    if not size:
        raise UserError(f"model.pack={game.pack}: D judges packs of {game.pack} images; give it as many, or more")
    # All parts have the same size, because D may compare the images of a part. The last part may overlap the part
    # before it. Shared images then count in the last part only.
    starts = [*range(0, count - size, size), count - size]
    kept = [end - start for start, end in pairwise([*starts, count])]
    parts = [{name: t[start : start + size] for name, t in batch.items()} for start in starts]
    found = [
        [_face(duel, part, n) for duel in sharing.duels(game, part, generators)]
        for part, n in zip(parts, kept, strict=True)
    ]
    joined = ((some[0].name, zip(*(face[1:] for face in some), strict=True)) for some in zip(*found, strict=True))
    return [Face(name, *map(torch.cat, tensors)) for name, tensors in joined]


@torch.no_grad()
def _face(duel: Duel, batch: Batch, count: int) -> Face:
    """The face of the first `count` images. D sees all images of the batch."""
    discriminator = duel.discriminator
    condition = (batch["fake_label"],) if "fake_label" in batch else discriminator.condition
    of_real = discriminator.network(discriminator.packed(duel.real.float()), *discriminator.condition)
    of_fake = discriminator.network(discriminator.packed(duel.fake.float()), *condition)
    real, fake = (images[:count].float().cpu() for images in (duel.real, duel.fake))
    of_real, of_fake = (logits[: -(-count // discriminator.pack)].float().cpu() for logits in (of_real, of_fake))
    return Face(duel.name, real, fake, of_real.flatten(), of_fake.flatten())


def figure(found: list[Face], loss: AdversarialLoss, game: Game) -> Tensor:
    """A picture with one row per duel: real images, fakes, and the histograms of D's output for both.

    The histograms show probabilities if the loss interprets the logits so.
    """
    rows = []
    for face in found:
        of_real, of_fake, span, mark = face.of_real, face.of_fake, None, loss.boundary
        title = "D's output"
        if getattr(game.discriminators[f"D{face.name}"], "output", "linear") == "sigmoid":
            span, mark = (0.0, 1.0), 0.5
        elif loss.logits and not loss.relativistic:
            of_real, of_fake, span, mark = of_real.sigmoid(), of_fake.sigmoid(), (0.0, 1.0), 0.5
            title = "D's output, the probability of being real"
        judged = plot(f"{title}{_of(face)}", {"real": of_real, "fake": of_fake}, span, mark)
        rows.append([*_pair(face, game), judged])
    return arrange(rows)


def _pair(face: Face, game: Game) -> list[Panel]:
    real, fake = (
        to_bytes(game.pictures(images[:SHOWN], kind)) for kind, images in (("real", face.real), ("fake", face.fake))
    )
    return [grid(f"real{_of(face)}", real), grid(f"fake{_of(face)}", fake)]


def _of(face: Face) -> str:
    return f" {face.name.removeprefix('_')}" if face.name else ""


def in_training(trainer: Trainer, batch: Batch) -> list[Face]:
    """The faces of a batch in training, with the averaged generators. Training does not change."""
    with no_trace(trainer, evaluated=trainer.game.discriminators):  # without dropout
        return faces(trainer.game, batch, trainer.micro_batch, trainer.ema.generators)


def met(sampler: Sampler, game: Game, seeds: list[int], batch: int, data: dict[str, Any]) -> list[Face]:
    """The faces of as many training images as there are seeds. `game` is that of the sampler, with or without D.

    The fakes are the images of the seeds or, if the model translates images, translations of the training images.
    """
    images, _ = trained_on(sampler, typed(Where, data), allow=sampler.allow)
    seed = torch.tensor(seeds, device=sampler.device)
    whole: Batch = {**images.batch(0, len(seeds)), "seed": seed}
    if isinstance(sampler.game, LatentGame):
        whole |= sharing.held({"": sampler.sample(seeds, batch=batch).to(sampler.device)})
        if sampler.game.classes and (label := sampler.labels(seed)) is not None:
            whole["fake_label"] = label
    # If D compares images in groups, every part holds whole groups.
    group = batches.together(game)
    size = min(batch, len(seeds))
    return faces(game, whole, size - size % group if size > group else size)


def compare(sampler: Sampler, seeds: list[int], out: Path, batch: int, data: dict[str, Any]) -> Path:
    """Write a PNG with real images on the left and fakes on the right, and return its path."""
    found = met(sampler, sampler.game, seeds, batch, data)
    return save_picture(arrange([_pair(face, sampler.game) for face in found]), out)


def histograms(sampler: Sampler, seeds: list[int], out: Path, batch: int, data: dict[str, Any]) -> Path:
    """Write a PNG with real images, fakes and the histograms of D's output, and return its path.

    Raises UserError if the file has no discriminator.
    """
    game = sampler.judged_game
    loss = build.part(sampler.config["loss"], "loss", sampler.allow)
    return save_picture(figure(met(sampler, game, seeds, batch, data), loss, game), out)
