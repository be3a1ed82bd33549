#!/usr/bin/env bash
# Builds the source distribution, the wheel from it, and installs the wheel where no checkout is near; there, every
# command must work from another folder. PyTorch and the other dependencies are those of .venv (5 GB less to install).
#
#     scripts/check_wheel.sh
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,6s/^# \?//p' "$0"; exit ;; esac
cd "$(dirname "$0")/.."
checkout=$PWD python=$PWD/.venv/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

"$python" -m build --outdir "$work/dist" . > "$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
"$python" -m venv --without-pip "$work/env"
new=$work/env/bin/python
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
"$python" -m pip --python "$new" install --quiet --disable-pip-version-check --no-deps "$work"/dist/*.whl
packages "$python" > "$(packages "$new")/dependencies.pth"  # behind its own packages; an editable install there is not followed

mkdir "$work/elsewhere"
cd "$work/elsewhere"
"$new" - "$checkout" <<'PYTHON'
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import ganduel
from ganduel import config

checkout, package = Path(sys.argv[1]), Path(ganduel.__file__).parent
assert package.is_relative_to(sys.prefix), f"{package} is not what was installed"
assert version("ganduel") == ganduel.__version__, version("ganduel")
assert metadata("ganduel")["Requires-Python"] == ">=3.10"
found, wanted = ({p.relative_to(top) for p in top.rglob("*.yaml")} for top in (config.config_dir(), checkout / "configs"))
assert config.config_dir() == package / "configs" and found == wanted, found ^ wanted
PYTHON

cd "$work/elsewhere"
tiny=(data=digits model.channels=4 batch_size=8 'metric.which=[]')
run() { echo "+ $*" >&2; "$work/env/bin/$@" > last.txt 2> log.txt || { cat log.txt >&2; exit 1; }; }
run gan-data data=digits
run gan-train "${tiny[@]}" duration="2 steps"
run gan-train "${tiny[@]}" duration="4 steps"
run gan-sample ckpt=runs/dcgan-digits count=4
run gan-fid ckpt=runs/dcgan-digits metric.samples=64
run gan-report runs/dcgan-digits
run gan-export ckpt=runs/dcgan-digits
"$new" -c 'from ganduel import load; assert load("runs/dcgan-digits").sample(seeds=range(2)).shape == (2, 1, 32, 32)'
"$new" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

for entry in distribution("ganduel").entry_points:
    for flag in ("--version", "--help"):
        subprocess.run([Path(sys.executable).parent / entry.name, flag], check=True, stdout=subprocess.DEVNULL)
PYTHON
[ "$(ls)" = "$(printf '%s\n' data last.txt log.txt runs)" ] || { echo "error: left in the folder: $(ls)" >&2; exit 1; }
echo "the wheel works: $(cd "$work/dist" && ls -- *)" | tr '\n' ' ' && echo
