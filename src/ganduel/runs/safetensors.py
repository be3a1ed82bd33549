"""Exported weights, opened like a checkpoint without discriminators."""

import json
from pathlib import Path
from typing import Any

from ganduel.system.errors import UserError, installed

SUFFIX = ".safetensors"
ABOUT = "ganduel"  # the key of what the checkpoint says, as JSON


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
