"""Any text that a file system takes as a name goes through every command as it is typed."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from ganduel.commands import cli
from ganduel.config.compose import compose
from ganduel.config.keys import LISTS, listed, parse, quote
from ganduel.config.schema import SCHEMAS, marked
from ganduel.data.archives import Folder
from ganduel.evaluation import folders
from ganduel.system.errors import UserError
from ganduel.system.terminal import LONGEST, printable, say, tell

# Pieces that mean something to Hydra's grammar, to OmegaConf, to a shell or to a terminal, and a byte that is no UTF-8.
MEANING = [
    "${",
    "}",
    "\\${",
    "\\",
    "'",
    '"',
    "[",
    "]",
    "(",
    ")",
    ",",
    "=",
    "~",
    "#",
    "%",
    "@",
    ":",
    "???",
    "null",
    "{",
    "$",
]
MEANING += [" ", "\n", "\t", "\x1b[31m", "\udce4", "1e-4", "true", "range(1)", "é", "试", "\u202e"]
LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.lists(st.one_of(st.sampled_from(MEANING), st.text(LETTERS, max_size=3)), min_size=1, max_size=6).map("".join)
NAMES = NAMES.filter(lambda name: name not in ("", ".", "..") and len(os.fsencode(name)) < 200)


def taken(argument: str) -> Any:
    """What a command gets for the value of an argument."""
    return OmegaConf.to_container(OmegaConf.create({"value": parse([argument])[0].value()}), resolve=True)["value"]  # type: ignore


@given(NAMES)
@example("\\\n")
@example("\\${a}\\")
def test_a_path_is_taken_as_it_is_typed(name: str) -> None:
    assert taken(quote(f"out=x/{name}")) == f"x/{name}"
    assert taken(quote(f"folders=[x/{name.replace(',', '')}]")) == [f"x/{name.replace(',', '')}".strip()]
    assert taken(listed("runs", [f"x/{name.replace('=', '')}"])[0]) == [f"x/{name.replace('=', '')}"]


def test_every_path_key_of_every_command_is_quoted() -> None:
    name = "a b=c(e#f'g\"h[i]~{k} ${l} \\"
    for command, schema in SCHEMAS.items():
        typed = {key: f"[{name}]" if key in LISTS else f"{name},x" for key in marked("path", schema)}
        config: Any = compose(
            command, [*NEEDED.get(command, []), *(quote(f"{k}={value}") for k, value in typed.items())]
        )
        for key in typed:
            value = config
            for part in key.split("."):
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            assert value == ([name] if key in LISTS else f"{name},x"), (command, key)


NEEDED = {"import": ["data=folder"]}


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("[real,fake]", ["real", "fake"]),
        ("[ real , fake ]", ["real", "fake"]),
        ("[plain,epoch=3]", ["plain", "epoch=3"]),
        ("[plain,a,b]", ["plain", "a,b"]),  # this folder is there, and neither a nor b is
        ("[plain,'a,b']", ["plain", "a,b"]),
        ('["a,c",plain]', ["a,c", "plain"]),
        ("[a,c]", ["a", "c"]),
        ("[f[1.0],it's]", ["f[1.0]", "it's"]),
        ("[äöü,x#y]", ["äöü", "x#y"]),
        ("[null,true,1e-4]", ["null", "true", "1e-4"]),
        ("[~,~/x]", ["HOME", "HOME/x"]),
        ("[???,???]", ["./???", "./???"]),
    ],
)
def test_names_in_a_list(typed: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "HOME")
    for name in ("plain", "a,b"):
        Path(name).mkdir()
    assert taken(quote(f"folders={typed}")) == wanted


def test_a_sweep_over_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a,b").mkdir()
    sweep = parse([quote("data.root=x,'y,z',a,b", sweep=True)])[0]
    assert [*sweep.sweep_string_iterator()] == ["'x'", "'y,z'", "'a,b'"]
    assert taken(quote("data.root=x,y")) == "x,y"


@pytest.mark.parametrize("name", ["1e-4", "испытание", "true", "null.1", "007", "1_000"])
def test_a_name_is_no_number(name: str) -> None:
    assert compose("train", [quote(f"name={name}")]).name == name
    assert compose("data", [quote(f"data.name={name}")]).data.name == name


@pytest.mark.parametrize("name", ["(a)", "a(b", "a)b", "a(b)c", "((("])
def test_a_name_with_brackets_is_refused_by_its_rule(name: str) -> None:
    """And not by the words of a parser."""
    with pytest.raises(UserError, match=r"^name=.* is not allowed; it takes letters, digits"):
        compose("train", [quote(f"name={name}")])


def test_a_name_may_still_be_made_of_others() -> None:
    assert compose("train", [quote("name=${model.name}-${seed}"), "seed=3"]).name == "dcgan-3"


@given(NAMES)
def test_any_folder_is_found_and_said(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """A folder of any name is measured, and nothing of its name reaches the terminal but printable letters."""
    top = tmp_path_factory.mktemp("names")
    (top / name).mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(top / name / f"{i}.png")
    (top / name / "x.txt").touch()
    real = folders.Folder(taken(quote(f"out={top / name}")))
    assert real.images.count == 2 and Folder(top / name).find(lambda one: one.endswith("txt")) == ["x.txt"]
    assert printable(name).isprintable()


@given(st.text(min_size=1, max_size=50))
def test_printable(text: str) -> None:
    assert printable(text).isprintable() and "\n" not in printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_a_long_name_is_cut() -> None:
    cut = printable("a" * 10_000_000 + "end")
    assert len(cut) < LONGEST + 10 and cut.startswith("aaa") and cut.endswith("end")


def test_messages_keep_their_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    say("one \x1b[31m\r\ntwo")
    assert capsys.readouterr().err == "one \\x1b[31m\\r\ntwo\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_result_has_the_bytes_of_its_path(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a script reads from stdout is the file, in whatever encoding the terminal may be."""
    if encoding == "latin-1":
        text, wanted = "runs/\udce4", b"runs/\xe4\n"
    else:
        text, wanted = "runs/ä\udce4", b"runs/\xc3\xa4\xe4\n"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, newline=""))
    tell(text)
    sys.stdout.flush()
    assert raw.getvalue() == wanted


def test_a_report_of_folders_with_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=3").mkdir()
    assert listed("runs", ["lr=3", "out=x.html"]) == ["runs=['lr=3']", "out=x.html"]
    assert cli.command("report", ["lr=3"]) == 1
    assert "lr=3" in capsys.readouterr().err
