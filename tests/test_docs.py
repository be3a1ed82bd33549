"""The documentation: what its pages print runs as it stands, its commands compose, it builds without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import config_reference
import pytest
import yaml
from printed import BLOCK, PAGES
from test_recipes import NAMES

import ganduel
from ganduel.config.keys import config_dir, leaves

TOP = config_dir()
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def environment() -> dict[str, str]:
    """Where the commands of a shell are those under test."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(paths), "PYTHONPATH": str(Path(ganduel.__file__).parents[1])}


@pytest.mark.slow
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


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "howto"], ids=lambda page: page.stem)
def test_keys_exist(page):
    """`group.key=value` and `group=option` in running text, whatever command they belong to."""
    known = {key for path in TOP.rglob("*.yaml") for key, _, _ in config_reference.keys_of(path)}
    inside = {".".join(key.split(".")[:i]) for key in known for i in range(1, key.count(".") + 1)}
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    for word in [word for span in spans for word in span.split()]:
        key, equals, value = word.partition("=")
        group = key.partition(".")[0]
        if (
            group != "hydra"
            and (TOP / group).is_dir()
            and re.fullmatch(r"\w+(\.\w+)+", key)
            and not key.endswith((".py", ".md"))
        ):
            assert key in known | inside, word
        elif (TOP / key).is_dir() and equals and re.fullmatch(r"\[?[a-z]\w*(,\w+)*\]?", value):
            for option in value.strip("[]").split(","):
                assert (TOP / key / f"{option}.yaml").exists(), word


def test_every_key_is_in_the_reference():
    """As YAML reads the files, and with the value that it finds."""
    pages = config_reference.pages()
    for path in TOP.rglob("*.yaml"):
        group = str(path.parent.relative_to(TOP))
        if group.startswith("hydra"):  # launchers and sweepers, which are not keys of ours
            continue
        page = pages[f"gan-{path.stem}" if group == "." else group]
        for key, value in leaves(yaml.safe_load(path.read_text())):
            parts = key.split(".")
            if (
                parts[0] in ("defaults", "hydra")
                or any(part.startswith("_") for part in parts)
                or group == "experiment"
            ):
                continue
            prefix = "" if group == "." or "@package _global_" in path.read_text() else f"{group}."
            (row,) = [line for line in section(page, path.stem, group) if line.startswith(f"| `{prefix}{key}` |")]
            assert yaml.safe_load(row.split(" | ")[1].strip("`")) == value
    assert [name for name in NAMES if f"\n## {name}\n" not in pages["experiment"]] == []


def test_an_option_has_the_comments_of_the_one_that_it_begins_with():
    page = "\n".join(section(config_reference.group_page("turns"), "shared", "turns"))
    assert "Begins with the keys of [reuse](#reuse)." in page
    assert "| `turns.first` | `G` | player that moves first: D, G |" in page


def section(page: str, option: str, group: str) -> list[str]:
    """The lines about an option."""
    return (page if group == "." else page.split(f"\n## {option}\n")[1].split("\n## ")[0]).splitlines()


@pytest.mark.slow
def test_it_builds_without_a_network(tmp_path):
    """Strictly, and asks nothing of other servers when it is read."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    result = subprocess.run(build, cwd=DOCS.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr + result.stdout
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        asked = re.findall(r'<(?:script|img|link)[^>]* (?:src|href)="?(https?:[^" >]+)', page.read_text())
        assert not asked, page


def test_versions_agree():
    """The package's own, the changelog's newest and that to be cited."""
    root = DOCS.parent
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.M)
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert newest and newest[1] == cited["version"] == ganduel.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()
