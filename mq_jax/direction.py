"""Checks of the direction in which optax transformations move parameters.

The step applies the move −α·π(g), eqs. (5) and (6), whereas `meta_optimizer`
returns the move of φ. A transformation of the other kind compiles and trains
uphill, so both are tried on gradients of a known direction.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mq_jax.printing import describe
from mq_jax.selection import Params, named_leaves

Array = jax.Array
# Number of gradients that a transformation may collect before it moves.
UPDATES = 64


def check_transformation(name: str, value: Any) -> None:
  """Raises `TypeError` unless `value` is an optax transformation.

  Args:
    name: Name of the argument.
    value: Value of the argument.
  """
  if isinstance(value, optax.GradientTransformation):
    return
  remedy = (
    'call the function that makes it'
    if callable(value)
    else 'pass a transformation such as optax.scale_by_adam()'
  )
  raise TypeError(
    f'{name} must be an optax.GradientTransformation, not {describe(value)}:'
    f' {remedy}.'
  )


def check_stand_in(
  refine: optax.GradientTransformation,
  post_update: optax.GradientTransformation,
  meta_optimizer: optax.GradientTransformation,
  is_learned: bool,
) -> None:
  """Checks the directions of three transformations on stand-in parameters.

  A transformation that accepts only the real parameters passes.

  Args:
    refine: π.
    post_update: Transformation of the moves.
    meta_optimizer: Optimizer of φ.
    is_learned: True if the estimator has a φ.

  Raises:
    ValueError: If one has the wrong direction, if `post_update` lets weights
      grow, or if `is_learned` and `refine` returns zeros.
  """
  # An error names the leaf, so the names describe the leaves of any network.
  kernels, biases = 'all kernels', 'all biases'
  stand_in = {kernels: jnp.full((3, 2), 0.3), biases: jnp.full(2, 0.1)}
  learned = (kernels,) if is_learned else ()
  _check_growth(post_update, stand_in)
  checks = (
    (refine, 1, lambda cosine: check_refine(cosine, learned)),
    (refine, UPDATES, check_refine),
    (post_update, UPDATES, check_post_update),
    (
      meta_optimizer,
      UPDATES,
      lambda cosine: check_descends('meta_optimizer', 'φ', cosine),
    ),
  )
  for transformation, updates, check in checks:
    try:
      measured = cosines(transformation, stand_in, updates)
    except Exception:
      continue
    check(measured)


def cosines(
  transformation: optax.GradientTransformation,
  params: Params,
  updates: int = 1,
) -> dict[str, Array]:
  """Returns the cosine between a gradient and its transformed value, by path.

  Args:
    transformation: The transformation.
    params: Parameters of the gradient.
    updates: Largest number of calls. The last call is the first one that
      returns a value other than zero; more than one call cannot be traced.

  Returns:
    Path to the cosine, −1 to 1; 0 where the transformed gradient is zero.
  """
  gradient = jax.tree.map(_gradient, params)
  state = transformation.init(params)
  for _ in range(updates):
    moves, state = transformation.update(gradient, state, params)
    if updates == 1 or any(
      jnp.any(leaf != 0) for leaf in jax.tree.leaves(moves)
    ):
      break
  leaves = named_leaves(moves)
  return {
    path: _cosine(leaves[path], g) for path, g in named_leaves(gradient).items()
  }


def _gradient(w: Array) -> Array:
  """Returns a gradient of at least the size of `w`, of both signs."""
  pattern = jnp.where(jnp.arange(w.size) % 3 == 1, -1, 1).reshape(w.shape)
  size = 1 + jnp.max(jnp.abs(w), initial=0)
  return (pattern * jnp.where(jnp.isfinite(size), size, 1)).astype(w.dtype)


def _cosine(a: Array, b: Array) -> Array:
  a, b = (jnp.asarray(leaf, jnp.float32).ravel() for leaf in (a, b))
  product = jnp.linalg.norm(a) * jnp.linalg.norm(b)
  return jnp.dot(a, b) / jnp.where(product > 0, product, 1)


def check_refine(cosine: dict[str, Any], learned: Iterable[str] = ()) -> None:
  """Raises `ValueError` if π turns a gradient around, or hides it from φ.

  Traced values pass, because their values are unknown.

  Args:
    cosine: Result of `cosines` for `refine`.
    learned: Paths of the leaves whose gradients φ learns.
  """
  if any(isinstance(c, jax.core.Tracer) for c in cosine.values()):
    return
  if path := _first(cosine, lambda c: c < 0):
    raise ValueError(
      f'refine turns the gradient of {path} around, so the loss would grow. A'
      ' complete optimizer such as optax.adam(1e-2) contains −α, which the step'
      ' applies by itself: pass refine=optax.scale_by_adam(),'
      ' learning_rate=1e-2. In the same way, optax.sgd(α, 0.9) becomes'
      ' optax.trace(0.9), and optax.lion(α) becomes optax.scale_by_lion().'
    )
  kept = {path: cosine[path] for path in learned}
  if path := _first(kept, lambda c: c == 0):
    raise ValueError(
      f'refine does not move {path} by its first gradient, but φ would learn as'
      ' if it did. To accumulate gradients (optax.MultiSteps), average the loss'
      ' of several small batches inside loss_fn. To keep a weight fixed'
      ' (optax.set_to_zero), give it the rule None. To raise the learning rate'
      ' from zero, pass the schedule as learning_rate.'
    )


def check_post_update(cosine: dict[str, Any]) -> None:
  """Raises `ValueError` if `post_update` turns a move around."""
  if path := _first(cosine, lambda c: c < 0):
    raise ValueError(
      f'post_update turns the move of {path} around, so the loss would grow. It'
      ' receives the move −α·π(g), not a gradient: pass an optimizer without'
      ' its learning rate as refine.'
    )


def _check_growth(
  post_update: optax.GradientTransformation, stand_in: Params
) -> None:
  """Raises `ValueError` if `post_update` multiplies weights by a factor > 1."""
  # Different sizes, and large ones, which normalization makes smaller.
  params = jax.tree.map(
    lambda w: _gradient(w) * 1e3 * jnp.arange(1, w.size + 1).reshape(w.shape),
    stand_in,
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  try:
    moves, _ = post_update.update(zeros, post_update.init(params), params)
    growth = jax.tree.map(lambda move, w: (move / w).ravel(), moves, params)
  except Exception:
    return
  for path, g in named_leaves(growth).items():
    if isinstance(g, jax.core.Tracer):
      return
    if g[0] > 0 and jnp.allclose(g, g[0]):
      raise ValueError(
        f'post_update moves {path} away from zero in proportion to their size,'
        ' so they would grow. Weight decay belongs in refine:'
        ' optax.chain(optax.add_decayed_weights(λ), optax.scale_by_adam()), or'
        ' in the other order if it is decoupled.'
      )


def check_descends(name: str, trained: str, cosine: dict[str, Any]) -> None:
  """Raises `ValueError` if an optimizer raises the loss.

  Args:
    name: Name of the argument.
    trained: What the optimizer trains.
    cosine: Result of `cosines` for the optimizer.
  """
  if _first(cosine, lambda c: c > 0):
    raise ValueError(
      f'{name} moves {trained} along its gradient, so the loss would grow: pass'
      ' a complete optimizer such as optax.adam(1e-3), not'
      ' optax.scale_by_adam().'
    )


def optimizer_check(
  name: str, trained: str, optimizer: optax.GradientTransformation
) -> Callable[[], None]:
  """Returns the check of the optimizer of a quantizer's trained numbers.

  It belongs into `init`, because a factory should not start the devices, and
  measures once. An optimizer with traced options, or that needs more than
  gradients, passes.

  Args:
    name: Name of the argument.
    trained: What the optimizer trains.
    optimizer: Its value.

  Returns:
    Function that raises `ValueError` if the optimizer raises the loss.
  """

  @functools.cache
  def measured() -> dict[str, float]:
    try:
      # `init` is traced.
      with jax.ensure_compile_time_eval():
        found = cosines(optimizer, jnp.full(2, 0.3), UPDATES)
        return {path: float(cosine) for path, cosine in found.items()}
    except Exception:
      return {}

  return lambda: check_descends(name, trained, measured())


def _first(cosine: dict[str, Any], condition: Callable[[Any], bool]) -> str:
  # The path of parameters that are one array is empty.
  return next(
    (path or 'params' for path, c in cosine.items() if condition(c)), ''
  )
