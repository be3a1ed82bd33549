"""Processes that prepare images, in order. They must not import PyTorch, because that takes seconds."""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np

from ganduel.data.resize import Prepared, Recipe, prepare
from ganduel.data.sources import Originals

TASK = 32, 2**21  # most images, and approximately most bytes, that go to a process at once
FEW = 500  # for fewer images, starting processes is not worth the time


def prepared(
    originals: Originals, recipe: Recipe, compress: bool, first: int, workers: int
) -> Iterator[list[Prepared | str]]:
    """Prepare all images from index `first` on, and yield the results in order, a task at a time.

    This process reads the files, because they may lie in an archive; `workers` processes decode them. At most
    `2 * workers + 1` tasks wait at a time, which is enough to keep the workers busy. A result is a string if the image
    was rejected: see `resize.prepare`.
    """
    tasks = _tasks(originals, first)
    if workers == 1 or len(originals.names) - first < FEW:
        yield from (prepare(recipe, compress, task) for task in tasks)
        return
    waiting: deque[Future[list[Prepared | str]]] = deque()
    context = multiprocessing.get_context("spawn")  # forking a process that has threads is not safe
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        for task in tasks:
            with _bare_main():  # because `submit` starts processes
                waiting.append(pool.submit(prepare, recipe, compress, task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _bare_main() -> Iterator[None]:
    """Hide the main module. Otherwise every new process would import it: seconds for PyTorch, or a script once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    """Ignore Ctrl-C, which the main process handles, and end this worker if the main process is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.join,), daemon=True).start()


def _die_with(join: Callable[[], None]) -> None:
    join()
    os._exit(1)


def _tasks(originals: Originals, first: int) -> Iterator[list[bytes | np.ndarray | str]]:
    """Yield the originals from index `first` on, a few at a time."""
    task: list[bytes | np.ndarray | str] = []
    size = 0
    for i in range(first, len(originals.names)):
        original = read(originals, i)
        task.append(original)
        size += len(original)
        if len(task) == TASK[0] or size >= TASK[1]:
            yield task
            task, size = [], 0
    if task:
        yield task


def read(originals: Originals, i: int) -> bytes | np.ndarray | str:
    """Read an original: an encoded file or pixels, or the reason why it cannot be read."""
    try:
        return originals.read(i)
    except MemoryError:
        raise
    except Exception as error:  # a damaged member of an archive, a file without permission
        return str(error) or type(error).__name__
