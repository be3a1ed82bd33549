"""scripts/mutants.py: which changes it makes, which it leaves out, and what it says of a test that fails or passes."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

SOURCE = '''
def area(width: int, height: int = 2) -> int:
    """Width times height."""
    assert width > 0, "a width"
    if height < 0:
        raise ValueError(f"height={height + 1}")
    total = 0
    total += width * height
    return total
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of its own as the only one."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / mutants.file("area")
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE)
    return path


def test_every_change_that_makes_sense_is_made(module):
    codes = [mutant.code(SOURCE) for mutant in mutants.mutants("area")]
    lines = {
        line.strip()
        for code in codes
        if code
        for line, old in zip(code.splitlines(), SOURCE.splitlines(), strict=False)
        if line != old
    }
    assert {"total -= width * height", "total = width * height", "total += width / height", "if height <= 0:"} <= lines
    assert {"total = 1", "if not height < 0:"} <= lines
    kept = ("assert", "raise", '"""', "def area(width: float")
    assert not [line for line in lines if line.startswith(kept)]
    for code in codes:
        assert code is None or ast.parse(code)


def test_the_sample_is_drawn_from_its_seed():
    every = {"a": [*range(300)], "b": [*range(10)], "c": [*range(90)]}
    drawn = mutants.sample(every, 40, seed=0)
    assert drawn == mutants.sample(every, 40, seed=0) != mutants.sample(every, 40, seed=1)
    assert len(drawn) == 30 + 10 + 20  # in proportion, but at least 20 or all


def test_a_page_may_break_the_lines_of_a_survivor():
    change = mutants.Result(mutants.Mutant("area", "x", 0), "survived", 8, "total  += 1", "total -= 1").change
    assert mutants.explained(change, "It changes nothing:\n\n- `area`: `total  += 1` →\n  `total -= 1`\n")
    assert not mutants.explained(change, "- `area`: `total  += 1` →\n  `total -= 2`")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, "src")
import mutants
mutants.ROOT = Path.cwd()
mutants.TESTS = {"area": "test_area.py"}
source = mutants.file("area").read_text()
for mutant in mutants.mutants("area"):
    code = mutant.code(source)
    if code and ("total += width / height" in code or "total -= width * height" in code):
        print(mutants.attempt(mutant))
"""


@pytest.mark.slow
def test_a_mutant_meets_the_tests_of_its_module(module):
    """2 x 1 is 2 / 1, which survives, but -2 is not 2. In a process of its own: this one has its modules already."""
    (module.parent / "__init__.py").write_text("")
    Path("test_area.py").write_text("from ganduel.area import area\n\n\ndef test():\n    assert area(2, 1) == 2\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(mutants.__file__).parent)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    found = "line=8, before='total += width * height', after="
    assert f"outcome='survived', {found}'total += width / height'" in done.stdout
    assert f"outcome='killed', {found}'total -= width * height'" in done.stdout
    assert module.read_text() == SOURCE
