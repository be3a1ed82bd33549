"""All commands that the project prints: in its pages, in its YAML files, and in what the programs say."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from ganduel.config.comments import lead
from ganduel.config.keys import config_dir

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
PROGRAMS = (
    r"(?:gan-(?:train|sample|fid|data|export|import|report)|torchrun|tensorboard|pip|python3?|pytest|make|mkdocs)"
)
START = re.compile(rf"(?:[A-Z_]+=\S+ )*{PROGRAMS}(?: |$)")
SAID = re.compile(r"(?:^|[ :(])((?:[A-Z_]+=\S+ )?(?:gan-(?:train|sample|fid|report)|torchrun|tensorboard) \S.*)$", re.M)
OPEN = re.compile(r"\.\.\.|NAME|<|\bKEY\b|\[OPTION")  # leaves something for the reader to fill in


class Printed(NamedTuple):
    where: str
    text: str  # as a shell gets it, over several lines perhaps, with the comment behind it

    @property
    def words(self) -> list[str]:
        """What a shell without surprises makes of it."""
        return shlex.split(self.text.replace("\\\n", " "), comments=True)

    @property
    def whole(self) -> bool:
        return not OPEN.search(self.text)


def pages() -> list[Printed]:
    """Commands in blocks of the shell and in running text."""
    found = []
    for page in PAGES:
        where, text = str(page.relative_to(ROOT)), page.read_text()
        for language, _, body in BLOCK.findall(text):
            if language == "sh":
                lines = re.split(r"(?<!\\)\n", body)
                found += [Printed(where, line) for line in lines if START.match(line)]
        spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
        spans = [" ".join(span.split()) for span in spans]
        found += [Printed(where, span) for span in spans if START.match(span) and " " in span]
    return found


def files() -> list[Printed]:
    """Commands in the comments at the beginning of YAML files, with what stands behind them as a comment."""
    found = []
    for path in sorted(config_dir().rglob("*.yaml")):
        for line in re.split(r"(?<!\\)\n", lead(path)):
            if line.startswith("  ") and START.match(line.strip()):
                found.append(Printed(str(path.relative_to(config_dir().parent)), with_comment(line)))
    return found


def with_comment(line: str) -> str:
    """An indented line: a command, and what stands far behind it as a comment."""
    return re.sub(r"(?<=\S) {3,}(\w)", r"  # \1", line.strip())


def said(where: str, text: str) -> list[Printed]:
    """Commands in what a program says."""
    return [Printed(where, line) for line in SAID.findall(text)]
