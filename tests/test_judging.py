"""Real beside fake, what D makes of both, and whether samples are copies: gan-sample and the pictures of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MODELS, TINY, assert_equal
from PIL import Image

import ganduel
from ganduel import checkpoint
from ganduel.commands import cli
from ganduel.config.schema import EFFICIENTNET_SIDE, Where
from ganduel.data.image_set import to_bytes
from ganduel.evaluation.extractors import Resized
from ganduel.models.efficientnet import pretrained
from ganduel.sampling import figures, judging, neighbours
from ganduel.sampling.trained import trained_on
from ganduel.trainer import Trainer

NOWHERE = {"root": None, "packed": None, "stream": None}


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """The run of a model, trained for two steps."""
    runs, done = tmp_path_factory.mktemp("runs"), {}

    def run(name: str, *more: str) -> Path:
        key = "-".join([name, *more]).replace("=", "")
        if key not in done:
            arguments = [
                *TINY,
                packed,
                *MODELS[name],
                *more,
                f"runs_dir={runs}",
                "duration=2 steps",
                f"name={len(done)}",
            ]
            assert cli.command("train", arguments) == 0
            done[key] = runs / str(len(done))
        return done[key]

    return run


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def shown(picture: torch.Tensor, images: torch.Tensor, times: int) -> bool:
    """Whether a grid of images is part of a picture, so many times as large."""
    grid = figures.tile(images).repeat_interleave(times, 1).repeat_interleave(times, 2)
    rows = (picture[:, :, :] == grid[:, :1, :1]).all(dim=0).nonzero()
    height, width = grid.shape[1:]
    inside = rows[(rows[:, 0] + height <= picture.shape[1]) & (rows[:, 1] + width <= picture.shape[2])]
    return any(torch.equal(picture[:, y : y + height, x : x + width], grid) for y, x in inside.tolist())


@pytest.mark.slow
def test_real_and_fake_images_lie_side_by_side(trained, capsys):
    run = trained("dcgan")
    assert cli.command("sample", [f"ckpt={run}", "mode=compare", "count=9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "compare.png")
    model = ganduel.load(run)
    real = to_bytes(trained_on(model, Where(**NOWHERE))[0].batch(0, 9)["real"])
    picture = pixels(run / "compare.png")
    assert shown(picture, real, 3) and shown(picture, model.bytes(9), 3)
    assert not shown(picture, real.flip(0), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("dcgan", ()), ("vanilla", ()), ("stylegan2_ada", ("model.classes=10",)), ("cyclegan", ()), ("wgan", ())],
)
def test_d_is_asked_about_both(trained, name, more):
    """Outside of its augmentation, without dropout, fakes of a class as such."""
    model = ganduel.load(trained(name, *more))
    found = judging.met(model, model.judged_game, list(range(8)), 8, NOWHERE)
    images = trained_on(model, Where(**NOWHERE))[0]
    if name == "cyclegan":
        assert [face.name for face in found] == ["_A", "_B"]
        for face, side, way in zip(found, "AB", ("B2A", "A2B"), strict=True):
            real, other = images.batch(0, 8)[side], images.batch(0, 8)["AB".replace(side, "")]
            assert torch.equal(face.real, real) and torch.allclose(face.fake, model.translate(other, way), atol=1e-5)
            judged = model.judged_game.discriminators[f"D_{side}"](real).flatten()
            assert torch.allclose(face.of_real, judged, atol=1e-5) and len(face.of_fake) == len(judged)
        return
    (face,) = found
    batch, fakes = images.batch(0, 8), model.sample(8)
    assert torch.equal(face.real, batch["real"]) and torch.equal(face.fake, fakes)
    labels = [(batch["label"],), (model.labels(torch.arange(8)),)] if more else [(), ()]
    if more:
        assert not torch.equal(*(label[0] for label in labels))
    discriminator = model.judged_game.discriminators["D"]
    for judged, some, label in zip((face.of_real, face.of_fake), (batch["real"], fakes), labels, strict=True):
        assert torch.allclose(judged, discriminator(some, *label), atol=1e-5)


@pytest.mark.parametrize("name", ["vanilla", "cyclegan"])
def test_a_batch_is_asked_about_in_parts(trained, name):
    model = ganduel.load(trained(name))
    met = (judging.met(model, model.judged_game, list(range(7)), size, NOWHERE) for size in (7, 3))
    for whole, parts in zip(*met, strict=True):
        assert torch.equal(whole.real, parts.real) and torch.allclose(whole.fake, parts.fake, atol=1e-6)
        assert torch.allclose(whole.of_fake, parts.of_fake, atol=1e-6)
        assert torch.allclose(whole.of_real, parts.of_real, atol=1e-6)


def test_images_that_are_compared_come_in_whole_groups(trained):
    """Of four: 7 images, 5 at once, are the first four and the last four of them."""
    model = ganduel.load(trained("stylegan2_ada"))
    (face,) = judging.met(model, model.judged_game, list(range(7)), 5, NOWHERE)
    discriminator, real = model.judged_game.discriminators["D"], face.real
    wanted = torch.cat([discriminator(real[:4])[:3], discriminator(real[3:])])
    assert torch.allclose(face.of_real, wanted, atol=1e-5) and len(face.fake) == len(face.of_fake) == 7
    alone = torch.cat([discriminator(image[None]) for image in real])
    assert (alone - wanted).abs().min() > 1e-4


def bars(panel: figures.Panel, name: str) -> list[int]:
    """Heights of a histogram's bars in pixels, from left to right."""
    picture = np.array(panel.picture).astype(int)[figures.LINE + 6 : figures.PANEL - 26]
    near = np.abs(picture - np.array([255 - (255 - c) * 150 / 255 for c in figures.COLOURS[name]])).sum(axis=2) < 12
    step = (panel.picture.width - 54) // figures.BINS
    return [int(near[:, 44 + i * step + step // 2].sum()) for i in range(figures.BINS)]


def test_histograms_count():
    values = {"real": torch.tensor([0.0] * 3 + [1.0]), "fake": torch.tensor([0.5, 0.5])}
    panel = figures.plot("x", values, (0.0, 1.0), None)
    real, fake = bars(panel, "real"), bars(panel, "fake")
    full = figures.PANEL - 26 - figures.LINE - 6
    assert [i for i, height in enumerate(real) if height] == [0, figures.BINS - 1]
    assert [i for i, height in enumerate(fake) if height] == [figures.BINS // 2]
    assert real[0] == pytest.approx(0.75 * full, abs=3) and real[-1] == pytest.approx(0.25 * full, abs=3)
    assert fake[figures.BINS // 2] == pytest.approx(full, abs=3)
    assert figures._span(np.array([1.0, 3.0, np.nan]), 0.0) == (0.0, 3.0)
    assert figures._span(np.array([2.0]), None) == (1.5, 2.5)


@pytest.mark.parametrize(
    ("arguments", "seen", "span", "mark"),
    [
        (("loss=minimax",), torch.sigmoid, (0.0, 1.0), 0.5),
        (("loss=least_squares",), torch.clone, None, 0.5),
        (("loss=hinge",), torch.clone, None, 0.0),
        (("loss=wasserstein",), torch.clone, None, None),
        (("loss=relativistic",), torch.clone, None, None),
        (("loss=minimax", "model.discriminator.output=sigmoid"), torch.clone, (0.0, 1.0), 0.5),
    ],
)
def test_what_the_output_means_is_the_loss_to_say(trainer, monkeypatch, arguments, seen, span, mark):
    made = trainer(*arguments, model="vanilla")
    asked = []
    monkeypatch.setattr(judging, "plot", lambda *given: asked.append(given) or figures.plot(*given))
    values = torch.tensor([0.25, 0.5])
    face = judging.Face("", torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), values, values)
    judging.figure([face], made.loss, made.game)
    ((title, found, *rest),) = asked
    assert torch.equal(found["real"], seen(values)) and rest == [span, mark]
    assert ("probability" in title) == (seen is torch.sigmoid)


@pytest.mark.slow
def test_histograms_of_a_checkpoint(trained, capsys):
    run = trained("dcgan")
    assert cli.command("sample", [f"ckpt={run}", "mode=histograms", "seeds=0-15"]) == 0
    picture = pixels(run / "histograms.png")
    assert shown(picture, ganduel.load(run).bytes(16), 2)
    assert cli.command("sample", [f"ckpt={trained('cyclegan')}", "mode=histograms", "seeds=0-4"]) == 0
    assert pixels(trained("cyclegan") / "histograms.png").shape[1] > 1.7 * picture.shape[1]  # two rows


def test_training_shows_them_and_is_not_disturbed(trainer, trained):
    """D's dropout, all buffers and the modes are afterwards what they were."""
    made: Trainer = trainer(
        "model.discriminator.dropout=0.5", "model.discriminator.spectral_norm=true", "micro_batch=4"
    )
    made.iterate()
    before = {name: value.clone() for name, value in made.game.state_dict().items()}
    batch = {**made.images.batch(8, 8), "seed": torch.arange(8)}
    (face,) = judging.in_training(made, batch)
    assert_equal(before, dict(made.game.state_dict()))
    assert made.game.discriminators.training and made.game.generators["G"] is not made.ema.generators["G"]
    assert torch.allclose(face.fake, made.game.sample(made.ema.generators, torch.arange(8)), atol=1e-6)
    again = judging.in_training(made, batch)[0]
    assert torch.equal(face.of_real, again.of_real)  # no dropout
    for name in ("dcgan", "cyclegan"):
        folder = trained(name) / "samples"
        found = sorted(path.name for path in (folder / "histograms").iterdir())
        assert found and found == sorted(path.name for path in folder.glob("*kimg.png"))


def test_images_that_lie_elsewhere(trained, packed, tmp_path, capsys):
    """Of a run whose data have moved."""
    run, here = trained("dcgan"), packed.partition("=")[2]
    content = checkpoint.load(run / "checkpoints" / "latest.pt")
    content["config"]["data"]["packed"] = str(tmp_path / "gone")
    path = tmp_path / "moved.pt"
    checkpoint.save(path, {key: value for key, value in content.items() if key != "format"})
    assert cli.command("sample", [f"ckpt={path}", "mode=compare", "count=4"]) == 1
    assert "name the folder of the originals with data.root=FOLDER" in capsys.readouterr().err
    assert cli.command("sample", [f"ckpt={path}", "mode=compare", "count=4", f"data.packed={here}"]) == 0
    content["data"]["fingerprint"] = "0" * 16
    checkpoint.save(path, {key: value for key, value in content.items() if key != "format"})
    assert cli.command("sample", [f"ckpt={path}", "mode=neighbours", "count=4", f"data.packed={here}"]) == 1
    assert "these are not the images that" in capsys.readouterr().err


@pytest.mark.parametrize("mirror", [False, True])
def test_copies_are_found(trained, monkeypatch, mirror):
    """Among all training images, however many are compared at once."""
    monkeypatch.setattr(neighbours, "HELD", 300 * 32 * 32)
    images = trained_on(ganduel.load(trained("dcgan")), Where(**NOWHERE))[0]
    chosen = images.gather(images.train[[700, 3]])
    noisy = (chosen[1:].int() + torch.randint(-9, 10, (1, 1, 32, 32))).clamp(0, 255).to(torch.uint8)
    queries = torch.cat([chosen[:1], noisy, chosen[:1].flip(3)])
    distances, found = neighbours.nearest(queries, images, 3, mirror)
    assert torch.equal(found[:2, 0], chosen) and distances[0, 0] == 0
    assert distances[1, 0] == pytest.approx((noisy.float() - chosen[1].float()).square().mean().sqrt().item())
    assert (distances[2, 0] == 0) == mirror
    every = images.gather(images.train).float()
    slow = (every - queries[1].float()).square().mean(dim=(1, 2, 3)).sqrt().sort()
    if not mirror:
        assert torch.allclose(distances[1], slow.values[:3], atol=1e-3)
    assert (distances.diff(dim=1) >= -1e-3).all()


def test_the_nearest_by_features(trained):
    """The same as by the whole table of distances; a copy that is a little brighter is the nearest."""
    images = trained_on(ganduel.load(trained("dcgan", "data.limit=40")), Where(**NOWHERE))[0]
    every = images.gather(images.train)
    queries = torch.cat([(every[[30]].int() + 10).clamp(0, 255).to(torch.uint8), every[[3]].roll(9, 2)])
    distances, found = neighbours.nearest_by_features(queries, images, 3, "efficientnet", shown=1)
    network = Resized(pretrained("efficientnet"), EFFICIENTNET_SIDE)
    own, others = (network(some.expand(-1, 3, -1, -1))[0] for some in (queries, every))
    table = (own[:, None] - others).norm(dim=2).sort(dim=1)
    assert torch.allclose(distances, table.values[:, :3], rtol=1e-3)
    assert torch.equal(found, every[table.indices[:1, :3]]) and table.indices[0, 0] == 30


def test_neighbours_are_shown(trained, capsys):
    run = trained("dcgan")
    assert cli.command("sample", [f"ckpt={run}", "mode=neighbours", "seeds=[4,9]", "mode.count=3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(run / "neighbours.png")
    assert "grey levels from samples (median)" in printed.err and "from held-out images" in printed.err
    model = ganduel.load(run)
    _, found = neighbours.nearest(model.bytes([4, 9]), trained_on(model, Where(**NOWHERE))[0], 3, False)
    picture, times = pixels(run / "neighbours.png"), 10
    assert shown(picture, found[:1, :1].flatten(0, 1), times)
    assert cli.command("sample", [f"ckpt={run}", "mode=neighbours", "mode.count=0"]) == 1
    assert "mode.count=0 is not allowed; it takes 1 to" in capsys.readouterr().err
    assert cli.command("sample", [f"ckpt={trained('cyclegan')}", "mode=neighbours"]) == 1
    assert "makes none from noise" in capsys.readouterr().err


def test_generators_alone_have_no_judge(trained, tmp_path, capsys):
    pytest.importorskip("safetensors", reason="the extra [export] is not installed")
    assert cli.command("export", [f"ckpt={trained('dcgan')}", f"out={tmp_path}"]) == 0
    path = tmp_path / "generator.safetensors"
    assert cli.command("sample", [f"ckpt={path}", "mode=compare", "count=4"]) == 0
    assert cli.command("sample", [f"ckpt={path}", "mode=histograms", "seeds=0-3"]) == 1
    assert "mode=histograms needs D" in capsys.readouterr().err
