"""Mutation testing: which small changes of the code do the tests notice?

    python scripts/mutants.py                            a sample of at least 400 mutants, of all modules
    python scripts/mutants.py --module losses --all      every mutant of one module

A mutant is one module with one small change, such as a `+` that became a `-`, a number one larger, a condition turned
round, or a decorator taken away. cosmic-ray makes the changes. Each mutant meets the tests of its module. If one of
them fails, the mutant is killed. If all pass, it survives: either a test is missing, or the change makes no difference.
A mutant that makes the tests hang is stopped and counts as killed; the table says how many those were.

The sample is drawn from the seed, in proportion to the number of mutants in each module, and at least 20 of each.
Mutants run in two processes, each in a copy of the tree, so that your own files are never changed. A mutant runs in a
fork of a process that has imported PyTorch, because the import takes longer than most tests.

Changes that make no sense are left out:
- in docstrings, annotations, assertions and the text of exceptions;
- of `strict=` of zip and `frozen=` of dataclasses, because these only forbid;
- bit operations in place of arithmetic, because floats refuse them;
- `is` in place of a comparison, because its result depends on how Python stores numbers;
- changes after which the module is no longer valid Python.

The script prints a table in Markdown and the survivors. docs/mutants.md lists survivors whose change makes no
difference, with the reason. Any other survivor makes the exit code 1.
"""

import argparse
import ast
import difflib
import functools
import gc
import math
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import hydra  # noqa: F401, imported once for all mutants, like the next modules and PyTorch
import pytest
import torch._dynamo  # noqa: F401, because optimizers import it at their first step
import torch_fidelity  # noqa: F401
import torchvision  # noqa: F401
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "configs", "tests", "scripts", "pyproject.toml")
PAGE = ROOT / "docs" / "mutants.md"
MEMORY = 4 * 2**30  # bytes that the tests of a mutant may take, because some mutants fill a list for ever
GUARDS = ("strict", "frozen")  # arguments of zip and of dataclasses that only forbid, like assertions
FLOOR = 20  # smallest sample of a module, or all of its mutants if there are fewer

# The tests of each module, as arguments of pytest.
TESTS = {
    "game": "tests/test_game.py tests/test_pack.py tests/test_anchors.py tests/test_trainer.py "
    "-k 'not (batches_equal or grows or micro_batches or refused)'",
    "trainer": "tests/test_anchors.py tests/test_validation.py tests/test_trainer.py tests/test_batches.py "
    "tests/test_speed.py -k 'not (batches_equal or train_as or test_speed) or learns_from_new'",
    "phases": "tests/test_anchors.py tests/test_trainer.py -k 'not batches_equal'",
    "sharing": "tests/test_sharing.py tests/test_trainer.py -k 'test_sharing or fakes'",
    "batches": "tests/test_batches.py tests/test_sharing.py -k 'not auto'",
    "validation": "tests/test_validation.py -k 'not time_of_its_own'",
    "no_trace": "tests/test_no_trace.py",
    "stats": "tests/test_anchors.py tests/test_trainer.py -k 'averaged or statistic or numbers or finite or scale'",
    "losses": "tests/test_losses.py",
    "schedules": "tests/test_schedules.py -k 'not logged and not silently'",
    "lazy_regularization": "tests/test_lazy.py -k 'not as_far'",
    "ema": "tests/test_ema.py",
    "randomness": "tests/test_randomness.py",
    "turns": "tests/test_turns.py -k 'not run'",
    "clock": "tests/test_turns.py -k 'not run'",
    "regularizers": "tests/test_regularizers.py tests/test_pack.py tests/test_stylegan2.py "
    "-k 'test_regularizers or penalty or path_length_of'",
    "models/r3gan": "tests/test_r3gan.py -k 'not (reference or presets or 128 or 256 or 512 or 1024)'",
    "augment/ada": "tests/test_ada.py -k 'target or since or ranges or autocast or own'",
    "evaluation/evaluate": "tests/test_metrics.py",
    "evaluation/measure": "tests/test_metrics.py",
    "evaluation/manifold": "tests/test_metrics.py",
    "evaluation/paths": "tests/test_metrics.py",
}


OPPOSITES = {"+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "&=", "&=": "|="}


class AugmentedAssignment(Operator):
    """Replace `x += y` by `x = y` and by `x -= y`, and so on, because cosmic-ray does not change such assignments."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if node.type == "operator" and node.value in OPPOSITES:
            yield from [(node.start_pos, node.end_pos)] * 2

    def mutate(self, node: Any, index: int) -> Any:
        node.value = ("=", OPPOSITES[node.value])[index]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return Example("x += 1", "x = 1"), Example("x += 1", "x -= 1", occurrence=1)


OPERATORS = {name: get_operator(name) for name in operator_names()} | {"augmented assignment": AugmentedAssignment}
POINTLESS = re.compile(
    r"core/(Variable.*"
    r"|ReplaceBinaryOperator_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(RShift|LShift|BitOr|BitAnd|BitXor)"
    r"|ReplaceComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_(Is|IsNot))"
)


class Mutant(NamedTuple):
    """A change by an operator of cosmic-ray, at the place number `occurrence` where it applies in a module."""

    module: str
    operator: str
    occurrence: int

    def code(self, source: str) -> str | None:
        """The source of the mutated module; None if it is not valid Python."""
        mutated = mutate_code(source, OPERATORS[self.operator](), self.occurrence)
        try:
            compile(mutated, self.module, "exec")
        except SyntaxError:
            return None
        return mutated


class Result(NamedTuple):
    mutant: Mutant
    outcome: str  # killed, timed out, survived
    line: int = 0
    before: str = ""
    after: str = ""

    @property
    def change(self) -> str:
        """The change in the notation of docs/mutants.md."""
        return f"`{self.mutant.module}`: `{self.before}` → `{self.after}`"


def file(module: str) -> Path:
    return Path("src", "ganduel", f"{module}.py")


def mutants(module: str) -> list[Mutant]:
    source = (ROOT / file(module)).read_text(encoding="utf-8")
    left_out = [
        ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in no_sense(ast.parse(source))
    ]
    nodes = list(ast_nodes(get_ast(source)))
    return [
        Mutant(module, name, occurrence)
        for name, operator in OPERATORS.items()
        if not POINTLESS.match(name)
        for occurrence, (start, end) in enumerate(p for node in nodes for p in operator().mutation_positions(node))
        if not any(first <= start and end <= last for first, last in left_out)
    ]


def no_sense(tree: ast.AST) -> Iterator[Any]:
    """Yield the nodes of the code that must not change."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns
        elif isinstance(node, ast.Assert | ast.Raise) or (isinstance(node, ast.keyword) and node.arg in GUARDS):
            yield node


def sample(every: dict[str, list[Mutant]], least: int, seed: int) -> list[Mutant]:
    """Draw `least` or more mutants, in proportion to the mutants of each module, in an order that mixes the modules."""
    total = sum(map(len, every.values()))
    drawn = []
    for module, found in every.items():
        count = min(len(found), max(min(FLOOR, least), math.ceil(least * len(found) / total)))
        drawn += random.Random(f"{seed} {module}").sample(found, count)
    random.Random(seed).shuffle(drawn)
    return drawn


def run_tests(module: str, keep_bytecode: bool) -> None:
    """Run the tests of a module and end this process with pytest's exit code."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.dont_write_bytecode = not keep_bytecode
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading other packages' plugins takes longer than some tests
    os._exit(pytest.main(["-x", "-p", "no:cacheprovider", *shlex.split(TESTS[module])]))


def outcome(module: str, seconds: float, keep_bytecode: bool = False) -> str:
    """The outcome of a module's tests in the current folder: "killed", "timed out" or "survived".

    `keep_bytecode` is only for the unchanged module. Python would mistake the bytecode of one mutant for that of
    another with the same length and the same second of writing.
    """
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(module, keep_bytecode))
    process.start()
    process.join(seconds)
    late = process.is_alive()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # also kills the processes that it started
    process.join()
    return "timed out" if late else "survived" if process.exitcode == 0 else "killed"


def enter(folder: str) -> None:
    """Copy the tree into `folder` and make the copy the current folder."""
    copy = Path(tempfile.mkdtemp(dir=folder))
    for name in COPIED:
        part = ROOT / name
        if part.is_dir():
            shutil.copytree(part, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(part, copy)
    os.chdir(copy)
    sys.path.insert(0, str(copy / "src"))
    os.environ["PYTHONPATH"] = sys.path[0]
    gc.freeze()  # else each mutant's garbage collection would search all imported modules


@functools.cache
def limit(module: str) -> float:
    """The time limit in seconds for the tests of a module: 20 s plus five times the time that they take unchanged.

    Exits if the tests fail without a change.
    """
    start = time.perf_counter()
    if outcome(module, 600, keep_bytecode=True) != "survived":
        raise SystemExit(f"error: the tests of {module} fail without a change: pytest {TESTS[module]}")
    return 20 + 5 * (time.perf_counter() - start)


def attempt(mutant: Mutant) -> Result | None:
    """Test a mutant in the current folder; None if it is not valid Python."""
    path, seconds = file(mutant.module), limit(mutant.module)
    source = path.read_text(encoding="utf-8")
    mutated = mutant.code(source)
    if mutated is None:
        return None
    path.write_text(mutated, encoding="utf-8")
    try:
        found = outcome(mutant.module, seconds)
    finally:
        path.write_text(source, encoding="utf-8")
    lines = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0, lineterm=""))[2:]
    line = int(re.findall(r"\d+", lines[0])[0])
    before, after = (" ".join(x[1:].strip() for x in lines[1:] if x[0] == sign) for sign in "-+")
    return Result(mutant, found, line, before, after)


def table(every: dict[str, list[Mutant]], results: list[Result]) -> str:
    rows = ["| module | mutants | tried | killed | of them timed out | survived | killed, % |", "|---|" + "---:|" * 6]
    counts = {module: Counter(r.outcome for r in results if r.mutant.module == module) for module in every}
    named = [(f"`{module}`", len(found), counts[module]) for module, found in every.items()]
    named.append(("**all**", sum(map(len, every.values())), sum(counts.values(), Counter())))
    for name, size, count in named:
        tried = count.total()
        killed = tried - count["survived"]
        share = f"{100 * killed / tried:.1f}" if tried else ""
        rows.append(f"| {name} | {size} | {tried} | {killed} | {count['timed out']} | {count['survived']} | {share} |")
    return "\n".join(rows)


def explained(change: str, page: str) -> bool:
    """Whether a page lists a change. Its lines may be broken anywhere."""
    return " ".join(change.split()) in " ".join(page.split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", action="append", choices=TESTS, help="only this module; may be given again")
    parser.add_argument("--all", action="store_true", help="every mutant instead of a sample")
    parser.add_argument("--sample", type=int, default=400, help="mutants to try at least, over all modules (400)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--processes", type=int, default=2, help="tried at a time (2)")
    options = parser.parse_args()
    every = {module: mutants(module) for module in TESTS if not options.module or module in options.module}
    least = sum(map(len, every.values())) if options.all else options.sample
    drawn = sample(every, least, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(options.processes, context, enter, (folder,)) as pool:
            results = []
            for number, result in enumerate(pool.map(attempt, drawn), 1):
                print(f"\r{number} of {len(drawn)}", end="", file=sys.stderr, flush=True)
                if result:
                    results.append(result)
    print(file=sys.stderr)
    print(table(every, results))
    page = PAGE.read_text(encoding="utf-8")
    new = 0
    for result in sorted(r for r in results if r.outcome == "survived"):
        known = explained(result.change, page)
        new += not known
        print(f"\n{file(result.mutant.module)}:{result.line}{' (explained)' if known else ''}\n- {result.change}")
    return int(new > 0)


if __name__ == "__main__":
    sys.exit(main())
