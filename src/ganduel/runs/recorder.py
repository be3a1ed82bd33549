"""Record a run: statistics, pictures, metrics and checkpoints."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ganduel import checkpoint
from ganduel.config.renamed import current
from ganduel.config.schema import METRICS, Train, deciding, plain
from ganduel.data import order
from ganduel.data.image_set import ImageSet, to_bytes
from ganduel.evaluation.evaluate import check_walks, describe, evaluate, needs_features, versions
from ganduel.evaluation.extractors import find_features
from ganduel.evaluation.modes import check_modes
from ganduel.game import SHOWN
from ganduel.no_trace import no_trace
from ganduel.pictures import save_png, tile
from ganduel.runs.folder import RunFolder, differences
from ganduel.runs.health import Health
from ganduel.runs.logbook import Logbook
from ganduel.sampling import judging
from ganduel.stats import merged
from ganduel.system import distributed
from ganduel.system.device import memory, out_of_memory
from ganduel.system.errors import UserError
from ganduel.system.terminal import say
from ganduel.trainer import Trainer
from ganduel.validation import validate

T = TypeVar("T")

ABOUT = "name", "recipe", "content", "images", "splits", "shards"  # what a checkpoint stores about its images


class Abandoned(Exception):
    """Stops a measurement because a signal asks the run to end."""


class Recorder:
    """The tasks beside the training loop. All processes call every task, in the same order; only the first writes."""

    def __init__(self, config: Train, overrides: list[str], run: RunFolder, trainer: Trainer):
        self.config = config
        # `allow` is never stored: the person who opens a checkpoint decides which packages to admit.
        self.stored = {key: value for key, value in plain(config).items() if key != "allow"}
        self.overrides = [o for o in overrides if not o.startswith(("allow=", "--config-dir="))]
        self.run, self.trainer = run, trainer
        self.main = distributed.is_main()
        self.validation: dict[str, float] = {}  # the latest values
        self.validated = 0  # iteration of the latest validation
        self.metric: dict[str, float] = {}  # the latest values
        self.best: dict[str, float] = {}
        self.worse = 0  # number of measurements since the best one
        self.measurable = True  # False after a measurement has failed
        self.measuring = 0.0  # seconds spent on measurements
        self.health = Health(**vars(config.health))
        self.ended = ""  # reason to end the run early; "" if there is none
        self.interrupted: Callable[[], bool] = lambda: False
        self.saved = 0  # step of the newest checkpoint
        self.samples: int = config.metric.samples or (2000 if trainer.device.type == "cpu" else 50_000)
        self.whole_thousands: bool  # whether file names count images seen in whole thousands
        self.log: Logbook
        comparisons = trainer.game.comparisons(trainer.ema.generators, trainer.images)
        check_walks(comparisons, config.metric.which)
        check_modes(comparisons, config.metric.which)

    def open(self, total: int, apart: int) -> None:
        """Start writing. The run has `total` iterations, and its numbered files are at least `apart` iterations apart.

        Raises UserError if the run has already passed `total` iterations.
        """
        trainer = self.trainer
        self.whole_thousands = apart * trainer.images_per_iteration >= 1000  # or two files would get one name
        if trainer.iteration > total:
            raise UserError(
                f"duration={self.config.duration} is shorter than the {self.step:,} steps that {self.run.path} has "
                "done already; set a longer one"
            )
        if self.main:
            self.run.record(self.stored, self.overrides)
            steps = self.step + (total - trainer.iteration) * trainer.turns.n_generator
            self.log = Logbook(self.run, self.step, trainer.images_seen, steps)
        self.watch = Stopwatch(trainer.iteration, trainer.device)
        self.lose_patience()

    @property
    def step(self) -> int:
        """The number of turns of G so far."""
        return self.trainer.clock.steps

    @property
    def kimg(self) -> str:
        """Thousands of images seen, as in file names."""
        images = self.trainer.images_seen
        # Halves round up. Python rounds them to even numbers, so 1,500 and 2,500 images would get the same name.
        return f"{(images + 500) // 1000:06d}kimg" if self.whole_thousands else f"{images / 1000:010.3f}kimg"

    def validate(self) -> None:
        """Validate on the held-out images. The health checks use the result until the next validation."""
        trainer = self.trainer
        self.validation, self.validated = validate(trainer, self.config.validation_images), trainer.iteration

    def write_statistics(self) -> None:
        """Log means since the last call, a new validation, health, learning rates, speed and memory.

        Alarms end the run if on_alarm=stop. Raises UserError if a loss or a weight is not finite.
        """
        trainer = self.trainer
        self.check_finite()
        numbers = trainer.stats.means()
        trainer.stats.reset()
        speed = self.watch.rate(trainer.iteration) * trainer.images_per_iteration
        numbers = merged(numbers, trainer.readings())
        known = merged(numbers, self.validation)
        judged = known | self.covered()
        seen, alarms = self.watch.pausing(lambda: self.health.check(trainer, judged))()
        status = self.health.status(known | seen, trainer.game.duel_names)
        numbers |= seen | (self.validation if self.validated == trainer.iteration else {})
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
        if alarms and self.config.on_alarm == "stop":
            self.end(f"alarm ({', '.join(alarms)}), and on_alarm=stop")

    def covered(self) -> dict[str, float]:
        """The share of the modes that samples covered in the newest measurement; {} if modes are not measured."""
        images = self.trainer.images
        if "modes" not in self.metric or not isinstance(images, ImageSet):
            return {}
        return {"modes": self.metric["modes"] / images.modes}

    def write_reals(self) -> None:
        """Write a grid of training images, to compare the samples with."""
        if self.main:
            self._picture("reals", "reals", self.trainer.images.preview(SHOWN))

    def write_samples(self) -> None:
        """Write a grid of images from the averaged generators, always for the same inputs, and the plot of D's outputs.

        It makes at most `micro_batch` images at once, so that it needs no more memory than training.
        """
        if self.main:
            trainer = self.trainer
            with no_trace(trainer, evaluated=trainer.game.discriminators):
                made, columns = trainer.game.show(trainer.ema.generators, trainer.images, trainer.micro_batch)
            self._picture("fakes", self.kimg, to_bytes(made), columns)
            self._write_judgement()

    def _write_judgement(self) -> None:
        """Plot D's outputs for real images and for fakes of the averaged generators."""
        trainer = self.trainer
        count = min(SHOWN, max(trainer.batch_size, trainer.micro_batch, 8), trainer.images.count)
        seed = torch.arange(count, device=trainer.device)
        batch = {**trainer.images.batch(trainer.images_seen, count), "seed": seed}
        found = judging.in_training(trainer, batch)
        picture, folder = judging.figure(found, trainer.loss, trainer.game), "histograms"
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
        """The share of this process's training time that measurements have taken."""
        return self.measuring / max(self.watch.running, 1e-9)

    def measure(self) -> None:
        """Compute the metrics, and keep the networks with the best value of the first metric.

        If the metrics cannot be computed, this says so once, and training goes on without them. Raises UserError if a
        loss or a weight is not finite.
        """
        self.check_finite()
        if self.config.metric.which and self.measurable:
            start = time.perf_counter()
            row = self._measured()
            seconds = time.perf_counter() - start
            self.measuring += seconds
            if self.main and row is not None:
                self._note(row, seconds)
        self.lose_patience()

    def _measured(self) -> dict[str, Any] | None:
        """The metrics with their provenance; None if they cannot be computed or a signal asks the run to end.

        Only the first process gets the metrics.
        """
        settings, folder = self.config.metric, Path(self.config.data.packed)
        distributed.broadcast(self.trainer.ema.generators)  # on CPUs, each process has its own BatchNorm statistics
        images = self.trainer.images
        needed = needs_features(settings.which)
        try:
            with distributed.all_or_none():
                features = (
                    distributed.in_turn(lambda: find_features(settings.features, settings.weights, images, folder))
                    if needed
                    else None
                )
                return evaluate(
                    self.trainer.game.comparisons(self.trainer.ema.generators, images),
                    features,
                    which=settings.which,
                    samples=self.samples,
                    seed=0,
                    batch=settings.batch,
                    cache=folder,
                    ema=True,
                    proceed=self.proceed,
                )
        except Abandoned:
            end = f"step {self.step:,}: a signal ended the measurement"
        except (UserError, OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            end = f"warning: no {', '.join(settings.which)}: {reason}; training goes on without metrics"
            self.measurable = False
        if self.main:
            self.log.say(end)
        return None

    def _note(self, row: dict[str, Any], seconds: float) -> None:
        """Log the metrics and the time that they took, and save the networks if they are the best."""
        self.metric = {name: value for name, value in row.items() if isinstance(value, float)}
        first, began = not self.best, self.trainer.iteration == self.watch.began
        row = {"by": "gan-train", "step": self.step, "images": self.trainer.images_seen, **row}
        self.log.metrics(row | {"speed/seconds": seconds}, self.metric)
        values = describe(row) if first else ", ".join(f"{name} {value:.4g}" for name, value in self.metric.items())
        share = "" if began else f", measuring takes {self.measuring_share:.1%} of the time"
        self.log.say(f"step {self.step:,}: {values} ({seconds:.1f} s{share})")
        name, sign = deciding(self.config.metric), METRICS[self.config.metric.which[0]][1]
        # The comparison is false if the best is NaN or belongs to another metric. Then the new value replaces it.
        if sign * self.best.get(name, math.nan) <= sign * self.metric[name]:
            self.worse += 1
        else:
            self.best, self.worse = {"step": self.step, **self.metric}, 0
            self.run.save_networks(self.content(), "best.pt")

    def lose_patience(self) -> None:
        """End the run after `metric.patience` measurements without a better one."""
        patience = self.config.metric.patience
        if patience is not None and distributed.agree(int(self.worse >= patience)):
            self.end(f"{patience} measurements without a better one: metric.patience={patience}")

    def end(self, reason: str) -> None:
        """End the run after this iteration. All processes must call this in the same iteration."""
        self.ended = self.ended or reason

    def proceed(self) -> None:
        """Called during a measurement. Raises Abandoned if a signal asks the run to end."""
        if self.interrupted():
            raise Abandoned

    def save(self, *, numbered: bool = True) -> None:
        """Save the whole state as latest.pt, and the networks alone in a file named after the images seen.

        Without `numbered`, save the state alone. An interruption does so: a file of a step at which no other run saves
        would displace one of those that `keep` counts. Raises UserError if a loss or a weight is not finite.
        """
        self.check_finite()  # a state that is not finite must not replace a good one
        if self.main:
            content = self.content()
            self.log.flush()
            self.run.save(content)
            self.saved = self.step
            if numbered:
                self.run.save_networks(content, f"{self.kimg}.pt", self.config.keep)

    def save_networks(self) -> None:
        """Save the networks alone, as `save` does. If a process was killed between its two files, this writes the
        second one.
        """
        if self.main:
            self.run.save_networks(self.content(), f"{self.kimg}.pt", self.config.keep)

    def check_finite(self) -> None:
        """Raise UserError if a loss or a weight is not finite. The text names it."""
        if bad := self.trainer.not_finite():
            raise UserError(
                f"{', '.join(bad)} is not finite at step {self.step:,}; the last good state, of step {self.saved:,}, "
                f"is in {self.run.checkpoints / 'latest.pt'}: go on from it with accept_changes=true and a lower "
                "optimizer.G.lr and optimizer.D.lr, with precision=fp32, or with another loss"
            )

    def content(self) -> checkpoint.State:
        """Everything that a checkpoint stores."""
        images = self.trainer.images
        return {
            "config": self.stored,
            "overrides": self.overrides,
            "data": {
                "fingerprint": images.fingerprint,
                "order": order.VERSION,
                **{key: images.about[key] for key in ABOUT},
            },
            "versions": versions(),
            "step": self.step,
            "images_seen": self.trainer.images_seen,
            "validation": self.validation,
            "metric": self.metric,
            "best": self.best,
            "worse": self.worse,
            "health": self.health.state,
            "state": self.trainer.state_dict(),
        }

    def restore(self) -> bool:
        """Resume from the newest checkpoint of the folder that can be used: the inverse of `save`.

        Returns whether there is one. Raises UserError if it belongs to another experiment, or if its networks or
        optimizers do not fit the settings.
        """
        resumed, warnings = self.run.resume(self._use)
        for warning in warnings if self.main else []:
            say(f"warning: {warning}; resuming from the checkpoint before it")
        return resumed

    def _use(self, content: checkpoint.State) -> None:
        """Go on from the content of a checkpoint. Raises UserError, or any other exception for damaged content."""
        changed = differences(current(content["config"]), self.stored)
        if (then := content["data"]["fingerprint"]) != (now := self.trainer.images.fingerprint):
            changed.append(f"the images themselves: {then} -> {now}")
        if content["data"].get("shards") != self.trainer.images.about["shards"]:
            changed.append("data.stream: these shards hold the images in another order")
        if (then := content["data"].get("order", 1)) != order.VERSION:
            changed.append(f"ganduel: the order of an epoch's images, version {then} -> {order.VERSION}")
        if changed and not self.config.accept_changes:
            raise UserError(
                f"{self.run.path} was trained with other settings: {'; '.join(changed)}. "
                "Set accept_changes=true to go on with the new ones, overwrite=true to start anew, "
                "or name=... for another run"
            )
        validation, metric, best, health = (
            dict(content.get(key, {})) for key in ("validation", "metric", "best", "health")
        )
        worse = int(content.get("worse", 0))  # older checkpoints lack some of these
        # Values of other feature extractors are on another scale, even if they have the same name (digits, Inception).
        comparable = content["config"]["metric"]["features"] == self.config.metric.features
        # Older states lack these two counts, but their checkpoints store them beside the state.
        state = {"steps": content["step"], "images_seen": content["images_seen"], **content["state"]}
        try:
            self.trainer.load_state_dict(state)
        except Exception as error:
            if out_of_memory(error):
                raise UserError(
                    f"{self.run.path}: out of memory while its state is read; end what else uses the device, or set "
                    "device=cpu"
                ) from error
            if not changed:
                raise
            raise UserError(
                f"{self.run.path}: its networks or optimizers do not fit the settings ({'; '.join(changed)}); "
                "give this run another name=..., with init_from= to start from the old weights"
            ) from error
        if changed and self.main:
            self.run.note(f"accept_changes=true at step {content['step']}: {'; '.join(changed)}")
        self.validation, self.metric, self.saved = validation, metric, content["step"]
        if comparable:
            self.best, self.worse = best, worse
        self.health.state |= health


class Stopwatch:
    """Measures iterations per second, without the time of paused tasks."""

    def __init__(self, iteration: int, device: torch.device):
        self.iteration, self.device = iteration, device
        self.start, self.paused = time.perf_counter(), 0.0
        self.began, self.beginning = iteration, self.start

    def pausing(self, do: Callable[[], T]) -> Callable[[], T]:
        """Wrap a task so that its time does not count."""

        def paused() -> T:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # wait for the steps before the task: they are no part of the pause
            start = time.perf_counter()
            try:
                return do()
            finally:
                self.paused += time.perf_counter() - start

        return paused

    @property
    def running(self) -> float:
        """Seconds since the stopwatch was made, pauses included."""
        return time.perf_counter() - self.beginning

    def rate(self, iteration: int) -> float:
        """Iterations per second since the last call, without the pauses."""
        now = time.perf_counter()
        rate = (iteration - self.iteration) / max(now - self.start - self.paused, 1e-9)
        self.iteration, self.start, self.paused = iteration, now, 0.0
        return rate
