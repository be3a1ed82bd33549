"""gan-train: one run from a configuration to its last checkpoint. The loop's inside is in `trainer`."""

import math
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ganduel import distributed, summary
from ganduel.device import choose, label, out_of_memory
from ganduel.errors import Interrupted, UserError
from ganduel.evaluation.extractors import settled
from ganduel.forecast import forecast, largest_micro_batch
from ganduel.pace import Duration
from ganduel.record import Recorder
from ganduel.run import RunFolder, leaves
from ganduel.schema import deciding, features_label
from ganduel.setup import assemble
from ganduel.speed import Recorded
from ganduel.terminal import say
from ganduel.trainer import Trainer


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train, or go on training, the run that the configuration names. Returns its folder and its results."""
    device = choose(config["device"])
    distributed.start(device)
    try:
        run = RunFolder(Path(config["runs_dir"]) / config["name"])
        with ExitStack() as held:
            training = Training(with_features(config, run), overrides, run, device)
            if distributed.is_main():
                if config["overwrite"] and (aside := run.move_aside()):  # once nothing more can be wrong with the rest
                    say(f"overwrite=true: the run that was there is now {aside}")
                held.enter_context(run.held())
            distributed.barrier()
            return training.fit()
    finally:
        distributed.stop()


def with_features(config: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """The configuration with what `metric.features=auto` stands for: what the run began with, else what there is here.

    A file of Inception's weights that appears later changes nothing, unless the user names it.
    """
    metric = config["metric"]
    if metric["features"] != "auto" or not metric["which"]:
        return config
    resumed = run.started() and not config["overwrite"] and metric["weights"] is None
    began = run.recorded().get("metric", {}).get("features", "auto") if resumed else "auto"
    return {**config, "metric": {**metric, "features": settled(began, metric["weights"])}}


Handler = Callable[[int, Any], Any]
WORTH = 50  # iterations from which a forecast is worth its two steps


class Task(NamedTuple):
    """Something done every so many iterations, and at the end."""

    every: int
    do: Callable[[], None]


class Training:
    """One run: the loop, its tasks, its signals, its first and last words."""

    def __init__(self, config: dict[str, Any], overrides: list[str], run: RunFolder, device: torch.device):
        self.config, self.overrides, self.run = config, overrides, run
        every = {f"every.{name}": text for name, text in config["every"].items() if text is not None}
        durations = {key: Duration.parse(text, key) for key, text in {"duration": config["duration"], **every}.items()}
        self.trainer, self.clock = assemble(config, device, fresh=config["overwrite"] or not run.started())
        self.total = self.clock.iterations(durations["duration"])
        intervals = {
            "every.log": min(math.ceil(self.total / 200), 100),
            "every.sample": math.ceil(self.total / 20),
            "every.metric": math.ceil(self.total / 5),
            "every.checkpoint": min(math.ceil(self.total / 20), 2000),
        }
        self.every = {
            key: self.clock.iterations(durations[key]) if key in durations else n for key, n in intervals.items()
        }
        apart = min(self.every["every.sample"], self.every["every.checkpoint"])
        self.recorder = Recorder(config, overrides, run, self.trainer, apart)

    def fit(self) -> dict[str, Any]:
        """Train to the end of the duration; returns the results."""
        trainer, recorder = self.trainer, self.recorder
        resumed = recorder.open(self.total)
        pausing = recorder.watch.pausing
        tasks = [
            Task(self.every["every.log"], recorder.write_statistics),
            Task(self.every["every.metric"], pausing(recorder.measure)),
            Task(self.every["every.sample"], pausing(recorder.write_samples)),
            Task(self.every["every.checkpoint"], pausing(recorder.save)),  # last: it vouches for the others
        ]
        try:
            with interruptions() as (signals, owners), memory_advice(trainer):
                recorder.interrupted = lambda: bool({*ENDING, *owners} & {*signals})
                if recorder.main and not resumed:
                    recorder.log.say(f"{summary.describe(trainer)}\n")
                self.banner(resumed, pausing(self.look_ahead)())
                if trainer.iteration == 0:
                    for do in (recorder.write_reals, *(task.do for task in tasks[1:])):
                        do()
                        self.heed(signals, owners)
                while trainer.iteration < self.total and not recorder.ended:
                    trainer.step()
                    if recorder.main:
                        recorder.log.bar.update(trainer.pace.n_generator)
                    for task in tasks:
                        # A task may end the run: those after it are then its last.
                        if trainer.iteration % task.every == 0 or trainer.iteration == self.total or recorder.ended:
                            task.do()
                    self.heed(signals, owners)
            return self.finish()
        finally:
            if recorder.main:
                recorder.log.close()

    def heed(self, signals: list[int], owners: dict[int, Handler]) -> None:
        """Save when a signal has reached any process; SIGINT and SIGTERM also end the run, and of others those that own
        them do what they would have done at once: submitit queues a Slurm job again."""
        urgency = distributed.agree(max((SIGNALS.index(number) + 1 for number in signals), default=0))
        signals.clear()
        if urgency:
            self.recorder.save()
            number = SIGNALS[urgency - 1]
            if number not in ENDING:
                if number in owners:
                    owners[number](number, None)
                return
            if self.recorder.main:
                self.recorder.log.say(f"stopped and saved at step {self.recorder.step:,}; go on with: {self.command()}")
            raise Interrupted(128 + number)

    def look_ahead(self) -> str:
        """What the run is going to take; nothing to say about short ones. Settles how many images fit at once."""
        trainer, rest = self.trainer, self.total - self.trainer.iteration
        if self.config["micro_batch"] == "auto":
            trainer.micro_batch = largest_micro_batch(trainer)
        if not self.config["forecast"] or rest < WORTH:
            return ""
        return f"forecast   {forecast(trainer).describe(rest)}\n"

    def banner(self, resumed: bool, forecast: str) -> None:
        """What is about to happen."""
        if not self.recorder.main:
            return
        trainer, images, metric = self.trainer, self.trainer.images, self.config["metric"]
        networks = {**trainer.game.generators, **trainer.game.discriminators}
        sizes = ", ".join(f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in networks.items())
        channels, height, width = images.shape
        every = ", ".join(f"{key[6:]} {n * trainer.pace.n_generator:,}" for key, n in self.every.items())
        fewer = " (on a CPU; 50,000 elsewhere)" if metric["samples"] is None and trainer.device.type == "cpu" else ""
        compared = trainer.game.comparisons(trainer.ema.generators, images)
        counts = " and ".join(f"{min(self.recorder.samples, c.most or self.recorder.samples):,}" for c in compared)
        measured = f"{', '.join(metric['which'])} on {counts} images{fewer}" if metric["which"] else "none"
        if metric["which"]:
            measured += f", features {features_label(metric['features'])}"
        divided = trainer.micro_batch < trainer.batch_size // distributed.world()
        parts = f" in parts of {trainer.micro_batch}" if divided else ""
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.dtype]
        self.recorder.log.say(
            f"run        {self.run.path}{f' (resumed at step {self.recorder.step:,})' if resumed else ''}\n"
            f"device     {label(trainer.device)}, {precision}, processes {distributed.world()}"
            f"{', CUDA graphs' if isinstance(trainer.advance, Recorded) else ''}\n"
            f"data       {images.about['name']}: {images.count:,} training and {images.held_out:,} "
            f"validation images, {height}x{width}x{channels}\n"
            f"networks   {sizes} parameters\n"
            f"duration   {self.clock.describe(self.total)}, batch {trainer.batch_size}{parts}\n"
            f"{forecast}"
            f"every      {every} steps\n"
            f"metrics    {measured}\n"
            f"resume     {self.command()}"
        )

    def finish(self) -> dict[str, Any]:
        """The last words: results and the commands to type next."""
        recorder = self.recorder
        result = {
            "run": str(self.run.path),
            "step": recorder.step,
            "images_seen": self.trainer.images_seen,
            **recorder.metric,
            **({"ended": recorder.ended} if recorder.ended else {}),
        }
        if (best := recorder.best.get(deciding(self.config["metric"]))) is not None:
            result["best"] = best  # what sweepers go by
        if not recorder.main:
            return result
        values = ", ".join(f"{name} {value:.4g}" for name, value in recorder.best.items() if name != "step")
        recorder.log.hyperparameters({k: v for k, v in leaves(self.config) if v is not None}, recorder.metric)
        recorder.log.bar.close()
        folder = shlex.quote(str(self.run.path))
        recorder.log.say(
            f"finished   {self.clock.describe(self.trainer.iteration)}\n"
            + (f"ended      early: {recorder.ended}\n" if recorder.ended else "")
            + (f"best       {values} at step {recorder.best['step']:,}\n" if values else "")
            + f"checkpoint {self.run.checkpoints / ('best.pt' if values else 'latest.pt')}\n"
            f"samples    {self.run.path / 'samples' / recorder.kimg}.png\n"
            "next, type one of\n"
            f"  gan-sample ckpt={folder}{self.trainer.game.sampling}\n"
            f"  gan-fid ckpt={folder}\n"
            f"  tensorboard --logdir {shlex.quote(self.config['runs_dir'])}\n"
            f'  {self.command("duration")} duration="{2 * recorder.step} steps"'
        )
        return result

    def command(self, *without: str) -> str:
        """What to type to go on."""
        left_out = tuple(f"{key}=" for key in ("overwrite", *without))
        return shlex.join(["gan-train", *(o for o in self.overrides if not o.startswith(left_out))])


# Signals that ask to save, the most urgent last.
SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGINT", "SIGTERM") if hasattr(signal, name)]
ENDING = signal.SIGINT, signal.SIGTERM


@contextmanager
def interruptions() -> Iterator[tuple[list[int], dict[int, Handler]]]:
    """The signals that have come, as a list that they are put into, and who was there before us to handle those that do
    not end a run; a second SIGINT ends the process at once."""
    caught: list[int] = []

    def remember(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield caught, {n: handler for n, handler in before.items() if callable(handler) and n not in ENDING}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_advice(trainer: Trainer) -> Iterator[None]:
    """Turn lack of memory into a UserError with a way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        micro = trainer.micro_batch
        smaller = next((m for m in range(micro // 2, 0, -1) if micro % m == 0), 1)
        raise UserError(
            f"out of memory with micro_batch={micro}: set micro_batch={smaller}, which gives the same gradients "
            "(but for BatchNorm), and run again: this run resumes"
        ) from error


if __name__ == "__main__":
    from ganduel import cli

    cli.train()
