"""The loop: equivalences that must hold for any game."""

import copy
import math
import re

import pytest
import torch
from conftest import MODELS, NO_BATCH_NORM, assert_equal, largest_difference

from ganduel import checks, randomness, setup
from ganduel.augment import Chain, Transform
from ganduel.game import AugmentedDiscriminator, Duel, Generator, LatentGame
from ganduel.phases import phases
from ganduel.regularizers import Regularizer, r1, r2
from ganduel.stats import Stats, merged
from ganduel.system import distributed
from ganduel.system.errors import UserError
from ganduel.trainer import Move, Trainer
from ganduel.turns import Gate, Turn
from ganduel.validation import validate

NOISY_LABELS = ("loss.smooth_real=0.1", "loss.flip=0.05", "loss.noise=0.1")
GATED = ("turns=gated", "turns.loss_floor=1.3", "optimizer.D.lr=0.002")  # some turns in a few, with such labels
PRECISIONS = ("fp32", "bf16")


def weights(trainer: Trainer, player: str) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.players[player].networks.named_parameters()}


def test_micro_batches_equal_the_whole_batch(trainer):
    """Losses, noisy labels, penalties (main and lazy), optimizers and averages: all of them, after three iterations."""
    chosen = (*NO_BATCH_NORM, "regularizer=[r1,r2,gradient_penalty,dragan]", "regularizer.r1.every=2", *NOISY_LABELS)
    whole, parts = (trainer(*chosen, f"micro_batch={micro}") for micro in (8, 2))
    for one in (whole, parts):
        for _ in range(3):
            one.iterate()
    assert largest_difference(whole.game.state_dict(), parts.game.state_dict()) < 1e-5
    assert largest_difference(whole.ema.generators.state_dict(), parts.ema.generators.state_dict()) < 1e-5
    for name, value in whole.stats.means().items():
        assert parts.stats.means()[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("model", MODELS)
def test_only_the_mover_moves(trainer, model):
    one = trainer(model=model)
    for mover, other in (("D", "G"), ("G", "D")):
        before = weights(one, mover), weights(one, other)
        one.take_turn(Turn(mover, 0, 0), {})
        assert largest_difference(before[0], weights(one, mover)) > 0
        assert largest_difference(before[1], weights(one, other)) == 0
        assert all(p.requires_grad for p in one.game.parameters())


def test_a_state_without_a_scale_is_loaded_by_one_with(trainer):
    """A run goes on in fp16 that began without: its gradient scale starts anew."""
    one, other = trainer(), trainer()
    one.iterate()
    other.players["G"].scaler = torch.amp.GradScaler("cpu", enabled=True)
    other.load_state_dict(one.state_dict())
    assert other.iteration == 1 and other.players["G"].scaler.get_scale() > 1


def test_bf16_is_close_to_fp32(trainer):
    means = []
    for precision in PRECISIONS:
        one = trainer(f"precision={precision}", *NO_BATCH_NORM)
        one.iterate()
        means.append(one.stats.means())
    assert means[0]["loss/D"] != means[1]["loss/D"]  # it is on
    assert means[0]["loss/D"] == pytest.approx(means[1]["loss/D"], rel=0.02)


def test_penalties_and_discriminators_are_float32_under_mixed_precision(trainer):
    seen = []

    def spy(duel: Duel) -> torch.Tensor:
        seen.append((duel.discriminator(duel.real).dtype, torch.is_autocast_enabled("cpu"), duel.real.dtype))
        return r1(duel)

    one = trainer("precision=bf16")
    one.players["D"].phases = phases(one.players["D"].phases[0], {"spy": Regularizer(spy, "D", 1.0, 1)})
    one.iterate()
    assert seen == [(torch.float32, False, torch.float32)]


def test_lazy_regularizers_have_their_own_phase_and_weight(trainer):
    """Every k-th turn, times k; the learning rate and the betas are corrected by k / (k + 1)."""
    one = trainer("regularizer=[r1]", "regularizer.r1.every=4")
    main, lazy = one.players["D"].phases
    assert (main.every, len(main.terms), lazy.every, len(lazy.terms)) == (1, 1, 4, 1)
    group = one.players["D"].optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(2e-4 * 4 / 5)
    assert group["betas"] == pytest.approx((0.5 ** (4 / 5), 0.999 ** (4 / 5)))
    assert one.players["G"].optimizer.param_groups[0]["lr"] == 2e-4
    ran = []
    run = one.run
    one.run = lambda move: (ran.append(move.phase.every), run(move))[1]
    for _ in range(5):
        one.iterate()
    assert ran == [1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1]  # D, its penalty, G, D, G, ...


def test_turns_see_the_images_they_should(trainer):
    """New reals in every turn of D; G meets the last of them; latents are new in every turn."""
    one = trainer("turns=alternating", "turns.n_critic=2")
    batches = [one.draw(turn) for turn in one.turns.order]
    assert torch.equal(batches[0]["real"], one.images.batch(0, 8)["real"])
    assert torch.equal(batches[1]["real"], one.images.batch(8, 8)["real"])
    assert torch.equal(batches[2]["real"], batches[1]["real"])
    assert len(torch.cat([b["seed"] for b in batches]).unique()) == 24
    one.iterate()
    assert one.images_seen == 16
    assert torch.equal(one.draw(one.turns.order[0])["real"], one.images.batch(16, 8)["real"])


def test_time_goes_on_when_the_batch_changes(trainer):
    """32 steps of 32 images and 16 of 16 are 48 steps and 1,280 images: for the rates, the averages, the noise, and for
    the data, of which every image comes in its turn."""
    rate, drawn, averaged = 2e-4, [], []
    timed = (
        "optimizer.G.lr=2e-4",
        "optimizer.D.lr=2e-4",
        "scheduler=cosine",
        "augment=[instance_noise]",
        "+scheduler@schedule.augment.instance_noise.std=linear",
        "schedule.augment.instance_noise.std.length=2.56 kimg",
    )

    def spied(batch_size: int, length: str) -> Trainer:
        one = trainer(f"batch_size={batch_size}", f"scheduler.length={length}", *timed, model="vanilla")
        batch, decay = one.images.batch, one.ema.decay
        one.images.batch = lambda first, count, stride: drawn.extend(range(first, first + count)) or batch(first, count)
        one.ema.decay = lambda images, seen: averaged.append(decay(images, seen)) or averaged[-1]
        return one

    one = spied(32, "96 steps")
    for _ in range(32):
        one.iterate()
    state = one.state_dict()
    assert (state["steps"], state["images_seen"]) == (32, 1024)
    for length, progress in (("96 steps", 47 / 96), ("2.56 kimg", 1264 / 2560)):
        del drawn[1024:], averaged[32:]
        other = spied(16, length)
        other.load_state_dict(copy.deepcopy(state))
        for _ in range(16):
            other.iterate()
        assert (other.iteration, other.clock.steps, other.images_seen) == (48, 48, 1280)
        assert drawn == [*range(1280)]  # once for D's turn and G's
        for player in other.players.values():  # of the last step, which began after 47 steps and 1,264 images
            expected = rate * (1 + math.cos(math.pi * progress)) / 2
            assert player.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert float(other.game.chains[""].parts[0].std) == pytest.approx(0.1 * (1 - 1264 / 2560))
        # Half-lives of 5 % of the images seen: 1.6 after the first 32, 51.2 after 1,024, 64 after 1,280.
        assert averaged[0] == pytest.approx(0.5 ** (32 / 1.6)) and averaged[31] == pytest.approx(0.5 ** (32 / 51.2))
        assert averaged[47] == pytest.approx(0.5 ** (16 / 64))


def test_time_goes_on_when_the_pace_changes(trainer):
    """Three iterations of a turn each are 3 steps and 24 images, two of two turns of D and three of G 6 and 32."""
    one, other = trainer(), trainer("turns.n_critic=2", "turns.n_generator=3")
    for _ in range(3):
        one.iterate()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.draw(other.turns.order[1])["real"], one.images.batch(24 + 8, 8)["real"])
    for _ in range(2):
        other.iterate()
    assert (other.iteration, other.clock.steps, other.images_seen) == (5, 3 + 6, 24 + 32)


def test_validation_changes_nothing(trainer):
    one = trainer(model="vanilla")  # it has dropout and BatchNorm
    one.iterate()
    before = copy.deepcopy(one.state_dict())
    numbers = validate(one)
    assert_equal(before, one.state_dict())
    assert one.game.training and all(m.training for m in one.game.modules())
    assert set(numbers) == {
        f"validation/{name}"
        for name in ("loss/D", "loss/G", "logits/real", "logits/fake", "accuracy/real", "accuracy/fake")
    }
    assert validate(trainer("data.validation=0")) == {}
    assert validate(trainer("data.validation=1", model="vanilla")) == {}  # nothing for BatchNorm
    assert validate(trainer("data.validation=9", "micro_batch=8", "batch_size=16", model="vanilla")) != {}


def test_dropout_is_a_function_of_seed_and_step(trainer):
    runs = []
    for disturbance in (0, 5):
        one = trainer(model="vanilla")
        for _ in range(2):
            torch.rand(disturbance)  # whatever else draws numbers
            one.iterate()
        runs.append(one.state_dict())
    assert_equal(*runs)


def test_accuracy_counts_from_the_boundary(trainer):
    one = trainer("loss=least_squares")  # decides at 0.5
    numbers = one.judgement(real=torch.tensor([0.4, 0.6, 0.7, 2.0]), fake=torch.tensor([0.4, 0.6]))
    assert float(numbers["accuracy/real"]) == 0.75 and float(numbers["accuracy/fake"]) == 0.5
    undecided = one.judgement(torch.tensor([0.5]), torch.tensor([0.5]))
    assert float(undecided["accuracy/real"]) == float(undecided["accuracy/fake"]) == 0.0


def test_a_state_holds_what_optimizers_and_statistics_have_seen(trainer):
    one, two = trainer(), trainer()
    for _ in range(2):
        one.iterate()
    kept = copy.deepcopy(one.state_dict())
    two.load_state_dict(kept)
    assert_equal(two.state_dict(), kept)
    moments = kept["optimizers"]["D"]["state"][0]
    assert moments["step"] == 2 and moments["exp_avg"].abs().sum() > 0
    assert kept["stats"]["losses"].keys() == {"D", "G"}
    assert all(pair[1] == 2 for pair in kept["stats"]["losses"].values())


class Pairs(torch.nn.Module):
    """Of images i and i + N / 2, each is judged by the mean of both. Grey images of one pixel."""

    group_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(images))
        return images.flatten().unflatten(0, (2, -1)).mean(0).repeat(2)


@pytest.mark.parametrize(("count", "seen"), [(4, [8]), (5, [5, 5])])
def test_real_and_fake_images_in_one_pass_are_compared_with_their_own_kind(count, seen):
    """As many as make no pairs go through D apart, where this D then fails."""
    judge = Pairs()
    augmented = AugmentedDiscriminator(judge, Chain(), torch.arange(count))
    real, fake = (start + torch.arange(float(count)).reshape(-1, 1, 1, 1) for start in (0, 10))
    if count == 4:
        of_real, of_fake = augmented.both(real, fake)
        assert of_real.tolist() == [1, 2, 1, 2] and of_fake.tolist() == [11, 12, 11, 12]
    else:
        with pytest.raises(RuntimeError):
            augmented.both(real, fake)
        seen = seen[:1]
    assert judge.seen == seen


@pytest.mark.parametrize("layers", [0, 2])
def test_paths_lead_through_w_where_there_is_a_mapping_network(trainer, layers):
    one = trainer(f"model.generator.mapping={layers}")
    (compared,) = one.game.comparisons(one.game.generators, one.images)
    assert (compared.walk is None) == (layers == 0)


def test_statistics_are_means_over_what_was_added():
    stats = Stats()
    for value in (1.0, 2.0, 6.0):
        stats.add({"a": torch.tensor(value)}, {})
    stats.add({}, {"b": torch.tensor(4.0)})
    assert stats.means() == {"loss/a": 3.0, "b": 4.0}


def test_sums_of_all_kinds_are_pooled_over_the_processes(monkeypatch):
    stats, step = Stats(), Stats()
    step.add({"a": torch.tensor(2.0)}, {"b": torch.tensor(4.0)})
    stats.merge(step, kept=0.5)
    monkeypatch.setattr(distributed, "mean", lambda pairs: pairs + torch.tensor([3.0, 1.0]))
    assert stats.means() == {"loss/a": 2.5, "b": 3.5, "loss_ema/a": 2.5}


def with_penalty(monkeypatch, name: str, fn, weight: float = 1.0, every: int = 1) -> None:
    """Let every trainer from here on have this penalty of D, and no other."""
    parts, penalty = setup.build.parts, {name: Regularizer(fn, "D", weight, every)}
    monkeypatch.setattr(
        setup.build, "parts", lambda n, key, allow: penalty if key == "regularizer" else parts(n, key, allow)
    )


@pytest.mark.parametrize(
    ("model", "name", "taken"),
    [("dcgan", "G", "G"), ("dcgan", "D", "D"), ("cyclegan", "G", "G_A"), ("cyclegan", "cycle", "cycle_A")],
)
def test_a_penalty_with_the_name_of_another_loss_is_refused(trainer, monkeypatch, model, name, taken):
    """Called G, it would replace the loss of G."""
    with_penalty(monkeypatch, name, r1)
    with pytest.raises(
        UserError, match=rf"^regularizer\.{name}: another loss is called {taken} already .* another name$"
    ):
        trainer(model=model)


def test_a_gate_does_not_ask_penalties(trainer, monkeypatch):
    """Whatever they are called: D's loss, far above the floor, decides alone."""
    with_penalty(monkeypatch, "Drift", lambda duel: 0 * r1(duel) - 1e6)
    one = trainer("turns=gated", *NO_BATCH_NORM)
    one.iterate()
    assert one.stats.means()["gate/closed"] == 0 and one.stats.means()["loss/Drift"] == -1e6


def test_numbers_of_one_name_do_not_replace_each_other():
    assert merged({"a": 1}, {"b": 2}, {}) == {"a": 1, "b": 2}
    with pytest.raises(UserError, match="two losses or statistics are called b: rename one of them"):
        merged({"a": 1, "b": 2}, {"b": 2})


def test_statistics_of_penalties_have_their_own_names(trainer, monkeypatch):
    """One that calls its statistic as D's accuracy is called changes no accuracy."""
    with_penalty(monkeypatch, "odd", lambda duel: (r1(duel), {"accuracy/real": torch.tensor(7.0)}))
    one = trainer(*NO_BATCH_NORM)
    one.iterate()
    assert one.stats.means()["regularizer/odd/accuracy/real"] == 7 and one.stats.means()["accuracy/real"] <= 1


def test_penalties_meet_float32_fakes(trainer, monkeypatch):
    """Also where bf16 made them for the main loss: at D(x) = sum(x^2) / 2, R2 is the mean squared norm of the fakes
    themselves, and its derivative keeps 24 bits."""
    seen = []

    def spy(duel: Duel) -> torch.Tensor:
        seen.append(duel.fake)
        by_hand = duel.fake.double().square().sum((1, 2, 3)).mean()
        exact = Duel(
            "",
            lambda x: x.square().flatten(1).sum(1) / 2,
            duel.real,
            duel.source,
            duel.generator,
            duel.seed,
            None,
            duel.fake,
        )
        assert r2(exact).item() == pytest.approx(by_hand.item(), rel=1e-6)
        return 0 * duel.discriminator(duel.real).mean()

    with_penalty(monkeypatch, "spy", spy)
    one = trainer("precision=bf16")
    one.iterate()
    assert [fake.dtype for fake in seen] == [torch.float32]


def test_a_step_that_the_gradient_scale_leaves_out_does_not_end_the_run(trainer):
    """fp16: where a loss overflows once, weights stay, the scale is halved, and no statistic remembers it."""
    one = trainer()
    one.players["D"].scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0)
    one.iterate()
    plain, before, averaged = one.loss, weights(one, "D"), one.stats.means()["loss_ema/D"]
    one.loss = plain._replace(discriminator=lambda *logits: math.inf * plain.discriminator(*logits))
    one.stats.reset()
    one.take_turn(one.turns.order[0], {})
    assert largest_difference(before, weights(one, "D")) == 0
    assert one.players["D"].scaler.get_scale() == 512
    assert one.stats.means()["loss_ema/D"] == averaged
    one.loss = plain
    one.iterate()
    assert one.not_finite() == []
    assert largest_difference(before, weights(one, "D")) > 0
    assert math.isfinite(one.stats.means()["loss/D"]) and math.isfinite(one.stats.means()["loss_ema/D"])
    one.loss = plain._replace(discriminator=lambda *logits: math.nan * plain.discriminator(*logits))
    one.stats.reset()
    one.take_turn(one.turns.order[0], {})
    assert one.not_finite() == ["loss/D"]  # none of an interval's steps counted


def test_statistics_of_before_are_read(trainer):
    """Losses, other statistics and averages lay in one dict."""
    one, pair = trainer(), torch.tensor([3.0, 2.0])
    old = {"loss/D": pair, "logits/real": torch.tensor([6.0, 2.0]), "loss_ema/D": torch.tensor([7.0, 1.0])}
    one.load_state_dict({**one.state_dict(), "stats": old})
    assert one.stats.means() == {"loss/D": 1.5, "logits/real": 3.0, "loss_ema/D": 7.0}


def test_what_is_not_finite_is_named(trainer):
    one = trainer()
    one.iterate()
    assert one.not_finite() == []
    with torch.no_grad():
        one.game.generators["G"].input[0].weight[0] = math.inf
    assert one.not_finite() == ["generators.G.input.0.weight"]
    one.iterate()
    assert "loss/G" in one.not_finite()
    assert not any("loss_ema" in name for name in one.not_finite())  # said already


def test_the_schedule_sets_the_learning_rate(trainer):
    one = trainer()
    halved = [m._replace(schedule=lambda clock, rate: rate / 2 if clock.images_seen else rate) for m in one.moved]
    one.moved = [m for m in halved if m.key == "optimizer.G.lr"]
    for expected in (2e-4, 1e-4):
        one.iterate()
        assert one.players["G"].optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_augmentation_sees_reals_and_fakes_and_equals_over_micro_batches(trainer):
    """A chain with its own randomness, written here: reals and fakes get different draws, the same in any split."""

    class Noise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[torch.Tensor] = []

        def forward(self, images: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
            noise = randomness.normal(seed, tuple(images.shape[1:]), "noise")
            self.calls.append(noise)
            return images + noise

    drawn = []
    for micro in (8, 4):
        one = trainer(f"micro_batch={micro}")
        one.game.augment["D"].transforms.append(Noise())
        one.iterate()
        drawn.append(one.game.augment["D"].transforms[0].calls)
    whole, parts = drawn
    assert len(whole) == 3 and len(parts) == 6  # D on reals and fakes, G on fakes
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(whole[0], torch.stack([parts[0], parts[2]], dim=1).flatten(0, 1))
    assert torch.equal(whole[1], torch.stack([parts[1], parts[3]], dim=1).flatten(0, 1))
    assert torch.equal(whole[2], torch.stack([parts[4], parts[5]], dim=1).flatten(0, 1))


def set_gate(trainer: Trainer, *, floor: float) -> None:
    main, *lazy = trainer.players["D"].phases
    trainer.players["D"].phases = [main._replace(gate=Gate(floor, None)), *lazy]


def test_a_closed_gate_holds_d_alone(trainer):
    """Not even its optimizer or its lazy penalties move; the batch counts, the loss is noted, G goes on."""
    one = trainer("turns=gated", "regularizer=[r1,weight_clip]", "regularizer.r1.every=2")
    one.iterate()
    set_gate(one, floor=math.inf)
    one.stats.reset()
    before, state = (weights(one, "D"), weights(one, "G")), copy.deepcopy(one.players["D"].optimizer.state_dict())
    seen = one.images_seen
    for _ in range(2):  # r1 is due in one of them
        one.iterate()
    assert largest_difference(before[0], weights(one, "D")) == 0
    assert_equal(state, one.players["D"].optimizer.state_dict())
    assert largest_difference(before[1], weights(one, "G")) > 0
    assert one.images_seen == seen + 16
    means = one.stats.means()
    assert means["gate/closed"] == 1 and means["loss/D"] > 0 and "loss/r1" not in means
    set_gate(one, floor=-math.inf)
    one.iterate()
    assert largest_difference(before[0], weights(one, "D")) > 0
    assert one.stats.means()["gate/closed"] == pytest.approx(2 / 3) and "loss/r1" not in one.stats.means()
    one.iterate()
    assert "loss/r1" in one.stats.means()


def test_an_open_gate_changes_nothing(trainer):
    gated, plain = trainer("turns=gated", "turns.loss_floor=-1"), trainer("turns=alternating")
    for one in (gated, plain):
        for _ in range(2):
            one.iterate()
    assert_equal(gated.game.state_dict(), plain.game.state_dict())
    assert gated.stats.means().keys() - plain.stats.means().keys() == {"gate/closed"}


def test_the_gate_asks_for_the_whole_batch(trainer):
    """Micro batches on both sides of the floor: their mean decides."""
    one = trainer("turns=gated", "micro_batch=4")
    losses = iter((0.0, 1.0) * 2)
    one.loss = one.loss._replace(discriminator=lambda real, fake, seed: 0 * real.mean() + next(losses))
    for floor, expected in ((0.6, False), (0.4, True)):
        set_gate(one, floor=floor)
        main = one.players["D"].phases[0]
        assert bool(one.run(Move(main, one.players["D"], one.draw(Turn("D", 0, 0))))) is expected


def test_the_gate_opens_alike_in_any_split(trainer):
    seen = []
    for micro in (8, 2):
        one = trainer(*NO_BATCH_NORM, *NOISY_LABELS, *GATED, f"micro_batch={micro}")
        closed = []
        for _ in range(8):
            one.stats.reset()
            one.iterate()
            closed.append(one.stats.means()["gate/closed"])
        seen.append((closed, one.game.state_dict()))
    assert seen[0][0] == seen[1][0] and set(closed) == {0, 1}
    assert largest_difference(seen[0][1], seen[1][1]) < 1e-5


def test_the_gate_under_a_gradient_scale(trainer):
    """A closed turn leaves fp16's scale alone, an open one after it works."""
    one = trainer("turns=gated")
    one.players["D"].scaler = torch.amp.GradScaler("cpu", enabled=True)
    for floor in (math.inf, -math.inf, math.inf, -math.inf):
        set_gate(one, floor=floor)
        before = weights(one, "D")
        one.iterate()
        assert (largest_difference(before, weights(one, "D")) > 0) == (floor < 0)


def test_weights_are_clipped_after_each_step(trainer):
    """All of D's, and nobody else's."""
    one = trainer("regularizer=[weight_clip]", "regularizer.weight_clip.fn.limit=0.03", "optimizer=rmsprop")
    assert max(float(p.abs().max()) for p in weights(one, "D").values()) > 0.5  # the gains of BatchNorm
    for _ in range(2):
        one.iterate()
        assert max(float(p.abs().max()) for p in weights(one, "D").values()) == pytest.approx(0.03)
    assert max(float(p.abs().max()) for p in weights(one, "G").values()) > 0.5


def test_validation_uses_undisturbed_labels(trainer):
    """The same networks and images: flipped labels, in training alone."""
    plain, flipped = trainer(), trainer("loss.flip=1")
    assert validate(plain) == validate(flipped)
    for one in (plain, flipped):
        one.take_turn(Turn("D", 0, 0), {})
    assert plain.stats.means()["loss/D"] != flipped.stats.means()["loss/D"]


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (("regularizer=[r1]",), "regularizer=r1 with batch normalisation in D"),
        (("regularizer=[weight_clip,dragan]",), "regularizer=dragan with batch normalisation in D"),
        (("regularizer=[weight_clip]",), None),
        (("regularizer=[lecam,bcr]",), None),
        (("regularizer=[r1]", "model.discriminator.norm=layer"), None),
        ((), None),
    ],
)
def test_penalties_with_batch_norm_are_warned_of(trainer, capsys, overrides, warned):
    trainer(*overrides)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == (1 if warned else 0) and all(warned in line for line in lines)


@pytest.mark.parametrize(("loss", "warned"), [("nonsaturating", True), ("least_squares", False), ("hinge", False)])
def test_a_second_sigmoid_is_warned_of(trainer, loss, warned):
    one = trainer(f"loss={loss}")
    one.game.discriminators["D"].output = "linear"
    assert checks.doubts(one.game, one.loss, {}, 8) == []
    one.game.discriminators["D"].output = "sigmoid"
    doubts = checks.doubts(one.game, one.loss, {}, 8)
    assert len(doubts) == warned and all("model.discriminator.output=sigmoid" in doubt for doubt in doubts)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("turns.accuracy_ceiling=0.8", "loss=wasserstein"), "turns.accuracy_ceiling=0.8 needs D's accuracy"),
        (("turns.accuracy_ceiling=0.8", "loss=relativistic"), "turns.accuracy_ceiling=0.8 needs D's accuracy"),
        (("turns=gated", "loss=wasserstein"), "turns.loss_floor=0.1 is above 0, the loss of a D that cannot tell"),
        (("turns.loss_floor=1.4",), "turns.loss_floor=1.4 is above 1.39, the loss of a D that cannot tell"),
        (("turns.loss_floor=0.3", "loss=least_squares"), "turns.loss_floor=0.3 is above 0.25"),
    ],
)
def test_gates_that_cannot_work_are_refused(trainer, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        trainer(*overrides)
    trainer("turns.loss_floor=-1", "loss=wasserstein")  # a floor below the start is fine


def test_averaged_losses(trainer):
    """Exponential moving averages over images seen, with half of them as half-life; with two turns of D an iteration, a
    penalty in every second one covers the images of both."""
    one = trainer("loss_ema=0.5", "regularizer=[r1]", "regularizer.r1.every=2", "turns.n_critic=2")
    averages: dict[str, float] = {}
    for _ in range(4):
        one.stats.reset()  # of the means, not of the averages
        one.iterate()
        means, kept = one.stats.means(), 0.5 ** (16 / (0.5 * one.images_seen))
        assert {n for n in means if n.startswith("loss_ema/")} == {"loss_ema/D", "loss_ema/G", "loss_ema/r1"}
        for name in ("loss/G", "loss/r1"):
            averages[name] = kept * averages.get(name, means[name]) + (1 - kept) * means[name]
            assert means[name.replace("loss", "loss_ema")] == pytest.approx(averages[name], rel=1e-4)
    assert averages["loss/G"] != pytest.approx(means["loss/G"], rel=1e-3)


def test_averages_count_images_not_turns(trainer):
    one = trainer("loss_ema=0.5", "turns.n_critic=3")
    one.loss = one.loss._replace(discriminator=lambda real, fake, seed: 0 * real.mean() + one.iteration)
    for _ in range(2):
        one.iterate()
    # The last 24 of 48 images in three turns, at a half-life of 24: half of the past remains, and it was 0.
    assert one.stats.means()["loss_ema/D"] == pytest.approx(0.5)


class Adapting(Transform):
    """Keeps what it is told."""

    adaptive = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, int]] = []

    def adapt(self, real_accuracy: torch.Tensor, images: int) -> None:
        self.told.append((real_accuracy.item(), images))

    def statistics(self) -> dict[str, torch.Tensor]:
        return {"adapting/turns": torch.tensor(float(len(self.told)))}

    def forward(self, images: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        return images


class Following(torch.nn.Module):
    """A penalty of nothing whose buffer adds up D's mean logit."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, duel: Duel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = duel.discriminator(duel.real)
        return 0 * logits.mean(), {"mean": logits.mean()}

    def adapt(self, means: dict[str, torch.Tensor]) -> None:
        self.total += means["mean"].detach()


def test_what_adapts_is_told_the_whole_batch(trainer, monkeypatch):
    """Augmentation after every turn of D, a penalty after each of its steps, whatever the micro batches."""
    told, totals = [], []
    build_game = setup.build.game

    def with_adapting(*arguments):
        game = build_game(*arguments)
        game.chains[""].transforms.append(Adapting())
        return game

    for micro in (8, 2):
        with monkeypatch.context() as patch:
            patch.setattr(setup.build, "game", with_adapting)
            lazy = {"following": Regularizer(Following(), "D", 1.0, every=2)}
            patch.setattr(
                setup.build, "parts", lambda node, key, allow, lazy=lazy: lazy if key == "regularizer" else {}
            )
            one = trainer(f"micro_batch={micro}", "turns.n_critic=2", *NO_BATCH_NORM)
        for _ in range(2):
            one.iterate()
        (adapting,) = one.game.chains[""].parts
        accuracy = one.stats.means()["accuracy/real"]
        assert [images for _, images in adapting.told] == [8] * 4
        assert sum(share for share, _ in adapting.told) / 4 == pytest.approx(accuracy)
        assert one.readings() == {"adapting/turns": 4}
        assert one.stats.means()["regularizer/following/mean"] == pytest.approx(
            one.regularizers["following"].total.item() / 2
        )
        told.append(adapting.told)
        totals.append(one.regularizers["following"].total.item())
        saved = copy.deepcopy(one.state_dict())
        one.regularizers["following"].total.zero_()
        one.load_state_dict(saved)
        assert one.regularizers["following"].total.item() == totals[-1]
    assert told[0] == told[1] and totals[0] == pytest.approx(totals[1], abs=1e-5) != 0


def test_a_loss_without_accuracy_cannot_adapt(trainer, monkeypatch):
    one = trainer("loss=wasserstein")
    checks.check_adaptive(one.game, one.loss)
    one.game.chains[""].transforms.append(Adapting())
    with pytest.raises(UserError, match=r"^augment=adapting adapts to how often D is right, and this loss only"):
        checks.check_adaptive(one.game, one.loss)


def test_shared_fakes_are_made_once(trainer):
    """D meets the fakes that G was judged by, of before its step; in any micro batches."""
    ends = []
    for micro in (8, 2):
        one = trainer(*NO_BATCH_NORM, "turns.first=G", "turns.share=true", f"micro_batch={micro}")
        made, met = [], []
        one.game.generators["G"].register_forward_hook(lambda module, inputs, output, made=made: made.append(output))
        one.game.from_pool = lambda fakes, seed, met=met: met.append((fakes, seed)) or fakes
        for _ in range(2):
            one.iterate()
        assert len(made) == len(met) * 8 // micro == 2 * 8 // micro
        assert torch.equal(met[0][0][""][:: 8 // micro], made[0]) and not met[0][0][""].requires_grad
        assert met[0][1].shape == (8,)
        ends.append(one.game.state_dict())
    assert largest_difference(*ends) < 1e-5
    alone = trainer(*NO_BATCH_NORM, "turns.first=G", "turns.share=false")
    for _ in range(2):
        alone.iterate()
    assert largest_difference(ends[0], alone.game.state_dict()) > 0


def test_g_goes_on_from_the_fakes_that_d_met(trainer):
    """They are made once, or in micro batches again: the same ends, and not those of new ones in every turn."""
    ends, forwards = [], []
    for micro in (8, 2):
        one = trainer(*NO_BATCH_NORM, "turns=reuse", "regularizer=[r2,path_length]", f"micro_batch={micro}")
        made = []
        one.game.generators["G"].register_forward_hook(lambda module, inputs, output, made=made: made.append(output))
        for _ in range(2):
            one.iterate()
        forwards.append(len(made))
        ends.append(one.game.state_dict())
    assert forwards == [2, 2 * 2 * 4]
    assert largest_difference(*ends) < 1e-5
    alone = trainer(*NO_BATCH_NORM, "turns=alternating", "regularizer=[r2,path_length]")
    for _ in range(2):
        alone.iterate()
    assert largest_difference(ends[0], alone.game.state_dict()) > 1e-4


class ByClass(Generator):
    """Grey, as bright as its class."""

    latent, classes = 3, 10

    def __init__(self) -> None:
        super().__init__()
        self.shade = torch.nn.Parameter(torch.arange(10.0) / 10)
        self.settled: list[torch.Tensor] = []

    def synthesis(self, w: torch.Tensor, seed: torch.Tensor | None = None) -> torch.Tensor:
        return w[:, None, None, None].expand(-1, 1, 8, 8)

    def map_latent(self, latent, seed=None, label=None):
        return self.shade[label]

    def update_w_average(self, latent: torch.Tensor, label: torch.Tensor | None) -> None:
        self.settled.append(label)


class ToldTheClass(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10))

    def forward(self, images: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3)) * self.weight[label]


def test_classes_reach_both_networks(trainer, monkeypatch):
    game = LatentGame(ByClass(), ToldTheClass(), Chain())
    monkeypatch.setattr(setup.build, "game", lambda *arguments: game)
    one = trainer("regularizer=[r1]")
    batch = one.draw(Turn("D", 0, 0))
    positions = one.images.order(torch.arange(8))
    assert torch.equal(batch["label"], one.images.labels[positions].long())
    assert one.images.validation_batch(0, 3).keys() == {"real", "label"}
    (duel,) = game.duels(batch, game.generators)
    assert torch.equal(duel.fake[:, 0, 0, 0], batch["label"] / 10)  # of the classes of the reals
    for _ in range(2):
        one.iterate()
    seeds = torch.arange(2000)
    assert game.label(seeds).bincount(minlength=10).min() > 150
    assert len(game.generators["G"].settled) == 2
    assert game.sample(game.generators, seeds[:4]).shape == (4, 1, 8, 8)
    game.classes = 9
    with pytest.raises(UserError, match=r"^model\.classes=9: data=digits has 10 classes; set model\.classes=10"):
        checks.check_labels(game, one.images)
    one.images.labels = None
    with pytest.raises(
        UserError,
        match=r"^model\.classes=9: the images of data=digits have no labels; set "
        r"model.classes=0",
    ):
        checks.check_labels(game, one.images)


def test_rates_of_averages_may_be_whole_numbers(trainer):
    """PyTorch refuses (0, 0.9), which one types for WGAN-GP, because it mixes types."""
    made = trainer("optimizer.D.betas=[0,0.9]", "optimizer.G.betas=[0,1e-1]")
    assert [made.players[name].optimizer.param_groups[0]["betas"] for name in "DG"] == [(0.0, 0.9), (0.0, 0.1)]
    made.iterate()


@pytest.mark.parametrize(
    ("turns", "batches"),
    [
        (["turns=alternating"], [[0], [8]]),
        (["turns=alternating", "turns.n_critic=2"], [[0, 8], [16, 24]]),
        (["turns=alternating", "turns.reals=next"], [[0, 8], [16]]),  # G's batch is D's next one
    ],
)
def test_turns_that_meet_the_same_real_images_read_them_once(trainer, monkeypatch, turns, batches):
    one, read = trainer(*turns), []
    batch = one.images.batch
    monkeypatch.setattr(
        one.images, "batch", lambda position, *rest, **more: (read.append(position), batch(position, *rest, **more))[1]
    )
    for expected in batches:
        one.iterate()
        assert read == expected
        read.clear()


def test_a_frozen_layer_gets_no_gradient_in_its_players_turn(trainer):
    one = trainer("model.discriminator.freeze=1", model="stylegan2_ada")
    frozen = [p for p in one.players["D"].parameters if not p.requires_grad]
    one.iterate()
    assert frozen and all(p.grad is None and not p.requires_grad for p in frozen)
    assert any(p.grad is not None for p in one.players["D"].trainable)
