"""Export of generators to ONNX, which runs without PyTorch and without ganduel."""

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import instance_norm

from ganduel import game
from ganduel.export.card import Exported
from ganduel.models.cyclegan import InstanceNorm
from ganduel.system.device import out_of_memory
from ganduel.system.errors import UserError, installed
from ganduel.system.files import replacing

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler

NEAR = 1e-4  # largest difference between the images of ONNX and of PyTorch, in [-1, 1]
Inputs = dict[str, Tensor]


def save(
    sampler: "Sampler", folder: Path, truncation: float, cutoff: int | None, noise: str | list[str] | None, opset: int
) -> Exported:
    """Write one ONNX file for each generator into `folder`, and check its images against PyTorch's.

    Raises UserError if a package is missing, if a setting does not suit the generator, or if images differ by more than
    `NEAR`.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        installed(package, "export", "format=onnx")
    if noise is not None and "random" in noise:
        raise UserError(f"format.noise={noise} is not allowed: ONNX draws no random numbers; it takes constant or none")
    files, about = [], []
    network: nn.Module
    for name, generator in sampler.game.generators.items():
        if isinstance(generator, game.Generator):
            if noise is not None:
                generator.set_noise(noise)
            path, network = folder / "generator.onnx", FromNoise(generator, truncation, cutoff)
            inputs = {"latent": torch.randn(3, generator.latent)}
            if generator.classes:
                inputs["label"] = torch.arange(3) % generator.classes
        elif truncation != 1 or noise is not None:
            raise UserError(
                "format.truncation and format.noise need a model that generates from latents; this one "
                "translates images"
            )
        else:
            path, network = folder / f"generator_{name}.onnx", generator
            inputs = {"images": torch.rand(3, sampler.channels, sampler.resolution, sampler.resolution) * 2 - 1}
        with torch.no_grad():
            ours = network(*inputs.values()).float()  # before the export, because the model's own errors are clearer
        write(network, inputs, path, opset)
        difference = float((run(path, inputs) - ours).abs().max())
        if not difference <= NEAR:
            path.unlink()
            raise UserError(
                f"format=onnx: the images of {path.name} differ from PyTorch's by {difference:.2g}; the limit is {NEAR}"
            )
        files.append(path)
        about.append(f"`{path.name}` was tested: its images differ from PyTorch's by at most {difference:.0e}.")
    sides = "" if "latent" in inputs else f" H and W are multiples of {network.multiple}, from {network.least} on."
    use = USE.format(
        name=files[0].name,
        inputs=", ".join(f"`{key}` {WORDS[key].format(inputs[key].shape[1:])}" for key in inputs) + f".{sides}",
        feed=", ".join(f'"{key}": {FEED[key].format(inputs[key].shape[1:])}' for key in inputs),
    )
    return Exported(files, "\n\n".join([use, *about]))


class FromNoise(nn.Module):
    """A generator without random numbers, from latents and labels to images, with truncation."""

    def __init__(self, generator: game.Generator, truncation: float, cutoff: int | None):
        super().__init__()
        self.generator, self.truncation, self.cutoff = generator, truncation, cutoff

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        w = self.generator.map_latent(latent, None, label)
        if self.truncation != 1:
            w = self.generator.truncate(w, self.truncation, self.cutoff)
        return self.generator.synthesis(w)


class PlainInstanceNorm(nn.Module):
    """The same as `InstanceNorm`, but in a form that exports for any number of images."""

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x)


def write(network: nn.Module, inputs: Inputs, path: Path, opset: int) -> None:
    """Write a network as one ONNX file for any number of images. Input images may also have any size.

    Raises UserError if PyTorch cannot write it, or writes another version of the operators.
    """
    network = exportable(network)
    axes = {name: {0: "N", 2: "height", 3: "width"} if value.ndim == 4 else {0: "N"} for name, value in inputs.items()}
    loud = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir")}
    for name in loud:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised, or checked below
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # the exporter warns about its own modules
            program = torch.onnx.export(
                network,
                tuple(value[:2] for value in inputs.values()),
                dynamo=True,
                dynamic_shapes=tuple(axes.values()),
                input_names=list(inputs),
                output_names=["made"],
                opset_version=opset,
            )
            assert program is not None
            if (written := program.model.opset_imports.get("")) != opset:
                raise UserError(
                    f"format.opset={opset} is not allowed: this PyTorch writes {written} instead; leave format.opset=18"
                )
            with replacing(path) as temporary:
                program.save(temporary, external_data=False)
    except UserError:
        raise
    except Exception as error:  # the exporter raises many kinds of exceptions
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"format.opset={opset}: PyTorch cannot write {path.name} ({reason}); try 18") from error
    finally:
        for name, level in loud.items():
            logging.getLogger(name).setLevel(level)


def exportable(network: nn.Module) -> nn.Module:
    """A copy of the network in which nothing depends on the number of images."""
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm):
                setattr(module, name, PlainInstanceNorm())
    return network


def run(path: Path, inputs: Inputs) -> Tensor:
    """Run an ONNX file on inputs and return its images."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(made)


WORDS = {
    "latent": "(N, {[0]}), float32, normal noise",
    "label": "(N,), int64, the class",
    "images": "(N, {[0]}, H, W), float32 in [-1, 1]",
}
FEED = {
    "latent": 'np.random.randn(16, {[0]}).astype("float32")',
    "label": 'np.zeros(16, "int64")',
    "images": "photos",
}
USE = """\
With `pip install onnxruntime`, and nothing else:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{name}")
(made,) = session.run(None, {{{feed}}})
pixels = ((made + 1) * 127.5).round().clip(0, 255).astype("uint8")  # (N, C, H, W)
```

It takes {inputs}"""
