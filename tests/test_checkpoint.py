"""Files that are whole, plain and checked."""

import pytest
import torch

from ganduel import checkpoint
from ganduel.system.errors import UserError
from ganduel.system.files import Damaged

CONTENT = {
    "config": {"a": 1, "b": [1.5, None, "x"], "c": {}},
    "state": {
        "game": {"w": torch.randn(3, 4), "n": torch.tensor(3), "h": torch.randn(2, 2).bfloat16()},
        "ema": {},
        "more": 1,
    },
}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "folder" / "x.pt"
    checkpoint.save(path, CONTENT)
    content = checkpoint.load(path, needs=("config", "state"))
    assert content["config"] == CONTENT["config"] and content["format"] == checkpoint.FORMAT
    for name, tensor in CONTENT["state"]["game"].items():
        assert torch.equal(content["state"]["game"][name], tensor)
    assert [p.name for p in path.parent.iterdir()] == ["x.pt"]
    assert set(checkpoint.networks_only(content)["state"]) == {"game", "ema"}


def test_memory_formats_survive(tmp_path):
    """An exact resume needs the strides too: convolutions sum in another order otherwise."""
    weight = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "x.pt", {"w": weight})
    assert checkpoint.load(tmp_path / "x.pt", needs=("w",))["w"].stride() == weight.stride()


def test_the_checksum_sees_every_change():
    sums = {
        checkpoint.checksum(value)
        for value in (
            {"a": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
            {"a": torch.zeros(4, dtype=torch.int32)},
            {"b": torch.zeros(4)},
            {"a": torch.tensor([0.0, 0, 0, -0.0])},
            {"a": [0, 1]},
            {"a": [0, "1"]},
            {"a": [[0], 1]},
        )
    }
    assert len(sums) == 8


def test_damage_outside_of_all_values_is_damage(tmp_path):
    """The name of a tensor's device does not matter to us, but plain `torch.load` stumbles over a wrong one."""
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)
    content = path.read_bytes()
    assert content.count(b"cpu") == 1
    path.write_bytes(content.replace(b"cpu", b"cqu"))
    with pytest.raises(RuntimeError):
        torch.load(path, weights_only=True)
    with pytest.raises(Damaged, match=r"x.pt: is damaged, .*CRC"):
        checkpoint.load(path, needs=("config", "state"))


def test_only_plain_values_are_saved(tmp_path):
    with pytest.raises(TypeError, match="plain values"):
        checkpoint.save(tmp_path / "x.pt", {"version": torch.__version__})  # a class of its own
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT)
    before = path.read_bytes()

    def fail(content, file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device.*intact"):
        checkpoint.save(path, {"other": 1})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_find(tmp_path):
    with pytest.raises(UserError, match=r"init_from: .* does not exist"):
        checkpoint.find(tmp_path / "none", "init_from")
    with pytest.raises(UserError, match=r"ckpt: .* holds no checkpoint"):
        checkpoint.find(tmp_path)
    for name in ("previous", "latest", "best"):  # each better than the one before
        checkpoint.save(tmp_path / "checkpoints" / f"{name}.pt", CONTENT)
        assert checkpoint.find(tmp_path).name == f"{name}.pt"
    assert checkpoint.find(tmp_path / "checkpoints" / "latest.pt").name == "latest.pt"
