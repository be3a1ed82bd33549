"""What was composed can run again: as an experiment, and as the settings of another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganduel.commands import cli
from ganduel.config.schema import plain
from ganduel.runs.folder import RunFolder

LINES = ("model.channels=4", "loss=hinge", "optimizer.G.lr=0.001", "duration=2 steps", "data.augment=[affine]")


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], list[str]]]:
    """`performed("seed=1")`: exit code, settings and overrides that gan-train would have run with."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, dict[str, Any], list[str]]:
        got: dict[str, Any] = {"settings": {}, "overrides": []}

        def perform(name: str, settings: Any, overrides: list[str]) -> dict[str, Any]:
            got.update(settings=plain(settings), overrides=overrides)
            return {}

        monkeypatch.setattr(cli, "perform", perform)
        monkeypatch.setattr("sys.argv", ["gan-train"])
        return cli.command("train", [*arguments]), got["settings"], got["overrides"]

    return run


@pytest.fixture
def old(performed: Any) -> dict[str, Any]:
    """The settings of a run `runs/a`, whose folder is there."""
    code, settings, overrides = performed(*LINES, "name=a", "seed=3")
    assert code == 0
    Path("runs/a").mkdir(parents=True)
    RunFolder(Path("runs/a")).record(settings, overrides)
    return settings


def test_a_run_with_the_settings_of_another(old: dict[str, Any], performed: Any) -> None:
    code, new, overrides = performed("settings_from=runs/a", "name=b")
    assert code == 0 and new == {**old, "name": "b", "settings_from": "runs/a"}
    code, again, _ = performed(*overrides)
    assert code == 0 and again == new, "the command that resumes it"


def test_changes_on_top(old: dict[str, Any], performed: Any) -> None:
    code, new, _ = performed(
        "settings_from=runs/a", "name=b", "loss=minimax", "optimizer=sgd", "model.latent=7", "seed=4"
    )
    assert code == 0 and new["loss"]["_target_"].endswith("minimax") and new["seed"] == 4
    assert new["optimizer"]["G"]["_target_"].endswith("SGD"), "a chosen option brings its own keys"
    assert new["model"]["latent"] == new["model"]["generator"]["latent"] == 7, "what follows from a key follows it"
    assert new["data"] == old["data"] and new["duration"] == "2 steps"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["settings_from=runs/a"], "name is missing: give the run that settings_from begins a name="),
        (
            ["settings_from=runs/x", "name=b"],
            "settings_from=runs/x is no run folder with a config.yaml and an overrides",
        ),
        (["settings_from=", "name=b"], "settings_from= is empty"),
    ],
)
def test_no_such_run(old: dict[str, Any], performed: Any, capsys: Any, arguments: list[str], message: str) -> None:
    assert performed(*arguments)[0] == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize("text", ["a: [b\n", "3", "\x00", "seed: {a: &x [*x]}\n"])
def test_a_damaged_run(old: dict[str, Any], performed: Any, capsys: Any, text: str) -> None:
    Path("runs/a/config.yaml").write_text(text)
    assert performed("settings_from=runs/a", "name=b")[0] == 1
    err = capsys.readouterr().err
    assert err.startswith("error: settings_from=runs/a") and err.count("\n") == 1


def test_what_this_version_composes_otherwise_is_said(old: dict[str, Any], performed: Any, capsys: Any) -> None:
    RunFolder(Path("runs/a")).record({**old, "batch_size": 77}, [*LINES, "name=a", "seed=3"])
    assert performed("settings_from=runs/a", "name=b")[0] == 1
    assert "composes other settings from the same command (batch_size: 77 -> 128)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["--cfg job", "config.yaml"])
def test_a_composed_configuration_is_an_experiment(performed: Any, capsys: Any, kind: str) -> None:
    arguments = ("loss=hinge", "model=wgan_gp", "name=x", "duration=2 steps")
    code, wanted, _ = performed(*arguments)
    assert code == 0
    if kind == "--cfg job":
        capsys.readouterr()
        assert cli.command("train", [*arguments, "--cfg", "job"]) == 0
        text = capsys.readouterr().out
    else:
        text = yaml.safe_dump(wanted)
    Path("my/experiment").mkdir(parents=True)
    Path("my/experiment/x.yaml").write_text(f"# @package _global_\n{text}")
    code, settings, overrides = performed("--config-dir=my", "experiment=x", "seed=5")
    assert code == 0 and settings == {**wanted, "seed": 5}
    assert [one for one in overrides if not one.startswith("--config-dir")] == ["experiment=x", "seed=5"]
