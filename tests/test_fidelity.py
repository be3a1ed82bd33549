"""Our numbers are those of torch-fidelity's own command line, on the same images and the same weights of Inception."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark_fid
import pytest
import torch

from ganduel import build
from ganduel.commands import cli
from ganduel.config.schema import Data, typed
from ganduel.data.image_set import to_bytes
from ganduel.data.loading import open_images
from ganduel.data.prepare import prepare
from ganduel.pictures import save_png
from ganduel.sampling.sampler import Sampler

COUNT = 12  # images of each kind: Inception takes a tenth of a second for one


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benchmark_fid.untrained(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.mark.slow
def test_fid_kid_and_prc_are_torch_fidelitys_own(train, inception, capsys, tmp_path):
    """On PNGs of what gan-fid measures; and the batch size changes nothing."""
    assert train(f"data.limit={COUNT}", "duration=1 steps") == 0
    sampler = Sampler("runs/tiny/checkpoints/latest.pt")
    data = typed(Data, sampler.config["data"])
    images = open_images(prepare(data, 1, build.source(data, [])), data, seed=0, device=torch.device("cpu"))
    (compared,) = sampler.game.comparisons(sampler.game.generators, images)
    kinds = {"fake": to_bytes(compared.make(range(COUNT), 0)), "real": images.gather(compared.real)}
    for name, pixels in kinds.items():
        (tmp_path / name).mkdir()
        for i, image in enumerate(pixels):
            save_png(image, tmp_path / name / f"{i:02d}.png")
    command = [sys.executable, "-m", "torch_fidelity.fidelity", "--input1", tmp_path / "fake", "--input2"]
    command += [tmp_path / "real", "--feature-extractor=inception-v3-compat", f"--kid-subset-size={COUNT}"]
    command += ["--feature-extractor-weights-path", inception, "--fid", "--kid", "--prc", "--isc", "--cpu", "--json"]
    found = subprocess.run([*map(str, command), "--no-cache"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    theirs = json.loads(found.stdout)
    capsys.readouterr()
    settings = [f"metric.samples={COUNT}", "metric.features=inception", f"metric.weights={inception}", "json=true"]
    for batch in (1, 7, 64):
        arguments = ["ckpt=runs/tiny/checkpoints/latest.pt", "metric.which=[fid,kid,prc,isc]", *settings]
        assert cli.command("fid", [*arguments, f"batch={batch}"]) == 0
        ours = json.loads(capsys.readouterr().out)
        assert ours["fid"] > 0 and ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
        assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
        assert ours["isc"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
        assert ours["precision"] == theirs["precision"] and ours["recall"] == theirs["recall"]
        assert ours["features"].startswith("inception-")
