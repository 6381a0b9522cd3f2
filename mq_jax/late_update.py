"""The late weight update, eqs. (5) and (6), differentiable in φ.

  W' = W − α · π(M_φ(g_Ŵ, W̃) · ∂W̃/∂W)

The gradients are those of the last loss; the loss at W' then trains φ.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax.estimators import GradientEstimator
from mq_jax.quantizers import Quantizer, seen_by_loss
from mq_jax.selection import map_selected, named_leaves, replace

Array = jax.Array
Params = Any
Schedule = Callable[[Any], Any]


class State(NamedTuple):
  """All that is kept between steps.

  Attributes:
    params: The weights at which the last loss was taken.
    model_state: What `loss_fn` returned with it, such as batch statistics.
    grads: The last loss's gradients, pending, as `params`: g_hat on quantized
      leaves, ordinary gradients on the others.
    variables: Path to the quantizer's variables.
    refine_state: State of π.
    post_update_state: State of `post_update`.
    phi: φ, the parameters of the meta quantizer.
    meta_opt_state: State of φ's optimizer.
    estimator_state: State of the estimator, such as the LSTM's memory.
    key: PRNG key, constant; each step folds its number in.
    step: Number of weight updates so far, int32.
  """

  params: Params
  model_state: Any
  grads: Params
  variables: dict[str, Any]
  refine_state: optax.OptState
  post_update_state: optax.OptState
  phi: Any
  meta_opt_state: optax.OptState
  estimator_state: Any
  key: Array
  step: Array


def weight_gradient(
  estimator: GradientEstimator,
  selected: Mapping[str, Quantizer],
  phi: Any,
  state: State,
) -> tuple[Params, Any]:
  """g_W of the pending gradients, eqs. (3) and (4).

  Args:
    estimator: Gives g_tilde on the quantized leaves.
    selected: Path to quantizer.
    phi: Parameters of the estimator.
    state: Its `params`, `grads`, `variables` and `estimator_state` are read.

  Returns:
    `(gradients, estimator state)`: M_φ(g_hat, w_tilde) · ∂W̃/∂W on quantized
    leaves, the pending gradient on the others.

  Raises:
    AssertionError: If the estimator changes a path or a shape.
  """
  weights, grads = named_leaves(state.params), named_leaves(state.grads)
  g_hat = {path: grads[path] for path in selected}
  w_tilde = map_selected(
    lambda q, w, v: q.preprocess(w, v), selected, weights, state.variables
  )
  g_ste = map_selected(
    lambda q, g, w, v: q.straight_through(g, w, v),
    selected, g_hat, w_tilde, state.variables,
  )  # fmt: skip
  g_tilde, estimator_state = estimator.apply(
    phi, g_hat, w_tilde, g_ste, state.estimator_state
  )
  chex.assert_trees_all_equal_shapes(dict(g_tilde), w_tilde)
  g = map_selected(
    lambda q, w, g, v: q.calibrate(w, g, v).astype(w.dtype),
    selected, weights, g_tilde, state.variables,
  )  # fmt: skip
  return replace(state.grads, g), estimator_state


def late_update(
  estimator: GradientEstimator,
  selected: Mapping[str, Quantizer],
  refine: optax.GradientTransformation,
  learning_rate: Schedule,
  post_update: optax.GradientTransformation,
  differentiate_refinement: bool,
  phi: Any,
  state: State,
) -> State:
  """Applies the pending gradients, eq. (6).

  Args:
    estimator: M_φ.
    selected: Path to quantizer.
    refine: π, without a learning rate.
    learning_rate: α as a function of the number of updates so far.
    post_update: Transforms −α·π(g) last; a constant on φ's path.
    differentiate_refinement: Whether φ's gradient flows through `refine`. If
      not, the residual of π(g) = g + residual is a constant, so that
      ∂W'/∂g = −α.
    phi: φ, the argument in which this is differentiable.
    state: Everything else.

  Returns:
    The state with new `params`, `refine_state`, `post_update_state`,
    `estimator_state` and `variables`.
  """
  g, estimator_state = weight_gradient(estimator, selected, phi, state)
  refined, refine_state = refine.update(
    g if differentiate_refinement else lax.stop_gradient(g),
    state.refine_state,
    state.params,
  )
  if not differentiate_refinement:
    refined = _with_derivative_of(g, refined)
  alpha = learning_rate(state.step)
  moves = jax.tree.map(lambda r: -jnp.asarray(alpha, r.dtype) * r, refined)
  finished, post_update_state = post_update.update(
    lax.stop_gradient(moves), state.post_update_state, state.params
  )
  moves = _with_derivative_of(moves, finished)
  return state._replace(
    params=optax.apply_updates(state.params, moves),
    variables=_updated_variables(selected, state),
    refine_state=refine_state,
    post_update_state=post_update_state,
    estimator_state=estimator_state,
  )


def _updated_variables(
  selected: Mapping[str, Quantizer], state: State
) -> dict[str, Any]:
  weights, grads = named_leaves(state.params), named_leaves(state.grads)

  def updated(q: Quantizer, w: Array, g_hat: Array, variables: Any) -> Any:
    w_tilde = q.preprocess(w, variables)
    w_hat = seen_by_loss(q, w_tilde, variables)
    return q.update(variables, w_tilde, w_hat, g_hat)

  return lax.stop_gradient(
    map_selected(updated, selected, weights, grads, state.variables)
  )


def _with_derivative_of(source: Any, value: Any) -> Any:
  """`value`, which moves as `source` does."""
  return jax.tree.map(
    lambda s, v: lax.stop_gradient(v) + (s - lax.stop_gradient(s)),
    source,
    value,
  )


def check_differentiable(
  refine: optax.GradientTransformation, params: Params
) -> None:
  """Refuses a π whose derivative is not finite at a zero gradient.

  Adam divides by the root of its second moment, whose derivative at zero is
  infinite unless `eps_root` is positive; dead weights have such gradients.

  Args:
    refine: π.
    params: Parameters to probe it with.

  Raises:
    ValueError: If the vjp of `refine.update` is not finite at a gradient that
      has zeros.
  """

  def refined(gradient: Params) -> Params:
    return refine.update(gradient, refine.init(params), params)[0]

  zeros = jax.tree.map(jnp.zeros_like, params)
  ones = jax.tree.map(jnp.ones_like, params)
  for leaf in jax.tree.leaves(jax.vjp(refined, zeros)[1](ones)):
    if not jnp.all(jnp.isfinite(leaf)):
      raise ValueError(
        'differentiate_refinement=True, but the derivative of refine is not'
        ' finite where a gradient is zero. Give Adam a positive eps_root, such'
        ' as optax.scale_by_adam(eps_root=1e-8), or leave'
        ' differentiate_refinement False.'
      )


def check_with_stand_in(refine: optax.GradientTransformation) -> None:
  """`check_differentiable` before there are parameters.

  A transformation that takes only the real tree passes here.
  """
  stand_in = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  try:
    refine.update(stand_in, refine.init(stand_in), stand_in)
  except Exception:
    return
  check_differentiable(refine, stand_in)
