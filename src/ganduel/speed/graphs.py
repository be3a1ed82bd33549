"""Capture phases as CUDA graphs, which makes them faster and changes no result."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from ganduel.game import Batch
from ganduel.system import distributed
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Executor, Move, Outcome, Trainer

WARM_UP = 3  # steps before a capture, in which libraries choose algorithms and allocate memory

Capture = Callable[[Callable[[], Outcome]], tuple[Callable[[], None], Outcome]]
"""Records the work of a function without running it. Returns a function that replays the work, and the return value of
the recorded function. Every replay fills the tensors of that value."""


def capture_phases(trainer: Trainer, required: bool) -> None:
    """Let a trainer capture every phase as a CUDA graph, with its penalties and its optimizer.

    If that is not possible, the trainer does not change. Raises UserError in that case if graphs are `required`.
    """
    reason = uncapturable(trainer)
    if reason and required:
        raise UserError(f"cuda_graphs=true: {reason}")
    if not reason:
        trainer.executor = Captured(trainer.executor, _capture, required)


def uncapturable(trainer: Trainer) -> str | None:
    """The reason why phases cannot be captured, as text; None if they can.

    A graph cannot contain decisions of the host, nor numbers of the host that change between steps.
    """
    defaults = {name: player.optimizer.defaults for name, player in trainer.players.items()}
    fixed = [name for name, own in defaults.items() if "capturable" not in own and not own.get("fused")]
    unfused = [name for name, own in defaults.items() if not own.get("fused")]
    changing = [moved.key for moved in trainer.moved if moved.dial.on_host]
    if trainer.device.type != "cuda":
        return f"device={trainer.device.type} has no CUDA graphs; set cuda_graphs=false"
    if trainer.dtype == torch.float16 and unfused:
        kind = type(trainer.players[unfused[0]].optimizer).__name__
        return f"optimizer.{unfused[0]}: in fp16, {kind} decides on the host which steps to skip; set precision=bf16"
    if trainer.turns.gate is not None:
        return "the gate decides on the host whether D steps; set turns.loss_floor=null and turns.accuracy_ceiling=null"
    if fixed:
        kind = type(trainer.players[fixed[0]].optimizer).__name__
        return f"optimizer.{fixed[0]}: {kind} keeps numbers on the host; set optimizer=adam, adamw or rmsprop"
    if changing:
        return f"schedule.{changing[0]}: phases read this number on the host; leave it out, or set cuda_graphs=false"
    return None


class Captured(Executor):
    """Runs every phase a few times through another executor, then captures it, and replays it from then on.

    Every replay of a phase overwrites the duels that the replay before returned. Statistics are copies.
    """

    warm_up = WARM_UP + 1
    separate = True  # an autograd graph cannot connect two CUDA graphs

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
                raise Uncaptured("dropout needs a new seed for every micro batch; set micro_batch=null")
            met, stats = self.graphs[key](move)
        except Uncaptured as error:
            reason = f"a phase cannot be captured ({error})"
            if self.required:
                raise UserError(
                    f"cuda_graphs=true: {reason}; set cuda_graphs=false and run again: this run resumes"
                ) from error
            say(f"note: cuda_graphs: {reason}; phases run without graphs, as with cuda_graphs=false")
            self.given_up = True
            self.graphs.clear()
            return self.inner.advance(move)
        return met, stats.copy()

    def forget(self) -> None:
        """Drop all graphs, because they use the memory that they were captured with."""
        self.graphs.clear()
        self.given_up = False
        self.inner.forget()


class Uncaptured(Exception):
    """CUDA cannot capture a phase."""


class Graph:
    """One phase. It runs normally a few times, then is captured, and is replayed on the tensors of the capture."""

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
            captured = move._replace(batch=self.batch, dropout=None)  # a capture cannot seed a generator
            try:
                self.replay, self.outcome = self.capture(lambda: self.executor.advance(captured))
            except RuntimeError as error:
                if out_of_memory(error):  # `micro_batch=auto` and runs handle it themselves
                    raise
                raise Uncaptured(" ".join(str(error).split())[:300]) from error
            self.gradients = [parameter.grad for parameter in parameters]
        for name, tensor in self.batch.items():
            tensor.copy_(move.batch[name])
        if move.dropout is not None:
            self.executor.trainer.reseed(move.dropout, 0)
        self.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient  # the graph of another phase may have replaced it
        return self.outcome


def _aside(do: Callable[[], Outcome]) -> Outcome:
    """Run a function on the stream of the capture, as PyTorch requires before a capture."""
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
    # A thread of NCCL asks for the state of earlier averages, which must not end the capture of this thread.
    mode = "thread_local" if distributed.joined() else "global"
    with torch.cuda.graph(graph, stream=_aside_stream(), capture_error_mode=mode):
        outcome = do()
    return graph.replay, outcome
