"""Checks of the user's loss function.

All checks run while JAX traces the function, so they cost nothing in a step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mq_jax.printing import describe

Array = jax.Array
Params = Any
Batch = Any
Metrics = dict[str, Array]
# Names of the metrics that each step adds.
STEP_METRICS = ('loss', 'phi_grad_norm', 'finite')
LossFn = Callable[
  [Params, Any, Batch, Array], tuple[Array, tuple[Any, Metrics]]
]


def checked_loss(loss_fn: LossFn) -> LossFn:
  """Wraps `loss_fn` in checks of its results.

  Args:
    loss_fn: `(params, model_state, batch, rng) -> (loss, (model_state,
      metrics))`.

  Returns:
    The same function, which raises `TypeError` if the results have a different
    structure, and `ValueError` if the loss is not a scalar or the model state
    changes its structure, shapes or dtypes.
  """

  def checked(
    params: Params, model_state: Any, batch: Batch, rng: Array
  ) -> tuple[Array, tuple[Any, Metrics]]:
    try:
      returned = loss_fn(params, model_state, batch, rng)
    except Exception as error:
      error.add_note(
        f'loss_fn received a model state of {_brief(model_state)} and a batch'
        f' of {_brief(batch)}.'
      )
      raise
    match returned:
      case (loss, (new_model_state, metrics)):
        pass
      case _:
        found = str(jax.tree.map(describe, returned)).replace("'", '')
        raise TypeError(
          f'loss_fn must return (loss, (model_state, metrics)), not {found}.'
        )
    if jnp.shape(loss) != ():
      raise ValueError(
        f'loss_fn returned a loss of shape {jnp.shape(loss)}, not a scalar:'
        ' return its mean.'
      )
    if not isinstance(metrics, Mapping):
      raise TypeError(
        f'loss_fn must return its metrics as a dict, not {type(metrics)}.'
      )
    if taken := sorted({*STEP_METRICS} & metrics.keys()):
      raise ValueError(
        f'loss_fn returned metrics named {taken}, but the step reports metrics'
        ' of these names: rename those of loss_fn.'
      )
    old, new = _specification(model_state), _specification(new_model_state)
    if old != new:
      raise ValueError(
        'loss_fn must keep the structure, shapes and dtypes of model_state, but'
        f' it received {old} and returned {new}.'
      )
    return loss, (new_model_state, dict(metrics))

  return checked


def _brief(tree: Any) -> str:
  leaves = [describe(leaf) for leaf in jax.tree.leaves(tree)]
  more = [f'{len(leaves) - 4} more'] if len(leaves) > 4 else []
  return ', '.join([*leaves[:4], *more]) or 'no arrays'


def _specification(tree: Any) -> tuple[Any, list[str]]:
  leaves, structure = jax.tree.flatten(tree)
  return structure, [
    f'{jnp.result_type(leaf)}{list(jnp.shape(leaf))}' for leaf in leaves
  ]
