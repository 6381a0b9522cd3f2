#!/usr/bin/env bash
# Runs the project's own queue of long trainings at low priority.
#
#   experiments/queue.sh WORKDIR PRETRAINED MINUTES
#
# Each study below continues where it was stopped; a study that is complete takes
# seconds. Finished runs enter results/. Ctrl-C and SIGTERM save the current run.
# PRETRAINED is the folder of base models, TFDS_DATA_DIR the folder of prepared
# data sets, and PYTHON names the interpreter. LANES processes share the runs of a
# study, 1 unless it is set. Without a GPU each of them has its own cores, which
# is a little faster than taking turns on all cores (`benchmarks.lanes`).
set -euo pipefail
workdir=$(realpath -m "${1:?usage: experiments/queue.sh WORKDIR PRETRAINED MINUTES}")
pretrained=$(realpath "${2:?a folder of base models}")
end=$((SECONDS + 60 * ${3:?a number of minutes}))
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One line per study: its name, then the options of experiments.study. The studies of
# language models read tinyshakespeare.txt in the root of the repository.
queue=(
  'as_released --trials=2'
  'best_1bit_search'
  'small_files'
  'language'
  'lstm_width'
  'language_curves'
  'best_1bit --only=-(1|2|4)$'
  'fair_search --only=sgd'
  'fair --only=sgd'
  'fair_search --only=adam'
  'fair --only=adam'
  'fair_more'
  'table1 --only=resnet20-(dorefa|bwn)-sgd --trials=1'
  'table1 --only=resnet20-(dorefa|bwn)-adam --trials=1'
  'table2 --only=resnet56-dorefa-sgd --trials=1 --epochs=5'
)
lanes=${LANES:-1}
python=${PYTHON:-python}
# The cores that this process may use, which need not start at 0.
read -ra allowed <<<"$("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)))')"
cores=$((${#allowed[@]} / lanes))

# Runs one process of a study in a lane, which is counted from 0.
run_lane() {
  local lane=$1 name=$2 left=$3
  shift 3
  local pin=()
  if ((lanes > 1 && cores > 0)) && ! command -v nvidia-smi >/dev/null; then
    local own=("${allowed[@]:lane * cores:cores}")
    pin=(taskset -c "$(IFS=,; echo "${own[*]}")")
  fi
  exec nice -n 19 "${pin[@]}" "$python" -m experiments.study \
    --study="experiments/studies/$name.py" --workdir="$workdir/$name" \
    --results=results --pretrained="$pretrained" --budget="${left}s" "$@"
}

# All lanes save their runs before the queue ends.
trap 'trap "" INT TERM; kill -TERM $(jobs -p) 2>/dev/null || true; wait; exit 143' INT TERM
for line in "${queue[@]}"; do
  read -r name options <<<"$line"
  left=$((end - SECONDS))
  ((left >= 60)) || break
  echo "=== $line, at most $((left / 60)) minutes"
  pids=()
  for ((lane = 0; lane < lanes; lane++)); do
    # shellcheck disable=SC2086
    run_lane "$lane" "$name" "$left" $options &
    pids+=($!)
  done
  # A study without settings, such as fair before its search, is no error.
  for pid in "${pids[@]}"; do
    wait "$pid" || echo "$name stopped with status $?"
  done
done
