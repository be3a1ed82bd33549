"""Generators as safetensors: tensors, and beside them what the checkpoint says of itself. Such a file is taken wherever
a checkpoint is: `ganduel.load`, gan-sample, gan-fid."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganduel.export.card import Exported
from ganduel.system.errors import UserError, installed

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler

SUFFIX = ".safetensors"
ABOUT = "ganduel"  # the key of what the checkpoint says, as JSON


def save(sampler: "Sampler", folder: Path) -> Exported:
    """One file of all generators, named as in the game: "G.", or "A2B." and "B2A."."""
    torch_file = installed("safetensors.torch", "export", "format=safetensors")
    path = folder / f"generator{SUFFIX}"
    about = {key: value for key, value in sampler.content.items() if key not in ("state", "format")}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in sampler.game.generators.state_dict().items()}
    temporary = path.with_name(f"{path.name}.tmp")
    torch_file.save_file(tensors, temporary, {"format": "pt", ABOUT: json.dumps(about)})
    temporary.replace(path)
    return Exported([path], USE.format(name=path.name, call=CALLS[sampler.game.domains]))


USE = """\
`{name}` holds the weights. With `pip install "ganduel[export]"`:

```python
from ganduel import load

model = load("{name}")
{call}
```

or, as pictures, `gan-sample ckpt={name}`. `safetensors.torch.load_file("{name}")` gives the tensors alone."""
CALLS = {
    ("real",): "images = model.sample(16)  # float32 (16, C, H, W) in [-1, 1]; model.bytes(16) gives uint8",
    ("A", "B"): 'zebras = model.translate(horses, "A2B")  # (N, C, H, W) of any size, uint8 or float in [-1, 1]',
}


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint would hold, but for discriminators. Raises UserError for other files."""
    safetensors = installed("safetensors", "export", f"reading {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            return {**about, "state": {"ema": {name: file.get_tensor(name) for name in file.keys()}}}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        reason = "not made by gan-export" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path}: is damaged or no file of gan-export ({reason})") from error
