"""What makes phases faster leaves them what they are; and no step waits for the device."""

from itertools import chain

import pytest
import torch
from conftest import MODELS, NO_BATCH_NORM, largest_difference

from ganduel import setup
from ganduel.augment import Transform
from ganduel.speed import graphs
from ganduel.speed.compile import compile_networks
from ganduel.speed.forecast import forecast, unchanged
from ganduel.system.errors import UserError
from ganduel.trainer import Move

LAZY = ("regularizer=[r1]", "regularizer.r1.every=2")


def recorder(trainer):
    """A recording as CUDA makes one: nothing is done meanwhile, and replays write over what it has returned."""

    def record(do):
        load = vars(trainer).pop("load_state_dict")  # which is no end of recordings here
        with unchanged(trainer):
            met, stats = do()
        vars(trainer)["load_state_dict"] = load

        def replay():
            again, now = do()
            for kind, pairs in stats.state_dict().items():
                for name, pair in pairs.items():
                    pair.copy_(now.state_dict()[kind][name])
            for before, after in zip(chain(*met), chain(*again), strict=True):
                if "fake" in vars(before):
                    before.fake.data.copy_(after.fake.data)

        return replay, (met, stats)

    return record


FALLING = "scheduler=linear_decay", "duration=8 steps"
RECORDED = {
    "dcgan": (),  # batch normalisation, and G goes on from the fakes that D met
    "dcgan, lazy": (*LAZY, *FALLING, "regularizer=[r1,r2]", "regularizer.r2.every=2"),
    "dcgan, twice": ("pace.n_generator=2",),
    "dcgan, parts": ("micro_batch=4",),
    "dcgan, dropout in G": ("model.generator.dropout=0.5",),
    "dcgan, dropout in D": ("model.discriminator.dropout=0.5",),
    "cyclegan": (),
    "stylegan2_ada": (),
}


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_phases_train_the_same(trainer, case):
    """With the defaults of each model; over falling rates, lazy phases, shared fakes, dropout, ADA and statistics."""
    one, other = (trainer(*RECORDED[case], model=case.split(",")[0]) for _ in range(2))
    recorded = graphs.replay(one, recorder(one), required=True)
    for i in range(8):
        for each in (one, other):
            each.step()
            if i == 4:
                each.stats.reset()  # as for a line of the logs
    assert any(graph.runs > graphs.WARM_UP + 2 for graph in recorded.graphs.values())
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6
    assert one.stats.means() == pytest.approx(other.stats.means(), abs=1e-5)
    rates = [float(each.players["G"].optimizer.param_groups[0]["lr"]) for each in (one, other)]
    assert rates[0] == pytest.approx(rates[1])
    assert isinstance(one.players["G"].optimizer.param_groups[0]["lr"], torch.Tensor)


def test_batch_normalisation_in_g_learns_from_new_fakes_alone(trainer):
    """Once an iteration where players share fakes, also where G makes them again: recorded, in micro batches, and for
    lazy penalties on fakes. By hand: a batch moves the statistics once, so each of k parts does."""
    lazy = "regularizer=[r2]", "regularizer.r2.every=2"
    for overrides, moved in ((), 12), (("micro_batch=4",), 24), (lazy, 12), (("pace.share=false",), 24):
        for record in (False, True):
            one = trainer(*overrides)
            if record:
                graphs.replay(one, recorder(one), required=True)
            for _ in range(12):
                one.step()
            counts = {int(b) for name, b in one.game.generators.named_buffers() if name.endswith("num_batches_tracked")}
            assert counts == {moved}, (overrides, record)


def test_dropout_in_micro_batches_is_not_recorded(trainer):
    """It draws anew for each part, which no recording can be told."""
    one = trainer("model.discriminator.dropout=0.5", "micro_batch=4")
    graphs.replay(one, recorder(one), required=True)
    with pytest.raises(UserError, match=r"cuda_graphs=true: .*dropout draws anew for every micro batch"):
        one.step()


def test_what_cannot_be_recorded_is_refused(trainer, monkeypatch):
    def reason(*overrides, **how):
        one = trainer(*overrides, **how)
        one.device = torch.device("cuda")
        return graphs.unrecordable(one)

    assert reason() is None and reason("augment=[ada]") is None
    assert "the gate decides on the host" in reason("pace=gated")
    assert "optimizer.D: SGD keeps numbers on the host" in reason("optimizer=sgd")
    assert reason("augment=[instance_noise]", "augment.instance_noise.fade=1 kimg") is None  # its numbers are tensors

    class Moving(Transform):
        def at(self, clock):
            self.strength = clock.images_seen

    one = trainer("augment=[instance_noise]")
    one.device = torch.device("cuda")
    one.game.augment["D"].transforms.append(Moving())
    assert "Moving is another in every step" in graphs.unrecordable(one)
    half = trainer()
    half.device, half.dtype = torch.device("cuda"), torch.float16
    assert "precision=fp16" in graphs.unrecordable(half)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in graphs.unrecordable(half)


def test_cuda_graphs_need_cuda(train, capsys):
    assert train("cuda_graphs=true", "device=cpu") == 1
    expected = "error: cuda_graphs=true: device=cpu has none; set cuda_graphs=false\n"
    assert capsys.readouterr().err.endswith(expected)


def test_a_recording_that_fails_says_so(trainer):
    one = trainer()
    graphs.replay(one, refusing, required=True)
    with pytest.raises(UserError, match=r"cuda_graphs=true: a phase cannot be recorded .*; set cuda_graphs=false"):
        for _ in range(4):
            one.step()


def test_lack_of_memory_is_no_reason_to_record_nothing(trainer):
    """`micro_batch=auto` goes on with fewer images, and those are recorded."""

    def too_large(do):
        raise torch.OutOfMemoryError("CUDA out of memory")

    one = trainer()
    recorded = graphs.replay(one, too_large, required=False)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(4):
            one.step()
    assert not recorded.given_up


def test_what_was_given_up_is_tried_again_once_a_state_is_loaded(trainer):
    one = trainer()
    recorded = graphs.replay(one, refusing, required=False)
    for _ in range(4):
        one.step()
    assert recorded.given_up
    one.load_state_dict(one.state_dict())
    assert not recorded.given_up


def refusing(do):
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_recording_that_fails_is_done_without(trainer, capsys):
    one, other = trainer(*NO_BATCH_NORM), trainer(*NO_BATCH_NORM)
    graphs.replay(one, refusing, required=False)
    for _ in range(6):
        one.step()
        other.step()
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6
    said = capsys.readouterr().err
    assert said.count("note: cuda_graphs: a phase cannot be recorded (operation not permitted") == 1


def test_every_recording_leaves_its_own_gradients(trainer):
    """Where alarms look for those of a player's last step."""
    one = trainer(*LAZY)
    recorded = graphs.replay(one, lambda do: (lambda: None, do()), required=True)
    for _ in range(2 * graphs.WARM_UP + 4):
        one.step()
    player, batch = one.players["D"], one.draw(one.pace.turns[0])
    for phase in (*player.phases, *player.phases):
        move = Move(phase, player, batch, new=phase is player.phases[0])
        one.advance(move)
        own = recorded.graphs[id(phase), move.new].gradients
        assert own[0] is not None and [id(p.grad) for p in player.networks.parameters()] == [id(g) for g in own]


def test_a_state_that_is_loaded_ends_recordings(trainer):
    """It lies elsewhere in memory, where the old ones would not look; a forecast loads one too."""
    one = trainer()
    recorded = graphs.replay(one, recorder(one), required=True)
    forecast(one)  # long enough for the recordings that it is about
    assert one.iteration == 0 and not recorded.graphs
    for _ in range(graphs.WARM_UP + 1):
        one.step()
    assert all(graph.runs == graphs.WARM_UP + 1 for graph in recorded.graphs.values())
    one.load_state_dict(one.state_dict())
    assert not recorded.graphs


@pytest.mark.parametrize("model", ["dcgan", "wgan_gp"])
def test_compiled_networks_train_the_same(trainer, model):
    """In the main losses only; penalties differentiate the networks as they are."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    one, other = (trainer(*(LAZY if model == "dcgan" else ()), model=model) for _ in range(2))
    torch._dynamo.reset()
    compile_networks(one, backend)
    for _ in range(2):
        one.step()
        other.step()
    assert seen
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6
    assert not any("forward" in vars(network) for network in one.game.discriminators.values())


def test_what_cannot_be_compiled_says_so(trainer):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    one = trainer()
    torch._dynamo.reset()
    compile_networks(one, backend)
    with pytest.raises(UserError, match=r"compile=true: .*no compiler here.*set compile=false"):
        one.step()


@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_the_device(trainer, model):
    """No number is read on the host, but for what lies there: the order of the images, and on CPUs Adam's count."""
    one = trainer("augment=[ada]" if model == "dcgan" else "seed=0", model=model)
    one.step()
    batch = one.images.batch(0, 8)
    one.images.batch = lambda *where, **how: batch
    with torch.profiler.profile() as profile:
        one.step()
    events = profile.events()
    reads = [
        e for e in events if e.name in ("aten::item", "aten::nonzero") and e.cpu_parent.name != "aten::_fused_adam_"
    ]
    assert len(events) > 100 and not reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_cuda(compose, model):
    one = setup.assemble(compose("data.on_device=true", model=model), torch.device("cuda"))[0]
    for _ in range(one.warm_up):
        one.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
