"""Capture phases as CUDA graphs, which makes them faster and changes no result."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from ganduel.game import Batch
from ganduel.system import distributed
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Executor, Gradients, Move, Outcome, Trainer

OPTIMIZER = "optimizer."  # how keys of optimizers begin
WARM_UP = 3  # steps before a capture, in which libraries choose algorithms and allocate memory

Found = TypeVar("Found", Outcome, Gradients)
Capture = Callable[[Callable[[], Found]], tuple[Callable[[], None], Found]]
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

    A graph cannot contain numbers of the host that change between steps. Those of optimizers may: see `Captured.whole`.
    """
    changing = [m.key for m in trainer.moved if m.dial.on_host and not m.key.startswith(OPTIMIZER)]
    if trainer.device.type != "cuda":
        return f"device={trainer.device.type} has no CUDA graphs; set cuda_graphs=false"
    if changing:
        return f"schedule.{changing[0]}: phases read this number on the host; leave it out, or set cuda_graphs=false"
    return None


def host_steps(trainer: Trainer) -> bool:
    """Whether optimizer steps need the host: for the decision of a gate, or for numbers that the host keeps."""

    def on_host(optimizer: torch.optim.Optimizer) -> bool:
        fused = optimizer.defaults.get("fused")  # one kernel, which also leaves out steps of fp16 that are not finite
        return not fused and ("capturable" not in optimizer.defaults or trainer.dtype == torch.float16)

    moved = any(m.dial.on_host and m.key.startswith(OPTIMIZER) for m in trainer.moved)
    return moved or trainer.turns.gate is not None or any(on_host(p.optimizer) for p in trainer.players.values())


class Captured(Executor):
    """Runs every phase a few times through another executor, then captures it, and replays it from then on.

    If `whole`, the optimizer step is captured, too. Otherwise the host takes it after the replay (see `host_steps`).
    Every replay of a phase overwrites the duels that the replay before returned. Statistics are copies.
    """

    warm_up = WARM_UP + 1
    separate = True  # an autograd graph cannot connect two CUDA graphs

    def __init__(self, executor: Executor, capture: Capture, required: bool):
        trainer = executor.trainer
        super().__init__(trainer)
        self.inner, self.capture, self.required = executor, capture, required
        self.whole = not host_steps(trainer)
        self.dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in trainer.game.modules())
        self.graphs: dict[tuple[int, bool], Graph] = {}
        self.given_up = False
        for player in trainer.players.values() if self.whole else ():
            for group in player.optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=trainer.device)

    def advance(self, move: Move) -> Outcome:
        if self.given_up:
            return self.inner.advance(move)
        key = id(move.phase), move.new
        if key not in self.graphs:
            self.graphs[key] = Graph(self.inner, self.whole, self.capture)
        try:
            if self.dropout and len(move.batch["seed"]) > self.trainer.micro_batch:
                raise Uncaptured("dropout needs a new seed for every micro batch; set micro_batch=null")
            found = self.graphs[key](move)
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
        if isinstance(found, Gradients):
            return self.trainer.update(move, found._replace(stats=found.stats.copy()))
        met, stats = found
        return met, stats.copy()

    def forget(self) -> None:
        """Drop all graphs, because they use the memory that they were captured with."""
        self.graphs.clear()
        self.given_up = False
        self.inner.forget()


class Uncaptured(Exception):
    """CUDA cannot capture a phase."""


class Graph:
    """One phase, or only its gradients if not `whole`. It runs normally a few times, then is captured, and is replayed
    on the tensors of the capture."""

    def __init__(self, executor: Executor, whole: bool, capture: Capture):
        self.executor, self.capture = executor, capture
        self.do: Callable[[Move], Outcome | Gradients] = executor.advance if whole else executor.gradients
        self.runs = 0
        self.batch: Batch = {}
        self.gradients: list[Tensor | None]
        self.replay: Callable[[], None]
        self.found: Outcome | Gradients

    def __call__(self, move: Move) -> Outcome | Gradients:
        self.runs += 1
        parameters = [*move.player.networks.parameters()]
        if self.runs <= WARM_UP:
            return _aside(self.do, move)
        if self.runs == WARM_UP + 1:
            self.batch = {name: tensor.clone() for name, tensor in move.batch.items()}
            captured = move._replace(batch=self.batch, dropout=None)  # a capture cannot seed a generator
            try:
                self.replay, self.found = self.capture(lambda: self.do(captured))
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
        return self.found


def _aside(do: Callable[[Move], Outcome | Gradients], move: Move) -> Outcome | Gradients:
    """Run a phase on the stream of the capture, as PyTorch requires before a capture."""
    if not torch.cuda.is_available():
        return do(move)
    stream = _aside_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = do(move)
    torch.cuda.current_stream().wait_stream(stream)
    return found


@cache
def _aside_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()


def _capture(do: Callable[[], Found]) -> tuple[Callable[[], None], Found]:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # A thread of NCCL asks for the state of earlier averages, which must not end the capture of this thread.
    mode = "thread_local" if distributed.joined() else "global"
    with torch.cuda.graph(graph, stream=_aside_stream(), capture_error_mode=mode):
        found = do()
    return graph.replay, found
