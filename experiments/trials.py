"""Several trials of one configuration, which differ in their seed, as one.

What belongs to a trial has a leading axis of trials, also where there is only
one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def over_trials(
  function: Callable[..., Any], trials: int, *, batched: bool
) -> Callable[..., Any]:
  """Lets a function of one trial work on all.

  Args:
    function: `(own, *shared) -> own`; `own` are pytrees of one trial.
    trials: Their number.
    batched: Whether they become a batch axis of one computation, which fills an
      accelerator, or follow one another in one program: on CPU a convolution
      with filters of its own for every trial is many times slower.

  Returns:
    The function, of pytrees with a leading axis of trials.
  """
  if batched and trials > 1:

    def together(own: Any, *shared: Any) -> Any:
      return jax.vmap(lambda own: function(own, *shared))(own)

    return together

  def in_turn(own: Any, *shared: Any) -> Any:
    return stack([function(pick(own, i), *shared) for i in range(trials)])

  return in_turn


def batched_here() -> bool:
  """Whether trials are a batch axis on the devices there are."""
  return jax.default_backend() != 'cpu'


def stack(trees: Sequence[Any]) -> Any:
  """Pytrees, one a trial, as one with a leading axis."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: Any, trial: int) -> Any:
  """One trial's part of a pytree with a leading axis."""
  return jax.tree.map(lambda leaf: leaf[trial], tree)
