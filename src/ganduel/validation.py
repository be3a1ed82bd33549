"""What both players' losses and D's judgement are on held-out images."""

from itertools import pairwise

from ganduel import batches, randomness, sharing
from ganduel.no_trace import no_trace
from ganduel.stats import Stats
from ganduel.system import distributed
from ganduel.trainer import Trainer


def validate(trainer: Trainer, most: int | None = None) -> dict[str, float]:
    """Both losses, D's logits and its accuracy: means over the held-out images, or the first `most` in their order,
    and as many new fakes. Changes nothing. {} without a validation split."""
    images, game = trainer.images, trainer.game
    count = images.held_out if most is None else min(most, images.held_out)
    group = max(batches.group_size(discriminator) for discriminator in game.discriminators.values())
    rank, world = distributed.rank(), distributed.world()
    stream = (trainer.seed, "validation", trainer.iteration)
    stats = Stats()
    # D without dropout; G as in training, for a fast learner's running statistics lag behind its weights.
    with no_trace(trainer, evaluated=game.discriminators):
        trainer.reseed(randomness.key(*stream), rank)  # G's dropout
        for numbers in portions(count, trainer.batch_size, trainer.micro_batch, group):
            shared = len(numbers) == trainer.batch_size  # what is less than a batch, all processes look at
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


def portions(images: int, batch: int, micro: int, group: int) -> list[range]:
    """The numbers of so many images, to be looked at as in training: in whole batches, and then what is left of them.

    Of the rest, a D that compares images in groups (of `group`, else 1) sees whole micro batches, then whole groups;
    up to group - 1 images are left out. One image alone is left out, too, unless batches are of one: batch
    normalisation has nothing to normalise it by.
    """
    full = batch if group == 1 else micro
    cuts = sorted({*range(0, images + 1, batch), images - images % full, images - images % group})
    return [range(*ends) for ends in pairwise(cuts) if ends[1] - ends[0] > 1 or batch == 1]
