"""Checks that a state belongs to the train step that receives it.

The checks read structures and shapes while JAX traces, so they cost nothing in
a step.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from mq_jax.estimators import GradientEstimator
from mq_jax.late_update import Setup, State, preprocessed
from mq_jax.printing import describe
from mq_jax.quantizers import Quantizer, forward_weight
from mq_jax.selection import map_selected, named_leaves, replace, select

P = ParamSpec('P')
T = TypeVar('T')
_ADDRESS = re.compile(' at 0x[0-9a-fA-F]+')
_NEW_START = (
  'To train its weights by this train step, start from them: train.init(key,'
  ' params, state.model_state, batch), with params=state.params, or after a'
  ' method that trains other numbers than weights, such as slb(), with'
  " params=quantized(state) of that method's train step."
)
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


def calls(
  estimator: GradientEstimator, selected: Mapping[str, Quantizer]
) -> dict[str, Any]:
  """Returns the calls that made an estimator and the quantizer of each leaf.

  Args:
    estimator: The estimator.
    selected: Path to quantizer.

  Returns:
    `{'estimator': {call: {}}, 'quantizers': {path: {call: {}}}}`. Calls contain
    no addresses, which differ between processes.
  """

  def call(maker: GradientEstimator | Quantizer) -> dict[str, Any]:
    return {_ADDRESS.sub('', str(maker)): {}}

  return {
    'estimator': call(estimator),
    'quantizers': {path: call(q) for path, q in selected.items()},
  }


def check_is_state(state: Any) -> None:
  """Raises `TypeError` unless `state` is a `State`."""
  if not isinstance(state, State):
    is_array = hasattr(state, 'dtype')
    found = describe(state) if is_array else f'a {type(state).__name__}'
    raise TypeError(
      'step takes (state, batch) and returns (state, metrics), but state is'
      f' {found}, not a State. Restore a checkpoint into the structure of'
      ' train.init(...).'
    )


def check_state(setup: Setup, state: State) -> None:
  """Checks that this setup could have made the state.

  Raises:
    ValueError: If another estimator or other quantizers trained the state, or
      if a part of it has another structure or other shapes.
  """
  check_trained_by(setup, state)
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
        f' structure of train.init(...). {_NEW_START}'
      )
  if problem := _difference(state.grads, expected['grads']):
    raise ValueError(
      f'state.grads {problem}, so it does not belong to state.params: restore a'
      ' checkpoint into the structure of train.init(...). New weights need a'
      ' new state: train.init(key, params, state.model_state, batch).'
    )


def check_trained_by(setup: Setup, state: State) -> None:
  """Raises `ValueError` if other quantizers or another estimator trained it."""
  selected = select(state.params, setup.quantizer)
  found, wanted = state.trained_by, calls(setup.estimator, selected)
  if found == wanted:
    return
  try:
    trained, here, where = _first_difference(found, wanted)
  except (KeyError, TypeError, StopIteration) as error:
    raise ValueError(
      'state.trained_by is not what init returns: restore a checkpoint into the'
      ' structure of train.init(...).'
    ) from error
  raise ValueError(
    f'The state was trained with {trained}{where}, but this train step has'
    f' {here}: call the functions of the train step that trained the state.'
    f' {_NEW_START}'
  )


def _first_difference(
  found: dict[str, Any], wanted: dict[str, Any]
) -> tuple[str, str, str]:
  """Returns a call, the call in its place, and the leaf it is for."""
  pairs = [(found['estimator'], wanted['estimator'], '')]
  no_quantizer: dict[str, Any] = {'full precision': {}}
  for path in [*wanted['quantizers'], *found['quantizers']]:
    trained, here = (
      tree['quantizers'].get(path, no_quantizer) for tree in (found, wanted)
    )
    pairs.append((trained, here, f' for {path}'))
  trained, here, where = next(pair for pair in pairs if pair[0] != pair[1])
  return next(iter(trained)), next(iter(here)), where


def _parts(
  setup: Setup, params: Any, key: jax.Array, found: Any
) -> dict[str, Any]:
  """Returns the `_FIELDS` and the gradients of a first state.

  Args:
    setup: The `Setup`.
    params: The parameters of the state.
    key: Its key.
    found: Its variables.
  """
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
    # The loss receives Ŵ, whose shape may differ from that of θ.
    'grads': replace(
      params, map_selected(forward_weight, selected, w_tilde, variables)
    ),
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
