"""Several processes on gloo, with the variables that torchrun sets. They are forked from one that has imported PyTorch
and ours: torchrun itself imports both anew in each, which takes longer than what most tests let them do."""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 300  # seconds, as for torchrun
FAREWELL = 30  # seconds that the others have when one has failed
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["ganduel.commands.train", "ganduel.models.dcgan", "ganduel.models.dcgan_style"])


def together(processes: int, *arguments: str, what: str = "ganduel.train") -> subprocess.CompletedProcess:
    """Run a module or a file on so many processes: the code of the first that fails, and what all of them say."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        variables = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
        group = []
        for rank in range(processes):
            own = {**variables, "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in own.items()}}
            group.append(CONTEXT.Process(target=_one, args=(what, arguments, environment, os.getcwd(), folder)))
            group[-1].start()
        until = time.monotonic() + PATIENCE
        while any(process.is_alive() for process in group) and time.monotonic() < until:
            if any(process.exitcode for process in group):
                until = min(until, time.monotonic() + FAREWELL)
            for process in group:
                process.join(0.01)
        for process in group:
            if process.is_alive():
                process.kill()
                process.join()
        code = next((process.exitcode for process in group if process.exitcode), 0)
        said = ["".join((Path(folder) / f"{rank}.{way}").read_text() for rank in range(processes)) for way in "oe"]
    return subprocess.CompletedProcess([what, *arguments], code, *said)


def _one(what: str, arguments: Sequence[str], environment: dict[str, str], folder: str, out: str) -> None:
    """In the new process: what `python -m` or `python` would do."""
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, way in ((1, "o"), (2, "e")):
        with open(Path(out) / f"{environment['RANK']}.{way}", "wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    sys.argv = [what, *arguments]
    if what.endswith(".py"):
        runpy.run_path(what, run_name="__main__")
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)
