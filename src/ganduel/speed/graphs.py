"""Phases captured as CUDA graphs, which makes them faster and leaves them what they are."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ganduel.augment import Transform
from ganduel.game import Batch
from ganduel.system import distributed
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Executor, Move, Outcome, Trainer

WARM_UP = 3  # steps before a phase is captured, in which libraries choose and allocate

Capture = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]
"""Captures what a function does, and does nothing yet. Returns a function that replays it, and what the captured
function returned: tensors that every replay fills."""


def capture_phases(trainer: Trainer, required: bool) -> None:
    """Let a trainer capture every phase, penalties and optimizer included, as a CUDA graph. A trainer that cannot be
    captured stays as it is; where graphs are `required`, it raises UserError."""
    reason = uncapturable(trainer)
    if reason and required:
        raise UserError(f"cuda_graphs=true: {reason}")
    if not reason:
        trainer.executor = Captured(trainer.executor, _capture, required)


def uncapturable(trainer: Trainer) -> str | None:
    """What stands against graphs: whatever is decided on the host, or is another number in every step."""
    transforms = [part for chain in trainer.game.chains.values() for part in chain.parts]
    optimizers = {name: player.optimizer for name, player in trainer.players.items()}
    fixed = [name for name, optimizer in optimizers.items() if "capturable" not in optimizer.defaults]
    moving = [type(t).__name__ for t in transforms if type(t).at is not Transform.at and not t.capturable]
    if trainer.device.type != "cuda":
        return f"device={trainer.device.type} has none; set cuda_graphs=false"
    if distributed.world() > 1:
        return "it is for one process; set cuda_graphs=false"
    if trainer.dtype == torch.float16:
        return "the gradient scale of precision=fp16 is decided upon in every step; set precision=bf16 or fp32"
    if trainer.turns.gate is not None:
        return "the gate decides on the host whether D steps; set turns.loss_floor=null and turns.accuracy_ceiling=null"
    if fixed:
        kind = type(optimizers[fixed[0]]).__name__
        return f"optimizer.{fixed[0]}: {kind} keeps numbers on the host; choose optimizer=adam, adamw or rmsprop"
    if moving:
        return f"{moving[0]} is another in every step, and not capturable; leave it out, or set cuda_graphs=false"
    return None


class Captured(Executor):
    """Runs every phase a few times through the executor that it is given, then captures it, and from then on replays
    it. The next replay of a phase overwrites the duels that the one before has returned; statistics are copies."""

    warm_up = WARM_UP + 1
    separate = True  # no graph of autograd leads from one CUDA graph into another

    def __init__(self, executor: Executor, capture: Capture, required: bool):
        trainer = executor.trainer
        super().__init__(trainer)
        self.inner, self.capture, self.required = executor, capture, required
        self.dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in trainer.game.modules())
        self.graphs: dict[tuple[int, bool], Graph] = {}
        self.given_up = False
        for player in trainer.players.values():
            for group in player.optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=trainer.device)

    def advance(self, move: Move) -> Outcome:
        if self.given_up:
            return self.inner.advance(move)
        key = id(move.phase), move.new
        if key not in self.graphs:
            self.graphs[key] = Graph(self.inner, self.capture)
        try:
            if self.dropout and len(move.batch["seed"]) > self.trainer.micro_batch:
                raise Uncaptured("dropout draws anew for every micro batch; micro_batch=null needs no parts")
            met, stats = self.graphs[key](move)
        except Uncaptured as error:
            reason = f"a phase cannot be captured ({error})"
            if self.required:
                raise UserError(
                    f"cuda_graphs=true: {reason}; set cuda_graphs=false and run again: this run resumes"
                ) from error
            say(f"note: cuda_graphs: {reason}; phases are run one operation at a time, as with cuda_graphs=false")
            self.given_up = True
            self.graphs.clear()
            return self.inner.advance(move)
        return met, stats.copy()

    def forget(self) -> None:
        """Graphs read and write the memory that they were captured with."""
        self.graphs.clear()
        self.given_up = False
        self.inner.forget()


class Uncaptured(Exception):
    """A phase that CUDA would not capture."""


class Graph:
    """One phase: run a few times as it is, then captured, and replayed on the tensors that it was captured with."""

    def __init__(self, executor: Executor, capture: Capture):
        self.executor, self.capture = executor, capture
        self.runs = 0
        self.batch: Batch = {}
        self.gradients: list[Tensor | None]
        self.replay: Callable[[], None]
        self.outcome: Outcome

    def __call__(self, move: Move) -> Outcome:
        self.runs += 1
        parameters = [*move.player.networks.parameters()]
        if self.runs <= WARM_UP:
            return _aside(lambda: self.executor.advance(move))
        if self.runs == WARM_UP + 1:
            self.batch = {name: tensor.clone() for name, tensor in move.batch.items()}
            captured = move._replace(batch=self.batch, dropout=None)  # no generator can be seeded in a capture
            try:
                self.replay, self.outcome = self.capture(lambda: self.executor.advance(captured))
            except RuntimeError as error:
                if out_of_memory(error):  # which `micro_batch=auto` finds out by trying, and a run says
                    raise
                raise Uncaptured(" ".join(str(error).split())[:300]) from error
            self.gradients = [parameter.grad for parameter in parameters]
        for name, tensor in self.batch.items():
            tensor.copy_(move.batch[name])
        if move.dropout is not None:
            self.executor.trainer.reseed(move.dropout, 0)
        self.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient  # not that of another phase's graph
        return self.outcome


def _aside(do: Callable[[], Outcome]) -> Outcome:
    """On the stream of the capture, as PyTorch wants it."""
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


def _capture(do: Callable[[], Outcome]) -> tuple[Callable[[], None], Outcome]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_aside_stream()):
        outcome = do()
    return graph.replay, outcome
