#!/usr/bin/env bash
# Runs everything that needs a GPU within nine minutes: the tests of the library,
# the benchmarks, and as many epochs of the main job (five trials as one program)
# as the remaining time allows.
#
#   benchmarks/gpu.sh OUT
#
# OUT receives the logs, one JSON file per benchmark and the metrics.jsonl of the
# run. PYTHON names the interpreter, CACHE a folder for compiled programs, WORKERS
# the number of test processes. The main job needs DATA_DIR, a folder made by
# experiments.prepare_data, and PRETRAINED, a model file; without them it is left
# out.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUT}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
limit=$((SECONDS + 520))
failed=()

# Most of the time of a new GPU program is the choice of its kernels. Without
# these folders, each part would choose again.
kept=${CACHE:-$out/cache}
mkdir -p "$kept/kernels"
export JAX_COMPILATION_CACHE_DIR=$kept JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_per_fusion_autotune_cache_dir=$kept/kernels"
# Several processes share the memory of the GPU.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

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
# Left out: tests that need the data sets, compare with programs of the CPU, need
# two devices, or start processes. TF32 would break the other tolerances.
part tests 140 env JAX_PLATFORMS=cuda,cpu JAX_DEFAULT_MATMUL_PRECISION=highest \
  JAX_DISABLE_MOST_OPTIMIZATIONS=false "$python" -m pytest -v -n "${WORKERS:-auto}" \
  tests --ignore=tests/experiments --ignore=tests/benchmarks \
  --ignore=tests/models/cpu --ignore=tests/test_data_parallel.py \
  --ignore=tests/test_docs.py --ignore=tests/test_notebooks.py
part trials 100 "$python" -m benchmarks.trials --steps 50 --rounds 5 \
  --json "$out/gpu-trials.json"
part step_time 100 "$python" -m benchmarks.step_time --steps 50 --rounds 5 \
  --json "$out/gpu-step_time.json"
part step_time_bfloat16 60 "$python" -m benchmarks.step_time --steps 50 --rounds 5 \
  --dtype bfloat16 --only fc_grad multi_fc \
  --json "$out/gpu-step_time-bfloat16.json"
part memory 40 "$python" -m benchmarks.memory --json "$out/gpu-memory.json"
part epoch 40 "$python" -m benchmarks.epoch --images 50000 --rounds 3 \
  --json "$out/gpu-epoch.json"
part compile 40 "$python" -m benchmarks.compile --json "$out/gpu-compile.json"
if [[ -n ${DATA_DIR:-} && -n ${PRETRAINED:-} ]]; then
  part main_job 520 "$python" -m experiments.cifar \
    --config=experiments/configs/resnet20.py --workdir="$out/run" \
    --config.data_dir="$DATA_DIR" --config.pretrained="$PRETRAINED" \
    --config.trials=5 --config.chunk=100 --config.checkpoint_every=100000
  cp "$out/run/metrics.jsonl" "$out/main_job.jsonl" 2>/dev/null
fi
((${#failed[@]})) && echo "unfinished or failed: ${failed[*]}"
ls "$out"
