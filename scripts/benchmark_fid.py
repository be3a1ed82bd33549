"""Measure the time of each part of a FID: generation of images, their features, the statistics, the distance.

    python scripts/benchmark_fid.py model=dcgan
    python scripts/benchmark_fid.py model=stylegan2_ada batch_size=8 --batch 32 --samples 50000
    python scripts/benchmark_fid.py --features digits data=digits

Takes the overrides of gan-train. By default, the images are noise, 64x64 RGB. Without --weights, Inception has
untrained weights, which take the same time. Times are in milliseconds and in kernels, the unit of benchmark_step.py.
Every part is timed once a round, between two kernels. Prints the median and the range over the rounds.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from benchmark_step import assemble, kernel, seconds, spread
from torch_fidelity import feature_extractor_inceptionv3

from ganduel.config.schema import FEATURES
from ganduel.data.image_set import ImageSet, to_bytes
from ganduel.evaluation.extractors import PUBLISHED, Features, find_features
from ganduel.evaluation.measure import Summary, Sums, frechet, reference_from
from ganduel.system.device import label, memory
from ganduel.trainer import Trainer


class Part(NamedTuple):
    """A part of a FID. A FID does it `times` times."""

    name: str
    times: float
    do: Callable[[], object]


def untrained(path: Path) -> Path:
    """Write random weights for torch-fidelity's Inception and return their path.

    The weights have Kaiming's initialisation, so that activations neither vanish nor grow. Batch normalisation has the
    statistics of a few random images.
    """
    torch.manual_seed(0)
    published = PUBLISHED["inception"]
    with (
        mock.patch.object(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {}),
        mock.patch.object(torch.nn.Module, "load_state_dict", lambda *_, **__: None),
    ):
        network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3(published.name, list(published.layers))
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    network.train()
    blocks = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    network(torch.nn.functional.interpolate(blocks, (32, 32)))
    torch.save(network.state_dict(), path)
    return path


def parts(trainer: Trainer, features: Features, batch: int, samples: int) -> list[Part]:
    """The parts of one FID: `samples` generated images against known real statistics, and the making of these."""
    device = trainer.device
    compared = trainer.game.comparisons(trainer.ema.generators, trainer.images)[0]
    extractor = features.extractor.to(device)
    some = compared.real[torch.arange(batch) % len(compared.real)]
    with torch.no_grad():
        images = to_bytes(compared.make(range(batch), 0)).expand(-1, 3, -1, -1)
        found = extractor(images)[0]
    width = found.shape[1]
    sums = Sums()
    sums.add(torch.randn(2 * width, width, generator=torch.Generator().manual_seed(0)).to(device))
    moments = sums.moments()
    known = reference_from(Summary(moments, None, None))

    def look() -> object:
        with torch.no_grad():
            return extractor(images)

    return [
        Part("making images", samples / batch, lambda: to_bytes(compared.make(range(batch), 0))),
        Part("features", samples / batch, look),
        Part("statistics", samples / batch, lambda: Sums().add(found)),
        Part("distance", 1, lambda: frechet(moments, known)),
        Part("reading reals", len(compared.real) / batch, lambda: compared.images.gather(some)),
        Part("root of the reals' covariance", 1, lambda: reference_from(Summary(moments, None, None))),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for gan-train")
    parser.add_argument("--features", choices=[*FEATURES], default="inception")
    parser.add_argument("--weights", help="a file of weights for the features")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write all times into this file as well")
    typed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer = assemble(typed.overrides, Path(folder))
        weights = typed.weights
        if weights is None and typed.features == "inception":
            weights = str(untrained(Path(folder) / "inception.pth"))
        images = trainer.images if isinstance(trainer.images, ImageSet) else None
        features = find_features(typed.features, weights, images, Path(folder))
        found = parts(trainer, features, typed.batch, typed.samples)
    device, unit = trainer.device, kernel(trainer.device)
    times: dict[str, list[tuple[float, float]]] = {part.name: [] for part in found}
    for do in (unit, *(part.do for part in found)):
        do()
    for _ in range(typed.rounds):
        for part in found:
            before, taken, after = (seconds(do, device) for do in (unit, part.do, unit))
            times[part.name].append((taken, 2 * taken / (before + after)))
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    kernels = [1000 * s / k for both in times.values() for s, k in both]
    print(f"PyTorch {torch.__version__} on {label(device)}{threads}; a kernel is {spread(kernels, 1)} ms")
    print(f"\n{typed.samples:,} images, {typed.batch} at once, {features.kind}\n")
    print("| part | times | ms | kernels | s in all |\n| --- | --- | --- | --- | --- |")
    for part in found:
        ms, own = spread([1000 * s for s, _ in times[part.name]], 1), spread([k for _, k in times[part.name]], 3)
        whole = part.times * statistics.median(s for s, _ in times[part.name])
        print(f"| {part.name} | {part.times:,.0f} | {ms} | {own} | {whole:,.1f} |")
    one = {part.name: statistics.median(s for s, _ in times[part.name]) for part in found}
    totals = {part.name: part.times * one[part.name] for part in found}
    every = sum(totals[name] for name in ("making images", "features", "statistics", "distance"))
    print(f"\na measurement takes {every:,.1f} s, {totals['features'] / every:.0%} of them for features")
    passes = found[4].times * (one["reading reals"] + one["features"] + one["statistics"])
    print(f"the real images, once: {passes + one[found[5].name]:,.1f} s")
    print(f"at most {memory(device):.2f} GB")
    if typed.json:
        typed.json.write_text(json.dumps(times, indent=1))


if __name__ == "__main__":
    main()
