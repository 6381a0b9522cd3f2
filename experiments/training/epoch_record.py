"""The record of an epoch: tests of the network, losses and diagnostics."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

import mq_jax
from experiments.common import parallel
from experiments.training.position import Position, Saved
from experiments.training.steps import Steps


def epoch_record(
  steps: Steps,
  saved: Saved,
  position: Position,
  between: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Returns the record of an epoch for the log.

  `between` is called between the batches of the test; it may raise an error.
  """
  began = time.perf_counter()
  state, codes = saved
  quantized, relaxed = jax.vmap(steps.train.quantized)(state), None
  if steps.relaxed:
    relaxed = jax.vmap(steps.train.forward_params)(state)
  diagnostics = jax.vmap(steps.train.diagnostics)(state, codes)
  trials = parallel.split(
    (quantized, relaxed, state.model_state, diagnostics), len(steps.seeds)
  )
  by_trial = [
    _trial_record(steps, position, between, i, *trial)
    for i, trial in enumerate(trials)
  ]
  record = {
    'epoch': position.step // steps.steps_per_epoch,
    'step': position.step,
    **means(by_trial),
    'seconds': position.seconds,
    'test_seconds': time.perf_counter() - began,
  }
  if len(by_trial) > 1:
    record['trials'] = [
      {'seed': seed, **trial}
      for seed, trial in zip(steps.seeds, by_trial, strict=True)
    ]
  return record


def _trial_record(
  steps: Steps,
  position: Position,
  between: Callable[[], None],
  trial: int,
  quantized: Any,
  relaxed: Any,
  batch_stats: Any,
  diagnostics: mq_jax.Diagnostics,
) -> dict[str, Any]:
  """Returns the part of an epoch's record that belongs to one trial."""
  diagnostics = jax.device_get(diagnostics)
  count = steps.steps_per_epoch if position.step else math.nan
  scores = steps.evaluate(
    quantized, steps.recalibrate(quantized, batch_stats, between), between
  )
  record = {
    'train_loss': position.loss_sum[trial] / count,
    'train_accuracy': 100 * position.accuracy_sum[trial] / count,
    **{f'test_{name}': score for name, score in scores.items()},
    **diagnostics.factor,
    'flipped': diagnostics.flipped,
    'saturation': diagnostics.saturation,
    'histogram': [
      int(sum(counts))
      for counts in zip(*diagnostics.histogram.values(), strict=True)
    ],
  }
  if steps.learned:
    record['phi_grad_norm'] = position.phi_grad_norm_sum[trial] / count
  if relaxed is not None:
    # These are the weights that the loss saw.
    scores = steps.evaluate(relaxed, batch_stats, between)
    record['relaxed_accuracy'] = scores['accuracy']
  return record


def means(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the mean of each number over records of the same shape."""
  if len(records) == 1:
    return records[0]
  return jax.tree.map(lambda *values: statistics.fmean(values), *records)
