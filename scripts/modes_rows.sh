#!/usr/bin/env bash
# Trains the rows of docs/modes.md, and the three families of digits of docs/r3gan.md, for some seconds, all at the same time:
# stacks on the GPU, everything else on one core of its host each. MNIST's four files are below DATA; the rest is made there.
#
#     bash scripts/modes_rows.sh DATA RUNS OUT 240                     # 5 minutes of a GPU with 16 cores
#     bash scripts/modes_rows.sh DATA RUNS OUT 60 device=cpu duration="8 steps" metric.samples=300    # a trial
#
# SIGTERM ends runs that have not reached their durations in time: they are saved, and the next call goes on with them.
# Further arguments are settings of all runs. OUT gets rows.jsonl (every measurement, with its run), table.md (gan-report),
# a log of every run, and the last samples.
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n '2,11s/^# \?//p' "$0"; exit ;; esac
data=$1 runs=$2 out=$3 end=$((SECONDS + $4))
shift 4
more=("$@")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD/src OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
mkdir -p "$runs" "$out"

gan() {  # a command and its arguments
    "${PYTHON:-python3}" -c "from ganduel.commands import start; start.$1()" "${@:2}"
}

pack() { gan data data.packed="$data/packed" "$@"; }
pack data=ring  # here, because runs of the same set that start together would all pack it
pack data=grid
pack data=digits data.resolution=16
pack data=stacked_mnist data.root="$data"
pack data=stacked_mnist data.root="$data" data.resolution=32 data.resize=pad
end=$((end + SECONDS))

row() {  # name, settings
    local seconds=$((end - SECONDS))
    [ $seconds -gt 0 ] || return 0
    timeout --signal=TERM --kill-after=20 $seconds "${PYTHON:-python3}" -c "from ganduel.commands import start; start.train()" \
        name="$1" runs_dir="$runs" data.packed="$data/packed" forecast=false "${@:2}" "${more[@]}" > "$out/$1.log" 2>&1 || true
}

small() {  # ring8_small or grid25_small, with several seeds each, the longest first
    local row="experiment=$1 device=cpu every.sample=600steps -m"
    row "$1_wgan_gp" $row seed=0,1,2 loss=wasserstein regularizer=[gradient_penalty] turns=critic5 &
    { row "$1" $row seed=0,1,2,3,4
      row "$1_r1" $row seed=0,1,2,3,4 regularizer=[r1] regularizer.r1.weight=0.05; } &
    { row "$1_rpgan" $row seed=0,1,2,3,4 loss=relativistic regularizer=[r1,r2] regularizer.r1.weight=0.05 regularizer.r2.weight=0.05
      row "$1_pacgan" $row seed=0,1,2,3,4 model.pack=2; } &
}

stacks=(data.root="$data" every.log=16kimg)
row stacked_mnist_dcgan experiment=stacked_mnist_dcgan "${stacks[@]}" every.metric=256kimg &
row stacked_mnist_pacdcgan experiment=stacked_mnist_pacdcgan "${stacks[@]}" every.metric=256kimg &
row stacked_mnist_r3gan experiment=stacked_mnist_r3gan "${stacks[@]}" &
row stacked_mnist_gan_r1_r2 experiment=stacked_mnist_r3gan loss=nonsaturating "${stacks[@]}" &
{ row stacked_digits_dcgan experiment=stacked_digits_dcgan
  row stacked_digits_r3gan experiment=stacked_digits_r3gan; } &
for name in ring8_gan ring8_pacgan grid25_gan grid25_pacgan; do
    row $name experiment=$name device=cpu every.metric=200kimg &
done
small ring8_small
small grid25_small
digits=(device=cpu data.resolution=16 every.metric=5kimg every.log=1kimg metric.samples=2000)
row digits_r3gan experiment=digits_r3gan "${digits[@]}" &
row digits_dcgan experiment=demo duration=2000kimg "${digits[@]}" &
row digits_stylegan2_ada data=digits model=stylegan2_ada batch_size=32 model.channel_base=512 model.channel_max=64 \
    model.generator.width=64 model.latent=64 regularizer.r1_stylegan.weight=1 ema.half_life=2kimg "${digits[@]}" &
wait

gan report "$runs" out="$out/report.html" > "$out/table.md"
"${PYTHON:-python3}" - "$runs" "$out" <<'EOF'
import json, pathlib, shutil, sys
runs, out = map(pathlib.Path, sys.argv[1:])
with (out / "rows.jsonl").open("w") as rows:
    for path in sorted(runs.glob("**/metrics.jsonl")):
        name = str(path.parent.relative_to(runs))
        lines = [{"run": name, **json.loads(line)} for line in path.read_text().splitlines()]
        rows.writelines(json.dumps(line) + "\n" for line in lines)
        print({key: value for key, value in (lines or [{}])[-1].items() if isinstance(value, float) or key in ("run", "step")})
        if pictures := sorted(path.parent.glob("samples/[0-9]*.png")):
            shutil.copy(pictures[-1], out / f"{name.replace('/', '-')}.png")
EOF
