"""Points in the plane, stacks of digits, and the modes that samples cover, against values by hand."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_equal, rows, state

from ganduel import build, plane, setup
from ganduel.commands import cli
from ganduel.config.compose import compose
from ganduel.data import sources, stacks
from ganduel.data.image_set import ImageSet
from ganduel.data.loading import open_images
from ganduel.data.points import PointSet
from ganduel.data.prepare import prepare
from ganduel.evaluation import digit_classifier, modes
from ganduel.evaluation.modes import of_classes, of_points, reverse_kl
from ganduel.models.points import Discriminator
from ganduel.system.errors import UserError

CPU = torch.device("cpu")
SMALL = (
    "model=points",
    "model.generator.widths=[8]",
    "model.discriminator.widths=[8]",
    "data.source.count=400",
    "batch_size=20",
    "metric.samples=100",
    "validation_images=16",
    "forecast=false",
)


def opened(*overrides: str) -> ImageSet:
    data = compose("data", [*overrides]).data
    images = open_images(prepare(data, 1, build.source(data, [])), data, seed=0, device=CPU)
    assert isinstance(images, ImageSet)
    return images


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# The measure


def test_points_by_hand() -> None:
    """Two centres are met within three standard deviations, one is only near, and one has no point."""
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    points = torch.tensor([[0.0, 0.29], [0.0, 0.0], [1.0, 0.0], [0.0, 0.69]])  # the last is 0.31 from (0, 1)
    found = of_points(points, centres, std=0.1)
    assert (found["modes"], found["high_quality"]) == (2, 0.75)
    shares = (2 / 4, 1 / 4, 1 / 4)  # of the nearest centres; the fourth has none
    assert found["reverse_kl"] == pytest.approx(sum(p * math.log(p / 0.25) for p in shares))


def test_reverse_kl_at_its_ends() -> None:
    assert reverse_kl(torch.full((1000,), 26)) == pytest.approx(0, abs=1e-12)
    assert reverse_kl(torch.tensor([0, 7, 0])) == pytest.approx(math.log(3))
    assert of_classes(torch.tensor([3, 3, 1]), 4) == {
        "modes": 2,
        "reverse_kl": pytest.approx(2 / 3 * math.log(8 / 3) + 1 / 3 * math.log(4 / 3)),
    }


def test_even_samples_have_the_divergence_of_chance() -> None:
    """26,000 samples of 1,000 equally likely modes: (K - 1) / 2N, as the protocol's floor."""
    labels = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    assert of_classes(labels, 1000)["modes"] == 1000
    assert of_classes(labels, 1000)["reverse_kl"] == pytest.approx(999 / 52_000, rel=0.1)


def test_points_of_a_diverged_generator_cover_nothing() -> None:
    found = of_points(torch.full((4, 2), torch.nan), torch.zeros(3, 2), 1.0)
    assert found["modes"] == found["high_quality"] == 0


# Points


def test_the_ring_has_its_radius_and_its_spread() -> None:
    originals = sources.ring(None, None, modes=8, radius=2.0, std=0.05, count=20_000, seed=3).scan()
    assert originals.points is not None and originals.labels is not None
    positions, centres, std = originals.points
    assert np.linalg.norm(centres, axis=1) == pytest.approx(np.full(8, 2.0))
    assert centres[0] == pytest.approx([2, 0]) and centres[2] == pytest.approx([0, 2])
    assert std == 0.05 and positions.dtype == np.float32
    away = positions - centres[originals.labels]
    assert away.std(0) == pytest.approx([0.05, 0.05], rel=0.03)
    assert np.bincount(originals.labels) == pytest.approx(np.full(8, 2500), rel=0.1)
    again = sources.ring(None, None, modes=8, radius=2.0, std=0.05, count=20_000, seed=3).scan()
    assert again.points is not None and np.array_equal(again.points.positions, positions)


def test_the_grid_has_its_centres() -> None:
    originals = sources.grid(None, None, side=5, spacing=2.0, std=0.05, count=1000, seed=0).scan()
    assert originals.points is not None
    along = {-4.0, -2.0, 0.0, 2.0, 4.0}
    assert {tuple(centre) for centre in originals.points.centres} == {(x, y) for x in along for y in along}


def test_points_are_kept_as_they_are() -> None:
    """Packed, opened and drawn as batches: no rounding to bytes, labels are modes, and real points are all good."""
    images = opened("data=grid", "data.source.count=3000", "data.packed=packed")
    assert isinstance(images, PointSet) and images.shape == (2, 1, 1) and images.modes == 25
    assert (images.count, images.held_out) == (2850, 150)
    batch = images.batch(0, 500)
    centres = torch.tensor(images.about["plane"]["centres"])
    away = batch["real"].flatten(1) - centres[batch["label"]]
    assert batch["real"].dtype == torch.float32 and away.std().item() == pytest.approx(0.05, rel=0.1)
    found = of_points(images.gather(images.train).flatten(1), centres, images.about["plane"]["std"])
    assert found["modes"] == 25
    assert found["high_quality"] == pytest.approx(1 - math.exp(-9 / 2), abs=0.006)  # Rayleigh: within 3 std
    assert images.preview(64).shape == (1, 3, plane.SIDE, plane.SIDE)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("data=ring", "data.source.std=-1.0"), "data.source.std=-1.0 is not allowed; it takes a number above 0"),
        (("data=ring", "data.source.modes=0"), "data.source.modes=0 is not allowed; it takes a whole number above 0"),
        (("data=ring", "data.resolution=16"), "data=ring are points: leave data.resolution=1"),
        (("data=digits", "data.channels=2"), "only points (data=ring, data=grid) have 1 and 2"),
        (("data=digits", "data.resolution=1"), "only points (data=ring, data=grid) have 1 and 2"),
        (("data=ring", "data.stack.count=9"), "data=ring are points: leave"),
        (("data=digits", "data.stack.count=9"), "data.channels=1 is not allowed with data.stack.count; it takes 3"),
    ],
)
def test_bad_sets_get_one_line(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError) as caught:
        opened(*overrides, "data.packed=packed")
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("data=ring", "model=vanilla"), "data=ring are points, which this model does not take: set model=points"),
        (("model=points", "data=digits"), "which this model does not take: set data=ring or data=grid"),
        ((*SMALL, "metric.which=[modes,fid]"), "metric.which: fid measures images, and these are points"),
        (("data=celeba", "metric.which=[modes]"), "metric.which: modes needs points"),
    ],
)
def test_what_does_not_fit_together(overrides, says, packed, monkeypatch) -> None:
    if "data=celeba" in overrides:  # colour images without classes
        Path("faces").mkdir()
        from conftest import picture

        for i in range(8):
            picture(Path(f"faces/{i}.png"), i, (16, 16))
        overrides = ("data=folder", "data.root=faces", "data.resolution=16", "metric.which=[modes]", "model.channels=4")
        overrides = (*overrides, "batch_size=4")
    else:
        overrides = (*overrides, packed) if "data=digits" in overrides else overrides
    from ganduel.runs.folder import RunFolder
    from ganduel.runs.recorder import Recorder

    with pytest.raises(UserError) as caught:
        config = compose("train", [*overrides, "duration=2 steps"])
        trainer, _ = setup.assemble(config, CPU)
        Recorder(config, [], RunFolder(Path("runs/x")), trainer)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_modes_have_a_classifier_of_their_own_that_trains_longer(tmp_path, monkeypatch) -> None:
    steps: list[int] = []

    def train(images: object, count: int) -> tuple[torch.nn.Module, float]:
        steps.append(count)
        return torch.nn.Linear(1, 1), 0.9 + len(steps) / 100

    monkeypatch.setattr(digit_classifier, "train", train)
    monkeypatch.setattr(digit_classifier, "STEPS", 10)
    monkeypatch.setattr(digit_classifier, "LONGER", 7)
    images: Any = SimpleNamespace(about={"content": "0123456789"})
    found = [digit_classifier.digit_weights(images, tmp_path, use) for use in ("features", "modes", "modes")]
    assert steps == [10, 70]
    assert [accuracy for _, accuracy in found] == pytest.approx([0.91, 0.92, 0.92])


# The networks and their plots


def test_a_maxout_unit_is_the_largest_of_its_pieces() -> None:
    network = Discriminator(image_channels=2, widths=[2], pieces=2)
    first = [[1.0, 0.0], [0.0, 2.0]]  # the first pieces of both units: x and 2 y
    second = [[0.0, 1.0], [1.0, 1.0]]  # the second ones: y + 0.5 and x + y
    with torch.no_grad():
        for parameter, value in zip(
            network.parameters(), (first + second, [0.0, 0.0, 0.5, 0.0], [[2.0, 10.0]], [1.0]), strict=True
        ):
            parameter.copy_(torch.tensor(value))
    points = torch.tensor([[3.0, 1.0], [0.0, 1.0]])[..., None, None]
    assert network(points).tolist() == [2 * 3.0 + 10 * 4.0 + 1, 2 * 1.5 + 10 * 2.0 + 1]


def test_a_plot_has_points_where_they_are_and_y_upwards() -> None:
    def dots(points: list[list[float]]) -> list[tuple[int, int]]:
        picture = plane.scatter({"fake": torch.tensor(points)[..., None, None]}, span=2.0)
        orange = (picture == torch.tensor(plane.COLOURS["fake"], dtype=torch.uint8)[:, None, None]).all(0)
        return [tuple(place) for place in orange.nonzero().tolist()]

    top_right = dots([[1.0, 1.0]])
    assert (plane.SIDE // 4, 3 * plane.SIDE // 4) in top_right and len(top_right) == 4
    assert dots([[9.0, 0.0], [math.nan, 0.0]]) == []  # outside, and nowhere


def test_a_run_plots_what_d_says_in_evaluation_mode(monkeypatch) -> None:
    """Dropout leaves the ground of the plot alone, and D goes on in training mode."""
    from ganduel.runs.folder import RunFolder
    from ganduel.runs.recorder import Recorder

    config = compose("train", [*SMALL, "duration=2 steps"])
    trainer, _ = setup.assemble(config, CPU)
    networks, scatter, modes_seen = trainer.game.discriminators, plane.scatter, []

    def watched(*args: Any) -> torch.Tensor:
        if len(args) == 3:  # with D's output as the ground
            modes_seen.append(any(module.training for module in networks.modules()))
        return scatter(*args)

    monkeypatch.setattr(plane, "scatter", watched)
    run = RunFolder(Path("runs/x"))
    run.path.mkdir(parents=True)
    recorder = Recorder(config, [], run, trainer)
    recorder.open(total=2, apart=1)
    recorder.write_samples()
    assert modes_seen == [False] and all(module.training for module in networks.modules())


def test_the_ground_of_a_plot_is_blue_where_d_is_sure() -> None:
    picture = plane.scatter({}, span=1.0, field=lambda points: points[:, 1, 0, 0])  # D's output is y
    assert tuple(picture[:, 0, 200].tolist()) == plane.HIGH
    assert tuple(picture[:, -1, 200].tolist()) == plane.LOW


def test_a_run_of_points_stops_and_goes_on_as_if_nothing_happened() -> None:
    """Weights, averages and statistics are those of an undisturbed run, bit for bit; its pictures are plots."""

    def run(*arguments: str) -> int:
        return cli.command("train", [*SMALL, "every.log=2 steps", "data.packed=packed", *arguments])

    assert run("name=whole", "duration=8 steps") == 0
    assert run("name=halved", "duration=4 steps") == 0
    assert run("name=halved", "duration=8 steps") == 0
    whole, halved = state("runs/whole"), state("runs/halved")
    assert_equal(whole["state"], halved["state"])
    values = [row["reverse_kl"] for row in rows("runs/whole", "metrics.jsonl")]
    assert values[-1] == rows("runs/halved", "metrics.jsonl")[-1]["reverse_kl"]
    assert {"modes", "high_quality"} <= rows("runs/whole", "metrics.jsonl")[-1].keys()
    from PIL import Image

    def look(path: Path | str) -> tuple[tuple[int, int], int]:
        with Image.open(path) as image:
            return image.size, getattr(image, "n_frames", 1)

    plot = plane.SIDE, plane.SIDE
    assert {look(path) for path in Path("runs/whole/samples").glob("*.png")} == {(plot, 1)}
    assert cli.command("sample", ["ckpt=runs/whole", "seeds=0-99", "out=plot.png"]) == 0
    assert look("plot.png") == (plot, 1)
    film = ["ckpt=runs/whole", "mode=interpolate", "mode.video=gif", "mode.steps=2", "seeds=0-9", "out=film.gif"]
    assert cli.command("sample", film) == 0
    assert look("film.gif")[1] == 4
    assert cli.command("sample", ["ckpt=runs/whole", "mode=images", "seeds=0-9", "out=points"]) == 1
    assert cli.command("fid", ["ckpt=runs/whole", "metric.which=[modes]", "metric.samples=100", "repeats=2"]) == 0
    measured = json.loads(Path("runs/whole/metrics.jsonl").read_text().splitlines()[-1])
    assert measured["by"] == "gan-fid" and "reverse_kl_repeats_std" in measured and measured["features"] == "none"


# Stacks


def test_a_stack_has_its_digits_as_channels(packed: str) -> None:
    """The label is what the three digits read, red first; the held-out stacks are of held-out digits alone."""
    made = opened("data=digits", packed, "data.channels=3", "data.resolution=32", "data.stack.count=500")
    assert (made.count, made.held_out, made.modes) == (500, 180, 1000)
    assert isinstance(made, stacks.StackSet) and isinstance(made.store, stacks.Stacks) and made.labels is not None
    for index in (0, 123, 499, 500, 679):
        parts = made.store.parts[index]
        pixels = made.gather(torch.tensor([index]))[0]
        assert torch.equal(pixels, torch.cat([*made.single.gather(parts)]))
        red, green, blue = (int(made.single.labels[part]) for part in parts)  # type: ignore[index]
        assert int(made.labels[index]) == 100 * red + 10 * green + blue
        assert made.about["labels"][int(made.labels[index])] == f"{red}{green}{blue}"
    among = {*made.single.train.tolist()}
    assert {*made.store.parts[:500].flatten().tolist()} <= among
    assert not {*made.store.parts[500:].flatten().tolist()} & among


def test_stacks_are_those_of_their_seed(packed: str) -> None:
    asked = ("data=digits", packed, "data.channels=3", "data.stack.count=50")
    one, again, other = opened(*asked), opened(*asked), opened(*asked, "data.stack.seed=1")
    every = opened(*asked, "data.stack.of=all", "data.validation=null")
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(one.gather(one.train), again.gather(again.train))
    assert every.held_out == 0 and isinstance(every, stacks.StackSet) and every.single.count == 1797
    assert one.batch(7, 5)["real"].shape == (5, 3, 32, 32)


def test_real_stacks_read_right(packed: str, tmp_path: Path) -> None:
    """The classifier reads real stacks as their labels say, as often as three digits in a row can be right."""
    made = opened("data=digits", packed, "data.channels=3", "data.stack.count=600")

    def make(numbers: range) -> torch.Tensor:
        return made.gather(made.train[numbers.start : numbers.stop]).float() / 127.5 - 1

    values, note = modes.measure_modes(made, make, 600, Path(packed.partition("=")[2]), 64)
    real = of_classes(made.labels[made.train.long()], 1000)  # type: ignore[index]
    assert "classifier right on" in note
    assert values["modes"] == pytest.approx(real["modes"], rel=0.06)
    assert values["reverse_kl"] == pytest.approx(real["reverse_kl"], rel=0.06)


# The alarms


def test_lost_modes_raise_an_alarm_early() -> None:
    from test_health import doctor

    checks = doctor()
    for share, alarms in ((0.5, {}), (1.0, {}), (0.7, {}), (0.7, {"lost_modes"})):
        signs = {"modes": {"": share}, "kept": checks.kept({"": share})}
        assert checks.alarms(signs).keys() == set(alarms)
    assert checks.state["covered"] == 1.0 and checks.kept({"": 0.25}) == {"": 0.25}


def test_few_modes_raise_an_alarm_if_it_lasts() -> None:
    from test_health import doctor

    checks = doctor(lasting=3)
    told = [checks.alarms({"modes": {"": 0.08}}) for _ in range(4)]
    assert [*map(list, told)] == [[], [], ["modes"], []] and "cover only 8.0% of the modes" in told[2]["modes"]
