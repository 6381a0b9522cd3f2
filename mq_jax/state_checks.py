"""Checks that a state belongs to the train step that receives it.

The checks read structures and shapes while JAX traces, so they cost nothing in
a step.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from mq_jax.late_update import Setup, State, preprocessed
from mq_jax.selection import named_leaves, select

P = ParamSpec('P')
T = TypeVar('T')
# Parts of a state that the setup determines. Another φ explains the
# differences in the parts that follow φ.
_FIELDS = (
  'variables',
  'phi',
  'estimator_state',
  'meta_opt_state',
  'refine_state',
  'post_update_state',
)


def check_is_state(state: Any) -> None:
  """Raises `TypeError` unless `state` is a `State`."""
  if not isinstance(state, State):
    raise TypeError(
      'step takes (state, batch) and returns (state, metrics), but state is a'
      f' {type(state).__name__}, not a State. Restore a checkpoint into the'
      ' structure of train.init(...).'
    )


def check_state(setup: Setup, state: Any) -> None:
  """Checks that this setup could have made the state.

  The states of two estimators whose φ has equal shapes, such as those of
  `fc_grad` and `multi_fc`, cannot be distinguished.

  Raises:
    TypeError: If `state` is not a `State`.
    ValueError: If a part of the state has another structure or other shapes.
  """
  check_is_state(state)
  expected = jax.eval_shape(
    functools.partial(_parts, setup),
    state.params,
    state.key,
    state.variables,
  )
  for field in _FIELDS:
    if problem := _difference(getattr(state, field), expected[field]):
      raise ValueError(
        f'state.{field} {problem}, so the state does not belong to this train'
        ' step: pass a state of its own init. Restore a checkpoint into the'
        ' structure of train.init(...).'
      )
  structure: Any = jax.tree.structure(state.params)
  if jax.tree.structure(state.grads) != structure:
    raise ValueError(
      'state.grads does not have the structure of state.params: restore a'
      ' checkpoint into the structure of train.init(...).'
    )


def _parts(
  setup: Setup, params: Any, key: jax.Array, found: Any
) -> dict[str, Any]:
  """Returns the `_FIELDS` of a first state; `found` are its variables."""
  selected = select(params, setup.quantizer)
  leaves = named_leaves(params)
  # The parameters contain θ, from which `init` cannot compute the variables.
  variables = {
    path: found[path]
    if q.parametrized is not None and path in found
    else q.init(leaves[path])
    for path, q in selected.items()
  }
  w_tilde = preprocessed(selected, params, variables)
  phi = setup.estimator.init(key, w_tilde)
  return {
    'variables': variables,
    'phi': phi,
    'estimator_state': setup.estimator.init_state(key, w_tilde),
    'meta_opt_state': setup.meta_optimizer.init(phi),
    'refine_state': setup.refine.init(params),
    'post_update_state': setup.post_update.init(params),
  }


def _difference(found: Any, expected: Any) -> str:
  """Returns the first difference between two pytrees as text, '' if none."""
  shapes, wanted = (
    {path: jnp.shape(leaf) for path, leaf in named_leaves(tree).items()}
    for tree in (found, expected)
  )
  for path in wanted:
    if path not in shapes:
      return f'lacks {path or "its array"}'
    if shapes[path] != wanted[path]:
      return f'has {path} of shape {shapes[path]}, not {wanted[path]}'
  if extra := [path for path in shapes if path not in wanted]:
    return f'has {extra[0] or "an array"}, which this train step lacks'
  structure: Any = jax.tree.structure(found)
  if structure != jax.tree.structure(expected):
    return f'has another structure, {structure}'
  return ''


def explains_donation(function: Callable[P, T]) -> Callable[P, T]:
  """Decorates a function of a state with an error about a deleted state."""

  @functools.wraps(function)
  def explained(*args: P.args, **kwargs: P.kwargs) -> T:
    try:
      return function(*args, **kwargs)
    except (RuntimeError, ValueError):
      if any(map(_is_deleted, (*args, *kwargs.values()))):
        raise RuntimeError(
          'The state was passed to an earlier step, which deleted its arrays'
          ' (donation). Use the state that the step returned: state, metrics ='
          ' train.step(state, batch). To keep a state, copy it before:'
          ' jax.tree.map(jnp.copy, state).'
        ) from None
      raise

  return explained


def _is_deleted(state: Any) -> bool:
  return isinstance(state, State) and any(
    leaf.is_deleted()
    for leaf in jax.tree.leaves(state)
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
  )
