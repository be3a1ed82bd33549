"""gan-data: what it says of a set, and what it makes of one."""

import gzip
import io
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
from test_trees import as_folder, as_lmdb, as_tar, as_zip

from ganduel.commands import cli
from ganduel.config.schema import Data, typed
from ganduel.data import inspection
from ganduel.data.loading import open_images
from ganduel.data.store import open_store
from ganduel.data.streaming import place
from ganduel.evaluation.look_alikes import nearest_earlier
from ganduel.system.errors import UserError

TRAIN, TEST = 300, 60
CPU = torch.device("cpu")


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


def test_the_nearest_earlier_vector() -> None:
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 3.0], [10.0, 4.0], [0.0, 2.0]])
    assert nearest_earlier(points) == [(1, 4, 2), (3, 2, 0), (4, 3, 1), (10, 1, 0)]  # distance, image, earlier one


def test_look_alikes_are_found_by_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = (load_digits().images[:3] * 15).astype(np.uint8)  # 0, 1, 2
    images = [Image.fromarray(digit).resize((48, 48)) for digit in digits]
    images += [images[1].copy(), images[1].rotate(0, translate=(3, 1))]  # a copy of 1, which does not count; 1 moved
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    arguments = ["data=folder", f"data.root={tmp_path}", "data.resolution=48", "look_alikes=efficientnet"]
    for _ in range(2):  # packing, and finding it packed
        assert cli.command("data", arguments) == 0
        out, err = capsys.readouterr()
        first = err.split("by efficientnet's features")[1].splitlines()[1]
        assert first.strip().startswith("1.png and 4.png, distance ")
    with Image.open(Path(out.strip()).with_suffix(".alike.png")) as picture:
        assert picture.size == (6 * 50 + 2, 52)  # the three pairs of four different images
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert cli.command("data", arguments) == 0
    assert "image 1 and image 4" in capsys.readouterr().err  # the packed copy does not store names


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
    assert "are damaged (wrong checksum): packing them again" in capsys.readouterr().err
    assert file.read_bytes() == whole


def test_a_damaged_compressed_copy_says_what_to_do(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data=folder", f"data.root={data_folder}", "data.resolution=16", "data.raw_limit_gb=0"]
    assert cli.command("data", arguments) == 0
    path = Path(capsys.readouterr().out.strip())
    file = path.with_suffix(".images")
    file.write_bytes(bytes(500) + file.read_bytes()[500:])
    store = open_store(path, about(path), None)
    with pytest.raises(
        UserError,
        match=r"\.images: is damaged, or is not a file of packed images \(.*\); run gan-data with the same data=",
    ):
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
        store = open_store(path, told, place(path, typed(Data, {"stream": str(stream)})))
        assert inspection.intact(store, told["content"])


# The same images in every form in which a set is shipped


def photo(seed: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """A JPEG of a landscape: smooth, coloured, with edges, and like no other."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    sky, ground = random.uniform(0, 255, (2, 3))
    hills = 0.5 + random.uniform(0.1, 0.3) * np.sin(random.uniform(3, 12) * across + random.uniform(0, 6))
    pixels = np.where(
        (down < hills)[..., None], sky * (0.5 + down / 2)[..., None], ground * (1 - across / 2)[..., None]
    )
    file = io.BytesIO()
    Image.fromarray((pixels + random.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def photos(*names: str) -> dict[str, bytes]:
    return {name: photo(i) for i, name in enumerate(names)}


HASHES = sorted(f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in range(1, 9))
BEDROOMS = photos(*HASHES)
NESTED = {f"data0/lsun/bedroom/{'/'.join(name[:3])}/{name}.jpg": image for name, image in BEDROOMS.items()}
PLACES = photos(*(f"{i:08d}.jpg" for i in (1, 2, 5, 13)))
STANDARD = {f"data_256/{place}/{n}": image for place in ("a/airfield", "c/corridor") for n, image in PLACES.items()}
FACES = photos(*(f"img_align_celeba/{i:06d}.jpg" for i in (1, 2, 9, 162771, 202599)))
ANIMALS = photos(
    *(f"afhq/{part}/{a}/{a}_{i}.jpg" for part in ("train", "val") for a in ("cat", "dog") for i in (1, 2, 3))
)
PAIR = photos(*(f"horse2zebra/{part}/n0238{i}.jpg" for part in ("trainA", "trainB", "testA", "testB") for i in (1, 2)))
FORMS: dict[str, tuple[int, list[tuple[str, Callable[[Path], object]]]]] = {  # how many, and data= of each form
    "bedrooms": (
        8,
        [
            ("lsun_bedroom", lambda root: as_lmdb(root / "bedroom_train_lmdb", BEDROOMS)),
            ("lsun_bedroom_sample", lambda root: as_folder(root, NESTED)),
            ("lsun_bedroom_sample", lambda root: as_zip(root / "archive.zip", NESTED)),
            ("folder", lambda root: as_folder(root, NESTED)),
        ],
    ),
    "places": (
        4,
        [
            ("places_corridor", lambda root: as_tar(root / "train_256_places365standard.tar", STANDARD)),
            ("places_corridor", lambda root: as_zip(root / "places365.zip", STANDARD)),
            ("places_corridor", lambda root: as_folder(root, {f"corridor/{n}": i for n, i in PLACES.items()})),
            ("folder", lambda root: as_folder(root, PLACES)),
        ],
    ),
    "faces": (
        5,
        [
            ("celeba", lambda root: as_zip(root / "img_align_celeba.zip", FACES)),
            ("celeba", lambda root: as_folder(root, FACES)),
        ],
    ),
    "dogs": (
        6,
        [
            ("afhq_dog", lambda root: as_zip(root / "afhq.zip", ANIMALS)),
            ("afhq_dog", lambda root: as_folder(root, ANIMALS)),
        ],
    ),
    "pairs": (
        8,
        [
            ("horse2zebra", lambda root: as_zip(root / "horse2zebra.zip", PAIR)),
            ("horse2zebra", lambda root: as_folder(root, PAIR)),
        ],
    ),
}


@pytest.mark.parametrize("images", FORMS)
def test_all_forms_are_packed_to_the_same_bytes(
    tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count, forms = FORMS[images]
    found = []
    for i, (data, write) in enumerate(forms):
        (root := tmp_path / str(i)).mkdir()
        write(root)
        size = ["data.resolution=16", "data.crop=null", "data.load_size=null", f"data.root={root}"]
        assert cli.command("data", [f"data={data}", *size]) == 0, capsys.readouterr().err
        path = Path(capsys.readouterr().out.strip())
        assert (about(path)["images"], about(path)["duplicates"], about(path)["rejected"]) == (count, 0, {})
        assert np.load(path.with_suffix(".npy")).shape == (count, 3, 16, 16)
        found.append(path.with_suffix(".npy").read_bytes())
    assert all(one == found[0] for one in found)


def test_a_tar_with_damaged_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand members, of which 150 are cut off, empty, or no image at all: none is lost in silence."""
    whole = photo(0, (16, 16))
    bad = {i: [whole[: len(whole) // 2], b"", b"\xff\xd8" + b"\0" * 600][i % 3] for i in range(3, 1000, 20)}
    bad |= dict.fromkeys(range(4, 1000, 10), whole[:300])
    members = {f"data_256/c/corridor/{i:08d}.jpg": bad.get(i, whole) for i in range(1000)}
    assert len(bad) == 150
    tar = as_tar(tmp_path / "train_256_places365standard.tar", members)
    arguments = ["data=places_corridor", f"data.root={tmp_path}", "data.resolution=16"]
    assert cli.command("data", arguments) == 1
    assert "data.max_rejected=0.01: 150 of 1,000 images cannot be used, the first " in capsys.readouterr().err
    assert cli.command("data", [*arguments, "data.max_rejected=0.2", "json=true"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told == {**about(Path(told["path"])), "path": told["path"], "preview": told["preview"]}
    assert told["images"] == 850 and told["found"] == {"train": 1000} and told["splits"] == {"train": 850}
    assert set(told["rejected"]) == {f"data_256/c/corridor/{i:08d}.jpg" for i in bad} and all(told["rejected"].values())
    assert "850 images of 16x16x3" in err and "found train 1,000" in err and "warning: 150 rejected" in err
    assert err.count(".jpg: ") == 20 and "and 130 more: all are in the JSON" in err
    assert len(np.load(Path(told["path"]).with_suffix(".npy"))) == 850
    assert str(tar) in err


def test_originals_may_go_after_packing(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-other"
    arguments = ["data=folder", f"data.packed={other}", "data.resolution=8", "json=true"]
    assert cli.command("data", [*arguments, f"data.root={data_folder}", "data.max_rejected=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    for file in data_folder.glob("*.png"):
        file.unlink()
    assert cli.command("data", [*arguments, f"data.root={tmp_path / 'misspelt'}"]) == 1  # not the copy of others
    capsys.readouterr()
    other = other.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    arguments[1] = f"data.packed={other}"
    for root in (f"data.root={data_folder}", "data.root=null"):
        assert cli.command("data", [*arguments, root]) == 0
        assert json.loads(capsys.readouterr().out)["content"] == told["content"]
    (file,) = other.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert cli.command("data", [*arguments, f"data.root={data_folder}"]) == 1
    assert "is damaged, and there are no originals to pack it from anew" in capsys.readouterr().err
    assert file.exists()


def test_damaged_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in "ab":
        picture(tmp_path / kind / "x.png", ord(kind))
    arguments = ["data=folder", f"data.root={tmp_path}", "data.resolution=8", "data.validation=0"]
    assert cli.command("data", arguments) == 0
    path = Path(capsys.readouterr().out.strip())
    labels = path.with_suffix(".labels.npy")
    whole = labels.read_bytes()
    for damage in (None, whole[:-4], whole[:-8] + bytes(8)):  # gone, cut off, changed
        labels.unlink() if damage is None else labels.write_bytes(damage)
        assert cli.command("data", arguments) == 0
        assert labels.read_bytes() == whole
    labels.write_bytes(whole[:-4])
    with pytest.raises(
        UserError, match=r"labels\.npy: is damaged, or is not a file of labels \(.*\); run gan-data with the same data="
    ):
        open_images(
            path,
            typed(Data, {"resolution": 16, "limit": None, "validation": 0, "on_device": "auto", "stream": None}),
            seed=0,
            device=CPU,
        )


def test_previews_of_large_images_are_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", i, size=(300, 300))
    assert cli.command("data", ["data=folder", f"data.root={tmp_path}", "data.resolution=300", "json=true"]) == 0
    with Image.open(json.loads(capsys.readouterr().out)["preview"]) as preview:
        assert preview.size == (262, 262)


def test_a_class_named_packed_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("packed", "unpacked"):
        picture(tmp_path / name / "x.png", len(name))
    arguments = ["data=folder", f"data.root={tmp_path}", "data.resolution=8", f"data.packed={tmp_path.parent / 'out'}"]
    assert cli.command("data", [*arguments, "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == ["packed", "unpacked"]


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_members_of_one_name_are_not_lost(
    tmp_path: Path, make: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make(tmp_path / "x.zip", {"a/x.png": b"", "./a/x.png": b""})
    assert cli.command("data", ["data=folder", f"data.root={archive}"]) == 1
    assert "has two members 'a/x.png'; rename one, because only one of them could be read" in capsys.readouterr().err
