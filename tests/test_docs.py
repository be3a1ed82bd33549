"""The documentation: what its pages print runs as it stands, its commands compose, it builds without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ganduel

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


@pytest.fixture
def environment() -> dict[str, str]:
    """Where the commands of a shell are those under test."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(Path(ganduel.__file__).parents[1])}


@pytest.mark.parametrize("name", sorted(path.stem for path in (DOCS / "howto").glob("*.md")))
def test_how_tos_run_as_printed(name, tmp_path, environment):
    """Blocks with a title are files; those of the shell run in order, in a folder of their own."""
    commands = []
    for language, title, body in BLOCK.findall((DOCS / "howto" / f"{name}.md").read_text()):
        if title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(body)
        else:
            assert language == "sh"
            commands.append(body)
    assert commands
    script = "set -e\n" + "".join(commands)
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
