"""gan-sample, and `ganduel.load`."""

import functools
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, TINY, assert_equal
from PIL import Image, ImageSequence

import ganduel
from ganduel import build, checkpoint
from ganduel.commands import cli
from ganduel.config.schema import plain
from ganduel.data.image_set import to_bytes
from ganduel.sampling import films, latents
from ganduel.sampling.restore import restored
from ganduel.sampling.sampler import parse_seeds
from ganduel.system.errors import UserError


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory) -> Callable[..., Path]:
    """Folders of runs of so many settings, trained when they are first asked for: the tests get copies."""

    @functools.cache
    def folder(*arguments: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("trained"))
            assert cli.command("train", [*TINY, packed, *arguments]) == 0
            return Path.cwd()

    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch, capsys) -> Path:
    shutil.copytree(trained(*MODELS["dcgan"], "duration=6 steps"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return Path("runs/tiny")


def test_one_seed_is_one_image_whatever_the_batch(run):
    sampler = ganduel.load(run)
    whole = sampler.sample(range(10), batch=10)
    assert whole.shape == (10, 1, 32, 32) and whole.abs().max() <= 1
    assert torch.allclose(whole, sampler.sample(range(10), batch=3), atol=1e-6)
    assert torch.allclose(whole[[7, 2]], sampler.sample([7, 2]), atol=1e-6)
    assert not torch.allclose(whole[0], whole[1])


def test_so_many_images(run):
    """Those that gan-sample draws first or, with another seed, others."""
    model = ganduel.load(run)
    assert torch.equal(model.sample(3), model.sample(range(3)))
    others = model.sample(3, seed=7)
    assert torch.equal(others, model.sample([7 * 2**32 + i for i in range(3)]))
    assert not any(torch.equal(a, b) for a in model.sample(8) for b in others)
    assert torch.equal(model.bytes(3, seed=7), to_bytes(others)) and model.bytes([5]).dtype == torch.uint8
    with pytest.raises(UserError, match="give a number of images"):
        model.sample(0)


def test_what_is_loaded(run):
    model = ganduel.load(str(run))
    assert (model.resolution, model.channels, model.step) == (32, 1, 6) and model.images_seen == 6 * 8
    assert model.config["model"]["name"] == "dcgan" and model.path == run / "checkpoints" / "latest.pt"
    assert repr(model) == f"Sampler('{model.path}': dcgan, 32 pixels, 48 images seen)"
    with pytest.raises(UserError, match="makes images from seeds"):
        model.translate(torch.zeros(1, 1, 32, 32))
    with pytest.raises(UserError, match="does not exist"):
        ganduel.load("runs/none")


def test_the_package_is_light():
    """PyTorch comes with the first model."""
    code = "import sys, ganduel; ganduel.load; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_ema_and_trained_weights_differ(run):
    averaged, trained = (ganduel.load(run, ema=ema).sample(range(4)) for ema in (True, False))
    assert not torch.equal(averaged, trained)


def test_grid(run, capsys):
    assert cli.command("sample", ["ckpt=runs/tiny"]) == 0
    assert capsys.readouterr().out == "runs/tiny/grid.png\n"
    with Image.open(run / "grid.png") as image:
        assert image.size == (8 * 34 + 2, 8 * 34 + 2)
    # It shows what training showed last.
    assert (run / "grid.png").read_bytes() == max((run / "samples").glob("*kimg.png")).read_bytes()
    assert cli.command("sample", ["ckpt=runs/tiny", "seeds=[3,1,4]", "mode.columns=3", "out=some where/x.png"]) == 0
    with Image.open("some where/x.png") as image:
        assert image.size == (3 * 34 + 2, 34 + 2)
    # Enlarged, each pixel becomes a square of its own colour.
    assert cli.command("sample", ["ckpt=runs/tiny", "seeds=3,1", "mode.scale=4", "out=large.png"]) == 0
    with Image.open("large.png") as large, Image.open("some where/x.png") as image:
        assert large.size == (2 * (4 * 32 + 2) + 2, 4 * 32 + 4)
        assert [large.getpixel((2 + 4 * x + 3, 2 + 4 * 7 + 1)) for x in range(32)] == [
            image.getpixel((2 + x, 2 + 7)) for x in range(32)
        ]
    assert cli.command("sample", ["ckpt=runs/tiny", "mode.scale=0"]) == 1


def test_images(run, capsys):
    assert cli.command("sample", ["ckpt=runs/tiny/checkpoints/latest.pt", "mode=images", "count=5", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "runs/tiny/images"}
    names = sorted(p.name for p in (run / "images").iterdir())
    assert names == [f"{i:06d}.png" for i in range(5)]
    with Image.open(run / "images" / "000003.png") as image:
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(32, 32)
    assert torch.equal(pixels, ganduel.load(run).bytes([3])[0, 0])


def test_a_checkpoint_needs_nothing_else(run, tmp_path):
    moved = tmp_path / "elsewhere.pt"
    (run / "checkpoints" / "latest.pt").rename(moved)
    assert cli.command("sample", [f"ckpt={moved}", "count=4"]) == 0
    assert (tmp_path / "grid.png").exists()


def test_slerp_turns_evenly():
    """In the plane, at a third of the way from east to north: 30 degrees, and a third of the way in length."""
    point = latents.slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0]), 1 / 3)
    assert torch.allclose(point, 3 * torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)]))


@pytest.mark.parametrize("size", [2, 3, 100])
@pytest.mark.parametrize("bend", [0, 1e-7, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("sign", [1, -1])
def test_slerp_between_parallel_vectors(size, bend, sign):
    """The same, opposite ones, and nearly: from end to end at an even angle, always as long."""
    a, other = torch.randn(2, 7, size, generator=torch.Generator().manual_seed(size))
    b = sign * a + bend * other
    b = b * a.norm(dim=1, keepdim=True) / b.norm(dim=1, keepdim=True)
    way = torch.stack([latents.slerp(a, b, step / 8) for step in range(9)])
    assert torch.allclose(way[0], a, atol=1e-5) and torch.allclose(way[8], b, atol=3e-5)
    assert torch.allclose(way.norm(dim=2), a.norm(dim=1).expand(9, 7), rtol=1e-5)
    steps = way.diff(dim=0).norm(dim=2)
    turned = (1 - sign) / 2 * math.pi  # by a half turn, or not at all
    expected = 2 * math.sin(turned / 16) * a.norm(dim=1)
    assert torch.allclose(steps, expected.expand(8, 7), rtol=5e-3, atol=5e-3)


def test_slerp_of_single_numbers_is_straight():
    a, b = torch.tensor([[1.0], [2.0], [-0.5]]), torch.tensor([[-3.0], [4.0], [0.5]])
    assert torch.equal(latents.slerp(a, b, 0.25), torch.tensor([[0.0], [2.5], [-0.25]]))


@pytest.mark.parametrize(
    ("value", "seeds"), [("0-3", [0, 1, 2, 3]), (7, [7]), ([1, 5, 9], [1, 5, 9]), ("12", [12]), ("5-5", [5])]
)
def test_seeds(value, seeds):
    assert parse_seeds(value) == seeds


@pytest.mark.parametrize("arguments", [["seeds=9-3"], ["seeds=x"], ["seeds=[]"], ["seeds=-4"], ["seeds=[a]"]])
def test_what_are_no_seeds(run, capsys, arguments):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert "range like 0-63, a list like 1,5,9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["out=x.jpg"], "a picture is a PNG"),
        (["out=."], "out=. is a folder; give the name of a file in it, which ends in .png"),
        (["out=.."], "out=.. is a folder"),
        (["out=/"], "out=/ is a folder"),
        (["mode=images", "out=x.png"], "writes a folder"),
        (["mode=gird"], "grid"),
    ],
)
def test_bad_output(run, capsys, arguments, word):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert word in capsys.readouterr().err


def test_interpolation_goes_from_one_image_to_the_other(run):
    """A row a pair: the ends are the images themselves, and every step is a step on the way."""
    assert cli.command("sample", ["ckpt=runs/tiny", "mode=interpolate", "seeds=[3,8,5,1]", "mode.steps=2"]) == 0
    with Image.open(run / "interpolate.png") as image:
        assert image.size == (4 * 34 + 2, 2 * 34 + 2)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(2 * 34 + 2, 4 * 34 + 2, 3)[..., 0]
    sampler = ganduel.load(run)
    ends = sampler.bytes([3, 8, 5, 1])[:, 0]
    for i, (row, column) in enumerate([(0, 0), (0, 3), (1, 0), (1, 3)]):
        shown = pixels[34 * row + 2 : 34 * row + 34, 34 * column + 2 : 34 * column + 34]
        assert torch.equal(shown, ends[i])
    a, b = sampler.latents([3]), sampler.latents([8])
    assert torch.allclose(latents.slerp(a, b, 0.25).norm(), (a.norm() * 0.75 + b.norm() * 0.25), rtol=0.02)
    assert torch.allclose(latents.slerp(a, b, 0.0), a) and torch.allclose(latents.slerp(a, b, 1.0), b, atol=1e-5)
    assert torch.allclose(latents.slerp(a, a, 0.5), a, atol=1e-4)
    assert latents.slerp(a, b, 0.5).norm() > 1.2 * torch.lerp(a, b, 0.5).norm()  # which cuts through the sphere


def film(path: Path) -> tuple[list[torch.Tensor], int]:
    """Frames (H, W, 3) and how many milliseconds they take in all."""
    with Image.open(path) as image:
        frames = [(np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    return [torch.from_numpy(pixels) for pixels, _ in frames], sum(duration for _, duration in frames)


def test_a_film_goes_there_and_back(run, tmp_path):
    arguments = [
        "ckpt=runs/tiny",
        "mode=interpolate",
        "seeds=[3,8]",
        "mode.steps=5",
        "mode.video=gif",
        "mode.back=true",
        "mode.scale=1",
    ]
    assert cli.command("sample", [*arguments, "mode.method=lerp"]) == 0
    frames, duration = film(run / "interpolate.gif")
    assert duration == (7 + 5) * 40  # what looks alike is one frame that stays
    ends = ganduel.load(run).bytes([3, 8])[:, 0].int()
    assert (frames[0][..., 0].int() - ends[0]).abs().max() <= 2  # 256 colours
    colours = [torch.full((3, 8, 8), 60 * i, dtype=torch.uint8) for i in range(4)]
    frames, duration = film(films.save_gif(colours, tmp_path / "x", fps=10, scale=1))
    assert [frame[0, 0, 0].item() for frame in frames] == [0, 60, 120, 180] and duration == 400


def played(path: Path) -> list[torch.Tensor]:
    """Frames (H, W, 3) of an MP4."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra [video] is not installed").get_ffmpeg_exe()
    command = [ffmpeg, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    played = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    width, height = map(int, re.search(rb"Video: .* (\d+)x(\d+)", played.stderr).groups())
    return [*torch.frombuffer(bytearray(played.stdout), dtype=torch.uint8).view(-1, height, width, 3)]


@pytest.mark.parametrize("space", ["z", "w"])
def test_a_film_of_a_hundred_steps(packed, tmp_path, monkeypatch, space):
    """Every frame is there, as GIF and as MP4; the first and the last are the two ends themselves, as near as colours
    are kept, and all between lie between."""
    pytest.importorskip("imageio_ffmpeg", reason="the extra [video] is not installed")
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, packed, *MODELS["dcgan"], "model.generator.mapping=2", "duration=1 steps", "name=walk"]
    assert cli.command("train", arguments) == 0
    strengthen(Path("runs/walk/checkpoints/latest.pt"))
    arguments = ["ckpt=runs/walk", "mode=interpolate", "seeds=[3,8]", "mode.steps=98", f"mode.space={space}", "batch=7"]
    for kind, scale in (("gif", 1), ("mp4", "null")):
        assert cli.command("sample", [*arguments, f"mode.video={kind}", f"mode.scale={scale}", f"out=walk.{kind}"]) == 0
    ends = ganduel.load("runs/walk").bytes([3, 8])[:, 0].int()
    assert (ends[0] - ends[1]).abs().float().mean() > 20
    frames, duration = film(Path("walk.gif"))
    assert duration == 100 * 40 and len(frames) == 100
    for end, frame in zip(ends, (frames[0], frames[-1]), strict=True):
        assert (end - frame[..., 0].int()).abs().max() <= 2  # 256 colours
    frames = played(Path("walk.mp4"))
    assert len(frames) == 100 and frames[0].shape == (256, 256, 3)  # every pixel eight times
    for end, frame in zip(ends, (frames[0], frames[-1]), strict=True):
        assert (end - frame[4::8, 4::8, 0].int()).abs().float().mean() < 2
    moved = torch.stack(frames).float().diff(dim=0).abs().mean(dim=(1, 2, 3))
    assert moved.median() > 0.05 and moved.max() < 8  # it moves, and never jumps


def strengthen(path: Path) -> None:
    """Let a generator that has hardly been trained draw in black and white."""
    content = checkpoint.load(path)
    for name, value in content["state"]["ema"].items():
        if name.startswith("G.output") and name.endswith("weight"):
            value.mul_(5000)
    checkpoint.save(path, {key: value for key, value in content.items() if key != "format"})


def test_films_of_any_size(tmp_path):
    """Odd sides get a margin; large pictures stay as they are."""
    frames = [torch.full((3, 301, 257), 50 * i, dtype=torch.uint8) for i in range(5)]
    pytest.importorskip("imageio_ffmpeg", reason="the extra [video] is not installed")
    shown = played(films.save_mp4(frames, tmp_path / "a", fps=10, scale=None))
    assert [tuple(frame.shape) for frame in shown] == [(302, 258, 3)] * 5
    assert [round(frame[:300, :256].float().mean().item() / 50) for frame in shown] == [0, 1, 2, 3, 4]
    assert shown[0][301].float().mean() > 200 and not list(tmp_path.glob("*.tmp"))
    assert played(films.save_mp4(frames[:1], tmp_path / "b", fps=10, scale=2))[0].shape == (602, 514, 3)
    doubled, _ = film(films.save_gif(frames, tmp_path / "c", fps=10, scale=2))
    assert doubled[0].shape == (602, 514, 3)


def test_a_film_is_long_large_sharp_and_of_several_walks(run, capsys):
    """By default: 60 frames, a tile of four walks, every pixel a square of four. What is replaced is told."""
    capsys.readouterr()
    for told in (False, True):
        assert cli.command("sample", ["ckpt=runs/tiny", "mode=interpolate", "mode.video=gif"]) == 0
        assert ("replaces the earlier runs/tiny/interpolate.gif" in capsys.readouterr().err) == told
    with Image.open(run / "interpolate.gif") as image:
        seconds, size = sum(f.info["duration"] for f in ImageSequence.Iterator(image)) / 1000, image.size
        image.seek(0)
        pixels = torch.from_numpy(np.array(image.convert("L")))
    assert seconds == 60 / 25 and size == (4 * 70, 4 * 70)  # two images of 32 pixels and three margins of 2
    corners = pixels[::4, ::4]
    assert torch.equal(corners.repeat_interleave(4, 0).repeat_interleave(4, 1), pixels)
    ends = ganduel.load(run).bytes([0, 2, 4, 6])[:, 0].int()
    for i, (row, column) in enumerate([(2, 2), (2, 36), (36, 2), (36, 36)]):
        assert (corners[row : row + 32, column : column + 32].int() - ends[i]).abs().max() <= 3  # 256 colours


def test_colours_survive(tmp_path):
    """Although H.264 keeps one colour for every four pixels."""
    pytest.importorskip("imageio_ffmpeg", reason="the extra [video] is not installed")
    frame = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (shown,) = played(films.save_mp4([frame], tmp_path / "a", fps=10, scale=None))
    times = len(shown) // 16
    centres = shown[times // 2 :: times, times // 2 :: times].permute(2, 0, 1)
    assert times == 16 and (centres.int() - frame.int()).abs().float().mean() < 3


def test_a_film_needs_its_package(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert cli.command("sample", ["ckpt=runs/tiny", "mode=interpolate", "mode.video=mp4"]) == 1
    assert "mode.video=mp4 needs the package imageio-ffmpeg: pip install 'ganduel[video]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mode=interpolate", "seeds=[1,2,3]"], "give an even number of seeds"),
        (["mode=interpolate", "mode.steps=0"], "mode.steps=0 must be 1 or more"),
        (["mode=interpolate", "mode.space=w"], "mode.space=w needs a model with a mapping network"),
        (["mode=interpolate", "mode.space=v"], "mode.space=v is not allowed; it takes z, w"),
        (["mode=interpolate", "mode.video=gif", "out=x.png"], "give a name that ends in .gif"),
        (["mode=interpolate", "mode.video=mp4", "out=x.gif"], "give a name that ends in .mp4"),
        (["mode=interpolate", "mode.scale=0"], "mode.scale=0 must be 1 or more"),
        (["mode=interpolate", "mode.steps=5000"], "make a picture of over 65535 pixels a side"),
        (["mode=mix"], "mode=mix needs a model with a w for each layer"),
        (["mode=mix", "mode.columns=x"], "mode.columns=x is not allowed; it takes a range"),
        (["truncation=0.7"], "truncation=0.7 needs a model that keeps an average of w"),
        (["noise=constant"], "noise=constant needs a model with noise in its layers"),
        (["label=3"], "label=3 is not allowed; this model knows no classes: leave label=null"),
    ],
)
def test_what_a_model_cannot_show(run, capsys, arguments, words):
    assert cli.command("sample", ["ckpt=runs/tiny", *arguments]) == 1
    assert words in capsys.readouterr().err


@pytest.fixture
def styled(trained, tmp_path, monkeypatch, capsys) -> Path:
    """A run of a generator with a mapping network, noise and classes."""
    shutil.copytree(trained(*MODELS["stylegan2_ada"], "model.classes=10"), tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return Path("runs/tiny")


def cells(path: Path, size: int) -> torch.Tensor:
    """(rows, columns, 3, size, size) of a picture."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    rows, columns = (n // (size + 2) for n in pixels.shape[1:])
    tiles = pixels[:, 2:, 2:].unfold(1, size, size + 2).unfold(2, size, size + 2)
    return tiles.permute(1, 2, 0, 3, 4)[:rows, :columns]


def test_styles_are_truncated_and_walked_between(styled):
    plain = ganduel.load(styled, noise="none", label=3)
    average = ganduel.load(styled, noise="none", label=3, truncation=0.0).sample(range(3))
    assert torch.equal(average[0], average[1]) and torch.equal(average[0], average[2])
    near = ganduel.load(styled, noise="none", label=3, truncation=0.5).sample(range(3))
    assert (near - average).abs().mean() < (plain.sample(range(3)) - average).abs().mean()
    coarse = ganduel.load(styled, noise="none", label=3, truncation=0.0, cutoff=2).sample(range(3))
    assert not torch.equal(coarse[0], average[0]) and not torch.equal(coarse[0], coarse[1])
    arguments = ["ckpt=runs/tiny", "mode=interpolate", "mode.space=w", "mode.method=lerp", "mode.steps=3"]
    assert cli.command("sample", [*arguments, "seeds=[4,9]"]) == 0  # of two classes
    (row,) = cells(styled / "interpolate.png", 16)
    assert cli.command("sample", [*arguments[:3], "mode.steps=3", "seeds=[4,9]", "out=usual.png"]) == 0
    assert torch.equal(row, cells(Path("usual.png"), 16)[0])
    assert cli.command("sample", [*arguments[:3], "mode.method=slerp", "mode.steps=3", "seeds=[4,9]", "out=x.png"]) == 0
    assert not torch.equal(row, cells(Path("x.png"), 16)[0])
    assert torch.equal(row[[0, -1], 0], ganduel.load(styled).bytes([4, 9])[:, 0])


def test_styles_are_mixed(styled):
    assert cli.command("sample", ["ckpt=runs/tiny", "mode=mix", "seeds=[1,2]", "mode.columns=[2,5,8]"]) == 0
    shown = cells(styled / "mix.png", 16)[:, :, 0]
    assert shown.shape[:2] == (3, 4) and (shown[0, 0] == 255).all()
    sampler = ganduel.load(styled)
    assert torch.equal(shown[0, 1:], sampler.bytes([2, 5, 8])[:, 0])
    assert torch.equal(shown[1:, 0], sampler.bytes([1, 2])[:, 0])
    assert torch.equal(shown[2, 1], sampler.bytes([2])[0, 0])  # with itself
    coarse, fine = sampler.map_latents(sampler.latents([1]), [1]), sampler.map_latents(sampler.latents([5]), [5])
    mixed = torch.cat([coarse[:, :3], fine[:, 3:]], dim=1)  # of six layers
    assert torch.equal(shown[1, 2], to_bytes(sampler.paint(mixed, [1]))[0, 0])


def test_noise_and_classes_are_chosen(styled, capsys):
    with torch.no_grad():  # untrained, noise has no strength yet
        content = ganduel.load(styled).content
        for name, value in content["state"]["ema"].items():
            if name.endswith("noise_strength"):
                value.fill_(0.5)
    path = styled / "checkpoints" / "noisy.pt"
    checkpoint.save(path, {key: value for key, value in content.items() if key not in ("format", "checksum")})
    trained, random, constant, none = (
        ganduel.load(path, noise=noise, label=0).sample([3]) for noise in (None, "random", "constant", "none")
    )
    assert torch.equal(trained, random)
    assert len({float(images.sum()) for images in (random, constant, none)}) == 3
    assert torch.equal(ganduel.load(path, noise=["none"] * 5, label=0).sample([3]), none)
    assert torch.equal(ganduel.load(path, label=7).sample([3]), ganduel.load(path, label=7).sample([3]))
    assert not torch.equal(ganduel.load(path, label=7).sample([3]), trained)
    own = ganduel.load(path)
    label = int(own.from_noise.label(torch.tensor([3])))
    assert torch.equal(own.sample([3]), ganduel.load(path, label=label).sample([3]))
    for arguments, words in (
        (["label=10"], "label=10 is not allowed; this model knows 0 to 9"),
        (["noise=loud"], "noise=loud"),
        (["noise=[none]"], "noise=['none']"),
        (["mode=mix", "mode.layer=6"], "mode.layer=6 must be from 1 to 5"),
    ):
        assert cli.command("sample", [f"ckpt={path}", *arguments]) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_every_game_can_be_tried_without_memory(compose, name: str) -> None:
    """`restored` compares shapes on the device "meta" before it builds a game, with and without discriminators."""
    config = compose(model=name)
    game = build.game(config.model, config.augment, [])
    state = {"game": game.state_dict(), "ema": game.generators.state_dict()}
    plainly = plain(config)
    for judged in (False, True):
        again = restored(plainly, state, ema=False, judged=judged, allow=[])
        assert_equal(again.generators.state_dict(), game.generators.state_dict())
        assert judged == bool([*again.discriminators.parameters()])
    assert_equal(again.state_dict(), game.state_dict())
