"""Many processes on PyTorch's own engine: start them with torchrun; with one process all of this does nothing.

Gradients are averaged explicitly and modules stay unwrapped, so any phase works (a penalty alone, two networks at
once).
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
    """What another process has raised while this one came to a `barrier`; `together` raises it here, too."""

    def __init__(self, error: Exception):
        super().__init__(error)
        self.error = error


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Join the other processes that torchrun started; NCCL on CUDA, gloo elsewhere."""
    if world() > 1 and not dist.is_initialized():
        patience = timedelta(hours=12)
        store, number, count = next(dist.rendezvous("env://", timeout=patience))
        # After a restart the store may still hold the addresses of those who were there before.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=patience)


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _control.cache_clear()


@cache
def _control() -> dist.ProcessGroup:
    """A group for small messages between hosts, so that they never wait for a GPU."""
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
    assert isinstance(group, dist.ProcessGroup)
    return group


def agree(number: int) -> int:
    """The largest of all processes' numbers, known to all: a signal that reached one stops every one."""
    if world() == 1:
        return number
    largest = torch.tensor([number])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_control())
    return int(largest)


def barrier() -> None:
    """Wait for all processes. Raises Elsewhere if one of them has failed at what they do `together`."""
    if failures := _failures(None):
        raise Elsewhere(failures[0])


def _failures(own: Exception | None) -> list[Exception]:
    """What the processes have raised, told to all of them."""
    if not agree(int(own is not None)):
        return []
    found: list[Exception | None] = [None] * world()
    dist.all_gather_object(found, own, group=_control())
    return [error for error in found if error is not None]


@contextmanager
def together() -> Iterator[None]:
    """For work of which every process does a share: what one of them raises, all raise at their next `barrier` within,
    of which one is at the end. So nobody waits for one that does not come."""
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
    """The first process does it and then the others, who find what it has downloaded or written."""
    if not is_main():
        barrier()
    result = do()
    if is_main():
        barrier()
    return result


def first_says(yes: bool) -> bool:
    """What the first process says, known to all."""
    barrier()
    return bool(agree(int(yes and is_main())))


def block(count: int) -> range:
    """This process's numbers of those below `count`, next to those of the process before; none, where there are fewer
    numbers than processes."""
    start, stop = (-(-count * i // world()) for i in (rank(), rank() + 1))
    return range(start, stop)


def collect(parts: list[T]) -> list[T]:
    """The parts of all processes, in their order, for the first; the others get back their own. Tensors must be on the
    CPU."""
    if world() == 1:
        return parts
    barrier()
    found = [parts] * world() if is_main() else None
    dist.gather_object(parts, found, group=_control())
    return [part for own in found or [parts] for part in own]


def broadcast(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the first."""
    if world() > 1:
        for tensor in module.state_dict().values():
            flat = tensor.contiguous()  # collectives need plain memory; channels_last is not
            dist.broadcast(flat, src=0)
            tensor.copy_(flat)


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
        tensor /= world()
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """The rows of all processes, in the order of the whole batch, of which each has every so many-th."""
    if world() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def own(tensor: Tensor) -> Tensor:
    """This process's rows of what `gather` gives; its inverse."""
    return tensor[rank() :: world()]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes: flatten, reduce once, write back."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradients:
        flat = mean(torch.cat([g.reshape(-1) for g in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))
