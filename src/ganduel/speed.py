"""What makes phases faster and leaves them what they are: networks compiled, and phases recorded as CUDA graphs."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ganduel import distributed
from ganduel.augment import Transform
from ganduel.errors import UserError
from ganduel.game import Batch, Duel
from ganduel.stats import Stats
from ganduel.trainer import Phase, Player, Trainer

WARM_UP = 3  # steps before a phase is recorded, in which libraries choose and allocate

Outcome = tuple[list[list[Duel]], Stats]
Record = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]
"""Records what a function does, without it being done: gives what does it, and what it will have returned."""


def compile_networks(trainer: Trainer, backend: str | Callable = "inductor") -> None:
    """Let the main losses call their networks through torch.compile. Penalties call them as they are, for PyTorch does
    not differentiate twice what it has compiled."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    networks = [*trainer.game.generators.values(), *trainer.game.discriminators.values()]
    compiled: list[Callable] = [torch.compile(network.forward, backend=backend) for network in networks]

    @contextmanager
    def exchanged() -> Iterator[None]:
        for network, forward in zip(networks, compiled, strict=True):
            vars(network)["forward"] = forward  # in place of the method
        try:
            with warnings.catch_warnings():  # the compiler looks at what it may not
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                yield
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"compile=true: this model cannot be compiled here ({reason}); set compile=false"
            ) from error
        finally:
            for network in networks:
                del vars(network)["forward"]

    def quicker(fn: Callable[[Batch, list[Duel]], dict[str, Tensor]]) -> Callable[[Batch, list[Duel]], Any]:
        def inside(batch: Batch, duels: list[Duel]) -> dict[str, Tensor]:
            with exchanged():
                return fn(batch, duels)

        return inside

    for player in trainer.players.values():
        player.phases = [
            phase._replace(terms=[t._replace(fn=quicker(t.fn)) if t.mixed else t for t in phase.terms])
            for phase in player.phases
        ]


def record_phases(trainer: Trainer) -> None:
    """Record every phase, penalties and optimizer included, as a CUDA graph once it has been run a few times, and
    replay it from then on. Raises UserError for what cannot be recorded."""
    if reason := unrecordable(trainer):
        raise UserError(f"cuda_graphs=true: {reason}")
    vars(trainer)["advance"] = Recorded(trainer, _record)  # in place of the method


def unrecordable(trainer: Trainer) -> str | None:
    """What stands against graphs: whatever is decided on the host, or is another number in every step."""
    transforms = [part for chain in trainer.game.chains.values() for part in chain.parts]
    optimizers = {name: player.optimizer for name, player in trainer.players.items()}
    fixed = [name for name, optimizer in optimizers.items() if "capturable" not in optimizer.defaults]
    moving = [type(t).__name__ for t in transforms if type(t).at is not Transform.at]
    if trainer.device.type != "cuda":
        return f"device={trainer.device.type} has none; set cuda_graphs=false"
    if distributed.world() > 1:
        return "it is for one process; set cuda_graphs=false"
    if trainer.dtype == torch.float16:
        return "the gradient scale of precision=fp16 is decided upon in every step; set precision=bf16 or fp32"
    if trainer.pace.gate is not None:
        return "the gate decides on the host whether D steps; set pace.loss_floor=null and pace.accuracy_ceiling=null"
    if fixed:
        kind = type(optimizers[fixed[0]]).__name__
        return f"optimizer.{fixed[0]}: {kind} keeps numbers on the host; choose optimizer=adam, adamw or rmsprop"
    if moving:
        return f"{moving[0]} is another in every step; leave it out of augment, or set cuda_graphs=false"
    return None


class Recorded:
    """`Trainer.advance`, replayed. What it returns is overwritten by the same phase's next step, but for statistics."""

    def __init__(self, trainer: Trainer, record: Record):
        self.step, self.record = trainer.advance, record
        self.graphs: dict[int, Graph] = {}
        for player in trainer.players.values():
            for group in player.optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=trainer.device)
        # No graph of autograd leads from one recording into another: G makes the fakes that D met once more.
        turns = trainer.pace.turns
        trainer.pace.turns = [turn._replace(leaves=turn.leaves and turn.player == "G") for turn in turns]

    def __call__(self, phase: Phase, player: Player, batch: Batch, keep: bool) -> Outcome:
        if id(phase) not in self.graphs:
            self.graphs[id(phase)] = Graph(lambda batch: self.step(phase, player, batch, False), self.record)
        met, stats = self.graphs[id(phase)](batch)
        kept = Stats()
        kept.sums = {name: pair.clone() for name, pair in stats.sums.items()}
        return met, kept


class Graph:
    """One phase: run as it is a few times, then recorded, and replayed on the tensors that it was recorded with."""

    def __init__(self, step: Callable[[Batch], Outcome], record: Record):
        self.step, self.record = step, record
        self.runs = 0
        self.batch: Batch = {}
        self.replay: Callable[[], None]
        self.outcome: Outcome

    def __call__(self, batch: Batch) -> Outcome:
        self.runs += 1
        if self.runs <= WARM_UP:
            return _aside(lambda: self.step(batch))
        if self.runs == WARM_UP + 1:
            self.batch = {name: tensor.clone() for name, tensor in batch.items()}
            try:
                self.replay, self.outcome = self.record(lambda: self.step(self.batch))
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:300]
                raise UserError(
                    f"cuda_graphs=true: a phase cannot be recorded ({reason}); set cuda_graphs=false and run again: "
                    "this run resumes"
                ) from error
        for name, tensor in self.batch.items():
            tensor.copy_(batch[name])
        self.replay()
        return self.outcome


def _aside(do: Callable[[], Outcome]) -> Outcome:
    """On another stream, as PyTorch wants it before a recording."""
    if not torch.cuda.is_available():
        return do()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outcome = do()
    torch.cuda.current_stream().wait_stream(stream)
    return outcome


def _record(do: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = do()
    return graph.replay, outcome
