"""Mistakes that people type from habit, and the right command for each. The table is data; tests type all its lines."""

import re
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ganduel.config.keys import LIST_GROUPS, PLAIN, bracketed, options
from ganduel.config.schema import LIST_KEYS, PATHS, SCHEMAS, SEVERAL, rules_of

VALUE = "VALUE"  # stands for a value that was not typed, as in `lr=`


class Slip(NamedTuple):
    """A key that does not exist, in every spelling, and its replacement. `{}` is the typed value.

    `instead` replaces the argument; `off` does if the value is false. `start` replaces the command's name.
    """

    commands: str
    keys: str
    says: str
    instead: str = ""
    start: str = ""
    off: str = ""


TRAIN = "train"
IMAGES = "train data"
TORCHRUN = "torchrun --nproc-per-node={} -m ganduel.train"
OPENED = "sample fid export"  # commands that take a checkpoint
SLIPS = [
    Slip(TRAIN, "lr learning_rate optimizer.lr", "G and D have one each", "optimizer.G.lr={} optimizer.D.lr={}"),
    Slip(TRAIN, "beta1 b1", "G and D have betas each", "optimizer.G.betas={},0.999 optimizer.D.betas={},0.999"),
    Slip(TRAIN, "epochs epoch num_epochs n_epochs max_epochs", "a duration has a unit", 'duration="{} epochs"'),
    Slip(TRAIN, "steps iterations iters niter max_steps num_steps", "a duration has a unit", 'duration="{} steps"'),
    Slip(TRAIN, "kimg", "a duration has a unit", 'duration="{} kimg"'),
    Slip(TRAIN, "batch bs batchsize train_batch_size", "it is called batch_size", "batch_size={}"),
    Slip(TRAIN, "gpu gpu_id gpu_ids device_id", "CUDA chooses the GPU", start="CUDA_VISIBLE_DEVICES={} gan-train"),
    Slip(TRAIN, "gpus num_gpus n_gpus", "torchrun starts a process for each", start=TORCHRUN),
    Slip(TRAIN, "cuda use_cuda", "it is called device", "device=cuda", off="device=cpu"),
    Slip(TRAIN, "amp mixed_precision bf16", "it is called precision", "precision=bf16", off="precision=fp32"),
    Slip(TRAIN, "fp16", "it is called precision", "precision=fp16", off="precision=fp32"),
    Slip(TRAIN, "dataset", "it is called data", "data={}"),
    Slip(TRAIN, "arch network gan backbone", "it is called model", "model={}"),
    Slip(TRAIN, "criterion gan_mode adv_loss", "it is called loss", "loss={}"),
    Slip(TRAIN, "regularizers penalty", "it is called regularizer", "regularizer={}"),
    Slip(TRAIN, "z_dim latent_dim nz latent_size", "it is called model.latent", "model.latent={}"),
    Slip(TRAIN, "ngf ndf nf", "it is called model.channels", "model.channels={}"),
    Slip(TRAIN, "n_critic", "it is called turns.n_critic", "turns.n_critic={}"),
    Slip(TRAIN, "metrics metric", "it is called metric.which", "metric.which={}"),
    Slip(TRAIN, "resume continue continue_train", "the same command again resumes a run"),
    Slip(TRAIN, "config config_file", "your file is conf/experiment/NAME.yaml", "--config-dir=conf experiment={}"),
    Slip(TRAIN, "outdir output out save_dir output_dir logdir", "a run is a folder inside runs_dir", "runs_dir={}"),
    Slip(IMAGES, "resolution size image_size img_size imsize", "it is called data.resolution", "data.resolution={}"),
    Slip(IMAGES, "root path data_root dataroot data_dir", "images are data=folder", "data=folder data.root={}"),
    Slip(OPENED, "checkpoint run model network weights pkl", "it is called ckpt", "ckpt={}"),
    Slip("sample", "n num number samples n_samples num_samples num_images", "it is called count", "count={}"),
    Slip("sample", "seed", "it is called seeds", "seeds={}"),
    Slip("sample", "trunc psi", "it is called truncation", "truncation={}"),
    Slip("sample", "class class_idx", "it is called label", "label={}"),
    Slip("sample export", "outdir output", "it is called out", "out={}"),
    Slip("fid", "n num samples n_samples num_samples num_images", "it is called metric.samples", "metric.samples={}"),
    Slip("fid", "metrics which metric", "it is called metric.which", "metric.which={}"),
]  # fmt: skip
# key -> (value from another framework, in small letters, without - and _) -> what stands for both here
MEANT = {
    "model": {
        "stylegan2": "model=stylegan2_ada augment=[]",
        "stylegan": "model=stylegan2_ada",
        "lsgan": "model=dcgan loss=least_squares",
        "gan": "model=vanilla",
        "mlp": "model=vanilla",
        "sngan": "model=resnet model.discriminator.spectral_norm=true",
        "projectedgan": "model=projected",
    },
    "loss": {
        "bce": "loss=nonsaturating",
        "vanilla": "loss=nonsaturating",
        "logistic": "loss=nonsaturating",
        "softplus": "loss=nonsaturating",
        "ns": "loss=nonsaturating",
        "mse": "loss=least_squares",
        "lsgan": "loss=least_squares",
        "wgan": "loss=wasserstein regularizer=weight_clip",
        "wgangp": "loss=wasserstein regularizer=gradient_penalty",
        "rpgan": "loss=relativistic",
    },
    "regularizer": {"gp": "regularizer=gradient_penalty", "wgangp": "regularizer=gradient_penalty"},
    "augment": {"flip": "data.mirror=true", "mirror": "data.mirror=true"},
    "device": {"gpu": "device=cuda"},
    "precision": {
        **dict.fromkeys(("16", "float16", "half", "amp"), "precision=fp16"),
        **dict.fromkeys(("bfloat16", "mixed"), "precision=bf16"),
        **dict.fromkeys(("32", "float32", "full"), "precision=fp32"),
    },
    "mode": {
        **dict.fromkeys(("gif", "video", "film", "animation"), "mode=interpolate mode.video=gif"),
        "interpolation": "mode=interpolate",
        "samples": "mode=images",
    },
    "format": dict.fromkeys(("pt", "pth", "pytorch", "weights"), "format=safetensors"),
    "data": {
        **dict.fromkeys(("custom", "imagefolder", "images"), "data=folder data.root=FOLDER"),
        **{name: f"data=folder data.root=data/{name}" for name in ("cifar100", "ffhq", "imagenet")},
    },
}
CHOOSES_DATA = {"data", "model", "experiment", "settings_from", "--config-dir"}  # with these, data.root has a use
LISTS_ALL = "help", "list", "options"
UNITS = "kimg", "steps", "step", "epochs", "epoch"


def answer(command: str, arguments: Sequence[str], flags: Sequence[str]) -> str | None:
    """A text that says what is wrong with a command line and gives the right one. None if the table knows no mistake.

    `flags` are those that the command has.
    """
    right = Correction(command, arguments)
    right.take_two_folders()
    while right.left:
        word = right.left.pop(0)
        if word.startswith("-") and word.partition("=")[0] in flags:
            right.keep_flag(word)
        elif word.startswith("-"):
            if not right.without_dashes(word):
                return None
        else:
            right.join(word)
    right.choose_data()
    sweep = "-m" in arguments or "--multirun" in arguments
    if not sweep and (several := [word for word in right.words if sweeps(command, word)]):
        return several_values(command, several[0], right.words)
    says = "; ".join(dict.fromkeys(right.says))
    return f"{says}. Type: {right.start} {shlex.join(right.words)}".rstrip() if says else None


class Correction:
    """A command line that is corrected word by word: `left` are the words to come, `words` the right ones so far."""

    def __init__(self, command: str, arguments: Sequence[str]):
        self.command, self.left = command, list(arguments)
        self.table = {key: slip for slip in SLIPS if command in slip.commands.split() for key in slip.keys.split()}
        self.says: list[str] = []  # what is wrong
        self.words: list[str] = []
        self.start = f"gan-{command}"

    def take_two_folders(self) -> None:
        """Two folders of images, for gan-fid."""
        places = [word for word in self.left if Path(word).is_dir()]
        if self.command == "fid" and len(places) == 2 and not any((Path(p) / "checkpoints").is_dir() for p in places):
            self.left = [word for word in self.left if word not in places]
            self.says.append("two folders of images are given as folders=REAL,GENERATED")
            self.words.append(f"folders={','.join(places)}")

    def choose_data(self) -> None:
        """Add data=folder to data.root=, which has no use with the set that is chosen by itself."""
        given = dict(word.partition("=")[::2] for word in self.words)
        root = given.get("data.root")
        if self.command in IMAGES.split() and root and not given.keys() & CHOOSES_DATA and not self.says:
            self.says.append("data.root alone chooses no kind of data")
            where = self.words.index(f"data.root={root}")
            self.words[where : where + 1] = own_images(root)

    @property
    def value_follows(self) -> bool:
        return bool(self.left) and "=" not in self.left[0] and not self.left[0].startswith("-")

    def keep_flag(self, word: str) -> None:
        """Take a flag, and its value if it has one."""
        self.words.append(word)
        if self.value_follows and word in ("--config-dir", "-cd", "--cfg", "-c", "--package", "-p", "-sc"):
            self.words.append(self.left.pop(0))

    def without_dashes(self, word: str) -> bool:
        """Take `--key value` or `--key=value` as a key with its value. Returns whether there is such a key."""
        name, equals, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        on_or_off = switch(self.command, name)
        if not equals and self.value_follows and not (on_or_off and self.left[0] not in ("true", "false")):
            value = self.left.pop(0)
        if name in LISTS_ALL:
            self.says.append("help lists all keys and options")
            self.words.append("--help")
            return True
        if name not in self.table and name not in keys(self.command):
            return False
        self.says.append(f"{word.partition('=')[0]} is typed without dashes")
        self.replace(f"{name}={value or ('true' if on_or_off else VALUE)}")
        return True

    def join(self, word: str) -> None:
        """Take a word without dashes. If it is not a whole key=value, complete it with the words that follow."""
        left, plain = self.left, "=" not in word and not word.startswith(("~", "+"))
        group = next(filter(None, [word if options(word) else "", group_of(self.command, word)]), "") if plain else ""
        if left and left[0] == "=":  # key = value
            self.says.append("no spaces around =")
            del left[0]
            word += f"={left.pop(0) if left else VALUE}"
        elif re.fullmatch(r"[\w.]+=[\d.]+", word) and left and left[0] in UNITS:  # duration=5 epochs
            self.says.append("quotes keep words with a space together")
            word += f" {left.pop(0)}"
        elif re.fullmatch(r"[\w.]+=", word) and self.value_follows and left[0] in options(word[:-1]):  # model= dcgan
            self.says.append("no spaces around =")
            word += left.pop(0)
        elif re.fullmatch(r"[^=[({]+=[^[({]*,", word):  # model=dcgan, data=mnist
            self.says.append("a space separates arguments, without a comma")
            word = word.rstrip(",")
        elif group and group == word and self.value_follows and left[0] in options(word):  # model dcgan
            self.says.append("= stands between a group and its option")
            word += f"={left.pop(0)}"
        elif plain and switch(self.command, word):  # overwrite
            self.says.append(f"{word} takes true or false")
            word += "=true"
        elif plain and (word in LISTS_ALL or options(word[:-1])) and not Path(word).exists():  # help, models
            self.says.append("help lists all keys and options")
            self.words.append("--help")
            return
        elif plain and (found := alone(self.command, word)):
            reason, meant = found
            self.says.append(reason)
            self.words += shlex.split(meant)
            return
        elif group and group != word:
            self.says.append(f"{word} is an option of {group}")
            word = f"{group}={word}"
        self.replace(word)

    def replace(self, word: str) -> None:
        """Take key=value, or its replacement from the table."""
        key, _, value = word.partition("=")
        simple = re.sub("[-_]", "", value.lower())
        if slip := self.table.get(key):
            self.says.append(f"{key}: {slip.says}")
            instead = slip.off if slip.off and simple in ("false", "no", "off") else slip.instead
            if not instead and (Path(value) / "overrides.txt").is_file():  # resume=runs/demo
                instead = shlex.join((Path(value) / "overrides.txt").read_text().splitlines())
            self.words += [one.replace("{}", value.removesuffix(".yaml") or VALUE) for one in shlex.split(instead)]
            self.start = slip.start.replace("{}", value or VALUE) or self.start
        elif key in MEANT and value not in options(key) and simple in MEANT[key] and meant_here(self.command, key):
            self.says.append(f"{word} has another name here")
            self.words += MEANT[key][simple].split()
        elif key == "data" and value and value not in options("data") and is_place(value):
            place = Path(value).expanduser()
            kind = "a folder" if place.is_dir() else "a file" if place.exists() else "a path where nothing is"
            self.says.append(f"{value} is {kind}, not an option of data")
            self.words += own_images(value)
        elif key == "ckpt" and value and not Path(value).expanduser().exists() and Path("runs", value).is_dir():
            self.says.append(f"{value} is in runs")
            self.words.append(f"ckpt=runs/{value}")
        elif key == "device" and (number := re.fullmatch(r"(?:cuda:)?(\d+)", value)):
            self.says.append("CUDA chooses the GPU")
            self.words.append("device=cuda")
            self.start = f"CUDA_VISIBLE_DEVICES={number[1]} gan-{self.command}"
        else:
            self.words.append(word)


def is_place(text: str) -> bool:
    """Whether a text is a path: there is such a file or folder, or the text looks like one."""
    return Path(text).exists() or bool(re.search(r"[/~\\]|\.\w+$", text))


def switch(command: str, key: str) -> bool:
    """Whether a key of a command takes true or false, and nothing else."""
    return typing.get_type_hints(SCHEMAS[command]).get(key) is bool


def meant_here(command: str, key: str) -> bool:
    """Whether a command has this key, or a group of this name."""
    return key in keys(command) or bool(group_of(command, next(iter(options(key)), "")))


def several_values(command: str, argument: str, words: Sequence[str]) -> str:
    """The text about an argument with several values, if its key takes one. It names the command that makes a sweep."""
    lists = {*LIST_GROUPS, *LIST_KEYS[command], *SEVERAL[command]}
    kept = [bracketed(command, word, sweep=False) if word.partition("=")[0] in lists else word for word in words]
    return f"{argument} has several values: -m runs one after the other. Type: gan-{command} -m {shlex.join(kept)}"


def alone(command: str, word: str) -> tuple[str, str] | None:
    """The reason why a word without = is wrong, and the arguments that are meant. None if the word is no path."""
    path = Path(word).expanduser()
    if command in OPENED.split() and not path.exists() and (Path("runs") / word / "checkpoints").is_dir():
        return "a checkpoint is given as ckpt=", shlex.join([f"ckpt=runs/{word}"])
    if not path.exists() and "/" not in word and not word.endswith((".pt", ".pkl", ".zip")):
        return None
    if command in OPENED.split():
        return "a checkpoint is given as ckpt=", shlex.join([f"ckpt={word}"])
    if command == "import":
        return "the file is given as input=", shlex.join([f"input={word}"])
    if (path / "overrides.txt").is_file() and command == TRAIN:
        return "a run goes on by its own command", shlex.join((path / "overrides.txt").read_text().splitlines())
    if command in (TRAIN, "data"):
        return "images are given as data= and data.root=", shlex.join(own_images(word))
    return None


def own_images(place: str) -> list[str]:
    """The arguments for a folder or an archive of images."""
    kind = "folder_pair" if (Path(place).expanduser() / "trainA").is_dir() else "folder"
    return [f"data={kind}", f"data.root={place}"]


def sweeps(command: str, word: str) -> bool:
    """Whether an argument has several values although its key takes one."""
    key, _, value = word.partition("=")
    known = key.lstrip("+") in keys(command) or bool(options(key))
    lists = {*LIST_GROUPS, *LIST_KEYS[command], *SEVERAL[command]}
    return known and "," in value and bool(PLAIN.fullmatch(value)) and key not in {*lists, *PATHS}


def keys(command: str) -> set[str]:
    """The keys of a command's schema."""
    return {key for key, _ in rules_of(SCHEMAS[command])}


def group_of(command: str, option: str) -> str:
    """The group of a command that has this option, the recipes first; "" if none has."""
    order = ("experiment", "data", "model", "loss", "regularizer", "augment", "optimizer", "turns", "mode", "format")
    allowed = keys(command) | ({"experiment"} if command == TRAIN else set())
    return next((group for group in order if group in allowed and option in options(group)), "")
