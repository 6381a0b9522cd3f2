"""Several trials of one configuration, which differ in their seed, as one.

What belongs to a trial has a leading axis of trials, also where there is only
one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def over_trials(
  function: Callable[..., Any], trials: int
) -> Callable[..., Any]:
  """Lets a function of one trial work on all, as a batch axis.

  That fills an accelerator. On CPU a convolution with filters of its own for
  every trial is many times slower, and trials had better take turns.

  Args:
    function: `(own, *shared) -> own`; `own` are pytrees of one trial.
    trials: Their number.

  Returns:
    The function, of pytrees with a leading axis of trials.
  """
  if trials == 1:
    return lambda own, *shared: stack([function(pick(own, 0), *shared)])

  def together(own: Any, *shared: Any) -> Any:
    return jax.vmap(lambda own: function(own, *shared))(own)

  return together


def stack(trees: Sequence[Any]) -> Any:
  """Pytrees, one a trial, as one with a leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: Any, trial: int) -> Any:
  """One trial's part of a pytree with a leading axis."""
  return jax.tree.map(lambda leaf: leaf[trial], tree)


def split(tree: Any, trials: int) -> list[Any]:
  """All trials' parts of a pytree with a leading axis."""
  return [pick(tree, trial) for trial in range(trials)]
