"""Shards: what a file would hold, in a folder or on S3, read a few at a time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NO_BATCH_NORM, about, assert_equal, largest_difference, rows, state
from fake_s3 import BUCKET, Store, serve
from processes import together

from ganduel.commands import cli
from ganduel.config.schema import Data, typed
from ganduel.data import packing, streaming
from ganduel.data.image_set import _by_shard
from ganduel.data.inspection import intact
from ganduel.data.loading import open_images
from ganduel.data.order import MIXED
from ganduel.data.packing import complete
from ganduel.data.resize import Recipe
from ganduel.data.sources import Originals, Source
from ganduel.data.store import open_store
from ganduel.data.streaming import Directory, Place, Shards, place
from ganduel.system.errors import UserError

COUNT = 500
RECIPE = Recipe(resolution=8, channels=3, crop=None, resize="box")
BYTES = 8 * 8 * 3
PER_SHARD = 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of so few images."""
    monkeypatch.setattr(streaming, "SHARD", PER_SHARD * BYTES)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with serve() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield store


@pytest.fixture(params=["folder", "s3"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where shards go."""
    if request.param == "folder":
        return str(tmp_path / "shards")
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/some/prefix"


def settings(stream: str | None, **others: Any) -> Data:
    """A data configuration as loading reads it."""
    defaults = {"resolution": 8, "limit": None, "stack": {"count": None}, "validation": 0, "on_device": False}
    return typed(Data, {**defaults, "stream": stream, "cache_gb": 1, **others})


def source(stop: int | None = None, count: int = COUNT) -> Source:
    """Images of noise, each with its number in the corner; reading number `stop` is interrupted."""

    def read(i: int) -> np.ndarray:
        if i == stop:
            raise KeyboardInterrupt
        image = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        image[0, 0] = (*divmod(i, 256), 0)
        return image

    names = [str(i) for i in range(count)]
    return Source("noise", lambda: Originals(names, read, {"train": count}, {}))


def pack(path: Path, stream: str | None, stop: int | None = None, compress: bool = False) -> Path:
    packing.pack(
        source(stop),
        RECIPE,
        path,
        {"name": "noise", "recipe": vars(RECIPE)},
        workers=1,
        max_rejected=0,
        raw_limit_gb=0 if compress else 1,
        place=place(path, settings(stream)),
    )
    return path


def where(path: Path, stream: str) -> Place:
    found = place(path, settings(stream))
    assert found is not None
    return found


# What shards hold


@pytest.mark.parametrize("compress", [False, True])
def test_shards_hold_what_a_file_holds(tmp_path: Path, stream: str, compress: bool) -> None:
    file = pack(tmp_path / "file" / "noise.json", None, compress=compress)
    path = pack(tmp_path / "sharded" / "noise.json", stream, compress=compress)
    one, shards = open_store(file, about(file), None), open_store(path, about(path), where(path, stream))
    assert isinstance(shards, Shards) and len(shards) == len(one) == COUNT and shards.shape == one.shape
    index = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shards.gather(index), one.gather(index))
    assert torch.equal(shards.gather(index[:0]), one.gather(index[:0]))
    assert list(shards.stored()) == list(one.stored())
    told = about(path)
    assert {k: v for k, v in about(file).items() if k not in ("bytes", "shards", "checksum")}.items() <= told.items()
    assert told["bytes"] == sum(map(len, one.stored())) and sum(told["shards"]) == COUNT
    if not compress:
        assert told["shards"] == [PER_SHARD] * (COUNT // PER_SHARD)
    assert intact(shards, told["content"])
    beside = {p.name for p in path.parent.iterdir()}  # no image lies there but those that were last read from S3
    assert beside == {"noise.json"} | ({"noise.cache"} if "://" in stream else set())


@pytest.mark.slow
def test_litdata_reads_them(tmp_path: Path) -> None:
    """In a process of its own: its import takes seconds, and warns."""
    path = pack(tmp_path / "noise.json", str(tmp_path / "shards"), compress=True)
    script = f"""
import hashlib, litdata
digest = hashlib.sha256()
for item in litdata.StreamingDataset({where(path, str(tmp_path / "shards")).address!r}):
    digest.update(hashlib.blake2b(bytes(item), digest_size=16).digest())
print(digest.hexdigest())
"""
    read = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == about(path)["content"]


def test_real_images_are_packed_in_processes(tmp_path: Path, stream: str) -> None:
    path = tmp_path / "noise.json"
    recorded = {"name": "noise", "recipe": vars(RECIPE)}
    limits = {"max_rejected": 0, "raw_limit_gb": 1}
    packing.pack(source(), RECIPE, path, recorded, workers=2, place=where(path, stream), **limits)
    assert intact(open_store(path, about(path), where(path, stream)), about(pack(tmp_path / "x.json", None))["content"])


# The order


def test_images_of_a_part_are_counted_by_shard() -> None:
    """Those of `data.limit` come mixed, and lie in shards as they lie."""
    stored, sizes = _by_shard([2, 3, 2, 4], torch.tensor([10, 3, 7, 4], dtype=torch.int32))
    assert stored.tolist() == [3, 4, 7, 10] and sizes.tolist() == [0, 2, 0, 2]


def test_every_shard_is_fetched_once_an_epoch(tmp_path: Path, stream: str) -> None:
    path = pack(tmp_path / "noise.json", stream)
    images = open_images(path, settings(stream), seed=0, device=torch.device("cpu"))
    fetches: list[str] = []
    fetch = images.store.place.fetch
    images.store.place.fetch = lambda name, size: fetches.append(name) or fetch(name, size)
    batches = [images.batch(position, 20)["real"] for position in range(0, COUNT, 20)]
    # Those that reach into the beginning twice; then the next epoch's first batch, which is read ahead.
    assert len(set(fetches)) == COUNT // PER_SHARD <= len(fetches) <= COUNT // PER_SHARD + 2 * MIXED
    corner = (torch.cat(batches)[:, :2, 0, 0] * 127.5 + 127.5).round().int()
    assert sorted((corner[:, 0] * 256 + corner[:, 1]).tolist()) == list(range(COUNT))
    again = open_images(path, settings(stream), seed=0, device=torch.device("cpu"))
    for i in (13, 5, 6):  # in any order, as after resuming
        assert torch.equal(again.batch(20 * i, 20)["real"], batches[i])


# Training, by the real command


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, ...]]:
    """Arguments of gan-train for the digits in 18 shards of 100 KB."""
    monkeypatch.setattr(streaming, "SHARD", 100 * 32 * 32)
    return lambda stream: (f"data.packed={tmp_path / 'own'}", f"data.stream={stream}")


@pytest.mark.slow
def test_killed_and_resumed_from_s3(
    train: Callable[..., int],
    tiny: tuple[str, ...],
    sharded: Callable[[str], tuple[str, ...]],
    tmp_path: Path,
    s3: Store,
) -> None:
    """The run is the same as if it had not been; it ends, warns of nothing, and leaves nothing but a small cache."""
    common = (*sharded(f"s3://{BUCKET}"), "data.cache_gb=0.0005", "batch_size=30", "duration=60 steps")
    common += ("every.log=5 steps", "every.checkpoint=10 steps", "every.validation=30 steps")
    assert train("name=whole", *common) == 0
    reads = [key for kind, key in s3.requests if kind == "GET" and key.endswith(".bin")]
    # An epoch and a bit; pictures; and for each of the two validations no shard more than once.
    assert len(set(reads)) == 18 and len(reads) <= 18 + 3 * MIXED + 10 + 2 * 18, len(reads)
    (cache,) = (tmp_path / "own").glob("*.cache")
    assert 4e5 < sum(file.stat().st_size for file in cache.glob("chunk-*")) <= 5e5
    (home := tmp_path / "home").mkdir()
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"}  # as in this process
    command = [sys.executable, "-m", "ganduel.train", *tiny, *common, "name=killed"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not reached(Path("runs/killed/stats.jsonl"), 15):
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "finished " in done.stderr and "arning" not in done.stderr, done.stderr
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert_equal(state("runs/whole")["state"], state("runs/killed")["state"])
    assert rows("runs/whole") == rows("runs/killed")


def reached(log: Path, step: int) -> bool:
    text = log.read_text().splitlines() if log.exists() else []
    return bool(text) and text[-1].endswith("}") and json.loads(text[-1])["step"] >= step


@pytest.mark.slow
def test_two_processes_equal_one(
    train: Callable[..., int], tiny: tuple[str, ...], sharded: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    packed, address = sharded(str(tmp_path / "shards"))
    # The seed keeps small gradients away from 0, where Adam turns rounding into steps.
    common = (*NO_BATCH_NORM, packed, "duration=8 steps", "every.log=4 steps", "seed=1")
    assert train("name=one", *common, address) == 0
    result = together(2, *tiny, "name=two", *common, address)
    assert result.returncode == 0, result.stderr
    one, two = state("runs/one"), state("runs/two")
    assert largest_difference(one["state"]["game"], two["state"]["game"]) < 1e-5
    assert train("name=file", *common) == 0
    file = state("runs/file")
    assert file["data"]["fingerprint"] == one["data"]["fingerprint"]  # the same images, in another order
    assert largest_difference(one["state"]["game"], file["state"]["game"]) > 1e-4


def test_processes_share_what_they_fetch(tmp_path: Path, s3: Store) -> None:
    path = pack(tmp_path / "noise.json", f"s3://{BUCKET}")
    stores = [open_store(path, about(path), where(path, f"s3://{BUCKET}")) for _ in range(4)]
    s3.requests.clear()
    index = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda store: store.gather(index), stores))
    assert all(torch.equal(images[0], one) for one in images[1:])
    reads = [key for kind, key in s3.requests if kind == "GET" and key.endswith(".bin")]
    assert len(reads) == len(set(reads)) == COUNT // PER_SHARD


def test_the_cache_keeps_what_was_opened_last(tmp_path: Path, s3: Store) -> None:
    path = pack(tmp_path / "noise.json", f"s3://{BUCKET}")
    size = max(map(len, s3.objects.values()))
    bucket = place(path, settings(f"s3://{BUCKET}", cache_gb=3.5 * size / 1e9))
    assert bucket is not None
    for shard in (0, 1, 2, 0, 3):
        bucket.fetch(f"chunk-0-{shard}.bin", len(s3.objects[f"noise/chunk-0-{shard}.bin"]))
    assert {p.name for p in (tmp_path / "noise.cache").glob("chunk-*")} == {f"chunk-0-{i}.bin" for i in (2, 0, 3)}


# Packing again, and moving


def test_interrupted_packing_begins_again(tmp_path: Path, stream: str) -> None:
    path = tmp_path / "noise.json"
    with pytest.raises(KeyboardInterrupt):
        pack(path, stream, stop=COUNT - 1)
    begun = where(path, stream).sizes()
    assert len(begun) > 3 and streaming.INDEX not in begun and not complete(path, where(path, stream))
    where(path, stream).put("chunk-0-99.bin", b"of a longer set")
    pack(path, stream)
    store = open_store(path, about(path), where(path, stream))
    assert intact(store, about(path)["content"]) and complete(path, where(path, stream))
    assert set(where(path, stream).sizes()) == {streaming.INDEX, *(f"chunk-0-{i}.bin" for i in range(25))}
    assert {p.suffix for p in tmp_path.iterdir() if p.is_file()} == {".json"}


def test_recipes_do_not_share_shards(data_folder: Path, stream: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One address takes many sets, as data.packed does: going back to an old recipe finds the old images."""
    arguments = ["data=folder", f"data.root={data_folder}", "data.validation=0", f"data.stream={stream}", "json=true"]
    told = []
    for resolution in (8, 4, 8):
        assert cli.command("data", [*arguments, f"data.resolution={resolution}"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[2] and told[0]["content"] != told[1]["content"]
    for one in told:
        path = Path(one["path"])
        assert intact(open_store(path, about(path), where(path, stream)), one["content"])


@pytest.mark.slow
def test_shards_may_be_moved(
    train: Callable[..., int],
    sharded: Callable[[str], tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packed, old = sharded(str(tmp_path / "old"))
    assert train(packed, old) == 0
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.setattr(packing, "prepared", lambda *_: pytest.fail("packed again"))
    assert train(packed, f"data.stream={tmp_path / 'new'}", "duration=5 steps") == 0
    measure = ["ckpt=runs/tiny", "metric.samples=64", "device=cpu"]
    capsys.readouterr()
    (tmp_path / "new").rename(tmp_path / "newer")
    assert cli.command("fid", measure) == 1  # a stranger's checkpoint may name any place
    assert "name the shards yourself: data.stream=PLACE" in capsys.readouterr().err
    assert cli.command("fid", [*measure, f"data.stream={tmp_path / 'new'}"]) == 1
    assert "error: data.root: the images that this was trained on are not packed in" in capsys.readouterr().err
    assert cli.command("fid", [*measure, f"data.stream={tmp_path / 'newer'}"]) == 0
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert train(packed, "duration=6 steps") == 1  # in one file, the same images would come in another order
    assert "data.stream: these shards hold the images in another order" in capsys.readouterr().err


# What goes wrong


@pytest.fixture
def arguments(
    data_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Of gan-data, for six images in a shard each."""
    monkeypatch.setattr(streaming, "SHARD", 1)
    other = tmp_path_factory.mktemp("other")
    paths = [f"data.root={data_folder}", f"data.packed={other / 'own'}", f"data.stream={other / 'shards'}"]
    return ["data=folder", *paths, "data.resolution=8", "data.validation=0", "json=true"]


@pytest.fixture
def packed_shards(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], Path]:
    """What gan-data said of them, and the folder in which they lie."""
    assert cli.command("data", arguments) == 0
    told = json.loads(capsys.readouterr().out)
    return told, next(Path(arguments[3].removeprefix("data.stream=")).iterdir())


DAMAGES = {
    "no shard": lambda shards: (shards / "chunk-0-3.bin").unlink(),
    "empty shard": lambda shards: (shards / "chunk-0-3.bin").write_bytes(b""),
    "no index": lambda shards: (shards / "index.json").unlink(),
    "no JSON": lambda shards: (shards / "index.json").write_text('{"chunks": [{'),
    "no list": lambda shards: (shards / "index.json").write_text('{"chunks": 3}'),
    "another list": lambda shards: (shards / "index.json").write_text('{"chunks": []}'),
    "another number": lambda shards: (shards / "index.json").write_text(
        (shards / "index.json").read_text().replace('"chunk_size": 1,', '"chunk_size": 2,', 1)
    ),
    "nothing": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_is_packed_again(
    arguments: list[str],
    packed_shards: tuple[dict[str, Any], Path],
    data_folder: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, shards = packed_shards
    path = Path(before["path"])
    DAMAGES[damage](shards)
    with pytest.raises(UserError, match=r"data.stream: the shards at .* are not all there; name where they are"):
        open_store(path, about(path), Directory(shards))
    data_folder.rename(data_folder.with_name("gone"))  # nothing to pack them from
    assert cli.command("data", arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: data.stream=") and error.count("\n") == 1
    assert f"what {path.name} describes is missing there or cut off, and data.root={data_folder} holds no" in error
    data_folder.with_name("gone").rename(data_folder)
    assert cli.command("data", arguments) == 0
    assert json.loads(capsys.readouterr().out) == before
    assert intact(open_store(path, about(path), Directory(shards)), before["content"])


def test_a_damaged_shard_is_found_by_its_checksum(
    arguments: list[str], packed_shards: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before, shards = packed_shards
    shard = bytearray((shards / "chunk-0-2.bin").read_bytes())
    shard[-5] ^= 1
    (shards / "chunk-0-2.bin").write_bytes(shard)
    assert cli.command("data", arguments) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == before and "are damaged (wrong checksum): packing them again" in err
    assert cli.command("data", arguments) == 0
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("compress", [False, True])
def test_damage_while_reading_is_one_line(tmp_path: Path, stream: str, compress: bool) -> None:
    path = pack(tmp_path / "noise.json", stream, compress=compress)
    store = open_store(path, about(path), where(path, stream))
    name, size = store.chunks[3]["filename"], store.chunks[3]["chunk_bytes"]
    for content in (bytes(size), b"\xff" * size):
        where(path, stream).put(name, content)
        with pytest.raises(UserError, match=r"data.stream: .*: is damaged, or is not whole, .* \(.*\); run gan-data"):
            store.gather(torch.arange(COUNT))
        store.opened.cache_clear()
        shutil.rmtree(path.with_suffix(".cache"), ignore_errors=True)
    where(path, stream).put(name, b"")
    with pytest.raises(UserError, match=f"{name}: is damaged, or is not the shard that it was .*; run gan-data"):
        store.gather(torch.arange(COUNT))


@pytest.mark.slow
def test_a_store_that_cannot_be_reached(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as store:
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        for stream, reason in [(f"s3://{BUCKET}", ""), ("s3://other/x", "NoSuchBucket")]:
            assert train(f"data.packed={tmp_path / 'own'}", f"data.stream={stream}", "overwrite=true") == bool(reason)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: data.stream: s3://other/x/digits-") and reason in error
    assert train(f"data.packed={tmp_path / 'own'}", f"data.stream=s3://{BUCKET}", "duration=5 steps") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: data.stream: s3://{BUCKET}/digits-") and error.count("\n") == 1
    assert "Could not connect" in error and error.endswith("credentials and AWS_ENDPOINT_URL\n")


def test_what_is_no_address(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert train("data.stream=gs://bucket/x") == 1
    assert capsys.readouterr().err == (
        "error: data.stream=gs://bucket/x is not allowed; it takes a folder or s3://BUCKET/PREFIX\n"
    )


def test_without_boto3(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert train("data.stream=s3://bucket/x", f"data.packed={tmp_path}") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: data.stream=s3://bucket/x/digits-")
    assert error.endswith("needs the package boto3: pip install 'ganduel[stream]'\n")


def test_a_full_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=9_999))
    with pytest.raises(
        UserError, match=r"data\.stream: the packed copy needs 0\.0 GB more and .*shards/noise has 0\.0"
    ):
        pack(tmp_path / "noise.json", str(tmp_path / "shards"))
