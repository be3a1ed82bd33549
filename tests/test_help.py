"""--help says what every key means, in 80 columns."""

import re

import pytest

from ganduel.commands import cli, train
from ganduel.config.compose import compose
from ganduel.config.help import WIDTH, help_text
from ganduel.system.errors import UserError

NEEDED = {"train": ["data=folder"]}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help(command, capsys):
    assert cli.command(command, ["--help", *NEEDED.get(command, [])]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert f'eval "$(gan-{command} -sc install=bash)"' in text  # how to switch on completion
    keys = re.findall(r"^  ([a-z][\w.]*)=(\S*)(.*)$", text, re.M)
    assert len(keys) >= 3 and "_target_" not in text and "hydra." not in text and "${" not in text
    groups = {"train": 9, "sample": 1, "data": 1, "export": 1, "import": 1, "fid": 0, "report": 0}[command]
    listed = text.partition("Groups, typed as group=option:\n\n")[2].partition("\n\n")[0].splitlines()
    assert len([line for line in listed if re.match(r"  \w", line)]) == groups


def test_nearly_every_key_is_explained():
    """All keys of the default experiment but those of the optimizer of D, which stand for G as well, and names."""
    lines = help_text("train", []).splitlines()
    bare = [
        line.strip()
        for line, below in zip(lines, [*lines[1:], ""], strict=True)
        if re.fullmatch(r"  [a-z][\w.]*\.?\w*=\S+", line) and not below.startswith(" " * 20)
    ]
    assert [line for line in bare if not line.startswith(("optimizer.D.", "model.name=", "model.game="))] == []


def test_help_of_other_options():
    """The keys, values and comments are those of what was chosen."""
    text = help_text("sample", ["mode=interpolate"])
    assert "  seeds=0-7 " in text and "mode=interpolate:\n" in text and "  mode.back=false" in text
    assert "mode.columns" not in text
    text = " ".join(help_text("train", ["regularizer=[r1]", "model=wgan_gp"]).split())
    assert "regularizer=r1:" in text and "regularizer.r1.weight=" in text and "model=wgan_gp:" in text
    assert 'duration="' in text and "The model sets it" in text


def test_help_with_a_mistake(capsys):
    assert cli.command("train", ["--help", "model=dcgna"]) == 1
    assert "Did you mean: dcgan" in capsys.readouterr().err


def test_gan_train_alone(monkeypatch, capsys, tmp_path):
    """It says what it is about to do, for how long, and what the short version is."""

    def stop(*_):
        raise UserError("that is enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "Training", stop)
    for overrides, said in (([], True), (["metric.which=[]"], False)):
        with pytest.raises(UserError, match="enough"):
            train.main(compose("train", ["metric.which=[]"]), overrides)
        told = capsys.readouterr().err
        assert ("trains a DCGAN on handwritten digits for 1000 kimg" in told) == said
        assert ("gan-train experiment=demo\n" in told) == said
