"""Phases recorded as CUDA graphs, which makes them faster and leaves them what they are."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.augment import Transform
from ganduel.game import Batch, Duel
from ganduel.stats import Stats
from ganduel.system import distributed
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Move, Trainer

WARM_UP = 3  # steps before a phase is recorded, in which libraries choose and allocate

Outcome = tuple[list[list[Duel]], Stats]
Record = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]
"""Records what a function does, without it being done: gives what does it, and what it will have returned."""


def record_phases(trainer: Trainer, required: bool) -> None:
    """Record every phase, penalties and optimizer included, as a CUDA graph once it has been run a few times, and
    replay it from then on. What cannot be recorded stays as it is; `required`, it raises UserError."""
    reason = unrecordable(trainer)
    if reason and required:
        raise UserError(f"cuda_graphs=true: {reason}")
    if not reason:
        replay(trainer, _record, required)


def unrecordable(trainer: Trainer) -> str | None:
    """What stands against graphs: whatever is decided on the host, or is another number in every step."""
    transforms = [part for chain in trainer.game.chains.values() for part in chain.parts]
    optimizers = {name: player.optimizer for name, player in trainer.players.items()}
    fixed = [name for name, optimizer in optimizers.items() if "capturable" not in optimizer.defaults]
    moving = [type(t).__name__ for t in transforms if type(t).at is not Transform.at and not t.recordable]
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
        return f"{moving[0]} is another in every step, and not recordable; leave it out, or set cuda_graphs=false"
    return None


def replay(trainer: Trainer, record: Record, required: bool) -> "Recorded":
    """Let a trainer advance by recordings, which end where a state is loaded: it lies elsewhere in memory."""
    recorded = Recorded(trainer, record, required)

    def load(state: dict[str, Any]) -> None:
        recorded.graphs.clear()
        recorded.given_up = False
        Trainer.load_state_dict(trainer, state)

    vars(trainer).update(advance=recorded, load_state_dict=load, warm_up=WARM_UP + 1)  # in place of the methods
    return recorded


class Recorded:
    """`Trainer.advance`, replayed. What it returns is overwritten by the same phase's next step, but for statistics."""

    def __init__(self, trainer: Trainer, record: Record, required: bool):
        self.trainer, self.step, self.record, self.required = trainer, trainer.advance, record, required
        self.dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in trainer.game.modules())
        self.graphs: dict[tuple[int, bool], Graph] = {}
        self.given_up = False
        for player in trainer.players.values():
            for group in player.optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=trainer.device)
        # No graph of autograd leads from one recording into another: G makes the fakes that D met once more.
        turns = trainer.pace.turns
        trainer.pace.turns = [turn._replace(leaves=turn.leaves and turn.player == "G") for turn in turns]

    def __call__(self, move: Move) -> Outcome:
        move = move._replace(keep=False)
        if self.given_up:
            return self.step(move)
        key = id(move.phase), move.new
        if key not in self.graphs:
            self.graphs[key] = Graph(self.trainer, self.step, self.record)
        try:
            if self.dropout and len(move.batch["seed"]) > self.trainer.micro_batch:
                raise Unrecorded("dropout draws anew for every micro batch; micro_batch=null needs no parts")
            met, stats = self.graphs[key](move)
        except Unrecorded as error:
            reason = f"a phase cannot be recorded ({error})"
            if self.required:
                raise UserError(
                    f"cuda_graphs=true: {reason}; set cuda_graphs=false and run again: this run resumes"
                ) from error
            say(f"note: cuda_graphs: {reason}; phases are run one operation at a time, as with cuda_graphs=false")
            self.given_up = True
            self.graphs.clear()
            return self.step(move)
        return met, stats.copy()


class Unrecorded(Exception):
    """A phase that CUDA would not record."""


class Graph:
    """One phase: run as it is a few times, then recorded, and replayed on the tensors that it was recorded with."""

    def __init__(self, trainer: Trainer, step: Callable[[Move], Outcome], record: Record):
        self.trainer, self.step, self.record = trainer, step, record
        self.runs = 0
        self.batch: Batch = {}
        self.gradients: list[Tensor | None]
        self.replay: Callable[[], None]
        self.outcome: Outcome

    def __call__(self, move: Move) -> Outcome:
        self.runs += 1
        parameters = [*move.player.networks.parameters()]
        if self.runs <= WARM_UP:
            return _aside(lambda: self.step(move))
        if self.runs == WARM_UP + 1:
            self.batch = {name: tensor.clone() for name, tensor in move.batch.items()}
            recorded = move._replace(batch=self.batch, dropout=None)  # no generator can be seeded in a recording
            try:
                self.replay, self.outcome = self.record(lambda: self.step(recorded))
            except RuntimeError as error:
                if out_of_memory(error):  # which `micro_batch=auto` finds out by trying, and a run says
                    raise
                raise Unrecorded(" ".join(str(error).split())[:300]) from error
            self.gradients = [parameter.grad for parameter in parameters]
        for name, tensor in self.batch.items():
            tensor.copy_(move.batch[name])
        if move.dropout is not None:
            self.trainer.reseed(move.dropout, 0)
        self.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient  # not that of another phase's recording
        return self.outcome


def _aside(do: Callable[[], Outcome]) -> Outcome:
    """On the stream of the recording, as PyTorch wants it."""
    if not torch.cuda.is_available():
        return do()
    stream = _aside_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outcome = do()
    torch.cuda.current_stream().wait_stream(stream)
    return outcome


@cache
def _aside_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def _record(do: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_aside_stream()):
        outcome = do()
    return graph.replay, outcome
