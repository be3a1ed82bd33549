"""The layout is the one that docs/design.md shows, and no room imports in a circle."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "ganduel"


def rooms() -> set[str]:
    """Modules and packages right below the package."""
    return {p.name + "/" * p.is_dir() for p in PACKAGE.iterdir() if p.name[0] != "_" and p.name != "configs"}


def imports(path: Path) -> set[str]:
    """The rooms that a module imports from, at its top or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ganduel.")}
    return found


def test_the_page_shows_the_tree_that_is_there():
    page = (ROOT / "docs" / "design.md").read_text()
    tree = re.search(r"^src/ganduel/\n((?:  .*\n)+)", page, re.M)[1]
    lines = [re.split(r"  +", line.strip())[0] for line in tree.splitlines() if line[2] != " "]
    assert {name for line in lines for name in line.split()} == rooms()


def test_no_circles():
    names = {room.removesuffix("/").removesuffix(".py") for room in rooms()}
    arrows: dict[str, set[str]] = {name: set() for name in names}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in names:
            arrows[room] |= (imports(path) & names) - {room}
    while ready := [room for room, to in arrows.items() if not to & arrows.keys()]:
        for room in ready:
            del arrows[room]
    assert not arrows, f"these import in a circle: {arrows}"


def test_no_method_is_replaced_from_outside():
    """Nothing writes into what belongs to an object alone. (A pickled module of others has a key "_modules", too.)"""
    written = re.compile(r"vars\([^()]*\)(\[|\.(update|pop|setdefault)\()|\._modules\b|__dict__|__class__ *=[^=]")
    assert not [path.name for path in PACKAGE.rglob("*.py") if written.search(path.read_text())]
