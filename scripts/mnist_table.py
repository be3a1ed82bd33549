"""Train six models on MNIST with the same number of generator turns, then print gan-report's table of them.

    python scripts/mnist_table.py --root data/mnist

After an interruption, the same command resumes. All models use the digits in a black frame, 32x32 pixels, because the
residual networks need this size, and FIDs are comparable only at the same size.
"""

import argparse
import shlex
import subprocess
import sys

from ganduel.commands import cli

ROWS = {
    "vanilla": "model=vanilla",
    "dcgan": "model=dcgan",
    "lsgan": "model=dcgan loss=least_squares optimizer.G.lr=0.001 optimizer.D.lr=0.001",  # as in its paper
    "wgan": "model=wgan",
    "wgan_gp": "model=wgan_gp",
    "resnet": "model=resnet model.channels=8",  # 64 channels would take twenty times as long
}
COMMON = "data=mnist data.resolution=32 data.resize=pad batch_size=64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/mnist", help="where MNIST lies or goes (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=1500, help="of every generator (default: %(default)s)")
    parser.add_argument("--runs", default="runs", help="where the run folders go (default: %(default)s)")
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=f"which (default: all of {', '.join(ROWS)})")
    args = parser.parse_args()
    common = [*shlex.split(COMMON), "every.checkpoint=100 steps", f"every.metric={args.turns / 3:g} steps"]
    common += [f"duration={args.turns} steps", f"data.root={args.root}", f"runs_dir={args.runs}"]
    for row in args.rows:
        command = [*shlex.split(ROWS[row]), *common, f"name=mnist_table/{row}"]
        print(shlex.join(["gan-train", *command]), file=sys.stderr)
        subprocess.run([sys.executable, "-m", "ganduel.train", *command], stdout=sys.stderr, check=True)
    sys.exit(cli.command("report", [f"{args.runs}/mnist_table"]))


if __name__ == "__main__":
    main()
