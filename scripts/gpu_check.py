"""Check correctness and speed on a CUDA device, in parts. Each takes three minutes at most, and is useful alone.

    python scripts/gpu_check.py --only numerics --out numerics
    python scripts/gpu_check.py --only graphs profile --out graphs --families stylegan2_ada dcgan
    python scripts/gpu_check.py --only speed --out speed --seconds 170
    python scripts/gpu_check.py --device cpu --seconds 20 --out rehearsal   # all parts, with tiny sizes

    numerics   compares the gradients of every phase of every family, in fp32, bf16 and fp16, with the CPU in float32;
               then runs steps in which the host must not wait for the device
    graphs     trains with phases captured as CUDA graphs and without: equal weights? Then a group of one process, whose
               averages of gradients are captured, against a process that skips them
    profile    the longest kernels of every phase, and the share of its time in which the device has nothing to do
    speed      trains every family for some seconds: images per second, memory, are weights finite, do they change; then
               compares with textbook loops on PyTorch's defaults (benchmark_plain.py), and settings with the default
    quality    FID of digits after the same number of images, in fp32 and in bf16, with several seeds
    compile    compares compile=true with the default; takes minutes, and runs only if it is named

Writes OUT.json and OUT.md after every measurement, so that no result is lost if the check is interrupted. Every
measurement runs in its own process. If something fails, the table says so, and the next one runs.
scripts/benchmark_tables.py makes the tables of docs/benchmarks.md from the JSON files.

Needs PyTorch, torchvision and the wheels of the pure-Python dependencies. ganduel need not be installed: a checkout is
enough. On a CPU, all sizes are tiny, and the check only tests this script.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent / "src")]

# family -> (overrides for gan-train, overrides for a toy size)
TOY = ["data.resolution=16", "batch_size=4"]
FAMILIES = {
    "vanilla": (["model=vanilla"], ["model=vanilla", "model.generator.widths=[8]", *TOY]),
    "dcgan": (["model=dcgan"], ["model=dcgan", "model.channels=4", *TOY]),
    "wgan": (["model=wgan"], ["model=wgan", "model.channels=4", *TOY]),
    "wgan_gp": (["model=wgan_gp"], ["model=wgan_gp", "model.channels=4", *TOY]),
    "resnet": (["model=resnet"], ["model=resnet", "model.channels=2", *TOY]),
    "stylegan2_ada": (
        ["model=stylegan2_ada"],
        ["model=stylegan2_ada", "model.channel_base=64", "model.channel_max=8", "model.generator.width=8", *TOY],
    ),
    "projected": (
        ["model=projected"],
        [
            "model=projected",
            "model.generator.channels=4",
            "model.discriminator.input=64",
            "model.discriminator.channel_max=8",
            *TOY,
        ],
    ),
    "r3gan": (["model=r3gan"], ["model=r3gan", "model.channel_base=64", "model.channel_max=8", "model.group=4", *TOY]),
    "points": (
        ["model=points"],
        ["model=points", "model.generator.widths=[8]", "model.discriminator.widths=[8]", "batch_size=4"],
    ),
    "cyclegan": (
        ["model=cyclegan", "data.resolution=256"],
        ["model=cyclegan", "model.channels=2", "model.generator.blocks=1", "data.resolution=24", "batch_size=2"],
    ),
    "cyclegan_unet": (
        ["model=cyclegan_unet", "data.resolution=256"],
        ["model=cyclegan_unet", "model.channels=2", "data.resolution=32", "batch_size=2"],
    ),
}
TIMED = "dcgan", "wgan_gp", "stylegan2_ada", "r3gan", "cyclegan"  # families for the parts speed and compile
SETTINGS = {
    "cuda_graphs=false": TIMED,
    "triton=false": ("stylegan2_ada", "r3gan"),
    "tf32=false": TIMED,
    "precision=fp32": TIMED,
    "precision=fp32 tf32=false": TIMED,
    "precision=fp16": ("dcgan", "wgan_gp", "stylegan2_ada", "cyclegan"),
    "cudnn_benchmark=false": TIMED,
    "optimizer.G.fused=false optimizer.D.fused=false": ("dcgan",),
    "turns=alternating": ("dcgan",),
    "data.on_device=false": ("dcgan",),
}
EXACT = {"vanilla": ["model.discriminator.dropout=0"]}  # because dropout draws other numbers on another device
SCALE = 128.0  # scale of fp16 gradients: the usual one is too large for toys, and shrinks only with skipped steps
# Limits of gradient differences, relative to the norm of the gradients. CycleGAN's normalised toy images need this much
# in bf16: weights rounded to bf16 change its float32 gradients by 0.17 (by 0.05 with 16 times finer rounding).
LIMITS = {"fp32": 2e-3, "bf16": 0.4, "fp16": 0.2}
# part -> its measurements, each with its share of the part's time
ONLY = {
    "numerics": {"numerics": 0.6, "waiting": 0.4},
    "graphs": {"captures": 0.5, "collectives": 0.5},
    "profile": {"profile": 1.0},
    "speed": {"train": 0.3, "plain": 0.22, **{f"speed {family}": 0.1 for family in TIMED}},
    "quality": {"quality": 1.0},
    "compile": {"compile": 1.0},
}
STEPS = 8  # iterations after which weights are compared: all phases are captured by then, and replayed
SETTINGS_OF_GRAPHS = "precision=fp16", "optimizer=sgd", "optimizer=rmsprop"  # to be captured, too
APART = 0.3  # limit of the distance between two trainings, as a share of the way of their weights
SLOWEST = 8  # kernels to name
# family -> (overrides, kimg) of a training on digits, 32x32 grey
DIGITS = {
    "dcgan": (["model=dcgan"], 200),
    "stylegan2_ada": (
        [
            "model=stylegan2_ada",
            "model.channel_base=1024",
            "model.channel_max=256",
            "regularizer.r1_stylegan.weight=5",
        ],
        60,
    ),
}

Row = dict[str, Any]
Tell = Callable[..., None]


class Bench:
    """The environment of a part: trainers on images of noise, the remaining time, and `tell` for rows of the table."""

    def __init__(
        self, device: str, seconds: float, folder: Path, tell: Tell, families: Sequence[str] = tuple(FAMILIES)
    ):
        self.device, self.folder, self.tell, self.families = device, folder, tell, families
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()

    def trainer(self, family: str, *overrides: str, device: str | None = None, toy: bool = False) -> Any:
        from benchmark_step import assemble

        toy = toy or self.device == "cpu"
        return assemble([*FAMILIES[family][toy], f"device={device or self.device}", *overrides], self.folder)

    def guarded(self, what: str, do: Callable[[], None]) -> None:
        """Run one measurement. If it fails, tell the error and go on with the next one."""
        if self.left() <= 0:
            self.tell(what, note="no time left")
            return
        try:
            do()
        except Exception as error:
            traceback.print_exc()
            self.tell(what, ok=False, note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def numerics(bench: Bench) -> None:
    for family in bench.families:
        bench.guarded(family, lambda family=family: _numerics(bench, family))


def _numerics(bench: Bench, family: str) -> None:
    """Compare gradients with SGD, because with Adam even a gradient near 0 would move a weight by a whole step."""
    common = ["optimizer=sgd", "optimizer.G.lr=1e-4", "optimizer.D.lr=1e-4", "data.mirror=false", "tf32=false"]
    common += ["cudnn_benchmark=false", *EXACT.get(family, [])]
    reference = gradients(bench.trainer(family, *common, "precision=fp32", device="cpu", toy=True))
    for precision, limit in LIMITS.items():
        if precision == "fp16" and bench.device == "cpu":
            continue
        own = gradients(bench.trainer(family, *common, f"precision={precision}", toy=True))
        for name, gradient in reference.items():
            difference = ((own[name] - gradient).norm() / gradient.norm().clamp_min(1e-12)).item()
            bench.tell(f"{family} {precision}: {name}", difference, "relative difference", ok=difference <= limit)


def gradients(trainer: Any) -> dict[str, Any]:
    """The gradients of every phase of the first iteration, moved to the CPU. Each phase follows the earlier steps."""
    import torch

    from ganduel.trainer import Executor

    found: dict[str, Any] = {}
    for player in trainer.players.values():
        if player.scaler.is_enabled():
            player.scaler = torch.amp.GradScaler(trainer.device.type, init_scale=SCALE)

    class Keeping(Executor):
        def advance(self, move: Any) -> Any:
            met, stats = super().advance(move)
            name, networks = " + ".join(stats.losses), move.player.networks
            given = [p.grad.detach().double().cpu().flatten() for p in networks.parameters() if p.grad is not None]
            found.setdefault(name, torch.cat(given))
            return met, stats

    trainer.executor = Keeping(trainer)
    trainer.iterate()
    return found


def waiting(bench: Bench) -> None:
    import torch

    def check(family: str) -> None:
        trainer = bench.trainer(family)
        for _ in range(trainer.executor.warm_up + 1):
            trainer.iterate()
        if bench.device != "cuda":
            bench.tell(family, note="this check needs CUDA")
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            trainer.iterate()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        bench.tell(family, ok=True, note="the host never waited")

    for family in bench.families:
        bench.guarded(family, lambda family=family: check(family))


def captures(bench: Bench) -> None:
    """Compare weights after some iterations with and without CUDA graphs. Sums in another order are no fault."""

    def check(family: str, settings: list[str]) -> None:
        if bench.device == "cpu" and "precision=fp16" in settings:
            bench.tell("precision=fp16", note="this check needs CUDA")
            return
        exact = ["cudnn_benchmark=false", "data.mirror=false", *EXACT.get(family, []), *settings]
        graphs = [] if bench.device == "cpu" else ["cuda_graphs=true"]
        with_graphs = after_steps(bench.trainer(family, *exact, *graphs, toy=True))
        without = after_steps(bench.trainer(family, *exact, "cuda_graphs=false", toy=True))
        told_apart(bench, " ".join(settings) or family, with_graphs, without)

    for family in bench.families:
        bench.guarded(family, lambda family=family: check(family, []))
    for setting in SETTINGS_OF_GRAPHS:
        bench.guarded(setting, lambda setting=setting: check("dcgan", setting.split()))


def collectives(bench: Bench) -> None:
    """Compare weights after some iterations of a process that skips all collectives, and of a group of one process.

    The group averages gradients inside CUDA graphs, as many processes would. Nothing else on one device can show it.
    """
    from ganduel.system import distributed
    from ganduel.system.device import choose

    def check(family: str) -> None:
        exact = ["cudnn_benchmark=false", "data.mirror=false", *EXACT.get(family, [])]
        alone = after_steps(bench.trainer(family, *exact, toy=True))
        distributed.start(choose(bench.device), alone=True)
        try:
            group = after_steps(bench.trainer(family, *exact, toy=True))
        finally:
            distributed.stop()
        told_apart(bench, family, group, alone)

    for family in bench.families:
        bench.guarded(family, lambda family=family: check(family))


def after_steps(trainer: Any) -> tuple[Any, Any]:
    """A trainer after `STEPS` full iterations, in each of which all lazy phases are due, and its first weights."""
    import torch

    from ganduel.speed.forecast import full_iteration

    first = torch.cat([p.detach().flatten() for p in trainer.game.parameters()])
    for _ in range(STEPS):
        full_iteration(trainer)
    return trainer, first


def told_apart(bench: Bench, what: str, one_and_first: tuple[Any, Any], other_and_first: tuple[Any, Any]) -> None:
    """Tell how far two trainers' weights are apart, as a share of the way they have come.

    With Adam, a gradient that is nothing but rounding moves a weight as far as any other. So zero is rare on a GPU.
    """
    import torch

    (one, first), (other, _) = one_and_first, other_and_first
    ends = [torch.cat([p.detach().flatten() for p in each.game.parameters()]) for each in (one, other)]
    apart = ((ends[0] - ends[1]).norm() / (ends[1] - first).norm()).item()
    given_up = getattr(one.executor, "given_up", False)
    note = f"{type(one.executor).__name__} against {type(other.executor).__name__}{', given up' if given_up else ''}"
    bench.tell(what, apart, "of the way", ok=apart <= APART and not given_up, note=note)


def profile(bench: Bench) -> None:
    """The longest kernels of every phase of an iteration in which all phases are due."""
    for family in bench.families:
        bench.guarded(family, lambda family=family: _profile(bench, family))


def _profile(bench: Bench, family: str) -> None:
    import torch

    from ganduel.speed.forecast import full_iteration
    from ganduel.system.device import synchronise
    from ganduel.trainer import Executor

    on_device = bench.device == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if on_device else torch.profiler.ProfilerActivity.CPU]
    time_of = "self_device_time_total" if on_device else "self_cpu_time_total"  # microseconds
    trainer = bench.trainer(family)

    class Profiled(Executor):
        def __init__(self, executor: Executor):
            super().__init__(executor.trainer)
            self.inner, self.separate = executor, executor.separate

        def advance(self, move: Any) -> Any:
            synchronise(trainer.device)
            with torch.profiler.profile(activities=kinds) as found:
                start = time.perf_counter()
                outcome = self.inner.advance(move)
                synchronise(trainer.device)
                taken = 1e3 * (time.perf_counter() - start)
            rows = sorted(found.key_averages(), key=lambda row: -getattr(row, time_of))
            busy = sum(getattr(row, time_of) for row in rows) / 1e3
            longest = "; ".join(
                f"{' '.join(row.key.split())[:60]} {getattr(row, time_of) / 10 / max(busy, 1e-9):.0f} %, {row.count}x"
                for row in rows[:SLOWEST]
            )
            name = " + ".join(outcome[1].losses)
            note = f"busy {busy:.2f} ms, {100 * max(0.0, 1 - busy / taken):.0f} % idle; {longest}"
            bench.tell(f"{family}: {name}", taken, "ms", note=note)
            return outcome

    for _ in range(trainer.executor.warm_up + 1):
        full_iteration(trainer)
    trainer.executor = Profiled(trainer.executor)
    full_iteration(trainer)


def quality(bench: Bench) -> None:
    """FID of generated digits after the same number of images in fp32 and in bf16, with one seed after the other."""
    from ganduel.commands.cli import run
    from ganduel.config.compose import compose

    toy = bench.device == "cpu"

    def check(family: str, precision: str, seed: int) -> None:
        overrides, kimg = DIGITS[family]
        typed = [*overrides, "data=digits", f"precision={precision}", f"seed={seed}", f"device={bench.device}"]
        typed += [
            f"duration={'2 steps' if toy else f'{kimg} kimg'}",
            "every.metric=1000 kimg",
            f"name={family}-{precision}-{seed}",
            "forecast=false",
        ]
        typed += [
            f"runs_dir={bench.folder}",
            f"data.packed={bench.folder}/packed",
            "metric.which=[fid]",
            "metric.samples=5000",
        ]
        if toy:
            typed += ["batch_size=8", "metric.samples=20"]
            small = ["model.channel_base=64", "model.channel_max=8", "model.generator.width=8"]
            typed += ["model.channels=4"] if family == "dcgan" else small
        begun = time.monotonic()
        result = run("train", compose("train", typed), typed)
        note = f"{result['images_seen']:,} images in {time.monotonic() - begun:.0f} s"
        bench.tell(f"{family} {precision}, seed {seed}", result["fid"], "FID of digit features", note=note)

    for seed in range(1 if toy else 3):
        for family in (family for family in DIGITS if family in bench.families):
            for precision in ("fp32", "bf16"):
                what = f"{family} {precision}, seed {seed}"
                bench.guarded(what, lambda f=family, p=precision, s=seed: check(f, p, s))


def train(bench: Bench) -> None:
    """Train every family. All have equal shares of the time, and unused time goes to the later ones."""
    import torch

    from ganduel.speed.forecast import forecast
    from ganduel.system.device import memory, synchronise

    def check(family: str, seconds: float) -> None:
        start = time.monotonic()
        trainer = bench.trainer(family)
        expected = forecast(trainer)
        before = [p.detach().clone() for p in trainer.game.parameters()]
        for _ in range(trainer.executor.warm_up):
            trainer.iterate()
        synchronise(trainer.device)
        iterations, begun = 0, time.monotonic()
        while iterations < 3 or time.monotonic() - start < seconds:
            trainer.iterate()
            iterations += 1
            if iterations % 10 == 0:
                synchronise(trainer.device)  # else the host would queue steps far beyond the time limit
        synchronise(trainer.device)
        each = (time.monotonic() - begun) / iterations
        moved = [not torch.equal(a, b) for a, b in zip(before, trainer.game.parameters(), strict=True)]
        bad = trainer.not_finite()
        note = f"{iterations} iterations of {1000 * each:.1f} ms (forecast {1000 * expected.seconds:.1f}), "
        note += f"{memory(trainer.device):.2f} GB, {sum(moved)} of {len(moved)} tensors moved"
        note += f", not finite: {', '.join(bad)}" if bad else ""
        speed = trainer.images_per_iteration / each
        bench.tell(family, speed, "images/s", ok=not bad and sum(moved) > 0.9 * len(moved), note=note)

    for i, family in enumerate(bench.families):
        share = min(60.0, bench.left() / (len(bench.families) - i))
        bench.guarded(family, lambda family=family, share=share: check(family, share))


def plain(bench: Bench) -> None:
    from benchmark_plain import TEXTBOOK, ours
    from benchmark_plain import plain as textbook

    def check(family: str, overrides: list[str], seconds: float) -> None:
        sizes = {"dcgan": ["batch_size=64"], "wgan_gp": ["batch_size=64"], "cyclegan": ["data.resolution=128"]}
        toy = bench.device == "cpu"  # still at 64 pixels, the only size of the textbook networks
        trainer = bench.trainer(family, *(["data.resolution=64"] if toy else sizes[family]), *overrides)
        theirs, own = textbook(family, trainer, **({"width": 4} if toy else {})), ours(trainer)
        use = as_it_comes, flags(overrides)
        for name in own:
            what = f"{family} {' '.join(overrides)}: {name}"
            ratio(bench, what, theirs[name], own[name], trainer, seconds / len(own), before=use)

    known = [family for family in TEXTBOOK if family in bench.families]
    todo = [(family, overrides) for family in known for overrides in ([], ["precision=fp32"])]
    for i, (family, overrides) in enumerate(todo):
        share = bench.left() / (len(todo) - i) / 3  # the rest is for preparation
        bench.guarded(family, lambda f=family, o=overrides, share=share: check(f, o, share))


def speed(bench: Bench, family: str) -> None:
    todo = [setting for setting, families in SETTINGS.items() if family in families]
    if bench.device == "cpu":
        todo = [setting for setting in todo if setting != "precision=fp16"]
    default = begun(bench, family, [])
    for i, setting in enumerate(todo):
        share = bench.left() / (len(todo) - i)
        bench.guarded(setting, lambda setting=setting, share=share: against(bench, default, family, setting, share))


def compiled(bench: Bench) -> None:
    if bench.device != "cuda":
        bench.tell("compile=true", note="on CUDA only")
        return

    def check(family: str, seconds: float) -> None:
        against(bench, begun(bench, family, []), family, "compile=true", seconds)

    for i, family in enumerate(timed := [family for family in TIMED if family in bench.families]):
        share = bench.left() / (len(timed) - i)
        bench.guarded(family, lambda family=family, share=share: check(family, share))


def begun(bench: Bench, family: str, overrides: list[str]) -> tuple[Any, dict[str, float]]:
    """A trainer after six steps, and its losses. Six is more than the steps before a phase becomes a CUDA graph."""
    trainer = bench.trainer(family, *overrides)
    flags(overrides)()
    for _ in range(6):
        trainer.iterate()
    return trainer, {name: float(total / count) for name, (total, count) in trainer.stats.losses.items()}


def against(bench: Bench, default: tuple[Any, dict[str, float]], family: str, setting: str, seconds: float) -> None:
    """Compare a setting with the default: the speed ratio, and the largest difference of the losses after six steps."""
    end = time.monotonic() + seconds
    trainer, losses = default
    other, others = begun(bench, family, setting.split())
    note = f"losses apart by at most {max(abs(losses[n] - others[n]) for n in losses):.3g} after 6 iterations"
    use = flags([]), flags(setting.split())
    ratio(
        bench, setting, trainer.iterate, other.iterate, trainer, max(end - time.monotonic(), 0.0), before=use, note=note
    )


def as_it_comes() -> None:
    """Set PyTorch's default flags, which hold for the whole process."""
    import torch

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    torch.backends.cudnn.benchmark = False


def flags(overrides: list[str]) -> Callable[[], None]:
    """A function that sets PyTorch's flags as our configuration with these overrides does, for the whole process."""
    from ganduel.config.compose import compose
    from ganduel.models import triton_kernels
    from ganduel.system.device import configure

    composed = compose("train", overrides)

    def use() -> None:
        configure(tf32=composed.tf32, cudnn_benchmark=composed.cudnn_benchmark)
        triton_kernels.enabled = composed.triton

    return use


def ratio(
    bench: Bench,
    what: str,
    one: Callable[[], object],
    two: Callable[[], object],
    trainer: Any,
    seconds: float,
    before: tuple[Callable[[], None], ...] = (lambda: None, lambda: None),
    note: str = "",
) -> None:
    """Tell how many times as fast `two` is as `one`. They take turns in rounds of calls; `before` sets flags."""
    from benchmark_step import seconds as timed

    for prepare, do in zip(before, (one, two), strict=True):
        prepare()
        for _ in range(6):  # more than the steps before a phase becomes a CUDA graph
            do()
    calls = max(1, int(0.15 / max(timed(one, trainer.device), 1e-6)))

    def several(do: Callable[[], object]) -> Callable[[], None]:
        def repeat() -> None:
            for _ in range(calls):
                do()

        return repeat

    rounds: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while len(rounds) < 3 or (time.monotonic() < end and len(rounds) < 15):
        taken = []
        for prepare, do in zip(before, (one, two), strict=True):
            prepare()
            taken.append(timed(several(do), trainer.device) / calls)
        rounds.append((taken[0], taken[1]))
    ratios = [a / b for a, b in rounds]
    first, second = (1000 * statistics.median(values) for values in zip(*rounds, strict=True))
    note = f"{first:.2f} and {second:.2f} ms; {min(ratios):.2f} to {max(ratios):.2f}{'; ' if note else ''}{note}"
    bench.tell(what, statistics.median(ratios), "times as fast", note=note)


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "numerics": numerics,
    "waiting": waiting,
    "captures": captures,
    "collectives": collectives,
    "profile": profile,
    "quality": quality,
    "train": train,
    "plain": plain,
    **{f"speed {family}": (lambda bench, family=family: speed(bench, family)) for family in TIMED},
    "compile": compiled,
}


def run_part(part: str, device: str, seconds: float, rows: Path, families: Sequence[str] = tuple(FAMILIES)) -> None:
    """Run one measurement in this process and append its rows to the file `rows` one by one."""

    def tell(what: str, value: float | None = None, unit: str = "", ok: bool | None = None, note: str = "") -> None:
        row = {"part": part, "what": what, "value": value, "unit": unit, "ok": ok, "note": note}
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, seconds, Path(folder), tell, families)
        bench.guarded(part, lambda: MEASUREMENTS[part](bench))


def machine(device: str) -> Row:
    import platform

    import torch

    about: Row = {
        "date": time.strftime("%F"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "device": properties.name,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        about |= {"device": "cpu", "threads": torch.get_num_threads()}
    return about


def write(out: Path, about: Row, rows: list[Row], started: float) -> None:
    about = {**about, "seconds": round(time.monotonic() - started, 1)}
    out.with_suffix(".json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1))
    lines = [f"{', '.join(f'{key} {value}' for key, value in about.items())}", ""]
    lines += ["| part | what | value | ok | note |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        ok = {True: "yes", False: "NO", None: ""}[row["ok"]]
        cells = (row["part"], row["what"], value, ok, row["note"])
        lines.append(f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |")
    wrong = sum(row["ok"] is False for row in rows)
    lines += ["", f"{len(rows)} rows, {wrong} failed."]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="without an ending")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=170.0, help="for each part")
    parser.add_argument("--only", nargs="+", choices=ONLY, default=[part for part in ONLY if part != "compile"])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[*FAMILIES], help="in the order to measure")
    parser.add_argument("--part", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.part:
        run_part(typed.part, typed.device, typed.seconds, typed.rows, typed.families)
        return
    started = time.monotonic()
    try:
        about = machine(typed.device)
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"error: --device={typed.device}: {error}; --device cpu tests this script")
    typed.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    named = {f"speed {family}" for family in TIMED if family not in typed.families}  # nothing to measure
    todo = [(each, share) for part in typed.only for each, share in ONLY[part].items() if each not in named]
    end = started + typed.seconds * len(typed.only)
    with tempfile.TemporaryDirectory() as folder:
        for i, (part, share) in enumerate(todo):
            rest = sum(later for _, later in todo[i:])
            seconds = max(5.0, (end - time.monotonic()) * share / rest)  # later ones share what earlier ones left
            file = Path(folder) / f"{i}.jsonl"
            command = [sys.executable, __file__, "--part", part, "--rows", str(file)]
            command += ["--device", typed.device, "--families", *typed.families]
            command += ["--seconds", str(0.75 * seconds)]  # the rest is for PyTorch's start
            print(f"{part}: {seconds:.0f} s", file=sys.stderr, flush=True)
            failure = ""
            try:
                done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=1.2 * seconds + 20)
                failure = f"ended with {done.returncode}" if done.returncode else ""
            except subprocess.TimeoutExpired:
                failure = "took too long"
            if file.exists():
                rows += [json.loads(line) for line in file.read_text().splitlines()]
            if failure:
                rows.append({"part": part, "what": "", "value": None, "unit": "", "ok": False, "note": failure})
            write(typed.out, about, rows, started)
    print(typed.out.with_suffix(".md"))


if __name__ == "__main__":
    main()
