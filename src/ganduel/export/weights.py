"""Export of generators to safetensors: the tensors, and the checkpoint's configuration and other facts as metadata.

`ganduel.load`, gan-sample and gan-fid accept such a file like a checkpoint.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ganduel.checkpoint import ABOUT, EXPORTED, checksum
from ganduel.export.card import Exported
from ganduel.system.errors import installed
from ganduel.system.files import replacing, writing

if TYPE_CHECKING:
    from ganduel.sampling.sampler import Sampler


def save(sampler: "Sampler", folder: Path) -> Exported:
    """Write all generators to one file. The names of the tensors begin as in the game: "G.", or "A2B." and "B2A.".

    Raises UserError if safetensors is not installed.
    """
    torch_file = installed("safetensors.torch", "export", "format=safetensors")
    path = folder / f"generator{EXPORTED}"
    about = {key: value for key, value in sampler.content.items() if key not in ("state", "format")}
    about = json.loads(json.dumps(about))  # as it is read again, for the checksum
    tensors = {name: tensor.cpu().contiguous() for name, tensor in sampler.game.generators.state_dict().items()}
    tensors = dict(sorted(tensors.items()))
    about["checksum"] = checksum({**about, "state": {"ema": tensors}})
    with writing(path), replacing(path) as temporary:
        torch_file.save_file(tensors, temporary, {"format": "pt", ABOUT: json.dumps(about)})
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
