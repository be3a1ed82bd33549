"""Many processes on PyTorch's own engine: start them with torchrun; with one process all of this does nothing.

Gradients are averaged explicitly and modules stay unwrapped, so any phase works (a penalty alone, two networks at
once).
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
    agree(0)


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
