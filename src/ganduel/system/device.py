"""The device: its choice, its precision and its memory."""

import ctypes
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ganduel.system import distributed
from ganduel.system.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(name: str) -> torch.device:
    """The device of this process; "auto" takes CUDA, else MPS, else the CPU. Raises UserError if it is absent."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if (name == "cuda" and not cuda) or (name == "mps" and not mps):
        raise UserError(f"device={name}: this machine or this PyTorch has none; leave device=auto or set device=cpu")
    if name == "cuda" and distributed.world() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        return device
    if name == "cpu":
        keep_memory()
    return torch.device(name)


def keep_memory() -> None:
    """Let the C library on Linux keep freed memory.

    Otherwise the memory goes back to the system after every step, and the next step gets it again, page by page. That
    costs up to a tenth of the step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)  # for tensors of any size; a threshold (M_MMAP_THRESHOLD) cannot exceed 32 MB


def as_it_lies(x: Tensor, parameter: Tensor) -> Tensor:
    """View `x`, a parameter or its gradient, with its dimensions in memory order.

    In channels_last, (out, in, k, k) becomes (out, k, k, in). On CPUs, PyTorch's fused optimizers copy a gradient in
    any other order, and that takes as long as the optimizer step itself.
    """
    return x if parameter.is_contiguous() else x.permute(0, 2, 3, 1)


def configure(*, tf32: bool, cudnn_benchmark: bool) -> None:
    """Set whether CUDA may use TF32 for float32, and whether cuDNN searches for the fastest convolutions.

    Has no effect on other devices.
    """
    # This warning comes from the first backward pass, in a thread that PyTorch itself starts.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = cudnn_benchmark


def precision(name: str | None, device: torch.device) -> torch.dtype:
    """The data type for mixed precision; float32 means no mixed precision. `name` is "fp32", "bf16", "fp16" or None.

    None takes bfloat16 on CUDA from compute capability 8 on, float16 on older GPUs, and float32 on other devices.
    Raises UserError for fp16 without CUDA.
    """
    if name is None:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"precision=fp16 needs CUDA, and this is {device.type}: set precision=bf16 or fp32")
    return DTYPES[name]


def label(device: torch.device) -> str:
    """The name of the GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory(device: torch.device) -> float:
    """Peak memory in gigabytes (1e9 bytes): of PyTorch on a CUDA device, otherwise of this process; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def available(device: torch.device) -> float:
    """Memory in gigabytes (1e9 bytes) that this process may still take: nine tenths of the free memory.

    That is the free memory of the CUDA device. Without CUDA it is the least of: the system's free memory, that of this
    process's container, and what a limit on this process (ulimit -v) leaves. Raises UserError if the system does not
    tell.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return 0.9 * (torch.cuda.mem_get_info(device)[0] + unused) / 1e9
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        raise UserError(
            f"micro_batch=auto: this system does not say how much memory of {device} is free; set a number"
        ) from None
    free = int(lines["MemAvailable"].split()[0]) * 1024
    try:  # the limit of a container
        own = Path("/sys/fs/cgroup")
        limit, used = ((own / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        free = min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or the limit is "max"
        pass
    return 0.9 * min(free, _left_to_process()) / 1e9


def _left_to_process() -> float:
    """The bytes of address space that a limit leaves to this process; infinite without a limit."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # Windows, macOS
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else max(0, limit - used)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to a device. A copy from the CPU to CUDA uses pinned memory, so that it does not block."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronise(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work. Other devices need no wait."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    said = "can't allocate memory", "out of memory", "could not create a primitive"  # the last by oneDNN, on CPUs
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in said)
    )


def in_batches(every: range, batch: int, do: Callable[[range], None]) -> None:
    """Call `do` for all indices in `every`, `batch` at a time. If memory runs out, halve the batch and try again."""
    numbers = every[:batch]
    while numbers:
        try:
            do(numbers)
            following = numbers.stop
        except (RuntimeError, MemoryError) as error:
            if len(numbers) == 1 or not out_of_memory(error):
                raise
            batch, following = len(numbers) // 2, numbers.start
        if following == numbers.start and torch.cuda.is_available():
            torch.cuda.empty_cache()  # here, because outside of `except` the failed tensors are released
        numbers = range(following, min(following + batch, every.stop))
