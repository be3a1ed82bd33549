"""gan-train: train a run from its configuration to its last checkpoint. `trainer` does each iteration."""

import math
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ganduel import batches
from ganduel.checks import has_batch_norm
from ganduel.clock import Duration
from ganduel.config.keys import leaves
from ganduel.config.schema import Train, deciding, features_label, plain
from ganduel.evaluation.evaluate import needs_features
from ganduel.evaluation.extractors import resolved, seen_by_discriminator
from ganduel.runs import summary
from ganduel.runs.folder import RunFolder
from ganduel.runs.recorder import Recorder
from ganduel.setup import assemble
from ganduel.speed.forecast import forecast, largest_micro_batch
from ganduel.speed.graphs import Captured
from ganduel.system import distributed
from ganduel.system.device import choose, label, out_of_memory
from ganduel.system.errors import Interrupted, UserError
from ganduel.system.terminal import program, say
from ganduel.trainer import Trainer


def main(config: Train, overrides: list[str]) -> dict[str, Any]:
    """Start or resume the run that the configuration names. Returns its folder and its results."""
    device = choose(config.device)
    distributed.start(device)
    try:
        if not overrides and distributed.is_main():
            say(NOTHING_TYPED.format(train=shlex.quote(program("gan-train")), duration=config.duration))
        run = RunFolder(Path(config.runs_dir) / config.name)
        with ExitStack() as held:
            training = Training(with_features(config, run), overrides, run, device)
            if distributed.is_main():
                if config.overwrite and (aside := run.move_aside()):  # only after all other checks
                    say(f"overwrite=true: the run that was there is now {aside}")
                held.enter_context(run.held())
            distributed.barrier()
            return training.fit()
    finally:
        distributed.stop()


def with_features(config: Train, run: RunFolder) -> Train:
    """The configuration with a feature extractor in place of `metric.features=auto`.

    A resumed run keeps the extractor that it began with, even if Inception's weights have been downloaded since then.
    But if `metric.weights` names a file, the extractor is Inception. Raises UserError if D sees images through the
    extractor.
    """
    metric, seen = config.metric, seen_by_discriminator(config.model)
    if not needs_features(metric.which):
        return config
    features = metric.features
    if features == "auto":
        resumed = run.started() and not config.overwrite and metric.weights is None
        began = run.stored_features() if resumed else "auto"
        features = resolved(began, metric.weights, seen)
    if features == seen:
        raise UserError(
            f"metric.features={seen}: D sees images through this network, so the distance would be too small: set "
            "metric.features=inception or another one"
        )
    return replace(config, metric=replace(metric, features=features))


NOTHING_TYPED = (
    "gan-train alone trains a DCGAN on handwritten digits for {duration}: hours on a CPU, minutes on a GPU.\n"
    "Ctrl-C stops it at any time, and saves. The version of two minutes on a CPU:\n"
    "  {train} experiment=demo\n"
    "All that can be set: {train} --help\n"
)
Handler = Callable[[int, Any], Any]
WORTH = 50  # smallest number of iterations that makes a forecast worth its two trial steps


class Task(NamedTuple):
    """Something to do after every `every` iterations and at the end of the run."""

    every: int
    do: Callable[[], None]


class Training:
    """One run: the training loop, its tasks, its signals, and the text before and after it."""

    def __init__(self, config: Train, overrides: list[str], run: RunFolder, device: torch.device):
        self.config, self.overrides, self.run = config, overrides, run
        every = {f"every.{name}": text for name, text in vars(config.every).items() if text is not None}
        times = {"duration": config.duration, **every}
        self.durations = {key: Duration.parse(text, key) for key, text in times.items()}
        self.trainer, self.clock = assemble(config, device, fresh=config.overwrite or not run.started())
        self.recorder = Recorder(config, overrides, run, self.trainer)
        self.total: int  # iterations of the whole run, including those before this process
        self.every: dict[str, int]  # interval of each task, in iterations

    def plan(self) -> None:
        """Turn durations into iterations. Further iterations may differ in size from past ones; see `Clock`."""
        self.total = max(1, self.trainer.iteration + self.clock.left(self.durations["duration"]))
        intervals = {
            "every.log": min(math.ceil(self.total / 200), 100),
            "every.validation": min(math.ceil(self.total / 20), 1000),
            "every.sample": math.ceil(self.total / 20),
            "every.metric": math.ceil(self.total / 5),
            "every.checkpoint": min(math.ceil(self.total / 20), 2000),
        }
        chosen = {key: self.clock.iterations(duration) for key, duration in self.durations.items() if key in intervals}
        self.every = intervals | chosen
        log = self.every["every.log"]  # a line of the log reports each validation
        self.every["every.validation"] = math.ceil(self.every["every.validation"] / log) * log

    def fit(self) -> dict[str, Any]:
        """Train to the end of the duration. Returns the results."""
        trainer, recorder = self.trainer, self.recorder
        resumed = recorder.restore()
        self.plan()
        recorder.open(self.total, apart=min(self.every["every.sample"], self.every["every.checkpoint"]))
        if resumed and (trainer.iteration % self.every["every.checkpoint"] == 0 or trainer.iteration == self.total):
            recorder.save_networks()
        pausing = recorder.watch.pausing
        tasks = [
            Task(self.every["every.validation"], pausing(recorder.validate)),
            Task(self.every["every.log"], recorder.write_statistics),
            Task(self.every["every.metric"], pausing(recorder.measure)),
            Task(self.every["every.sample"], pausing(recorder.write_samples)),
            Task(self.every["every.checkpoint"], pausing(recorder.save)),  # last: a resumed run skips the tasks above
        ]
        try:
            with interruptions() as (signals, owners), memory_advice(trainer):
                recorder.interrupted = lambda: bool({*ENDING, *owners} & {*signals})
                if recorder.main and not resumed:
                    recorder.log.say(f"{summary.describe(trainer)}\n")
                self.banner(resumed, pausing(self.look_ahead)())
                if trainer.iteration == 0:
                    for do in (recorder.write_reals, *(task.do for task in tasks[2:])):
                        do()
                        self.heed(signals, owners)
                while trainer.iteration < self.total and not recorder.ended:
                    trainer.iterate()
                    if recorder.main:
                        recorder.log.bar.update(trainer.turns.n_generator)
                    for task in tasks:
                        # A task may end the run. Then the tasks after it run for the last time, too.
                        if trainer.iteration % task.every == 0 or trainer.iteration == self.total or recorder.ended:
                            task.do()
                    self.heed(signals, owners)
            return self.finish()
        finally:
            if recorder.main:
                recorder.log.close()

    def heed(self, signals: list[int], owners: dict[int, Handler]) -> None:
        """Save a checkpoint if a signal has reached any process.

        SIGINT, SIGHUP and SIGTERM then end the run: this raises Interrupted. For other signals, it then calls the
        handler that was installed before ours. submitit, for example, has one that queues a Slurm job again.
        """
        urgency = distributed.agree(max((SIGNALS.index(number) + 1 for number in signals), default=0))
        signals.clear()
        if urgency:
            self.recorder.save(numbered=False)
            number = SIGNALS[urgency - 1]
            if number not in ENDING:
                if number in owners:
                    owners[number](number, None)
                return
            if self.recorder.main:
                self.recorder.log.say(f"stopped and saved at step {self.recorder.step:,}; go on with: {self.command()}")
            raise Interrupted(128 + number)

    def look_ahead(self) -> str:
        """The forecast of time and memory, as a line of text; "" for short runs.

        With micro_batch=auto, this first finds the largest micro batch that fits in memory.
        """
        trainer, rest = self.trainer, self.total - self.trainer.iteration
        if self.config.micro_batch == "auto":
            trainer.micro_batch = largest_micro_batch(trainer)
        if not self.config.forecast or rest < WORTH:
            return ""
        return f"forecast   {forecast(trainer).describe(rest)}\n"

    def banner(self, resumed: bool, forecast: str) -> None:
        """Print the plan of the run."""
        if not self.recorder.main:
            return
        trainer, images, metric = self.trainer, self.trainer.images, self.config.metric
        networks = {**trainer.game.generators, **trainer.game.discriminators}
        sizes = ", ".join(f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in networks.items())
        channels, height, width = images.shape
        every = ", ".join(f"{key[6:]} {n * trainer.turns.n_generator:,}" for key, n in self.every.items())
        fewer = " (on a CPU; 50,000 elsewhere)" if metric.samples is None and trainer.device.type == "cpu" else ""
        compared = trainer.game.comparisons(trainer.ema.generators, images)
        counts = " and ".join(f"{min(self.recorder.samples, c.most or self.recorder.samples):,}" for c in compared)
        measured = f"{', '.join(metric.which)} on {counts} images{fewer}" if metric.which else "none"
        if needs_features(metric.which):
            measured += f", features {features_label(metric.features)}"
        divided = trainer.micro_batch < trainer.batch_size // distributed.world()
        apart = ", each with BatchNorm statistics of its own" if has_batch_norm(trainer.game) else ""
        parts = f" in parts of {trainer.micro_batch}{apart}" if divided else ""
        precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[trainer.dtype]
        self.recorder.log.say(
            f"run        {self.run.path}{f' (resumed at step {self.recorder.step:,})' if resumed else ''}\n"
            f"device     {label(trainer.device)}, {precision}, processes {distributed.world()}"
            f"{', CUDA graphs' if isinstance(trainer.executor, Captured) else ''}\n"
            f"data       {images.about['name']}: {images.count:,} training and {images.held_out:,} "
            f"validation images, {height}x{width}x{channels}\n"
            f"networks   {sizes} parameters\n"
            f"duration   {self.clock.describe(self.total - trainer.iteration)}, batch {trainer.batch_size}{parts}\n"
            f"{forecast}"
            f"every      {every} steps\n"
            f"metrics    {measured}\n"
            f"resume     {self.command()}"
        )

    def finish(self) -> dict[str, Any]:
        """Print the results and useful commands to type next. Returns the results."""
        recorder = self.recorder
        result = {
            "run": str(self.run.path),
            "step": recorder.step,
            "images_seen": self.trainer.images_seen,
            **recorder.metric,
            **({"ended": recorder.ended} if recorder.ended else {}),
        }
        if (best := recorder.best.get(deciding(self.config.metric))) is not None:
            result["best"] = best  # the value that Hydra's sweepers optimise
        if not recorder.main:
            return result
        values = ", ".join(f"{name} {value:.4g}" for name, value in recorder.best.items() if name != "step")
        recorder.log.hyperparameters({k: v for k, v in leaves(plain(self.config)) if v is not None}, recorder.metric)
        recorder.log.bar.close()
        folder = f"ckpt={self.run.path}"
        allow = [f"allow={','.join(self.config.allow)}"] if self.config.allow else []
        longer = f"duration={2 * recorder.step} steps"
        following = [
            [program("gan-sample"), folder, *allow, *shlex.split(self.trainer.game.sampling)],
            [program("gan-fid"), folder, *allow],
            [program("gan-report"), str(self.run.path)],
            [program("tensorboard"), "--logdir", self.config.runs_dir],
        ]
        recorder.log.say(
            f"finished   {self.clock.describe()}\n"
            + (f"ended      early: {recorder.ended}\n" if recorder.ended else "")
            + (f"best       {values} at step {recorder.best['step']:,}\n" if values else "")
            + f"checkpoint {self.run.checkpoints / ('best.pt' if values else 'latest.pt')}\n"
            f"samples    {self.run.path / 'samples' / recorder.kimg}.png\n"
            "next, type one of\n"
            + "".join(f"  {shlex.join(words)}\n" for words in following)
            + f"  {self.command(longer)}"
        )
        return result

    def command(self, *more: str) -> str:
        """The command that resumes this run, with `more` overrides in place of those of the same keys."""
        replaced = tuple(f"{argument.partition('=')[0]}=" for argument in ("overwrite=", *more))
        typed = [o for o in self.overrides if not o.startswith(replaced)]
        start = [program("gan-train")]
        if distributed.world() > 1:  # as on one node; of several, torchrun must be told more
            processes = os.environ.get("LOCAL_WORLD_SIZE", distributed.world())
            start = [program("torchrun"), f"--nproc-per-node={processes}", "-m", "ganduel.train"]
        return shlex.join([*start, *typed, *more])


# Signals that request a checkpoint, the most urgent last.
NAMES = "SIGUSR1", "SIGUSR2", "SIGINT", "SIGHUP", "SIGTERM"
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
ENDING = [number for number in SIGNALS if number.name in ("SIGINT", "SIGHUP", "SIGTERM")]


@contextmanager
def interruptions() -> Iterator[tuple[list[int], dict[int, Handler]]]:
    """A context that catches `SIGNALS`.

    Yields a list, which collects the numbers of caught signals, and the earlier handlers of the signals that do not end
    a run. A second SIGINT, while the first is still in the list, raises KeyboardInterrupt at once. Only the main thread
    can catch signals; in another one, this does nothing.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught, {}
        return

    def remember(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            raise KeyboardInterrupt
        caught.append(number)

    # `nohup` has SIGHUP ignored, so that a run outlives its terminal.
    heard = [n for n in SIGNALS if not (n.name == "SIGHUP" and signal.getsignal(n) is signal.SIG_IGN)]
    before = {number: signal.signal(number, remember) for number in heard}
    try:
        yield caught, {n: handler for n, handler in before.items() if callable(handler) and n not in ENDING}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_advice(trainer: Trainer) -> Iterator[None]:
    """A context that turns an out-of-memory error into a UserError. Its text says which settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        micro, penalties = trainer.micro_batch, dict(trainer.regularizers.items())
        sizes = batches.sizes(trainer.game, penalties, trainer.batch_size, distributed.world())
        smaller = max((size for size in sizes if size <= micro // 2), default=None)
        if smaller is None:
            raise UserError(
                f"out of memory with micro_batch={micro}, and no smaller one gives the same gradients: train a smaller "
                "model, or with precision=bf16"
            ) from error
        raise UserError(
            f"out of memory with micro_batch={micro}: set micro_batch={smaller}, which gives the same gradients "
            "(but for BatchNorm), and run again: this run resumes"
        ) from error
