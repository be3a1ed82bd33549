"""The commands as functions, for scripts and notebooks: `ganduel.train` returns a `Run`.

Nothing is computed here. Arguments are those of the commands, and so are the files that a call leaves.
"""

import io
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ganduel.config.compose import compose
from ganduel.report import runs
from ganduel.system.errors import Interrupted, UserError
from ganduel.system.files import kimg

if TYPE_CHECKING:
    from torch import Tensor

    from ganduel.sampling.sampler import Sampler

SHOWN = 512  # pixels a side of a picture in a notebook, about; small images are enlarged in whole numbers


class Run:
    """A run folder. In a notebook, it shows its newest samples."""

    def __init__(self, path: str | Path):
        """Raises UserError if `path` is no run folder."""
        self.path = Path(path)
        if not (self.path / "config.yaml").exists():
            raise UserError(f"path={path} is no run folder; give one that ganduel.train or gan-train has made")

    @property
    def history(self) -> dict[str, list[float]]:
        """What the run has logged: column -> values, one for each step that logged any; NaN where one has no value.

        The columns are "step", "images" (real images seen), statistics such as "loss/G", and metrics such as "fid".
        `pandas.DataFrame(run.history)` makes a table of them.
        """
        read, rows = runs.read(self.path), dict[int, dict[str, float]]()
        for row in [*read.stats, *read.metrics]:
            values = {name: value for name, value in row.items() if isinstance(value, float)}
            rows.setdefault(row["step"], {"step": row["step"], "images": row["images"]}).update(values)
        names = dict.fromkeys(name for row in rows.values() for name in row)
        return {name: [rows[step].get(name, math.nan) for step in sorted(rows)] for name in names}

    @property
    def pictures(self) -> "dict[int, Picture]":
        """Images seen -> the samples of that time, all of the same seeds."""
        found = (self.path / "samples").glob("[0-9]*kimg.png")
        return {round(1000 * kimg(path)): Picture.read(path) for path in sorted(found, key=kimg)}

    def load(self, **settings: Any) -> "Sampler":
        """The model, from the best checkpoint or, without metrics, the latest: `ganduel.load`."""
        from ganduel import load

        return load(self.path, **settings)

    def sample(self, seeds: int | Sequence[int] = 16, **settings: Any) -> "Samples":
        """Draw images: the first `seeds` ones of gan-sample, or those of a list of seeds.

        `settings` are those of `ganduel.load`, for example truncation=0.7. Raises UserError.
        """
        return Samples(self.load(**settings).bytes(seeds))

    def film(self, *overrides: str, **keys: Any) -> "Film":
        """Make a GIF of walks between samples: gan-sample's mode=interpolate with these overrides, as a loop."""
        made = _perform(
            "sample",
            [f"ckpt={self.path}", "mode=interpolate", "mode.video=gif", "mode.back=true", *overrides, *_typed(keys)],
        )
        return Film(made["out"])

    def measure(self, *overrides: str, **keys: Any) -> dict[str, Any]:
        """Measure the model with gan-fid: `run.measure("metric.which=[fid,kid]", "metric.samples=1000")`.

        Returns the values with all that they depend on: counts, features, data, seed, versions. Raises UserError.
        """
        return _perform("fid", [f"ckpt={self.path}", *overrides, *_typed(keys)])

    def __repr__(self) -> str:
        last = next(reversed(runs.read(self.path).stats), {"step": 0, "images": 0})
        return f"Run({str(self.path)!r}: step {last['step']:,}, {last['images']:,} images seen)"

    def _repr_html_(self) -> str:
        newest = next(reversed(self.pictures.values()), None)
        picture = f'<img alt="samples" src="{_address(newest._repr_png_(), "png")}">' if newest else ""
        return f"<p><code>{escape(repr(self))}</code></p>{picture}"


class Picture:
    """A picture (`image`, of Pillow) that a notebook shows, enlarged without blur if it is small."""

    def __init__(self, image: Image.Image):
        self.image = image

    @classmethod
    def read(cls, path: Path) -> "Picture":
        with Image.open(path, formats=["PNG"]) as image:
            return cls(image.convert("RGB"))

    def save(self, path: str | Path) -> None:
        """Write it as it is, without enlargement, in the format that the suffix names."""
        self.image.save(path)

    def _repr_png_(self) -> bytes:
        times, encoded = max(1, SHOWN // max(self.image.size)), io.BytesIO()
        size = self.image.width * times, self.image.height * times
        self.image.resize(size, Image.Resampling.NEAREST).save(encoded, format="png")
        return encoded.getvalue()


class Samples(Picture):
    """Drawn images: `tensor` is uint8 (N, C, H, W); one index or a loop gives images of Pillow, `image` a grid."""

    def __init__(self, tensor: "Tensor"):
        from ganduel.pictures import tile

        super().__init__(_pillow(tile(tensor)))
        self.tensor = tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> Any:
        return Samples(self.tensor[index]) if isinstance(index, slice) else _pillow(self.tensor[index])

    def __iter__(self) -> Iterator[Image.Image]:
        return map(_pillow, self.tensor)

    def __repr__(self) -> str:
        count, channels, height, width = self.tensor.shape
        return f"{count} images, {height}x{width}x{channels}"


class Film:
    """A GIF file, `path`, that a notebook plays."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Film({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return f'<img alt="walks" src="{_address(self.path.read_bytes(), "gif")}">'


def train(*overrides: str, **keys: Any) -> Run:
    """See `ganduel.train`."""
    return Run(_perform("train", [*overrides, *_typed(keys)])["run"])


def _typed(keys: dict[str, Any]) -> list[str]:
    """Keyword arguments as one would type them: duration="500 steps" is duration=500 steps, None is null."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"[{','.join(map(text, value))}]"
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return [f"{key}={text(value)}" for key, value in keys.items()]


def _perform(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The result of a command. Raises UserError, and KeyboardInterrupt if a signal ended the command."""
    from ganduel.commands.cli import read, run

    failed = stopped = None
    try:
        try:
            line = read(name, list(overrides))
        except ValueError as error:
            raise UserError(str(error)) from error
        if line.through_hydra or line.help:
            raise UserError(f"{' '.join(line.flags)}: a function takes no flags but --config-dir; call it once a value")
        return run(name, compose(name, line.overrides), line.typed)
    except UserError as error:
        failed = str(error)
    except OSError as error:
        failed = f"{error.filename or name}: {error.strerror or error}"
    except Interrupted:
        stopped = f"the run is saved; the same call goes on ({' '.join(overrides)})"
    # Raised here, an error shows none of those that led to it.
    raise KeyboardInterrupt(stopped) if failed is None else UserError(failed)


def _address(content: bytes, kind: str) -> str:
    """A data address, which holds the picture itself."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _pillow(image: "Tensor") -> Image.Image:
    """An image (C, H, W), uint8, grey or RGB."""
    return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0)).contiguous().numpy())
