"""How the fakes of one turn reach the next.

Without `turns.share`, every turn makes fakes of its own. With it, the player who moves second meets the fakes of the
player who moved first. The last turn of the first player gives its fakes, and the turn after it takes them:

- G moves first. D takes G's images without their graph. The game says what D meets of them (`Game.from_pool`).
- D moves first. D's turn makes the fakes and keeps their graph. G's turn reuses them, and makes no fakes.
- D moves first, but its graph cannot reach G: the batch has several micro batches, phases have memory of their own
  (`Executor.separate`), or the gate was closed. G makes the same fakes again, from the same seeds and with the same
  dropout. They are not new, so batch normalisation in G learns nothing from them.

A batch holds the fakes that its turn takes, so micro batches and captured phases handle them like all other images.
"""

from torch import Tensor, nn

from ganduel.batches import joined
from ganduel.game import Batch, Duel, Game
from ganduel.turns import Turn, Turns


class Sharing:
    """Decides which turn gives its fakes and which turn takes them. Both are None if players do not share fakes."""

    def __init__(self, game: Game, turns: Turns):
        self.game = game
        self.giver: Turn | None = None
        self.taker: Turn | None = None
        if turns.share:
            last = turns.count(turns.order[0].player) - 1
            self.giver, self.taker = turns.order[last : last + 2]

    def maker(self, turn: Turn) -> Turn:
        """The turn that makes this turn's fakes first. The seeds and the dropout of the fakes depend on that turn."""
        return self.giver if self.giver and turn == self.taker and turn.player == "G" else turn

    def new(self, turn: Turn) -> bool:
        """Whether this turn is the first to make its fakes."""
        return self.maker(turn) == turn

    def keeps_graph(self, turn: Turn) -> bool:
        """Whether G's turn needs the graph of this turn's fakes."""
        return turn == self.giver and turn.player == "D"

    def give(self, turn: Turn, met: list[list[Duel]], graph: bool) -> Batch:
        """The fakes for the next turn, by the names of their duels: of all micro batches, in the order of the batch.

        `met` holds the duels of each micro batch. Returns {} if the next turn makes its own fakes, or if it needs a
        `graph` that was not kept.
        """
        if turn != self.giver or (turn.player == "D" and not graph):
            return {}
        return {duels[0].name: joined([duel.fake.float() for duel in duels]) for duels in zip(*met, strict=True)}

    def take(self, turn: Turn, fakes: Batch, seed: Tensor) -> Batch:
        """The entries of this turn's batch for the `fakes` that the turn before gave. `seed` (N,) is the batch's."""
        if fakes and turn.player == "D":
            fakes = self.game.from_pool({name: images.detach() for name, images in fakes.items()}, seed)
        return held(fakes)


def held(fakes: Batch) -> Batch:
    """The entries of a batch for fakes that are given by the names of their duels."""
    return {f"fake{name}": images for name, images in fakes.items()}


def duels(game: Game, batch: Batch, generators: nn.ModuleDict | None = None) -> list[Duel]:
    """The duels of a batch. They meet the fakes in the batch, if there are any.

    `generators` make all other fakes; None means the game's own generators.
    """
    found = game.duels(batch, game.generators if generators is None else generators)
    for duel in found:
        duel.given = batch.get(f"fake{duel.name}")
    return found
