"""gan-data: what it says of a set, and what it makes of one."""

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import about, picture
from PIL import Image
from sklearn.datasets import load_digits

from ganduel import cli
from ganduel.data import doctor
from ganduel.data.store import open_store
from ganduel.errors import UserError

TRAIN, TEST = 300, 60


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def data_mnist(tmp_path: Path) -> Callable[..., Path]:
    """A small MNIST; returns its root."""

    def write(layout: str = "MNIST/raw", packed: bool = True) -> Path:
        folder = tmp_path / layout
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(0)
        for split, count in {"train": TRAIN, "t10k": TEST}.items():
            arrays = {
                "images-idx3": random.integers(0, 256, (count, 28, 28)),
                "labels-idx1": np.arange(count) % 10,
            }
            for kind, array in arrays.items():
                raw = idx(array)
                name = f"{split}-{kind}-ubyte"
                (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw, 1) if packed else raw)
        return tmp_path

    return write


def packed(path: str) -> np.ndarray:
    return np.load(Path(path.strip()).with_suffix(".npy"))


def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command("data", ["data=digits", f"data.packed={tmp_path}", "data.resolution=8"]) == 0
    out, _ = capsys.readouterr()
    bunch, array = load_digits(), packed(out)
    assert array.shape == (1797, 1, 8, 8) and array.dtype == np.uint8
    assert np.array_equal(array[5, 0], np.round(bunch.images[5] * 255 / 16))  # its own size: untouched
    assert array.min() == 0 and array.max() == 255
    assert np.array_equal(np.load(Path(out.strip()).with_suffix(".labels.npy")), bunch.target)
    assert about(Path(out.strip()))["sizes"] == {"8x8": 1797}


# gan-data


def test_report(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_folder / "0.png").rename(data_folder / "6.png")  # the same picture twice, and one file that is none
    (data_folder / "0.png").write_bytes((data_folder / "6.png").read_bytes())
    (data_folder / "7.jpg").write_text("not an image")
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "data.validation=2"]
    assert cli.command("data", arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: data.max_rejected=0.01: 1 of 8 images cannot be used, the first 7.jpg")
    arguments.append("data.max_rejected=0.2")
    assert cli.command("data", arguments) == 0
    out, err = capsys.readouterr()
    path = Path(out.removesuffix("\n"))
    assert path.parent == data_folder / "packed" and about(path)["images"] == 7
    for text in [
        "folder: 7 images of 8x8x3",
        "found train 8",
        "modes RGB 7",
        "sizes 8x8 7",
        "1 copies of others",
        "warning: 1 rejected",
        "7.jpg: not an image",
        "5 to train on, 2 held out",
    ]:
        assert text in err
    with Image.open(path.with_suffix(".png")) as preview:
        assert preview.size == (32, 32)  # three by three, with margins
        assert np.array_equal(np.asarray(preview)[2:10, 2:10].transpose(2, 0, 1), packed(out)[0])


def test_json_alone_on_stdout(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8", "json=true"]
    for _ in range(2):  # packing, and finding it packed
        assert cli.command("data", arguments) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert about(Path(told["path"])).items() <= told.items() and Path(told["preview"]).is_file()
        assert told["recipe"]["resolution"] == 8 and told["images"] == 6 and told["rejected"] == {}
        assert "folder: 6 images of 8x8x3" in err


def test_missing_images_are_told(data_mnist: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.command("data", ["data=mnist", f"data.root={data_mnist()}"]) == 0
    out, err = capsys.readouterr()
    assert (
        f"found train {TRAIN} of 60,000, test {TEST} of 10,000" in err
        and "9,940 of 10,000 test images are missing" in err
    )
    assert f"{TRAIN} to train on, {TEST} held out" in err and Path(out.strip()).is_file()


@pytest.mark.parametrize("part", ["header", "pixels"])
def test_a_damaged_packed_copy_is_packed_anew(data_folder: Path, capsys: pytest.CaptureFixture[str], part: str) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=8"]
    assert cli.command("data", arguments) == 0
    out = capsys.readouterr().out
    file = Path(out.strip()).with_suffix(".npy")
    whole = file.read_bytes()
    file.write_bytes(bytes(8) + whole[8:] if part == "header" else whole[:-8] + bytes(8))
    assert cli.command("data", arguments) == 0
    assert "are damaged (their checksum is another): packing anew" in capsys.readouterr().err
    assert file.read_bytes() == whole


def test_a_damaged_compressed_copy_says_what_to_do(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=16", "data.raw_limit_gb=0"]
    assert cli.command("data", arguments) == 0
    path = Path(capsys.readouterr().out.strip())
    file = path.with_suffix(".images")
    file.write_bytes(bytes(500) + file.read_bytes()[500:])
    store = open_store(path, about(path), None)
    with pytest.raises(UserError, match=r"\.images is damaged \(.*\); gan-data with the same data= packs it anew"):
        store.gather(torch.arange(len(store)))


def test_an_archive_that_is_gone_leaves_its_packed_copy(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for image in data_folder.glob("*.png"):
            file.write(image, image.name)
    arguments = ["data=folder", f"data.root={archive}", "data.resolution=8"]
    assert cli.command("data", arguments) == 0
    first = capsys.readouterr().out
    archive.unlink()
    assert cli.command("data", arguments) == 0
    out, err = capsys.readouterr()
    assert out == first and "holds no originals any more: using" in err


def test_shards_of_two_sets_at_one_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither writes over the other, which its JSON would not notice."""
    stream, contents = tmp_path / "shards", []
    for seed in (1, 2):
        picture(tmp_path / str(seed) / "x.png", seed)
        arguments = ["data=folder", f"data.root={tmp_path / str(seed)}", "data.resolution=8", f"data.stream={stream}"]
        assert cli.command("data", arguments) == 0
        path = Path(capsys.readouterr().out.strip())
        contents.append((path, about(path)))
    for path, told in contents:
        assert doctor.intact(open_store(path, told, str(stream)), told["content"])
