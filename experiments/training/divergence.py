"""Errors about a run whose losses or state are not finite."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import mq_jax
from experiments.common.errors import UserError
from mq_jax.selection import named_leaves

# Parts of a state in which no number may be infinite.
_FINITE = ('params/', 'model_state/', 'phi', 'grads/')


class TrainingDiverged(UserError, RuntimeError):
  """A loss or the state of a run was not finite."""


def not_finite(state: mq_jax.State) -> str:
  """Returns the path of a leaf from which training cannot go on, or ''.

  No leaf may contain NaN. Weights, batch statistics, φ and the pending
  gradients may not be infinite either; an optimizer may use infinity.
  """
  for path, leaf in named_leaves(state._asdict()).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      continue
    if not _may_continue(leaf, strict=path.startswith(_FINITE)):
      return path
  return ''


def _may_continue(leaf: Any, strict: bool) -> bool:
  """Returns True if a leaf has no NaN and, if `strict`, no infinity."""
  # NumPy needs no compilation, but one process may not have all of an array.
  is_global = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
  if not is_global or leaf.is_fully_replicated:
    leaf = np.asarray(leaf)
  xp: Any = jnp if isinstance(leaf, jax.Array) else np
  if xp.isfinite(leaf).all():
    return True
  return not strict and not xp.isnan(leaf).any()


def check_finite(
  state: mq_jax.State,
  step: int,
  manager: ocp.CheckpointManager,
  record: Mapping[str, Any] | None = None,
) -> None:
  """Raises an error if the state, or a test loss of an epoch, is not finite."""
  if path := not_finite(state):
    raise divergence(f'{path} was', step, manager)
  trials = record.get('trials', [record]) if record else []
  if not all(math.isfinite(trial['test_loss']) for trial in trials):
    raise divergence('The test loss was', step, manager)


def divergence(
  what: str, step: int, manager: ocp.CheckpointManager
) -> TrainingDiverged:
  """Returns the error about something that is not finite."""
  last, kept = manager.latest_step(), 'There is no checkpoint yet'
  if last is not None:
    kept = f'The last good checkpoint is that of step {last} in'
    kept += f' {manager.directory}'
  return TrainingDiverged(
    f'{what} not finite at step {step}. {kept}. Try a smaller'
    ' config.learning_rate in a new workdir; with a learned estimator, also a'
    " smaller config.meta_learning_rate or config.init='identity'."
  )
