"""What makes phases faster leaves them what they are; and no step waits for the device."""

import subprocess
import sys
from itertools import chain

import pytest
import torch
from conftest import MODELS, NO_BATCH_NORM, assert_equal, largest_difference
from torch import distributed as dist

from ganduel import setup
from ganduel.no_trace import no_trace
from ganduel.speed import graphs
from ganduel.speed.compile import Compiled
from ganduel.speed.forecast import forecast
from ganduel.system import distributed
from ganduel.system.errors import UserError
from ganduel.trainer import Executor, Move

LAZY = ("regularizer=[r1]", "regularizer.r1.every=2")


def let_capture(trainer):
    """Let a trainer capture as CUDA does: nothing is done meanwhile, and replays write over what was returned."""

    def capture(do):
        trainer.executor = Executor(trainer)  # the state that is put back is no end of captures here
        with no_trace(trainer, steps=True):
            found = do()
            gradients = [p.grad for p in trainer.game.parameters()]
        for parameter, gradient in zip(trainer.game.parameters(), gradients, strict=True):
            parameter.grad = gradient
        trainer.executor = captured
        (met, stats), verdict = found[:2], found[2:]

        def replay():
            again, now, *judged = do()
            for before, after in zip(gradients, trainer.game.parameters(), strict=True):
                if before is not None and after.grad is not None:  # one player has gradients at a time
                    before.copy_(after.grad)
            for before, after in zip(verdict, judged, strict=True):
                if before is not None:
                    before.copy_(after)
            for kind, pairs in stats.state_dict().items():
                for name, pair in pairs.items():
                    pair.copy_(now.state_dict()[kind][name])
            for before, after in zip(chain(*met), chain(*again), strict=True):
                if "fake" in vars(before):
                    before.fake.data.copy_(after.fake.data)

        return replay, found

    trainer.executor = captured = graphs.Captured(trainer.executor, capture, required=True)
    return captured


FALLING = "scheduler=linear_decay", "duration=8 steps"
CAPTURED = {
    "dcgan": (),  # batch normalisation, and G's turn reuses the fakes of D's turn
    "dcgan, lazy": (*LAZY, *FALLING, "regularizer=[r1,r2]", "regularizer.r2.every=2"),
    "dcgan, twice": ("turns.n_generator=2",),
    "dcgan, parts": ("micro_batch=2",),
    "dcgan, dropout in G": ("model.generator.dropout=0.5",),
    # With seed=0, one input of a leaky ReLU of D comes within 1e-7 of 0 and gets the other sign, because Adam rounds
    # differently when it is captured. (SGD does not, and with it all is equal bit for bit.)
    "dcgan, dropout in D": ("model.discriminator.dropout=0.5", "seed=1"),
    "cyclegan": (),
    "stylegan2_ada": (),
    "dcgan, gate": ("turns=gated", "turns.loss_floor=1.3", "turns.accuracy_ceiling=null"),
    "dcgan, optimizer on the host": ("optimizer=sgd", "optimizer.G.fused=false", "optimizer.D.fused=false"),
    "r3gan, betas": ("+scheduler@schedule.optimizer.D.beta2=linear", "schedule.optimizer.D.beta2.end=0.9"),
    "r3gan, scheduled": (
        "augment=[ada,instance_noise]",
        "augment.ada.target=null",
        "augment.ada.p=0.5",
        "+scheduler@schedule.augment.ada.p=linear",
        "+scheduler@schedule.augment.instance_noise.std=linear",
        "+scheduler@schedule.regularizer.r1.weight=cosine",
        "+scheduler@schedule.ema.half_life=cosine",
        "duration=8 steps",
    ),
}


@pytest.mark.parametrize("case", CAPTURED)
def test_captured_phases_train_the_same(trainer, case):
    """With the defaults of each model; over falling rates, lazy phases, shared fakes, dropout, ADA and statistics."""
    one, other = (trainer(*CAPTURED[case], "batch_size=4", model=case.split(",")[0]) for _ in range(2))
    captured = let_capture(one)
    for i in range(7):
        for each in (one, other):
            each.iterate()
            if i == 4:
                each.stats.reset()  # as for a line of the logs
    assert any(graph.runs > graphs.WARM_UP + 2 for graph in captured.graphs.values())
    assert one.__dict__.keys() == other.__dict__.keys() and one.turns.order == other.turns.order
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6
    assert one.stats.means() == pytest.approx(other.stats.means(), rel=1e-6, abs=1e-5)
    rates = [float(each.players["G"].optimizer.param_groups[0]["lr"]) for each in (one, other)]
    assert rates[0] == pytest.approx(rates[1])
    assert isinstance(one.players["G"].optimizer.param_groups[0]["lr"], torch.Tensor) == captured.whole


@pytest.mark.parametrize("case", ["dcgan, lazy", "cyclegan"])
@pytest.mark.parametrize("capturing", [False, True])
def test_collectives_of_a_group_of_one_change_nothing(trainer, monkeypatch, case, capturing):
    """Bit for bit, recorded or not. Every step averages the gradients of its player in one flat bucket."""
    buckets = []
    reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, *rest: buckets.append(tensor.numel()) or reduce(tensor))
    trained = []
    for alone in (False, True):
        if alone:
            distributed.start(torch.device("cpu"), alone=True)
        try:
            one = trainer(*CAPTURED[case], model=case.split(",")[0])
            if capturing:
                let_capture(one)
            for _ in range(6):
                one.iterate()
            trained.append(one)
        finally:
            distributed.stop()
        assert alone or not buckets
    first, second = (each.state_dict() for each in trained)
    assert_equal(first["game"], second["game"])
    assert_equal(first["optimizers"], second["optimizers"])
    sizes = {sum(p.numel() for p in player.networks.parameters()) for player in one.players.values()}
    assert sizes <= {*buckets}
    if not capturing:
        steps = sum(-(-6 * player.turns // phase.every) for player in one.players.values() for phase in player.phases)
        assert sum(size in sizes for size in buckets) == steps


@pytest.mark.slow
def test_batch_normalisation_in_g_learns_from_new_fakes_alone(trainer):
    """Once an iteration where players share fakes, also where G makes them again: captured, in micro batches, and for
    lazy penalties on fakes. By hand: a batch moves the statistics once, so each of k parts does."""
    lazy = "regularizer=[r2]", "regularizer.r2.every=2"
    for overrides, moved in ((), 12), (("micro_batch=4",), 24), (lazy, 12), (("turns.share=false",), 24):
        for captured in (False, True):
            one = trainer(*overrides)
            if captured:
                let_capture(one)
            for _ in range(12):
                one.iterate()
            counts = {int(b) for name, b in one.game.generators.named_buffers() if name.endswith("num_batches_tracked")}
            assert counts == {moved}, (overrides, captured)


def test_dropout_in_micro_batches_is_not_captured(trainer):
    """It draws anew for each part, which no graph can be told."""
    one = trainer("model.discriminator.dropout=0.5", "micro_batch=4")
    let_capture(one)
    with pytest.raises(UserError, match=r"cuda_graphs=true: .*dropout needs a new seed for every micro batch"):
        one.iterate()


def test_what_cannot_be_captured_is_refused(trainer):
    def reason(*overrides, **how):
        one = trainer(*overrides, **how)
        one.device = torch.device("cuda")
        return graphs.uncapturable(one)

    assert reason() is None and reason("augment=[ada]") is None
    fading = "+scheduler@schedule.augment.instance_noise.std=linear"
    assert reason("augment=[instance_noise]", fading) is None  # its number is a tensor

    beta = "+scheduler@schedule.optimizer.D.beta2=linear", "schedule.optimizer.D.beta2.end=0.9"
    assert reason(*beta) is None  # its phases' gradients are
    assert reason("regularizer=[r1]", "+scheduler@schedule.regularizer.r1.weight=cosine") is None
    assert "schedule.turns.top: phases read" in reason("+scheduler@schedule.turns.top=step")


def test_when_the_host_takes_the_steps(trainer):
    """Then only gradients are captured."""
    assert not graphs.host_steps(trainer()) and not graphs.host_steps(trainer("optimizer=sgd"))
    assert graphs.host_steps(trainer("optimizer=sgd", "optimizer.G.fused=false"))
    assert graphs.host_steps(trainer("turns=gated"))
    assert not graphs.host_steps(trainer("optimizer=rmsprop"))
    half = trainer("optimizer=rmsprop")
    half.dtype = torch.float16  # it skips steps that are not finite, and only fused kernels do so on the device
    assert graphs.host_steps(half)


def test_cuda_graphs_need_cuda(train, capsys):
    assert train("cuda_graphs=true", "device=cpu") == 1
    expected = "error: cuda_graphs=true: device=cpu has no CUDA graphs; set cuda_graphs=false\n"
    assert capsys.readouterr().err.endswith(expected)


def test_a_capture_that_fails_says_so(trainer):
    one = trainer()
    one.executor = graphs.Captured(one.executor, refusing, required=True)
    with pytest.raises(UserError, match=r"cuda_graphs=true: a phase cannot be captured .*; set cuda_graphs=false"):
        for _ in range(4):
            one.iterate()


def test_lack_of_memory_is_no_reason_to_capture_nothing(trainer):
    """`micro_batch=auto` goes on with fewer images, and those are captured."""

    def too_large(do):
        raise torch.OutOfMemoryError("CUDA out of memory")

    one = trainer()
    one.executor = captured = graphs.Captured(one.executor, too_large, required=False)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(4):
            one.iterate()
    assert not captured.given_up


def test_what_was_given_up_is_tried_again_once_a_state_is_loaded(trainer):
    one = trainer()
    one.executor = captured = graphs.Captured(one.executor, refusing, required=False)
    for _ in range(4):
        one.iterate()
    assert captured.given_up
    one.load_state_dict(one.state_dict())
    assert not captured.given_up


def refusing(do):
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_capture_that_fails_is_done_without(trainer, capsys):
    one, other = trainer(*NO_BATCH_NORM), trainer(*NO_BATCH_NORM)
    one.executor = graphs.Captured(one.executor, refusing, required=False)
    for _ in range(6):
        one.iterate()
        other.iterate()
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6
    said = capsys.readouterr().err
    assert said.count("note: cuda_graphs: a phase cannot be captured (operation not permitted") == 1


def test_every_capture_leaves_its_own_gradients(trainer):
    """Where alarms look for those of a player's last step."""
    one = trainer(*LAZY)
    one.executor = captured = graphs.Captured(one.executor, lambda do: (lambda: None, do()), required=True)
    for _ in range(2 * graphs.WARM_UP + 4):
        one.iterate()
    player, batch = one.players["D"], one.draw(one.turns.order[0])
    for phase in (*player.phases, *player.phases):
        move = Move(phase, player, batch, new=phase is player.phases[0])
        one.executor.advance(move)
        own = captured.graphs[id(phase), move.new].gradients
        assert own[0] is not None and [id(p.grad) for p in player.networks.parameters()] == [id(g) for g in own]


def test_a_state_that_is_loaded_ends_captures(trainer):
    """It lies elsewhere in memory, where the old ones would not look; a forecast loads one too."""
    one = trainer()
    captured = let_capture(one)
    forecast(one)  # long enough for the captures that it is about
    assert one.iteration == 0 and not captured.graphs
    for _ in range(graphs.WARM_UP + 1):
        one.iterate()
    assert all(graph.runs == graphs.WARM_UP + 1 for graph in captured.graphs.values())
    one.load_state_dict(one.state_dict())
    assert not captured.graphs


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dcgan", "wgan_gp", "cyclegan"])
def test_compiled_networks_train_the_same(trainer, model):
    """In the main losses only; penalties differentiate the networks as they are."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    one, other = (trainer(*(LAZY if model == "dcgan" else ()), model=model) for _ in range(2))
    torch._dynamo.reset()
    one.executor = Compiled(one.executor, backend)
    for _ in range(2):
        one.iterate()
        other.iterate()
    assert seen and one.__dict__.keys() == other.__dict__.keys()
    assert largest_difference(one.game.state_dict(), other.game.state_dict()) < 1e-6


def test_what_cannot_be_compiled_says_so(trainer):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    one = trainer()
    torch._dynamo.reset()
    one.executor = Compiled(one.executor, backend)
    with pytest.raises(UserError, match=r"compile=true: .*no compiler here.*set compile=false"):
        one.iterate()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_the_device(trainer, model):
    """No number is read on the host, but for what lies there: the order of the images, and on CPUs Adam's count."""
    one = trainer("augment=[ada]" if model == "dcgan" else "seed=0", model=model)
    one.iterate()
    batch = one.images.batch(0, 8)
    one.images.batch = lambda *where, **how: batch
    with torch.profiler.profile() as profile:
        one.iterate()
    events = profile.events()
    reads = [
        e for e in events if e.name in ("aten::item", "aten::nonzero") and e.cpu_parent.name != "aten::_fused_adam_"
    ]
    assert len(events) > 100 and not reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_cuda(compose, model):
    one = setup.assemble(compose("data.on_device=true", model=model), torch.device("cuda"))[0]
    for _ in range(one.executor.warm_up):
        one.iterate()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["data", "sample", "fid", "export", "import_weights", "report"])
def test_commands_that_train_nothing_start_without_the_compiler(command):
    """PyTorch's compiler takes almost as long to import as PyTorch, and torchvision imports it."""
    code = f"import sys, ganduel.commands.{command}; print(*{{'torchvision', 'torch._dynamo'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
