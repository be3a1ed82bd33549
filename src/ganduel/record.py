"""What a run keeps: statistics, pictures, measurements and checkpoints."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ganduel import checkpoint, distributed
from ganduel.data.loading import to_bytes
from ganduel.device import memory
from ganduel.errors import UserError
from ganduel.evaluation.evaluate import check_walks, describe, evaluate, versions
from ganduel.evaluation.extractors import find_features
from ganduel.game import SHOWN
from ganduel.health import Health
from ganduel.logbook import Logbook
from ganduel.run import RunFolder, differences
from ganduel.sampling import judging
from ganduel.sampling.grids import save_png, tile
from ganduel.schema import METRICS, deciding
from ganduel.terminal import say
from ganduel.trainer import Trainer

T = TypeVar("T")

ABOUT = "name", "recipe", "content", "images", "splits", "shards"  # what a checkpoint knows of its images


class Abandoned(Exception):
    """A measurement ends half way, for the run is to end."""


class Recorder:
    """The tasks that surround the loop. All processes call them alike; only the first writes."""

    def __init__(self, config: dict[str, Any], overrides: list[str], run: RunFolder, trainer: Trainer, apart: int):
        """Files that are numbered by images seen are at least so many iterations `apart`."""
        # What a user admits with `allow` is never stored: whoever opens the file decides for himself.
        self.config = {key: value for key, value in config.items() if key != "allow"}
        self.overrides = [o for o in overrides if not o.startswith(("allow=", "--config-dir="))]
        self.run, self.trainer = run, trainer
        self.main = distributed.is_main()
        self.form = "06.0f" if apart * trainer.images_per_iteration >= 1000 else "010.3f"  # or names would repeat
        self.metric: dict[str, float] = {}  # the latest
        self.best: dict[str, float] = {}
        self.worse = 0  # measurements since the best
        self.measurable = True  # until a measurement fails
        self.measuring = 0.0  # seconds
        self.health = Health(**config["health"])
        self.ended = ""  # why the run is to end before its time
        self.interrupted: Callable[[], bool] = lambda: False
        self.saved = 0  # the step of the newest checkpoint
        self.samples: int = config["metric"]["samples"] or (2000 if trainer.device.type == "cpu" else 50_000)
        self.log: Logbook
        check_walks(trainer.game.comparisons(trainer.ema.generators, trainer.images), config["metric"]["which"])

    def open(self, total: int) -> bool:
        """Go on where the folder's newest checkpoint stands, if it has one; `total` is in iterations. Returns whether
        it has."""
        resumed = self._restore()
        if self.trainer.iteration > total:
            raise UserError(
                f"duration={self.config['duration']} is shorter than the {self.step:,} steps that {self.run.path} has "
                "behind it; set a longer one"
            )
        if self.main:
            self.run.record(self.config, self.overrides)
            self.log = Logbook(self.run, self.step, self.trainer.images_seen, total * self.trainer.pace.n_generator)
        self.watch = Stopwatch(self.trainer.iteration, self.trainer.device)
        self.lose_patience()
        return resumed

    @property
    def step(self) -> int:
        """Turns of G so far."""
        return self.trainer.iteration * self.trainer.pace.n_generator

    @property
    def kimg(self) -> str:
        """Thousands of images seen, as file names have it."""
        return f"{self.trainer.images_seen / 1000:{self.form}}kimg"

    def write_statistics(self) -> None:
        """Means since the last time, validation, health, learning rates, speed and memory."""
        trainer = self.trainer
        self.check_finite()
        numbers = trainer.stats.means()
        trainer.stats.reset()
        speed = self.watch.rate(trainer.iteration) * trainer.images_per_iteration
        numbers |= self.watch.pausing(trainer.validate)() | trainer.readings()
        seen, alarms = self.watch.pausing(lambda: self.health.check(trainer, numbers))()
        status = self.health.status(numbers | seen)
        numbers |= seen
        for name, player in trainer.players.items():
            numbers[f"learning_rate/{name}"] = float(player.optimizer.param_groups[0]["lr"])
        numbers["speed/images_per_second"] = speed
        numbers["speed/measuring"] = self.measuring_share
        numbers["memory/gigabytes"] = memory(trainer.device)
        if self.main:
            row = {"step": self.step, "images": trainer.images_seen, **numbers}
            self.log.numbers(row | ({"alarms": alarms} if alarms else {}), self.metric, status)
            for name, text in alarms.items():
                self.log.say(f"alarm ({name}) at step {self.step:,}: {text}")
        if alarms and self.config["on_alarm"] == "stop":
            self.end(f"alarm ({', '.join(alarms)}), and on_alarm=stop")

    def write_reals(self) -> None:
        """A grid of training images, to hold the samples against."""
        if self.main:
            self._picture("reals", "reals", self.trainer.images.preview(SHOWN))

    def write_samples(self) -> None:
        """What the averaged generators make, always of the same things, no more at once than training holds."""
        if self.main:
            trainer = self.trainer
            made, columns = trainer.game.show(trainer.ema.generators, trainer.images, trainer.micro_batch)
            self._picture("fakes", self.kimg, to_bytes(made), columns)
            self._write_judgement()

    def _write_judgement(self) -> None:
        """What D makes of real images and of the averaged generators' fakes."""
        trainer = self.trainer
        count = min(SHOWN, max(trainer.batch_size, trainer.micro_batch, 8), trainer.images.count)
        seed = torch.arange(count, device=trainer.device)
        batch = {**trainer.images.batch(trainer.images_seen, count), "seed": seed}
        found = judging.in_training(trainer.game, trainer.ema.generators, batch, trainer.micro_batch)
        picture, folder = judging.figure(found, trainer.loss, trainer.game.discriminators), "histograms"
        (self.run.path / "samples" / folder).mkdir(exist_ok=True)
        save_png(picture, self.run.path / "samples" / folder / f"{self.kimg}.png")
        self.log.picture(f"samples/{folder}", picture, trainer.images_seen)

    def _picture(self, name: str, file: str, images: Tensor, columns: int | None = None) -> None:
        folder, picture = self.run.path / "samples", tile(images.cpu(), columns)
        folder.mkdir(exist_ok=True)
        save_png(picture, folder / f"{file}.png")
        self.log.picture(f"samples/{name}", picture, self.trainer.images_seen)

    @property
    def measuring_share(self) -> float:
        """What measurements have taken of the time since this process began to train."""
        return self.measuring / max(self.watch.running, 1e-9)

    def measure(self) -> None:
        """The metrics now; the best networks by the first of them are kept. What cannot be measured is said once, and
        training goes on."""
        self.check_finite()
        if self.config["metric"]["which"] and self.measurable:
            start = time.perf_counter()
            row = self._measured()
            seconds = time.perf_counter() - start
            self.measuring += seconds
            if self.main and row is not None:
                self._note(row, seconds)
        self.lose_patience()

    def _measured(self) -> dict[str, Any] | None:
        """The values, for the first process, with all that they depend on; None where there are none."""
        settings, folder = self.config["metric"], Path(self.config["data"]["packed"])
        distributed.broadcast(self.trainer.ema.generators)  # on CPUs, every process has BatchNorm statistics of its own
        images = self.trainer.images
        try:
            with distributed.together():
                return evaluate(
                    self.trainer.game.comparisons(self.trainer.ema.generators, images),
                    distributed.in_turn(
                        lambda: find_features(settings["features"], settings["weights"], images, folder)
                    ),
                    which=settings["which"],
                    samples=self.samples,
                    seed=0,
                    batch=settings["batch"],
                    cache=folder,
                    ema=True,
                    proceed=self.proceed,
                )
        except Abandoned:
            end = f"step {self.step:,}: a signal ended the measurement"
        except (UserError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            end = f"warning: no {', '.join(settings['which'])}: {reason}; training goes on without metrics"
            self.measurable = False
        if self.main:
            self.log.say(end)
        return None

    def _note(self, row: dict[str, Any], seconds: float) -> None:
        """Tell what was measured and what it cost, and keep the best networks."""
        self.metric = {name: value for name, value in row.items() if isinstance(value, float)}
        first, began = not self.best, self.trainer.iteration == self.watch.began
        row = {"by": "gan-train", "step": self.step, "images": self.trainer.images_seen, **row}
        self.log.metrics(row | {"speed/seconds": seconds}, self.metric)
        values = describe(row) if first else ", ".join(f"{name} {value:.4g}" for name, value in self.metric.items())
        share = "" if began else f", measuring takes {self.measuring_share:.1%} of the time"
        self.log.say(f"step {self.step:,}: {values} ({seconds:.1f} s{share})")
        name, sign = deciding(self.config["metric"]), METRICS[self.config["metric"]["which"][0]][1]
        # Written so that a best that is not a number, or of another metric, gives way.
        if sign * self.best.get(name, math.nan) <= sign * self.metric[name]:
            self.worse += 1
        else:
            self.best, self.worse = {"step": self.step, **self.metric}, 0
            self.run.save_networks(self.content(), "best.pt")

    def lose_patience(self) -> None:
        """End the run once as many measurements as are set have brought nothing better."""
        patience = self.config["metric"]["patience"]
        if patience is not None and distributed.agree(int(self.worse >= patience)):
            self.end(f"{patience} measurements without a better one: metric.patience={patience}")

    def end(self, reason: str) -> None:
        """Let the run end after this iteration; all processes do so alike."""
        self.ended = self.ended or reason

    def proceed(self) -> None:
        """Raise Abandoned, in the middle of a measurement, once a signal asks the run to end."""
        if self.interrupted():
            raise Abandoned

    def save(self) -> None:
        """The whole state as latest.pt, and the networks alone under the number of images."""
        self.check_finite()  # a state that is lost already must not replace a good one
        if self.main:
            content = self.content()
            self.log.flush()
            self.run.save(content)
            self.saved = self.step
            self.run.save_networks(content, f"{self.kimg}.pt", self.config["keep"])

    def check_finite(self) -> None:
        """Raise UserError, naming the culprit, once a loss or a weight is not finite."""
        if bad := self.trainer.not_finite():
            raise UserError(
                f"{', '.join(bad)} is not finite at step {self.step:,}; the last good state, of step {self.saved:,}, "
                f"is in {self.run.checkpoints / 'latest.pt'}: go on from it with accept_changes=true and a lower "
                "optimizer.G.lr and optimizer.D.lr, with precision=fp32, or with another loss"
            )

    def content(self) -> checkpoint.State:
        """All that a checkpoint holds."""
        images = self.trainer.images
        return {
            "config": self.config,
            "overrides": self.overrides,
            "data": {"fingerprint": images.fingerprint, **{key: images.about[key] for key in ABOUT}},
            "versions": versions(),
            "step": self.step,
            "images_seen": self.trainer.images_seen,
            "metric": self.metric,
            "best": self.best,
            "worse": self.worse,
            "health": self.health.state,
            "state": self.trainer.state_dict(),
        }

    def _restore(self) -> bool:
        """The inverse of `save`. Raises UserError where the folder holds another experiment."""
        content, warnings = self.run.newest()
        for warning in warnings if self.main else []:
            say(f"warning: {warning}; resuming from the checkpoint before it")
        if content is None:
            return False
        changed = differences(content["config"], self.config)
        if (then := content["data"]["fingerprint"]) != (now := self.trainer.images.fingerprint):
            changed.append(f"the images themselves: {then} -> {now}")
        if content["data"].get("shards") != self.trainer.images.about["shards"]:
            changed.append("data.stream: other shards, in which images come in another order")
        if changed and not self.config["accept_changes"]:
            raise UserError(
                f"{self.run.path} was trained with other settings: {'; '.join(changed)}. "
                "Set accept_changes=true to go on with the new ones, overwrite=true to start anew, "
                "or name=... for another run"
            )
        try:
            self.trainer.load_state_dict(content["state"])
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"{self.run.path}: its networks or optimizers do not fit the settings ({'; '.join(changed) or error}); "
                "give this run another name=..., with init_from= to start from the old weights"
            ) from error
        if changed and self.main:
            self.run.note(f"accept_changes=true at step {content['step']}: {'; '.join(changed)}")
        self.metric, self.saved = content["metric"], content["step"]
        # What is best by other features is no rival.
        if content["config"]["metric"]["features"] == self.config["metric"]["features"]:
            self.best, self.worse = content["best"], content.get("worse", 0)  # which older checkpoints do not have
        self.health.state |= content.get("health", {})
        return True


class Stopwatch:
    """Iterations a second, without the time that tasks take."""

    def __init__(self, iteration: int, device: torch.device):
        self.iteration, self.device = iteration, device
        self.start, self.paused = time.perf_counter(), 0.0
        self.began, self.beginning = iteration, self.start

    def pausing(self, do: Callable[[], T]) -> Callable[[], T]:
        """The same task, not counted."""

        def paused() -> T:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # steps still under way are no part of the pause
            start = time.perf_counter()
            try:
                return do()
            finally:
                self.paused += time.perf_counter() - start

        return paused

    @property
    def running(self) -> float:
        """Seconds since the beginning, pauses included."""
        return time.perf_counter() - self.beginning

    def rate(self, iteration: int) -> float:
        """Since the last call."""
        now = time.perf_counter()
        rate = (iteration - self.iteration) / max(now - self.start - self.paused, 1e-9)
        self.iteration, self.start, self.paused = iteration, now, 0.0
        return rate
