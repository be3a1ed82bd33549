"""gan-train: one run from a configuration to its last checkpoint. The loop itself is in `trainer`."""

import math
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ganduel import build, checkpoint, distributed, randomness
from ganduel.data.loading import ImageSet, to_bytes
from ganduel.data.packing import report
from ganduel.data.prepare import prepare
from ganduel.device import choose, label, memory, out_of_memory, precision
from ganduel.ema import EMA
from ganduel.errors import Interrupted, UserError
from ganduel.evaluation.evaluate import describe, evaluate, versions
from ganduel.evaluation.fid import find_features
from ganduel.logbook import Logbook, say
from ganduel.pace import Clock, Duration
from ganduel.run import RunFolder, differences, leaves
from ganduel.sampling.grids import save_png, tile
from ganduel.trainer import Trainer

GRID = 64  # images of the pictures made during training


def main(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Train, or go on training, the run that the configuration names. Returns its folder and its results."""
    device = choose(config["device"])
    distributed.start(device)
    try:
        run = RunFolder(Path(config["runs_dir"]) / config["name"])
        with ExitStack() as held:
            if distributed.is_main():
                if config["overwrite"] and (aside := run.move_aside()):
                    say(f"overwrite=true: the run that was there is now {aside}")
                held.enter_context(run.held())
            distributed.barrier()
            return Training(config, overrides, run, device).fit()
    finally:
        distributed.stop()


class Task(NamedTuple):
    """Something done every so many iterations, and at the end."""

    every: int
    do: Callable[[], None]


class Training:
    """What surrounds the loop: building, resuming, logging, sampling, measuring, saving."""

    def __init__(self, config: dict[str, Any], overrides: list[str], run: RunFolder, device: torch.device):
        self.config, self.overrides, self.run, self.device = config, overrides, run, device
        self.main = distributed.is_main()
        durations = {key: Duration.parse(text, key) for key, text in self._duration_keys() if text is not None}
        self.dtype = precision(config["precision"], device)
        micro = micro_batch(config)
        allow = config["allow"]
        torch.manual_seed(randomness.key(config["seed"], "initialisation"))
        game = build.game(config["model"], config["augment"], allow)  # before the data: its mistakes cost no packing
        loss = build.part(config["loss"], "loss", allow)
        regularizers = build.parts(config["regularizer"], "regularizer", allow)
        pace = build.part(config["pace"], "pace", allow)
        schedule = build.part(config["scheduler"], "scheduler", allow)
        self.images = image_set(config, device)
        if config["batch_size"] > len(self.images.train):
            raise UserError(
                f"batch_size={config['batch_size']} is larger than the data set: {len(self.images.train)} training images; "
                f"set batch_size={len(self.images.train)} or less"
            )
        self.clock = Clock(config["batch_size"] * pace.n_critic, pace.n_generator, len(self.images.train))

        if device.type == "cuda" and distributed.world() > 1:
            game = torch.nn.SyncBatchNorm.convert_sync_batchnorm(game)
        game.to(device, memory_format=torch.channels_last)
        if config["init_from"] is not None:
            initialise(game, config["init_from"])
        distributed.broadcast(game)
        half_life = self.clock.iterations(Duration.parse(config["ema"]["half_life"], "ema.half_life"))
        self.trainer = Trainer(
            game,
            loss,
            regularizers,
            pace,
            self.images,
            EMA(game.generators, half_life * self.clock.images_per_iteration, config["ema"]["ramp"]),
            seed=config["seed"],
            batch_size=config["batch_size"],
            micro_batch=micro,
            dtype=self.dtype,
            device=device,
        )
        for name, networks in (("D", game.discriminators), ("G", game.generators)):
            lazy = [r for r in regularizers.values() if r.player == name]
            optimizer = build.optimizer(config["optimizer"][name], f"optimizer.{name}", allow, networks, lazy, device)
            self.trainer.add_player(name, optimizer, schedule)

        self.total = self.clock.iterations(durations.pop("duration"))
        self.every = self._intervals(durations)
        self.best: dict[str, float] = {}
        self.metric: dict[str, float] = {}
        self.resumed = self._resume()
        if self.main:
            run.record(config, overrides)
            self.log = Logbook(run, self.step, self.trainer.images_seen, self.total * pace.n_generator)
        self.watch = Stopwatch(self.trainer.iteration, device)

    @property
    def step(self) -> int:
        """Turns of G so far."""
        return self.trainer.iteration * self.trainer.pace.n_generator

    @property
    def kimg(self) -> int:
        return round(self.trainer.images_seen / 1000)

    def fit(self) -> dict[str, Any]:
        """Train to the end of the duration; returns the results."""
        trainer = self.trainer
        tasks = [
            Task(self.every["every.log"], self.write_log),
            Task(self.every["every.sample"], self.watch.pausing(self.write_sample)),
            Task(self.every["every.metric"], self.watch.pausing(self.measure)),
            Task(self.every["every.checkpoint"], self.watch.pausing(self.save)),  # last: it vouches for the others
        ]
        try:
            self.banner()
            if not self.resumed:
                self.write_reals()
                for task in tasks[1:]:
                    task.do()
            with interruptions() as signals:
                while trainer.iteration < self.total:
                    self.advance()
                    for task in tasks:
                        if trainer.iteration % task.every == 0 or trainer.iteration == self.total:
                            task.do()
                    self.heed(signals)
            return self.finish()
        finally:
            if self.main:
                self.log.close()

    def advance(self) -> None:
        """One step of the trainer, with a way out where memory is short."""
        try:
            self.trainer.step()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            micro = self.trainer.micro_batch
            smaller = next((m for m in range(micro // 2, 0, -1) if micro % m == 0), 1)
            raise UserError(
                f"out of memory with micro_batch={micro}: set micro_batch={smaller}, which gives the same gradients "
                "(but for BatchNorm), and run again: this run resumes"
            ) from error
        if self.main:
            self.log.bar.update(self.trainer.pace.n_generator)

    def heed(self, signals: list[int]) -> None:
        """Save when a signal has reached any process; SIGINT and SIGTERM also end the run."""
        number = distributed.agree(signals.pop() if signals else 0)
        if number:
            self.save()
            if number not in (signal.SIGINT, signal.SIGTERM):
                return
            if self.main:
                self.log.say(f"stopped by a signal and saved at step {self.step:,}; go on with: {self.command()}")
            raise Interrupted(128 + number)

    def write_log(self) -> None:
        """Statistics since the last time, validation, learning rates, speed and memory."""
        trainer = self.trainer
        trainer.check_finite()
        numbers = trainer.stats.means()
        trainer.stats.sums.clear()
        numbers |= trainer.validate()
        for name, player in trainer.players.items():
            numbers[f"learning_rate/{name}"] = player.optimizer.param_groups[0]["lr"]
        numbers["speed/images_per_second"] = self.watch.rate(trainer.iteration) * self.clock.images_per_iteration
        numbers["memory/gigabytes"] = memory(self.device)
        if self.main:
            self.log.numbers({"step": self.step, "images": trainer.images_seen, **numbers}, self.metric)

    def write_reals(self) -> None:
        if self.main:
            (self.run.path / "samples").mkdir(exist_ok=True)
            picture = tile(self.images.gather(self.images.train[:GRID]).cpu())
            save_png(picture, self.run.path / "samples" / "reals.png")
            self.log.picture("samples/reals", picture, 0)

    def write_sample(self) -> None:
        """A grid of the averaged generators, always from the same seeds: those that gan-sample shows first."""
        if self.main:
            picture = tile(to_bytes(self.draw(torch.arange(GRID, device=self.device))).cpu())
            save_png(picture, self.run.path / "samples" / f"{self.kimg:06d}kimg.png")
            self.log.picture("samples/fakes", picture, self.trainer.images_seen)

    def draw(self, seeds: torch.Tensor) -> torch.Tensor:
        """Images of the averaged generators, in [-1, 1]."""
        return self.trainer.game.sample(self.trainer.ema.generators, seeds)

    def measure(self) -> None:
        """The metrics now; the best networks by the first of them are kept. What cannot be measured is said once, and training goes on."""
        settings = self.config["metric"]
        if not self.main or not settings["which"]:
            return
        folder = Path(self.config["data"]["packed"])
        try:
            features = find_features(settings["features"], settings["weights"], self.images, folder)
        except UserError as error:
            self.log.say(f"warning: {error}; training goes on without metrics")
            settings["which"] = []
            return
        row = evaluate(
            self.draw,
            self.images,
            features,
            which=settings["which"],
            samples=self.samples,
            seed=0,
            batch=self.trainer.micro_batch,
            cache=folder,
            ema=True,
        )
        self.metric = {name: row[name] for name in row if isinstance(row[name], float)}
        self.log.metrics({"by": "gan-train", "step": self.step, "images": self.trainer.images_seen, **row}, self.metric)
        self.log.say(f"step {self.step:,}: {describe(row)}")
        name, sign = HEADLINE[settings["which"][0]]
        if not self.best or sign * self.metric[name] < sign * self.best.get(name, math.inf * sign):
            self.best = {"step": self.step, **self.metric}
            self.trainer.check_finite()
            self.run.save_networks(self.content(), "best.pt")

    @property
    def samples(self) -> int:
        """Generated images a measurement."""
        return self.config["metric"]["samples"] or (2000 if self.device.type == "cpu" else 50_000)

    def content(self) -> checkpoint.State:
        """All that a checkpoint holds."""
        return {
            "config": self.config,
            "overrides": self.overrides,
            "data": {"fingerprint": self.images.fingerprint, **self.images.about},
            "versions": versions(),
            "step": self.step,
            "images_seen": self.trainer.images_seen,
            "metric": self.metric,
            "best": self.best,
            "state": self.trainer.state_dict(),
        }

    def save(self) -> None:
        """The whole state as latest.pt, and the networks alone under the number of images."""
        self.trainer.check_finite()  # a state that is lost already must not replace a good one
        if self.main:
            content = self.content()
            self.log.flush()
            self.run.save(content)
            self.run.save_networks(content, f"{self.kimg:06d}kimg.pt", self.config["keep"])

    def finish(self) -> dict[str, Any]:
        """The last words: results and the commands to type next."""
        result = {"run": str(self.run.path), "step": self.step, "images_seen": self.trainer.images_seen, **self.metric}
        if not self.main:
            return result
        settings = {key: value for key, value in leaves(self.config) if value is not None}
        self.log.hyperparameters(settings, self.metric)
        name = "best" if self.best else "latest"
        self.log.bar.close()
        if self.best:
            at, *values = [f"{k} {v:.4g}" for k, v in self.best.items()]
            self.log.say(f"best: {', '.join(values)} at {at}")
        self.log.say(
            f"finished: {self.clock.describe(self.trainer.iteration)}\n"
            f"  checkpoint   {self.run.checkpoints / name}.pt\n"
            f"  samples      {self.run.path / 'samples'}/{self.kimg:06d}kimg.png\n"
            f"  curves       tensorboard --logdir {shlex.quote(self.config['runs_dir'])}\n"
            f"next:\n"
            f"  gan-sample ckpt={shlex.quote(str(self.run.path))}\n"
            f"  gan-fid ckpt={shlex.quote(str(self.run.path))}\n"
            f'  {self.command(skip="duration")} duration="{2 * self.step} steps"'
        )
        return result

    def banner(self) -> None:
        if not self.main:
            return
        train, held_out = len(self.images.train), len(self.images.validation)
        networks = {**self.trainer.game.generators, **self.trainer.game.discriminators}
        sizes = [f"{name} {sum(p.numel() for p in net.parameters()):,}" for name, net in networks.items()]
        shape = "x".join(str(n) for n in (*self.images.shape[1:], self.images.shape[0]))
        every = ", ".join(f"{key[6:]} {n * self.trainer.pace.n_generator:,}" for key, n in self.every.items())
        dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        processes = f", {distributed.world()} processes" if distributed.world() > 1 else ""
        self.log.say(
            f"run        {self.run.path}" + (f" (resumed at step {self.step:,})\n" if self.resumed else "\n")
            + f"device     {label(self.device)}, {dtype}{processes}\n"
            f"data       {self.config['data']['name']}: {train:,} training and {held_out:,} validation images, {shape}\n"
            f"networks   {', '.join(sizes)} parameters\n"
            f"duration   {self.clock.describe(self.total)}, batch {self.config['batch_size']}\n"
            f"every      {every} steps"
            + (f"; metrics on {self.samples:,} images" if self.config["metric"]["which"] else "")
            + ("" if self.config["metric"]["samples"] or self.device.type != "cpu" else " (50,000 on a GPU)")
            + f"\nresume     {self.command()}"
        )

    def command(self, skip: str = "overwrite") -> str:
        """What to type to go on."""
        kept = [o for o in self.overrides if not o.startswith(("overwrite=", f"{skip}="))]
        return shlex.join(["gan-train", *kept])

    def _resume(self) -> bool:
        """Load the newest checkpoint of the folder, if it is of this experiment."""
        content, warnings = self.run.newest()
        if self.main:
            for warning in warnings:
                say(f"warning: {warning}; resuming from the checkpoint before it")
        if content is None:
            return False
        changed = differences(content["config"], self.config)
        if content["data"]["fingerprint"] != self.images.fingerprint:
            changed.append(f"data: {content['data']['fingerprint']} -> {self.images.fingerprint} (the images themselves)")
        if changed and not self.config["accept_changes"]:
            raise UserError(
                f"{self.run.path} was trained with other settings: {'; '.join(changed)}. Set accept_changes=true to go on with the "
                "new ones, overwrite=true to start anew, or name=... for another run"
            )
        if changed and self.main:
            say(f"accept_changes=true: {'; '.join(changed)}")
        try:
            self.trainer.load_state_dict(content["state"])
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise UserError(
                f"{self.run.path}: its networks or optimizers do not fit the new settings ({'; '.join(changed)}); "
                "give this run another name=..., with init_from= to start from the old weights"
            ) from error
        self.best, self.metric = content["best"], content["metric"]
        if self.trainer.iteration > self.total:
            raise UserError(
                f"duration={self.config['duration']} is shorter than what {self.run.path} has behind it "
                f"({self.clock.describe(self.trainer.iteration)}); set a longer one"
            )
        return True

    def _duration_keys(self) -> list[tuple[str, str | None]]:
        return [("duration", self.config["duration"])] + [(f"every.{k}", v) for k, v in self.config["every"].items()]

    def _intervals(self, durations: dict[str, Duration]) -> dict[str, int]:
        """Iterations between two of each task: as set, else by duration."""
        defaults = {
            "every.log": min(self.total // 200, 100),
            "every.sample": self.total // 20,
            "every.metric": self.total // 5,
            "every.checkpoint": min(self.total // 20, 2000),
        }
        return {
            key: max(1, self.clock.iterations(durations[key]) if key in durations else default)
            for key, default in defaults.items()
        }


# The value that decides which networks are best, and whether less (1) or more (-1) is better.
HEADLINE = {"fid": ("fid", 1), "kid": ("kid", 1), "isc": ("isc", -1), "prc": ("recall", -1)}


class Stopwatch:
    """Iterations a second, without the time that tasks take."""

    def __init__(self, iteration: int, device: torch.device):
        self.iteration, self.device = iteration, device
        self.start, self.paused = time.perf_counter(), 0.0

    def pausing(self, do: Callable[[], None]) -> Callable[[], None]:
        """The same task, not counted."""

        def paused() -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # steps still under way are no part of the pause
            start = time.perf_counter()
            do()
            self.paused += time.perf_counter() - start

        return paused

    def rate(self, iteration: int) -> float:
        """Since the last call."""
        now = time.perf_counter()
        rate = (iteration - self.iteration) / max(now - self.start - self.paused, 1e-9)
        self.iteration, self.start, self.paused = iteration, now, 0.0
        return rate


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Signals that ask to save, as a list that they are put into; a second SIGINT ends the process at once."""
    caught: list[int] = []

    def remember(number: int, _: Any) -> None:
        if number == signal.SIGINT and signal.SIGINT in caught:
            raise KeyboardInterrupt
        caught.append(number)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), remember) for name in names}
    try:
        yield caught
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def micro_batch(config: dict[str, Any]) -> int:
    """Images that one process holds at once. Raises UserError where the batch cannot be divided evenly."""
    batch, world = config["batch_size"], distributed.world()
    if batch % world:
        raise UserError(f"batch_size={batch} cannot be shared by {world} processes; set a multiple of {world}")
    share = batch // world
    micro = config["micro_batch"] or share
    if share % micro:
        divisors = [m for m in range(1, share + 1) if share % m == 0]
        raise UserError(
            f"micro_batch={micro} does not divide the {share} images of a process; it takes {', '.join(map(str, divisors))}"
        )
    return micro


def image_set(config: dict[str, Any], device: torch.device) -> ImageSet:
    """The packed data set; the first process packs it where needed."""
    paths: list[Path] = []
    if distributed.is_main():
        paths.append(prepare(config["data"], config["workers"], config["allow"], say=lambda about: say(report(about))))
    distributed.barrier()
    path = paths[0] if paths else prepare(config["data"], config["workers"], config["allow"])
    data = config["data"]
    return ImageSet(
        path,
        limit=data["limit"],
        validation=data["validation"],
        mirror=data["mirror"],
        seed=config["seed"],
        device=device,
    )


def initialise(game: torch.nn.Module, where: str) -> None:
    """Start from the weights of a checkpoint or run folder."""
    content = checkpoint.load(checkpoint.find(where))
    try:
        game.load_state_dict(content["state"]["game"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"init_from={where}: its networks are not those of this run ({reason})") from error


if __name__ == "__main__":
    from ganduel import cli

    cli.train()
