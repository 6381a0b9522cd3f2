#!/usr/bin/env bash
# Runs the project's own queue of long trainings at low priority.
#
#   experiments/queue.sh WORKDIR PRETRAINED MINUTES
#
# Each study below continues where it was stopped; a study that is complete takes
# seconds. Finished runs enter results/. Ctrl-C and SIGTERM save the current run.
# PRETRAINED is the folder of base models, TFDS_DATA_DIR the folder of prepared
# data sets, and PYTHON names the interpreter.
set -euo pipefail
workdir=$(realpath -m "${1:?usage: experiments/queue.sh WORKDIR PRETRAINED MINUTES}")
pretrained=$(realpath "${2:?a folder of base models}")
end=$((SECONDS + 60 * ${3:?a number of minutes}))
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One line per study: its name, then the options of experiments.study.
queue=(
  'as_released --trials=2'
  'best_1bit_search'
  'small_files'
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
for line in "${queue[@]}"; do
  read -r name options <<<"$line"
  left=$((end - SECONDS))
  ((left >= 60)) || break
  echo "=== $line, at most $((left / 60)) minutes"
  # A study without settings, such as fair before its search, is no error.
  # shellcheck disable=SC2086
  nice -n 19 "${PYTHON:-python}" -m experiments.study \
    --study="experiments/studies/$name.py" --workdir="$workdir/$name" \
    --results=results --pretrained="$pretrained" --budget="${left}s" $options ||
    echo "$name stopped with status $?"
done
