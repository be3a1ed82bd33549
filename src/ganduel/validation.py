"""The losses of both players, and D's logits and accuracy, on held-out images."""

from itertools import pairwise

from ganduel import batches, randomness, sharing
from ganduel.no_trace import no_trace
from ganduel.stats import Stats
from ganduel.system import distributed
from ganduel.trainer import Trainer


def validate(trainer: Trainer, most: int | None = None) -> dict[str, float]:
    """The losses of both players, D's logits and D's accuracy, by name.

    They are means over the held-out images, or over the first `most` of them, and as many new fakes. {} if there are no
    held-out images. Training goes on as if this had not run.
    """
    images, game = trainer.images, trainer.game
    count = images.held_out if most is None else min(most, images.held_out)
    rank, world = distributed.rank(), distributed.world()
    stream = (trainer.seed, "validation", trainer.iteration)
    stats = Stats()
    # D runs without dropout. G runs as in training, because the running statistics of a G that learns fast lag behind.
    with no_trace(trainer, evaluated=game.discriminators):
        trainer.reseed(randomness.key(*stream), rank)  # G's dropout
        for numbers in portions(count, trainer.batch_size, trainer.micro_batch, batches.together(game), game.pack):
            shared = len(numbers) == trainer.batch_size  # all processes look at the incomplete batch
            own = numbers[rank::world] if shared else numbers
            where = {"first": own.start, "count": len(own), "stride": own.step}
            seed = randomness.seeds(*stream, **where, device=trainer.device)
            batch = {**images.validation_batch(own.start, len(own), own.step), "seed": seed}
            for part in batches.split(batch, trainer.micro_batch):
                weight = len(part["seed"]) / (1 if shared else world)
                with trainer.autocast(True):
                    duels = sharing.duels(game, part)
                    for found in (trainer.discriminator_loss(part, duels), trainer.generator_loss(part, duels)):
                        stats.add(found.losses, found.statistics, weight=weight)
    return {f"validation/{name}": value for name, value in stats.means().items()}


def portions(images: int, batch: int, micro: int, group: int, pack: int = 1) -> list[range]:
    """Divide the numbers 0 to `images` - 1 into the parts that D sees together: whole batches, and then the rest.

    If D compares images in groups of `group` (otherwise 1), the rest becomes whole micro batches of `micro` images,
    then whole groups; up to group - 1 images are left out. A part of one image, or of one `pack`, is left out, too,
    because batch normalisation cannot normalise it, unless a batch has only one.
    """
    full = batch if group == 1 else micro
    cuts = sorted({*range(0, images + 1, batch), images - images % full, images - images % group})
    return [range(*ends) for ends in pairwise(cuts) if ends[1] - ends[0] > pack or batch == pack]
