#!/usr/bin/env bash
# Trains rows of docs/modes.md for some seconds, all at the same time: Stacked MNIST on the GPU, ring and grid on cores of
# its host. The images travel as MNIST's four files, below DATA; points are drawn there.
#
#     bash scripts/modes_rows.sh DATA RUNS OUT 240                     # 5 minutes of a GPU with 16 cores
#     SEEDS=0 bash scripts/modes_rows.sh DATA RUNS OUT 60 device=cpu duration="8 steps" metric.samples=300    # a trial
#
# SIGTERM ends a run that has not reached its duration in time: it is saved, and the next call goes on with it. SEEDS are
# those of ring and grid: each takes four cores. Further arguments are settings of all runs.
# OUT gets rows.jsonl (every measurement, with the run's name), a log of every run, and the last samples.
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,11s/^# \?//p' "$0"; exit ;; esac
data=$1 runs=$2 out=$3 seconds=$4
shift 4
more=("$@")
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/src OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
mkdir -p "$runs" "$out"

pack() { "$python" -c 'from ganduel.commands.start import data; data()' "data.packed=$data/packed" "$@"; }
pack data=ring  # here, because runs of the same set that start together would all pack it
pack data=grid
pack data=stacked_mnist data.root="$data"
pack data=stacked_mnist data.root="$data" data.resolution=32 data.resize=pad

begin() {  # name, experiment, further settings
    local name=$1 experiment=$2
    shift 2
    timeout --signal=TERM --kill-after=20 "$seconds" "$python" -m ganduel.train experiment="$experiment" name="$name" \
        runs_dir="$runs" data.packed="$data/packed" forecast=false "$@" "${more[@]}" > "$out/$name.log" 2>&1 &
}

images=(data.root="$data" every.log=16kimg)
begin stacked_mnist_dcgan stacked_mnist_dcgan "${images[@]}" every.metric=256kimg
begin stacked_mnist_pacdcgan stacked_mnist_pacdcgan "${images[@]}" every.metric=256kimg
begin stacked_mnist_r3gan stacked_mnist_r3gan "${images[@]}"
begin stacked_mnist_gan_r1_r2 stacked_mnist_r3gan loss=nonsaturating "${images[@]}"
for seed in ${SEEDS:-0 1 2}; do
    for row in ring8_gan ring8_pacgan grid25_gan grid25_pacgan; do
        begin "$row-$seed" "$row" device=cpu seed=$seed every.metric=200kimg
    done
done
wait

"$python" - "$runs" "$out" <<'EOF'
import json, pathlib, shutil, sys
runs, out = map(pathlib.Path, sys.argv[1:])
with (out / "rows.jsonl").open("w") as rows:
    for path in sorted(runs.glob("*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rows.writelines(json.dumps({"run": path.parent.name, **line}) + "\n" for line in lines)
        if lines:
            last = lines[-1]
            values = {key: last[key] for key in ("step", "images", "modes", "high_quality", "reverse_kl") if key in last}
            print(path.parent.name, values)
for run in [*runs.glob("stacked*"), *runs.glob("*-0")]:
    if pictures := sorted(run.glob("samples/[0-9]*.png")):
        shutil.copy(pictures[-1], out / f"{run.name}.png")
EOF
