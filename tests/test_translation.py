"""gan-sample mode=translate: any image, any size, by name."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, TINY, picture
from PIL import Image
from torch import nn

import ganduel
from ganduel.commands import cli
from ganduel.data.image_set import normalise, to_bytes
from ganduel.sampling import sampler as sampling
from ganduel.sampling.sampler import fades, in_tiles, spans, translated, within_memory
from ganduel.sampling.translation import placed
from ganduel.system.device import available, out_of_memory
from ganduel.system.errors import UserError


@pytest.fixture(scope="module")
def run(packed, tmp_path_factory) -> Path:
    """A tiny CycleGAN."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = [*TINY, packed, *MODELS["cyclegan"], f"runs_dir={runs}", "duration=1 steps", "ema.ramp=null"]
    assert cli.command("train", arguments) == 0
    return runs / "tiny"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of odd sizes and modes, one of them broken, one in a folder of its own, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my photos"
    picture(folder / "odd.jpg", size=(101, 77))
    with Image.open(folder / "odd.jpg") as image:
        image.convert("L").save(folder / "grey.png")
        transparent = image.convert("RGBA")
        transparent.putalpha(image.convert("L"))
        transparent.save(folder / "clear.png")
        image.convert("P").save(folder / "palette.gif")
        image.resize((5, 4)).save(folder / "tiny.bmp")
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side
        image.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.arange(30 * 20, dtype=np.uint16).reshape(30, 20) * 100).save(folder / "deep.png")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "odd.jpg").write_bytes((folder / "odd.jpg").read_bytes())
    (folder / "broken.png").write_bytes((folder / "clear.png").read_bytes()[:400])
    (folder / "no.jpg").write_text("no image")
    (folder / "notes.txt").write_text("neither")
    return folder


SIZES = {
    "clear.png": (101, 77),
    "deep.png": (20, 30),
    "deeper/odd.png": (101, 77),
    "grey.png": (101, 77),
    "odd.png": (101, 77),
    "palette.png": (101, 77),
    "tiny.png": (5, 4),
    "turned.png": (77, 101),
}


def outputs(folder: Path) -> dict[str, tuple[int, int]]:
    sizes = {}
    for path in sorted(folder.rglob("*.*")):
        with Image.open(path) as image:
            assert image.mode == "RGB"
            sizes[str(path.relative_to(folder))] = image.size
    return sizes


def test_a_folder_of_all_sorts(run, photos, capsys):
    assert cli.command("sample", [f"ckpt={run}", "mode=translate", f"input={photos}", "direction=B2A"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{run / 'translate'}\n" and outputs(run / "translate") == SIZES
    warnings = printed.err.splitlines()
    assert len(warnings) == 2 and all(line.startswith("warning: ") for line in warnings)
    assert "broken.png is left out: " in warnings[0] and warnings[1].endswith("no.jpg is left out: not an image")


def test_what_is_translated(run, photos):
    """By the averaged generator of that direction, the edges mirrored, and cut back."""
    assert cli.command("sample", [f"ckpt={run}", "mode=translate", f"input={photos}/grey.png", "out=there.png"]) == 0
    with Image.open(photos / "grey.png") as image:
        original = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    wide = nn.functional.pad(original.float(), (1, 2, 1, 2), mode="reflect").to(torch.uint8)  # 101x77 to 104x80
    generator = ganduel.load(run).game.generators["A2B"]
    with torch.no_grad():
        expected = to_bytes(generator(normalise(wide)))[0, :, 1:-2, 1:-2]
    with Image.open("there.png") as image:
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), expected)
    assert (
        cli.command("sample", [f"ckpt={run}", "mode=translate", f"input={photos}/grey.png", "out=x", "ema=false"]) == 0
    )
    assert Path("x/grey.png").read_bytes() != Path("there.png").read_bytes()


@pytest.mark.parametrize("multiple", [4, 128])
@pytest.mark.parametrize("size", [(4, 5), (77, 101), (128, 256)])
def test_edges_are_cut_back(multiple, size):
    """However much is added to an image, a generator that changes nothing leaves it as it was."""

    class Same(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert all(side % multiple == 0 and side >= 8 for side in images.shape[2:])
            return images

    generator = Same()
    generator.multiple, generator.least = multiple, 8
    images = torch.rand(1, 3, *size)
    assert torch.equal(translated(generator, images), images)


def test_translations_in_python(run, photos):
    """As gan-sample's, and of the type that they came as."""
    model = ganduel.load(run)
    images = torch.randint(0, 256, (3, 3, 30, 45), dtype=torch.uint8)
    made = model.translate(images, "B2A", batch=2)
    assert made.dtype == torch.uint8 and made.shape == images.shape
    floats = model.translate(normalise(images), "B2A")
    assert floats.dtype == torch.float32 and (to_bytes(floats).int() - made.int()).abs().max() <= 1
    assert not torch.equal(made, model.translate(images))
    with pytest.raises(UserError, match=r"this model takes \(N, 3, H, W\)"):
        model.translate(images[:, :1])
    with pytest.raises(UserError, match="makes none from noise"):
        model.sample(4)


def test_a_list_on_stdin(run, photos, monkeypatch):
    lines = f"{photos}/odd.jpg\n\n{photos}/deeper/odd.jpg\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert cli.command("sample", [f"ckpt={run}", "mode=translate", "input=-", "out=there"]) == 0
    assert outputs(Path("there")) == {"odd.png": (101, 77), "deeper/odd.png": (101, 77)}


def test_translations_are_not_translated_again(run, photos):
    for _ in range(2):
        out = photos / "as zebras"
        assert cli.command("sample", [f"ckpt={run}", "mode=translate", f"input={photos}", f"out={out}"]) == 0
    assert outputs(out) == SIZES


def test_names_stay_apart():
    out = Path("out")
    assert placed(["a.jpg", "b/a.png"], out) == [out / "a.png", out / "b/a.png"]
    assert placed(["a.jpg", "a.png"], out) == [out / "a.jpg.png", out / "a.png.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "input is missing: name a photo, a folder, or - "),
        (["input=nowhere"], "input=nowhere does not exist"),
        (["input=empty"], "input=empty holds no images; looked for .jpg"),
        (
            ["input=my photos/no.jpg"],
            "input=my photos/no.jpg: none of 1 files can be translated; the lines above say why",
        ),
        (["input=my photos", "out=x.png"], "out=x.png: translations are PNGs in a folder"),
        (["input=my photos/odd.jpg", "out=x.jpg"], "out=x.jpg: translations are PNGs in a folder"),
        (["input=my photos/grey.png", "out=my photos"], "out=my photos would overwrite my photos/grey.png"),
        (["input=my photos", "direction=A2C"], "direction=A2C is not allowed; it takes A2B, B2A"),
        (["input=-"], "input=-: nothing came on stdin"),
    ],
)
def test_bad_input(run, photos, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    Path("empty").mkdir()
    assert cli.command("sample", [f"ckpt={run}", "mode=translate", *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {message}")


def test_models_that_draw_translate_nothing(train, capsys):
    assert train("duration=1 steps") == 0
    capsys.readouterr()
    assert cli.command("sample", ["ckpt=runs/tiny", "mode=translate", "input=photos"]) == 1
    assert capsys.readouterr().err == (
        "error: mode=translate: this model makes images from seeds and translates none: set mode=grid\n"
    )


class Plus(nn.Module):
    """Adds 1, and needs more memory than there is for more than `most` pixels."""

    def __init__(self, most: float):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, images):
        self.seen.append(tuple(images.shape[2:]))
        if images[0, 0].numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images + 1


@pytest.mark.parametrize(("length", "side"), [(10, 10), (300, 256), (1000, 256), (4000, 512), (257, 256)])
def test_tiles_cover_an_image_and_their_weights_add_up_to_one(length: int, side: int) -> None:
    pieces = spans(length, side)
    assert pieces[0][0] == 0 and pieces[-1][1] == length
    assert all(end - start == min(side, length) for start, end in pieces)
    assert all(before[1] - after[0] >= sampling.OVERLAP for before, after in itertools.pairwise(pieces))
    total = torch.zeros(length)
    for (start, end), weight in zip(pieces, fades(pieces, total), strict=True):
        total[start:end] += weight
    assert torch.allclose(total, torch.ones(length))


def test_tiles_give_what_the_whole_gives_where_pixels_are_independent() -> None:
    images = torch.rand(1, 3, 300, 700)
    assert torch.allclose(in_tiles(Plus(256**2), images, 256), images + 1, atol=1e-6)


def test_a_photo_that_is_too_large_is_translated_in_tiles(capsys) -> None:
    images, network = torch.rand(1, 3, 300, 700), Plus(512 * 300)
    assert torch.allclose(within_memory(network, images), images + 1, atol=1e-6)
    assert (
        capsys.readouterr().err == "memory is short: an image of 700x300 pixels is translated in tiles of 512 pixels\n"
    )
    with pytest.raises(torch.OutOfMemoryError):
        within_memory(Plus(256 * 255), images)


def test_what_memory_cannot_hold_is_not_tried(monkeypatch) -> None:
    """A system may kill the process instead of raising an exception."""
    images, network = torch.rand(1, 3, 300, 700), Plus(1e9)
    needed = sampling.AT_ONCE * 3 * 4 * 300 * 512  # bytes of the largest map, some times
    monkeypatch.setattr(sampling, "available", lambda device: 1.01 * needed / 1e9)
    assert torch.allclose(within_memory(network, images), images + 1, atol=1e-6)
    assert max(network.seen) == (300, 512)


def test_a_limit_of_this_process_counts(monkeypatch) -> None:
    """As set by ulimit -v: two gigabytes more than this process has mapped, or less than it has."""
    resource = pytest.importorskip("resource")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for more, left in ((2e9, 1.8e9), (-1e9, 0)):
        monkeypatch.setattr(resource, "getrlimit", lambda what, more=more: (int(used + more), -1))
        assert 1e9 * available(torch.device("cpu")) == pytest.approx(left, abs=0.2e9)


def test_onednn_has_its_own_words_for_too_little_memory() -> None:
    assert out_of_memory(RuntimeError("could not create a primitive"))
    assert not out_of_memory(RuntimeError("sizes differ"))


def test_a_photo_without_memory_is_left_out_and_the_others_are_translated(run, photos, monkeypatch, capsys) -> None:
    real = sampling.translated

    def short(generator, images):
        if images.shape[3] > 100:
            raise MemoryError
        return real(generator, images)

    monkeypatch.setattr(sampling, "translated", short)
    assert cli.command("sample", [f"ckpt={run}", "mode=translate", f"input={photos}", "out=made", "device=cpu"]) == 0
    told = capsys.readouterr().err
    assert "odd.jpg is left out: memory is too short for it; make it smaller" in told
    assert Path("made/deep.png").exists() and not Path("made/odd.png").exists()
