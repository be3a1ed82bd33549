"""Which turn gives its fakes, which one takes them, and what goes from one to the other."""

import pytest
import torch
from by_hand import LOSSES, duel

from ganduel import sharing
from ganduel.trainer import Executor
from ganduel.turns import Turn, Turns

D0, D1, G0, G1 = Turn("D", 0, 0), Turn("D", 1, 1), Turn("G", 0, 1), Turn("G", 1, 1)


@pytest.mark.parametrize(
    ("first", "turns", "giver", "taker"),
    [("G", (1, 1), Turn("G", 0, 0), D0), ("D", (1, 1), D0, Turn("G", 0, 0)), ("D", (2, 2), D1, G0)],
)
def test_the_last_turn_of_the_first_player_gives_to_the_next(first, turns, giver, taker):
    shared = sharing.Sharing(
        None,
        Turns(*turns, first, None, None, share=True, reals="same", repeat=False, top=1.0, unroll=0, unroll_rate=0.1),
    )
    assert (shared.giver, shared.taker) == (giver, taker)
    alone = sharing.Sharing(
        None,
        Turns(*turns, first, None, None, share=False, reals="same", repeat=False, top=1.0, unroll=0, unroll_rate=0.1),
    )
    assert alone.giver is alone.taker is None
    for turn in (giver, taker):
        assert alone.maker(turn) == turn and alone.new(turn) and not alone.keeps_graph(turn)
        assert alone.give(turn, [[None]], graph=True) == {}


def test_g_makes_again_what_d_made():
    """With the seeds and the dropout of D's last turn; all other turns make fakes of their own."""
    shared = sharing.Sharing(
        None, Turns(2, 2, "D", None, None, share=True, reals="same", repeat=False, top=1.0, unroll=0, unroll_rate=0.1)
    )
    assert [shared.maker(turn) for turn in (D0, D1, G0, G1)] == [D0, D1, D1, G1]
    assert [shared.new(turn) for turn in (D0, D1, G0, G1)] == [True, True, False, True]
    assert [shared.keeps_graph(turn) for turn in (D0, D1, G0, G1)] == [False, True, False, False]
    first = sharing.Sharing(
        None, Turns(1, 1, "G", None, None, share=True, reals="same", repeat=False, top=1.0, unroll=0, unroll_rate=0.1)
    )
    for turn in (Turn("G", 0, 0), D0):  # D meets G's fakes, but its own seeds augment them
        assert first.maker(turn) == turn and first.new(turn) and not first.keeps_graph(turn)


def turns(one):
    return {turn.player: turn for turn in one.turns.order}


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_d_takes_images_without_their_graph(micro_batch):
    """In the order of the whole batch, whatever the micro batches."""
    one = duel(LOSSES["nonsaturating"].loss, first="G", share=True, micro_batch=micro_batch)
    batch = one.draw(turns(one)["G"])
    made = sharing.duels(one.game, batch)[0].fake.detach()
    given = one.take_turn(turns(one)["G"], {})
    assert torch.allclose(given[""], made)
    taken = one.draw(turns(one)["D"], given)
    assert torch.equal(taken["fake"], given[""]) and not taken["fake"].requires_grad
    assert sharing.duels(one.game, taken)[0].fake is taken["fake"]
    assert one.take_turn(turns(one)["D"], given) == {}


class Separate(Executor):
    separate = True


@pytest.mark.parametrize(
    ("micro_batch", "executor", "graph"), [(4, Executor, True), (2, Executor, False), (4, Separate, False)]
)
def test_g_goes_on_from_a_graph_where_it_can_be_reached(micro_batch, executor, graph):
    one = duel(LOSSES["nonsaturating"].loss, share=True, micro_batch=micro_batch)
    one.executor = executor(one)
    given = one.take_turn(turns(one)["D"], {})
    assert (given.keys() == {""}) == graph and all(images.requires_grad for images in given.values())
    assert torch.equal(one.draw(turns(one)["G"])["seed"], one.draw(turns(one)["D"])["seed"])


def test_a_closed_gate_gives_nothing():
    one = duel(LOSSES["nonsaturating"].loss, loss_floor=1e9, share=True, reals="same", repeat=False)
    assert one.take_turn(turns(one)["D"], {}) == {}
