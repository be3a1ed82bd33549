"""Training on several processes with torch.distributed. Start them with torchrun. With one process, nothing happens.

Gradients are averaged explicitly, and modules are not wrapped in DistributedDataParallel. So any phase works: a penalty
alone, or two networks at once.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Elsewhere(Exception):
    """Another process raised `error` before this one came to a `barrier`. `all_or_none` raises `error` here, too."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes files and prints: rank 0."""
    return rank() == 0


def joined() -> bool:
    """Whether averages and other collectives run: with other processes, or in a group of one (see `start`)."""
    return world() > 1 or (dist.is_available() and dist.is_initialized())


def start(device: torch.device, *, alone: bool = False) -> None:
    """Join the other processes that torchrun started. The backend is NCCL on CUDA and gloo elsewhere.

    A process without others joins nothing, and skips all collectives. With `alone`, it joins a group of one and skips
    none. That changes no number, so it shows on one device that collectives work there, also in CUDA graphs.
    """
    if dist.is_available() and dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world() > 1:
        patience = timedelta(hours=12)
        store, number, count = next(dist.rendezvous("env://", timeout=patience))
        # After a restart, the store may still hold the addresses of the previous processes.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=patience)
    elif alone:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _control.cache_clear()


@cache
def _control() -> dist.ProcessGroup:
    """A gloo group for small messages between processes, so that these never wait for a GPU."""
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
    assert isinstance(group, dist.ProcessGroup)
    return group


def agree(number: int) -> int:
    """The largest number of all processes, returned to each. So a signal to one process can stop all of them."""
    if world() == 1:
        return number
    largest = torch.tensor([number])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_control())
    return int(largest)


def barrier() -> None:
    """Wait for all processes. Raises Elsewhere if another process has failed inside `all_or_none`."""
    if failures := _failures(None):
        raise Elsewhere(failures[0])


def _failures(own: Exception | None) -> list[Exception]:
    """The exceptions of all processes, returned to each; `own` is the exception of this process, if any."""
    if not agree(int(own is not None)):
        return []
    found: list[Exception | None] = [None] * world()
    dist.all_gather_object(found, own, group=_control())
    return [error for error in found if error is not None]


@contextmanager
def all_or_none() -> Iterator[None]:
    """A context for work that all processes share. If one process raises, all others raise the same at their next
    `barrier`, so no process waits for ever for a failed one. The context ends with a `barrier`.
    """
    try:
        yield
        barrier()
    except Elsewhere as other:
        raise other.error from None
    except Exception as error:
        if world() > 1:
            _failures(error)
        raise


def in_turn(do: Callable[[], T]) -> T:
    """Call `do` in the first process, then in the others. These find the files that the first downloaded or wrote."""
    if not is_main():
        barrier()
    result = do()
    if is_main():
        barrier()
    return result


def first_says(yes: bool) -> bool:
    """The value of `yes` in the first process, returned to each."""
    barrier()
    return bool(agree(int(yes and is_main())))


def block(count: int) -> range:
    """This process's share of range(count). The shares are consecutive, in the order of the ranks.

    With fewer numbers than processes, some shares are empty.
    """
    start, stop = (-(-count * i // world()) for i in (rank(), rank() + 1))
    return range(start, stop)


def collect(parts: list[T]) -> list[T]:
    """Collect the parts of all processes, in the order of the ranks, in the first process.

    The other processes get back their own parts. Tensors must be on the CPU.
    """
    if world() == 1:
        return parts
    barrier()
    found = [parts] * world() if is_main() else None
    dist.gather_object(parts, found, group=_control())
    return [part for own in found or [parts] for part in own]


def broadcast(module: nn.Module) -> None:
    """Copy the parameters and buffers of the first process to all others."""
    if joined():
        for tensor in module.state_dict().values():
            flat = tensor.contiguous()  # collectives need contiguous memory, and channels_last is not contiguous
            dist.broadcast(flat, src=0)
            tensor.copy_(flat)


def mean(tensor: Tensor) -> Tensor:
    """Replace a tensor by its mean over the processes, in place, and return it."""
    if joined():
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of the whole batch. Process i of n has rows i, i + n, i + 2n, ..."""
    if not joined():
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def own(tensor: Tensor) -> Tensor:
    """This process's rows of a whole batch: the inverse of `gather`."""
    return tensor[rank() :: world()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes. One reduction of a flat tensor covers all gradients."""
    if not joined():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        flat = mean(torch.cat([g.reshape(-1) for g in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))
