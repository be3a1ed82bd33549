"""Which device, and which precision on it."""

import ctypes
import os
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ganduel.system import distributed
from ganduel.system.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(name: str) -> torch.device:
    """The device of this process: "auto" takes CUDA, else MPS, else the CPU. Raises UserError where a device is
    absent."""
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
    """Let the C library of Linux keep what it has of the system's memory, which otherwise goes back after every step
    and costs up to a tenth of the next one to get again, page by page."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)  # large tensors too; a threshold would end at 32 MB


def as_it_lies(x: Tensor, parameter: Tensor) -> Tensor:
    """A parameter or its gradient, (out, in, k, k), with the dimensions in the order in which they lie in memory:
    (out, k, k, in) in channels_last.

    PyTorch's fused optimizers copy any other gradient on CPUs, which takes as long as the step itself.
    """
    return x if parameter.is_contiguous() else x.permute(0, 2, 3, 1)


def configure(*, tf32: bool, cudnn_benchmark: bool) -> None:
    """How CUDA computes in float32, and whether it tries its convolutions to take the fastest; nothing elsewhere."""
    # Of the first backward pass, in a thread that PyTorch itself starts.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current CUDA context")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = cudnn_benchmark


def precision(name: str | None, device: torch.device) -> torch.dtype:
    """The type of mixed precision; float32 means none.

    By default bfloat16 on CUDA from compute capability 8, float16 below it, float32 elsewhere.
    """
    if name is None:
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"precision=fp16 needs CUDA, and this is {device.type}: set precision=bf16 or fp32")
    return DTYPES[name]


def label(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory(device: torch.device) -> float:
    """Gigabytes in use at the peak: of the device, or of this process where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def available(device: torch.device) -> float:
    """Gigabytes that may still be taken: nine tenths of what is free on the device or, on CPUs, in the system or in the
    part of it that this process may have. Raises UserError where the system does not say."""
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
    except (OSError, ValueError):  # none, or "max"
        pass
    return 0.9 * free / 1e9


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device; from pinned memory where that is what it takes for nobody to wait."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is lack of memory, on any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )
