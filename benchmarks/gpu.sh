#!/usr/bin/env bash
# Runs everything that needs a GPU within nine minutes: the tests of the library,
# the benchmarks, and as many epochs of the main job (five trials as one program)
# as the remaining time allows.
#
#   benchmarks/gpu.sh OUT
#
# OUT receives the logs, one JSON file per benchmark and the metrics.jsonl of the
# run. PYTHON names the interpreter. The main job needs DATA_DIR, a folder made by
# experiments.prepare_data, and PRETRAINED, a model file; without them it is left
# out.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUT}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
limit=$((SECONDS + 520))
failed=()

# Runs one part for at most so many seconds; a failure does not stop the script.
part() {
  local name=$1 seconds=$2 left=$((limit - SECONDS))
  shift 2
  ((seconds > left)) && seconds=$left
  if ((seconds < 20)); then
    echo "$name: no time left" && failed+=("$name") && return
  fi
  echo "=== $name, at most $seconds s"
  timeout --signal=TERM --kill-after=15 "$seconds" "$@" >"$out/$name.txt" 2>&1 ||
    failed+=("$name")
  tail -n 25 "$out/$name.txt"
}

"$python" -c 'import jax; print(jax.__version__, jax.devices())'
part tests 150 env JAX_PLATFORMS=cuda,cpu \
  JAX_DISABLE_MOST_OPTIMIZATIONS=false "$python" -m pytest -q -x \
  tests/test_train_step.py tests/estimators tests/models
part step_time 120 "$python" -m benchmarks.step_time --steps 20 \
  --json "$out/gpu-step_time.json"
part step_time_bfloat16 70 "$python" -m benchmarks.step_time --steps 20 \
  --dtype bfloat16 --only fc_grad multi_fc lstm_fc \
  --json "$out/gpu-step_time-bfloat16.json"
part memory 60 "$python" -m benchmarks.memory --json "$out/gpu-memory.json"
part trials 60 "$python" -m benchmarks.trials --steps 20 \
  --json "$out/gpu-trials.json"
part epoch 60 "$python" -m benchmarks.epoch --images 50000 --rounds 3 \
  --json "$out/gpu-epoch.json"
part compile 90 "$python" -m benchmarks.compile --json "$out/gpu-compile.json"
if [[ -n ${DATA_DIR:-} && -n ${PRETRAINED:-} ]]; then
  part main_job 520 "$python" -m experiments.cifar \
    --config=experiments/configs/resnet20.py --workdir="$out/run" \
    --config.data_dir="$DATA_DIR" --config.pretrained="$PRETRAINED" \
    --config.trials=5 --config.chunk=100 --config.checkpoint_every=100000
  cp "$out/run/metrics.jsonl" "$out/main_job.jsonl" 2>/dev/null
fi
((${#failed[@]})) && echo "unfinished or failed: ${failed[*]}"
ls "$out"
