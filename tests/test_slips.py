"""What people type from habit gets the command that they want."""

from pathlib import Path

import pytest
import yaml

from ganduel.commands import cli
from ganduel.config.compose import compose
from ganduel.config.keys import LIST_GROUPS, bracketed, config_dir, options
from ganduel.config.schema import SCHEMAS, rules_of
from ganduel.config.slips import MEANT, SLIPS, answer, meant_here, switch
from ganduel.system.errors import UserError

# (command, what is typed, the command that is printed in answer)
SLIPPED = [
    ("sample", ["runs/demo"], "gan-sample ckpt=runs/demo"),
    ("fid", ["runs/demo", "metric.which=fid"], "gan-fid ckpt=runs/demo metric.which=fid"),
    ("import", ["dogs.pkl"], "gan-import input=dogs.pkl"),
    ("train", ["model=dcgan", "lr=1e-4"], "gan-train model=dcgan optimizer.G.lr=1e-4 optimizer.D.lr=1e-4"),
    ("train", ["--epochs", "10"], "gan-train 'duration=10 epochs'"),
    ("train", ["--epochs=10", "data=mnist"], "gan-train 'duration=10 epochs' data=mnist"),
    ("train", ["epochs=10"], "gan-train 'duration=10 epochs'"),
    ("train", ["duration=5", "kimg"], "gan-train 'duration=5 kimg'"),
    ("train", ["batch=64"], "gan-train batch_size=64"),
    ("train", ["--batch-size", "64"], "gan-train batch_size=64"),
    ("train", ["gpu=0", "data=mnist"], "CUDA_VISIBLE_DEVICES=0 gan-train data=mnist"),
    ("train", ["device=cuda:1"], "CUDA_VISIBLE_DEVICES=1 gan-train device=cuda"),
    ("train", ["--gpus", "2"], "torchrun --nproc-per-node=2 -m ganduel.train"),
    ("train", ["seed=0,1", "augment=affine,ada"], "gan-train -m seed=0,1 'augment=[affine,ada]'"),
    ("train", ["model=dcgan,wgan"], "gan-train -m model=dcgan,wgan"),
    ("train", ["model", "dcgan"], "gan-train model=dcgan"),
    ("train", ["model", "=", "dcgan"], "gan-train model=dcgan"),
    ("train", ["model=", "dcgan"], "gan-train model=dcgan"),
    ("train", ["demo"], "gan-train experiment=demo"),
    ("train", ["dataset=mnist", "z_dim=64"], "gan-train data=mnist model.latent=64"),
    ("train", ["--resume", "model=wgan"], "gan-train model=wgan"),
    ("data", ["root=/", "size=64"], "gan-data data=folder data.root=/ data.resolution=64"),
    ("sample", ["ckpt=runs/demo", "n=16", "seed=3"], "gan-sample ckpt=runs/demo count=16 seeds=3"),
    ("train", ["dcgan", "help"], "gan-train model=dcgan --help"),
    ("train", ["models"], "gan-train --help"),
    ("train", ["--list"], "gan-train --help"),
    ("train", ["model=dcgan,", "data=mnist"], "gan-train model=dcgan data=mnist"),
    ("train", ["model=StyleGAN2"], "gan-train model=stylegan2_ada 'augment=[]'"),
    ("train", ["loss=bce"], "gan-train loss=nonsaturating"),
    ("train", ["loss=wgan-gp"], "gan-train loss=wasserstein regularizer=gradient_penalty"),
    ("train", ["device=gpu", "precision=16"], "gan-train device=cuda precision=fp16"),
    ("train", ["cuda=true"], "gan-train device=cuda"),
    ("train", ["cuda=false"], "gan-train device=cpu"),
    ("train", ["experiment=demo", "overwrite"], "gan-train experiment=demo overwrite=true"),
    ("train", ["--overwrite", "experiment=demo"], "gan-train overwrite=true experiment=demo"),
    ("train", ["--config", "mine.yaml"], "gan-train --config-dir=conf experiment=mine"),
    ("train", ["data=~/of_nobody"], "gan-train data=folder 'data.root=~/of_nobody'"),
    ("train", ["data=cifar100"], "gan-train data=folder data.root=data/cifar100"),
    ("train", ["data.root=photos", "data.resolution=64"], "gan-train data=folder data.root=photos data.resolution=64"),
    ("train", ["resolution=64"], "gan-train data.resolution=64"),
    ("sample", ["ckpt=runs/demo", "mode=gif"], "gan-sample ckpt=runs/demo mode=interpolate mode.video=gif"),
    ("fid", ["ckpt=runs/demo", "metric=kid"], "gan-fid ckpt=runs/demo metric.which=kid"),
    ("report", ["runs/demo", "--watch"], "gan-report runs/demo watch=true"),
    ("report", ["--watch", "runs/demo"], "gan-report watch=true runs/demo"),
    ("report", ["runs/demo", "watch"], "gan-report runs/demo watch=true"),
]


@pytest.mark.parametrize(("command", "arguments", "instead"), SLIPPED, ids=lambda value: str(value))
def test_slips(command, arguments, instead, capsys):
    """One line, an exit code that is not 0, and the whole command line to type."""
    assert cli.command(command, arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert err.endswith(f". Type: {instead}\n")


def test_a_folder_for_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    told = "photos is a folder, not an option of data. Type: gan-train model=wgan data=folder data.root=photos"
    assert answer("train", ["model=wgan", "data=photos"], []) == told
    assert answer("train", ["photos/"], []).endswith("Type: gan-train data=folder data.root=photos/")
    Path("mnist").mkdir()
    assert answer("train", ["data=mnist"], []) is None  # an option comes first
    Path("photos/trainA").mkdir()
    assert answer("data", ["data=photos"], []).endswith("Type: gan-data data=folder_pair data.root=photos")


def test_two_folders_for_gan_fid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("real", "fake"):
        Path(name).mkdir()
    assert answer("fid", ["real", "fake", "size=64"], []).endswith("Type: gan-fid folders=real,fake size=64")


def test_the_name_of_a_run_without_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/demo/checkpoints").mkdir(parents=True)
    for arguments in (["demo"], ["ckpt=demo"]):
        assert answer("sample", arguments, []).endswith("Type: gan-sample ckpt=runs/demo")
    Path("demo").mkdir()
    assert answer("sample", ["ckpt=demo"], []) is None


def test_a_switch_is_a_key_that_takes_true_or_false():
    assert switch("train", "overwrite") and switch("report", "watch")
    assert not switch("train", "seed") and not switch("train", "precision") and not switch("fid", "watch")


@pytest.mark.parametrize("key", MEANT)
def test_names_of_others_stand_for_what_is_there(key):
    """Each is a command that composes; none hides an option of that name."""
    (command,) = [one for one in ("sample", "export", "train") if meant_here(one, key)][-1:]
    for value, words in MEANT[key].items():
        assert value == value.lower().replace("-", "").replace("_", "") and value not in options(key)
        given = ["ckpt=x"] if command in ("sample", "export") else []
        assert compose(command, cli.read(command, [*given, *words.split()]).overrides)


def test_a_run_folder_for_gan_train(tmp_path):
    (tmp_path / "overrides.txt").write_text("experiment=demo\nduration=5 kimg\n")
    for typed in (str(tmp_path), f"resume={tmp_path}"):
        assert answer("train", [typed], []).endswith("Type: gan-train experiment=demo 'duration=5 kimg'")


def test_the_table_names_no_key_that_exists():
    """A key of the command would never be reached, and one that stands for nothing would not help."""
    for slip in SLIPS:
        for command in slip.commands.split():
            known = {key for key, rules in rules_of(SCHEMAS[command]) if key != "metric"}
            assert not known & set(slip.keys.split()), slip


@pytest.mark.parametrize(
    ("command", "typed", "plain", "sweep"),
    [
        ("train", "regularizer=r1", "regularizer=[r1]", "regularizer=[r1]"),
        ("train", "regularizer=r1,r2", "regularizer=[r1,r2]", "regularizer=[r1],[r2]"),
        ("train", "augment=null", "augment=[]", "augment=[]"),
        ("train", "augment=[]", "augment=[]", "augment=[]"),
        ("train", "augment@data.augment=affine", "augment@data.augment=[affine]", "augment@data.augment=[affine]"),
        ("train", "metric.which=fid,kid", "metric.which=[fid,kid]", "metric.which=[fid],[kid]"),
        ("train", "optimizer.G.betas=0,0.99", "optimizer.G.betas=[0,0.99]", "optimizer.G.betas=0,0.99"),
        ("train", "regularizer.r1.weight=5", "regularizer.r1.weight=5", "regularizer.r1.weight=5"),
        ("train", "model=dcgan,wgan", "model=dcgan,wgan", "model=dcgan,wgan"),
        ("train", "seed=0,1", "seed=0,1", "seed=0,1"),
        ("train", "seed=choice(0,1)", "seed=choice(0,1)", "seed=choice(0,1)"),
        ("sample", "seeds=3,8", "seeds=[3,8]", "seeds=3,8"),
        ("sample", "seeds=0-63", "seeds=0-63", "seeds=0-63"),
        ("sample", "ckpt='a,b'", "ckpt='a,b'", "ckpt='a,b'"),
        ("fid", "metric.samples=64,256", "metric.samples=[64,256]", "metric.samples=64,256"),
        ("fid", "folders=a/real,b/fake", "folders=[a/real,b/fake]", "folders=[a/real],[b/fake]"),
    ],
)
def test_lists_without_brackets(command, typed, plain, sweep):
    assert bracketed(command, typed, sweep=False) == plain
    assert bracketed(command, typed, sweep=True) == sweep


def test_groups_that_take_a_list_are_those_of_the_files():
    chosen = yaml.safe_load((config_dir() / "train.yaml").read_text())["defaults"]
    lists = {name for one in chosen if isinstance(one, dict) for name, value in one.items() if isinstance(value, list)}
    assert lists == {*LIST_GROUPS} - {"data.augment"}  # as quote calls it for Hydra


def test_several_values_for_a_key_of_a_part(capsys):
    """Only the part knows that it takes one: its error becomes the sweep that was meant."""
    line = cli.read("train", ["optimizer.G.lr=1e-3,1e-4", "name=x"])
    told = cli.sweep_meant("train", line, "optimizer.G: '<=' not supported between 'float' and 'list'")
    assert told.endswith("Type: gan-train -m optimizer.G.lr=1e-3,1e-4 name=x")
    assert cli.sweep_meant("train", line, "model.channels=0 is not allowed") == "model.channels=0 is not allowed"


def test_a_comment_that_zsh_hands_over_is_none():
    assert cli.read("sample", ["ckpt=x", "#", "a", "grid"]).overrides == ["ckpt='x'"]


def test_a_misspelt_key_beside_a_folder_of_options(tmp_path, capsys):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text("_target_: ganduel.losses.hinge\n")
    arguments = [f"--config-dir={tmp_path}", "loss=mine", "optimizr.G.lr=1"]
    assert cli.command("train", arguments) == 1
    assert "unknown option 'optimizr.G.lr'. Did you mean: optimizer.G.lr" in capsys.readouterr().err
    with pytest.raises(UserError, match="--config-dir: there is no folder nowhere"):
        cli.read("train", ["--config-dir=nowhere"])
