"""Hundreds of bad command lines, made from the schema: each is refused in one line, and none is accepted."""

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import THOROUGH

from ganduel.commands import cli
from ganduel.config.schema import SCHEMAS
from ganduel.sampling.sampler import parse_seeds
from ganduel.system.errors import UserError

NEEDED = {"sample": ["ckpt=x"], "export": ["ckpt=x"], "import": ["input=x"], "fid": ["ckpt=x"]}
HUGE = 10**30


def keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(dotted key, type, rules) of every key, and of the keys inside parts that have rules."""
    for one in fields(schema):
        if isinstance(one.type, type) and is_dataclass(one.type):
            yield from keys(one.type, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name, one.type, dict(one.metadata)


def bad_values(kind: Any, rules: dict[str, Any]) -> Iterator[str]:
    """Values that a key of this type with these rules must refuse."""
    kinds = set(get_args(kind)) if isinstance(kind, types.UnionType) else {kind}
    if kinds & {int, float}:
        yield from ("fast", "[1]", "{a: 1}")
    if float in kinds:
        yield from ("nan", "inf", "-inf", "1e999")
    elif int in kinds:
        yield from ("1.5", "nan", "inf")
    if bool in kinds:
        yield from ("maybe", "2.5", "[true]")
    if kinds & {int, float, bool, str} and types.NoneType not in kinds:
        yield "null"
    if list[str] in kinds:
        yield "{a: 1}"
    if "limits" in rules:
        low, high = rules["limits"]
        yield from (str(low - 1), str(-HUGE))
        if high is not None:
            yield str(high + 1)
    if "choices" in rules:
        yield "[nonesuch]" if list[str] in kinds else "nonesuch"
    if "path" in rules:
        yield ""
    if "some" in rules:
        yield "[]"


def bad_lines(command: str) -> Iterator[list[str]]:
    for key, kind, rules in keys(SCHEMAS[command]):
        for value in bad_values(kind, rules):
            yield [f"{key}={value}"]
        if (command, key) != ("import", "data"):  # a group without an option, which is what ~ asks for
            yield [f"~{key}"]
        yield [f"{key}x=1"]
        yield [f"+{key}x=1"]
    for broken in ("json=[1,", "json=(", "json={", "=", "json='", "json=true)", "a b=1", "--nonsense", "json"):
        yield [broken]


def test_there_are_hundreds() -> None:
    assert sum(len([*bad_lines(name)]) for name in SCHEMAS) > 600


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_bad_line_is_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The normal suite tries every 20th line, `GANDUEL_EXAMPLES=all` tries each."""
    monkeypatch.chdir(tmp_path)
    accepted: list[str] = []
    monkeypatch.setattr(cli, "perform", lambda name, settings, overrides: accepted.append(" ".join(overrides)))
    every = [*bad_lines(command)]
    wrong = []
    for arguments in every if THOROUGH else every[::20]:
        if command == "report" and "=" not in arguments[0] and not arguments[0].startswith("--"):
            continue  # the folder of a run
        typed = [one for one in NEEDED.get(command, []) if not arguments[0].lstrip("~").startswith(one[:4])]
        code = cli.command(command, [*typed, *arguments])
        out, err = capsys.readouterr()
        if code not in (1, 2) or out or err.count("\n") != 1 or not err.startswith("error: ") or len(err) > 2100:
            wrong.append((arguments, code, err))
    assert not wrong and not accepted, (wrong, accepted)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nonesuch", "''", "..x", "a b", "nonesuch.torch"])
@pytest.mark.parametrize("command", [name for name in SCHEMAS if name != "report"])
def test_packages_that_are_not_there(command: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no such package; install it, or put its folder on PYTHONPATH"):
        cli.perform(command, types.SimpleNamespace(allow=[name.strip("'")], json=False), [])


@pytest.mark.parametrize(
    "value",
    ["some", "5-3", "-1", -1, 1.5, [1, 2.5], [True], True, [], None, {"a": 1}, 2**63, "0-99999999999999", "1-2-3"],
)
def test_bad_seeds(value: Any) -> None:
    with pytest.raises(UserError, match=r"^seeds="):
        parse_seeds(value)


def test_json_has_no_nan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = {"isc": float("nan"), "rows": [{"fid": float("inf"), "kid": 0.5}]}
    monkeypatch.setitem(cli.COMMANDS, "fid", ("nothing", str))
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: types.SimpleNamespace(main=lambda *_: result))
    cli.perform("fid", types.SimpleNamespace(allow=[], json=True), [])
    assert capsys.readouterr().out == '{"isc": null, "rows": [{"fid": null, "kid": 0.5}]}\n'


def test_good_seeds() -> None:
    assert parse_seeds(["3-5", 9, "0"]) == [3, 4, 5, 9, 0]
    assert parse_seeds("3-5") == [3, 4, 5] and parse_seeds(7) == [7] and parse_seeds([9, 1]) == [9, 1]
    assert parse_seeds(f"{2**63 - 1}-{2**63 - 1}") == [2**63 - 1]
