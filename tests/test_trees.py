"""Folders and archives: the same files give the same names and bytes, and hostile or damaged ones one line."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from ganduel.data import archives
from ganduel.data.archives import Folder, Lmdb, Tar, Zip, open_tree
from ganduel.data.formats import opened
from ganduel.system.errors import UserError

RANDOM = np.random.default_rng(0)
FILES = {
    name: RANDOM.bytes(700 + i) for i, name in enumerate(("b/2.jpg", "a/1.jpg", "b/c/3.jpg", "0.jpg", "notes.txt"))
}
UNSEEN = ("__MACOSX/a/1.jpg", ".hidden.jpg", "b/.cache/1.jpg")


def is_jpg(name: str) -> bool:
    return name.endswith(".jpg")


def as_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def as_lmdb(path: Path, files: dict[str, bytes]) -> Path:
    """A database as LSUN is published."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for name, content in files.items():
            transaction.put(name.encode(), content)
    return path


KINDS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda path, files: as_folder(path / "folder", files),
    "zip": lambda path, files: as_zip(path / "x.zip", files),
    "deflated zip": lambda path, files: as_zip(path / "x.zip", files, zipfile.ZIP_DEFLATED),
    "tar": lambda path, files: as_tar(path / "x.tar", files),
    "tar.gz": lambda path, files: as_tar(path / "x.tar.gz", files, "w:gz"),
    "tar.bz2": lambda path, files: as_tar(path / "x.tar.bz2", files, "w:bz2"),
    "tar.xz": lambda path, files: as_tar(path / "x.tar.xz", files, "w:xz"),
    "another name": lambda path, files: as_zip(path / "download", files),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_in_the_same_order(tmp_path: Path, kind: str) -> None:
    tree = open_tree(KINDS[kind](tmp_path, FILES | dict.fromkeys(UNSEEN, b"x")))
    before = sorted(tmp_path.rglob("*"))
    found = tree.find(is_jpg)
    assert found == ["0.jpg", "a/1.jpg", "b/2.jpg", "b/c/3.jpg"]
    assert [tree.read(name) for name in reversed(found)] == [FILES[name] for name in reversed(found)]
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_lmdb_gives_its_values_by_key(tmp_path: Path) -> None:
    path = as_lmdb(tmp_path / "x_lmdb", FILES)
    (path / "lock.mdb").unlink()
    tree = Lmdb(path)
    assert tree.find(is_jpg) == ["0.jpg", "a/1.jpg", "b/2.jpg", "b/c/3.jpg"]
    assert all(tree.read(name) == content for name, content in FILES.items())
    other = Lmdb(path)  # LMDB itself opens a file once a process
    assert other.find(is_jpg) == tree.find(is_jpg) and other.read("0.jpg") == FILES["0.jpg"]
    assert [p.name for p in path.iterdir()] == ["data.mdb"]


def test_keys_of_an_lmdb_may_be_any_bytes(tmp_path: Path) -> None:
    path, keys = tmp_path / "x_lmdb", [b"\x00\x01", b"\xff\xfe/1", b"plain"]
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key, b"of " + key)
    tree = Lmdb(path)
    assert [tree.read(name) for name in tree.find(bool)] == [b"of " + key for key in (keys[0], keys[2], keys[1])]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stamp_changes_with_the_files_alone(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path, FILES)
    stamp = open_tree(path).stamp(is_jpg)
    assert open_tree(path).stamp(is_jpg) == stamp
    file = path / "a/1.jpg" if path.is_dir() else path
    time = file.stat().st_mtime_ns
    os.utime(file, ns=(time, time + 1_000_000))
    assert open_tree(path).stamp(is_jpg) != stamp
    os.utime(file, ns=(time, time))
    assert open_tree(path).stamp(is_jpg) == stamp
    with open(file, "ab") as longer:
        longer.write(b"x")
    os.utime(file, ns=(time, time))
    assert open_tree(path).stamp(is_jpg) != stamp


def test_a_folders_stamp_is_of_the_wanted_files(tmp_path: Path) -> None:
    stamp = Folder(as_folder(tmp_path, FILES)).stamp(is_jpg)
    as_folder(
        tmp_path,
        {
            "notes.txt": b"longer than before",
            "packed/x-8x8x3-0.json": b"{}",
            "packed/new.jpg": b"x",
            "b/.hidden.jpg": b"x",
        },
    )
    assert Folder(tmp_path).stamp(is_jpg) == stamp
    (tmp_path / "0.jpg").rename(tmp_path / "00.jpg")
    assert Folder(tmp_path).stamp(is_jpg) != stamp


def test_links_are_followed_where_they_lead_somewhere(tmp_path: Path) -> None:
    as_folder(tmp_path / "elsewhere", {"1.jpg": b"one"})
    root = as_folder(tmp_path / "root", {"0.jpg": b"zero"})
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "round").symlink_to(root)
    (root / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree = Folder(root)
    assert tree.find(is_jpg) == ["0.jpg", "linked/1.jpg", "lost.jpg"]
    assert tree.read("linked/1.jpg") == b"one"
    assert tree.stamp(is_jpg)
    with pytest.raises(FileNotFoundError):  # packing lists it as rejected
        tree.read("lost.jpg")


# Hostile archives


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "C:/x.jpg", "..\\x.jpg"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = KINDS[kind](tmp_path, {**FILES, name: b"x"})
    with pytest.raises(UserError) as caught:
        open_tree(path).find(is_jpg)
    assert str(caught.value).startswith(f"data.root: {path} has a member {name!r}, which leads out")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_dots_that_stay_inside_are_names(tmp_path: Path, kind: str) -> None:
    tree = open_tree(KINDS[kind](tmp_path, {"./a/1.jpg": b"1", "b/2..jpg": b"2"}))
    assert tree.find(is_jpg) == ["a/1.jpg", "b/2..jpg"] and tree.read("a/1.jpg") == b"1"


def test_devices_in_a_tar_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.jpg")
            member.type = kind
            archive.addfile(member)
        member = tarfile.TarInfo("1.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
    assert open_tree(path).find(is_jpg) == ["1.jpg"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_tar_lead_to_its_members_alone(tmp_path: Path, mode: str) -> None:
    """A file with two names is one image in a folder and another: in a tar of it, too."""
    path = tmp_path / "x.tar"
    links = {
        "b/hard.jpg": (tarfile.LNKTYPE, "a/1.jpg"),
        "b/soft.jpg": (tarfile.SYMTYPE, "../a/2.jpg"),
        "b/soft2.jpg": (tarfile.SYMTYPE, "soft.jpg"),
        "c/outside.jpg": (tarfile.SYMTYPE, "/etc/passwd"),
        "c/unwanted.jpg": (tarfile.LNKTYPE, "a/notes.txt"),
        "c/round.jpg": (tarfile.SYMTYPE, "round.jpg"),
    }
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in {"a/1.jpg": b"one", "a/2.jpg": b"two", "a/notes.txt": b"words"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    tree = open_tree(path)
    assert tree.find(is_jpg) == sorted(["a/1.jpg", "a/2.jpg", *links])
    assert [tree.read(f"b/{name}.jpg") for name in ("hard", "soft", "soft2")] == [b"one", b"two", b"two"]
    for name in ("outside", "unwanted", "round"):
        with pytest.raises(ValueError, match=r"a link to .*, which is not among the wanted files"):
            tree.read(f"c/{name}.jpg")


def declare(path: Path, name: str, size: int, compressed: int) -> None:
    """Change what the directory of a zip says of its last member."""
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    assert name.encode() in raw[entry:]
    struct.pack_into("<II", raw, entry + 20, compressed, size)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("size", "compressed", "refused"),
    [
        (archives.LARGEST, archives.LARGEST // 2, False),
        (archives.LARGEST + 1, archives.LARGEST // 2, True),
        (archives.SUSPECT + 1, archives.SUSPECT // 1000, True),
        (archives.SUSPECT, 1000, False),
    ],
)
def test_a_zip_bomb_is_refused_by_what_it_declares(tmp_path: Path, size: int, compressed: int, refused: bool) -> None:
    path = as_zip(tmp_path / "x.zip", {"0.jpg": b"x", "bomb.jpg": b"x"}, zipfile.ZIP_DEFLATED)
    declare(path, "bomb.jpg", size, compressed)
    if refused:
        with pytest.raises(UserError, match=r"x\.zip declares .* MB for bomb\.jpg; no image is that large"):
            Zip(path).find(is_jpg)
    else:
        assert Zip(path).find(is_jpg) == ["0.jpg", "bomb.jpg"]
    assert Zip(path).find(lambda name: name == "0.jpg") == ["0.jpg"], "what is not wanted does not matter"


def test_a_real_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb.jpg", "w") as member:
        for _ in range(archives.SUSPECT // (1 << 20) + 1):
            member.write(bytes(1 << 20))
    declare(path, "bomb.jpg", 1000, path.stat().st_size)  # what it declares is all that is read
    tracemalloc.start()
    tree = Zip(path)
    with pytest.raises(zipfile.BadZipFile):
        tree.read(tree.find(is_jpg)[0])
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_bomb_is_refused_by_what_it_declares(tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo("bomb.jpg")
    member.size = archives.LARGEST + 1
    path = tmp_path / f"x.{kind}"
    path.write_bytes({"tar": bytes, "tar.gz": gzip.compress}[kind](member.tobuf() + bytes(4096)))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"declares 268 MB for bomb\.jpg"):
        open_tree(path).find(is_jpg)


@pytest.mark.parametrize("wanted", [is_jpg, lambda name: False])
def test_a_compressed_tar_of_zeros_is_not_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: Callable[[str], bool]
) -> None:
    """Each member is plausible, and all together they are not."""
    monkeypatch.setattr(archives, "SUSPECT", 1 << 20)
    path = as_tar(tmp_path / "x.tar.gz", {f"{i}.jpg": bytes(1 << 18) for i in range(8)}, "w:gz")
    with pytest.raises(UserError, match=r"x\.tar\.gz has 0\.0 MB and unpacks to 1 MB or more; .*unpack it yourself"):
        open_tree(path).find(wanted)
    plain = as_tar(tmp_path / "x.tar", {f"{i}.jpg": bytes(1 << 18) for i in range(8)})
    assert len(open_tree(plain).find(is_jpg)) == 8


def test_a_zip_of_many_plausible_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 1 << 20)
    path = as_zip(tmp_path / "x.zip", {f"{i}.jpg": bytes(1 << 19) for i in range(5)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"x\.zip has 0\.0 MB and unpacks to 3 MB or more"):
        Zip(path).find(is_jpg)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_a_name_of_many_megabytes_is_not_read(tmp_path: Path, kind: str) -> None:
    """The header says how long the name is. `tarfile` would read it all."""
    form = tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz", format=form) as archive:
        archive.addfile(tarfile.TarInfo("a" * (8 << 20) + ".jpg"))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"is damaged or cut off \(a header of [0-9,]+ bytes\)"):
        open_tree(path).find(is_jpg)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_a_zip_whose_directory_skips_members(tmp_path: Path) -> None:
    """A flipped bit in the length of a comment of the first one hides all others. Python's reader goes on silently."""
    path = as_zip(tmp_path / "x.zip", {f"{i}.jpg": b"x" for i in range(3)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 33] ^= 0x10
    path.write_bytes(content)
    assert len(zipfile.ZipFile(path).infolist()) == 1
    with pytest.raises(UserError, match=r"x\.zip is damaged .*its end tells of 3 members, and its directory has 1"):
        open_tree(path).find(bool)


def test_no_bit_of_a_zip_changes_what_is_read(tmp_path: Path) -> None:
    """Every single one: it is told, or all members are there and are what they were."""
    files = {f"{i}.jpg": bytes([i]) for i in range(2)}
    whole = as_zip(tmp_path / "x.zip", files).read_bytes()
    silent = 0
    for bit in range(8 * len(whole)):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.zip").write_bytes(content)
        left_out: list[str] = []
        try:
            tree = open_tree(tmp_path / "x.zip")
            names = tree.find(lambda name, others=left_out: name.endswith(".jpg") or others.append(name))
            found = {name: tree.read(name) for name in names}
        except (UserError, zipfile.BadZipFile, NotImplementedError, OSError, zlib.error, EOFError, struct.error):
            continue
        assert found == files or left_out, bit
        silent += 1
    assert silent < 8 * len(whole) * 0.7  # dates, versions, system and the like


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with pipes")
def test_links_to_devices_and_pipes_are_not_read(tmp_path: Path) -> None:
    """The one would fill the memory, and the other would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "set").mkdir()
    for name, target in (("a.png", Path("/dev/zero")), ("b.png", tmp_path / "pipe")):
        (tmp_path / "set" / name).symlink_to(target)
        with pytest.raises(ValueError, match="no regular file"):
            Folder(tmp_path / "set").read(name)
        with pytest.raises(OSError, match="no regular file"), opened(tmp_path / "set" / name):
            pass


def test_a_link_that_leads_to_itself_is_one_bad_file(tmp_path: Path) -> None:
    """Like any broken link: it is found, reading it fails, and the others are read."""
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "x.png").write_bytes(b"x")
    folder = Folder(tmp_path)
    assert folder.find(bool) == ["loop.png", "x.png"] and folder.stamp(bool) and folder.read("x.png") == b"x"
    with pytest.raises(OSError, match="symbolic links"):
        folder.read("loop.png")


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "x.zip", {"0.jpg": b"x"})
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"x\.zip is encrypted \(0\.jpg\); unpack it and name the folder"):
        Zip(path).find(is_jpg)


# Damaged archives


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 0.93])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("folder", "another name")])
def test_a_truncated_archive(tmp_path: Path, kind: str, share: float) -> None:
    path = KINDS[kind](tmp_path, {f"{i}.jpg": RANDOM.bytes(3000) for i in range(40)})
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(UserError) as caught:
        open_tree(path).find(is_jpg)
    message = str(caught.value)
    assert message.startswith(f"data.root: {path} is damaged or cut off (")
    assert message.endswith("): delete it and download it again") and "\n" not in message


@pytest.mark.parametrize("members", [0, 1, 3])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_that_is_cut_between_members(tmp_path: Path, members: int, compress: Callable[[bytes], bytes]) -> None:
    """tarfile, like tar, takes the end of the file for the end of the archive."""
    path = as_tar(tmp_path / "x.tar", {f"{i}.jpg": bytes(512) for i in range(4)})
    path.write_bytes(compress(path.read_bytes()[: members * 1024]))
    with pytest.raises(UserError, match=r"is damaged or cut off \("):
        open_tree(path).find(is_jpg)


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress], ids=["tar", "gz", "bz2"])
def test_joined_tars_lose_no_images(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """`cat a.tar b.tar`: whoever stops at the end mark of the first loses the second."""
    parts = [as_tar(tmp_path / f"{i}.tar", {f"{i}.jpg": b"x"}).read_bytes() for i in range(2)]
    (tmp_path / "both.tar").write_bytes(b"".join(map(compress, parts)))
    with pytest.raises(UserError, match=r"both\.tar goes on after its end, as if several archives were joined"):
        open_tree(tmp_path / "both.tar").find(is_jpg)


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.map": "a,b"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}], ids=["map", "1.0"]
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_headers_that_tarfile_cannot_parse_are_damage(tmp_path: Path, headers: dict[str, str], mode: str) -> None:
    with tarfile.open(tmp_path / "a.tar", mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("a.jpg")
        member.size, member.pax_headers = 4, headers
        archive.addfile(member, io.BytesIO(b"abc\n"))
    with pytest.raises(UserError, match=r"^data.root: .*a.tar is damaged or cut off"):
        open_tree(tmp_path / "a.tar").find(is_jpg)


def test_a_tar_with_a_damaged_header_inside(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "x.tar", {f"{i}.jpg": bytes(512) for i in range(4)})
    raw = bytearray(path.read_bytes())
    raw[2 * 1024 + 150] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"damaged or cut off \(no member and no end mark at byte 2,048\)"):
        Tar(path).find(is_jpg)


def test_a_gzip_whose_checksum_fails(tmp_path: Path) -> None:
    path = as_tar(tmp_path / "x.tar.gz", FILES, "w:gz")
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"is damaged or cut off \(CRC check failed"):
        Tar(path).find(is_jpg)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 0.99])
def test_a_truncated_lmdb(tmp_path: Path, share: float) -> None:
    path = as_lmdb(tmp_path / "x_lmdb", {f"{i}": RANDOM.bytes(3000) for i in range(200)})
    raw = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(UserError, match=r"x_lmdb is damaged or cut off \(.*\): delete it and download it again"):
        Lmdb(path).find(bool)


def test_one_damaged_member_is_for_packing_to_reject(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "x.zip", FILES)
    raw = bytearray(path.read_bytes())
    raw[raw.index(FILES["a/1.jpg"]) + 5] ^= 1
    path.write_bytes(raw)
    tree = Zip(path)
    assert tree.read(tree.find(is_jpg)[0]) == FILES["0.jpg"]
    with pytest.raises(zipfile.BadZipFile):
        tree.read("a/1.jpg")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.zip", b"<!doctype html>", r"x\.zip is damaged or cut off \(it does not begin like one\)"),
        ("x.png", b"\x89PNG", r"x\.png is neither a folder nor a zip or tar archive"),
        ("x.7z", b"7z\xbc\xaf'\x1c", r"x\.7z is neither a folder nor a zip or tar archive"),
    ],
)
def test_what_is_no_archive(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        open_tree(tmp_path / name)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*x\.zip \(No such file"):
        open_tree(tmp_path / "x.zip")


def test_lmdb_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(UserError, match=r"needs the package lmdb: pip install 'ganduel\[lsun\]'"):
        Lmdb(tmp_path).find(bool)


# Size


def test_a_tar_of_many_members_keeps_only_the_wanted_ones(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        for i in range(5_000):
            file.write(tarfile.TarInfo(f"{i % 100}/{i:08}.jpg").tobuf())
        file.write(bytes(1024))
    tree = Tar(path)
    tracemalloc.start()
    assert len(tree.find(lambda name: name.startswith("7/"))) == 50
    assert tracemalloc.get_traced_memory()[1] < 3 << 20
    tracemalloc.stop()


# Unpacking what must be a file


def test_unpacking_one_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_zip(tmp_path / "x.zip", {"x/data.mdb": b"d" * 5000, "x/lock.mdb": b""}, zipfile.ZIP_DEFLATED)
    target = tmp_path / "x" / "data.mdb"
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4999}))
    with pytest.raises(UserError, match=r"unpacking .*x\.zip needs 0\.0 GB and .* has 0\.0 GB left; make room"):
        Zip(path).unpack(lambda name: name.endswith("data.mdb"), target)
    monkeypatch.undo()
    raw = path.read_bytes()
    path.write_bytes(raw[:40] + b"\xff\xff" + raw[42:])
    with pytest.raises(UserError, match=r"x\.zip is damaged or cut off"):
        Zip(path).unpack(lambda name: name.endswith("data.mdb"), target)
    assert not list(target.parent.glob("data.mdb*[!k]")), "half a file is never found"
    path.write_bytes(raw)
    Zip(path).unpack(lambda name: name.endswith("data.mdb"), target)
    assert target.read_bytes() == b"d" * 5000
    with pytest.raises(UserError, match=r"holds 2 files other, not one"):
        Zip(path).unpack(bool, tmp_path / "other")
