"""The late weight update, eqs. (3) to (6), differentiable in φ.

  W' = W − α · π(M_φ(g_Ŵ, W̃) · ∂W̃/∂W)

The gradients belong to the last loss. The loss at W' then trains φ.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax.derivatives import with_derivative_of
from mq_jax.estimators import GradientEstimator, Signals
from mq_jax.loss import LossFn
from mq_jax.quantizers import Quantizer, cell_of, forward_weight
from mq_jax.selection import Rules, map_selected, named_leaves, only, replace

Array = jax.Array
Params = Any


class Setup(NamedTuple):
  """The checked arguments of `make_train_step`.

  Attributes:
    loss_fn: The user's loss function, wrapped by `checked_loss`.
    quantizer: Rules, or one `Quantizer` for every kernel (`selection.select`).
    estimator: Estimator of the gradient through the quantizer, M_φ.
    refine: π, eq. (5).
    learning_rate: α as a schedule `(updates taken) -> α`, also if the user
      passed a number.
    post_update: Transformation of the move −α·π(g).
    meta_optimizer: Optimizer of φ.
    differentiate_refinement: True if the gradient of φ flows through `refine`.
    phi_cotangent: 'ste' or 'estimator', the rule that converts ∂loss/∂Ŵ to
      ∂loss/∂W in the gradient of φ.
    axes: Names of the mapped axes over which replicas are averaged. None if
      the step runs in no map, and `()` if replicas are separate trainings.
  """

  loss_fn: LossFn
  quantizer: Rules
  estimator: GradientEstimator
  refine: optax.GradientTransformation
  learning_rate: optax.Schedule
  post_update: optax.GradientTransformation
  meta_optimizer: optax.GradientTransformation
  differentiate_refinement: bool
  phi_cotangent: str
  axes: tuple[str, ...] | None


class State(NamedTuple):
  """The complete training state between steps.

  Attributes:
    params: The weights at which the last loss was computed.
    model_state: Model state that `loss_fn` returned with the last loss, such as
      batch statistics.
    grads: Pending gradients of the last loss, with the structure of `params`:
      g_hat on quantized leaves, ordinary gradients on the others.
    variables: Path to the quantizer's variables.
    refine_state: State of π.
    post_update_state: State of `post_update`.
    phi: φ, the parameters of the meta quantizer.
    meta_opt_state: State of the optimizer of φ.
    estimator_state: State of the estimator, such as the memory of the LSTM.
    key: Constant PRNG key; each step folds in its number.
    step: Number of weight updates taken, int32.
    trained_by: The estimator, and the quantizer of each leaf, as the calls that
      made them (`state_checks.calls`). The calls are keys of dicts without
      arrays, so they are a part of the structure of the state. Quantizers that
      set no `call` cannot be distinguished.
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
  trained_by: dict[str, dict[str, Any]]


def preprocessed(
  selected: Mapping[str, Quantizer], params: Params, variables: dict[str, Any]
) -> dict[str, Array]:
  """Returns W̃ = A(W) of each quantized leaf by path."""
  return map_selected(
    lambda q, w, v: q.preprocess(w, v),
    selected,
    named_leaves(params),
    variables,
  )


def signals_of(selected: Mapping[str, Quantizer], state: State) -> Signals:
  """Returns the inputs of the estimator for the pending gradients.

  Args:
    selected: Path to quantizer.
    state: Only `params`, `grads`, `variables` and `step` are read.
  """
  g_hat, variables = only(selected, state.grads), state.variables
  w_tilde = preprocessed(selected, state.params, variables)
  cells = {
    path: cell
    for path, cell in map_selected(
      cell_of, selected, w_tilde, variables
    ).items()
    if cell is not None
  }
  return Signals(
    g_hat=g_hat,
    g_ste=map_selected(
      lambda q, g, w, v: q.straight_through(g, w, v),
      selected,
      g_hat,
      w_tilde,
      variables,
    ),
    w_tilde=w_tilde,
    w_hat=map_selected(forward_weight, selected, w_tilde, variables),
    distance={path: cell.distance for path, cell in cells.items()},
    cell={path: cell.width for path, cell in cells.items()},
    step=state.step,
  )


def weight_gradient(
  estimator: GradientEstimator,
  selected: Mapping[str, Quantizer],
  phi: Any,
  state: State,
) -> tuple[Params, Any]:
  """Returns g_W of the pending gradients, eqs. (3) and (4).

  Args:
    estimator: Estimator of g_tilde on the quantized leaves.
    selected: Path to quantizer.
    phi: Parameters of the estimator.
    state: Only `params`, `grads`, `variables`, `estimator_state` and `step` are
      read.

  Returns:
    `(gradients, estimator state)`: M_φ(g_hat, w_tilde) · ∂W̃/∂W on quantized
    leaves, the pending gradient on the others.

  Raises:
    AssertionError: If the estimator changes a path or a shape.
  """
  signals, variables = signals_of(selected, state), state.variables
  g_tilde, estimator_state = estimator.apply(
    phi, signals, state.estimator_state
  )
  chex.assert_trees_all_equal_shapes(dict(g_tilde), signals.w_tilde)
  g = map_selected(
    lambda q, w, g, v: q.calibrate(w, g, v).astype(w.dtype),
    selected,
    named_leaves(state.params),
    g_tilde,
    variables,
  )
  return replace(state.grads, g), estimator_state


def late_update(
  setup: Setup, selected: Mapping[str, Quantizer], phi: Any, state: State
) -> State:
  """Applies the pending gradients, eqs. (5) and (6).

  If `setup.differentiate_refinement` is False, the residual of
  π(g) = g + residual is a constant, so that ∂W'/∂g = −α. `setup.post_update` is
  constant in the gradient of φ in either case.

  Args:
    setup: The `Setup`.
    selected: Path to quantizer.
    phi: φ, the differentiable argument.
    state: The state whose pending gradients are applied.

  Returns:
    The state with new `params`, `refine_state`, `post_update_state`,
    `estimator_state` and `variables`.
  """
  g, estimator_state = weight_gradient(setup.estimator, selected, phi, state)
  refined, refine_state = setup.refine.update(
    g if setup.differentiate_refinement else lax.stop_gradient(g),
    state.refine_state,
    state.params,
  )
  if not setup.differentiate_refinement:
    refined = with_derivative_of(g, refined)
  alpha = setup.learning_rate(state.step)
  moves = jax.tree.map(lambda r: -jnp.asarray(alpha, r.dtype) * r, refined)
  final_moves, post_update_state = setup.post_update.update(
    lax.stop_gradient(moves), state.post_update_state, state.params
  )
  moves = with_derivative_of(moves, final_moves)
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
  def updated(q: Quantizer, w: Array, g_hat: Array, variables: Any) -> Any:
    w_tilde = q.preprocess(w, variables)
    w_hat = forward_weight(q, w_tilde, variables)
    return q.update(variables, w_tilde, w_hat, g_hat)

  weights, grads = named_leaves(state.params), named_leaves(state.grads)
  return lax.stop_gradient(
    map_selected(updated, selected, weights, grads, state.variables)
  )


def check_differentiable(
  refine: optax.GradientTransformation, params: Params
) -> None:
  """Checks that the derivative of π is finite at a zero gradient.

  Adam divides by the root of its second moment, whose derivative at zero is
  infinite unless `eps_root` is positive. Dead weights have zero gradients.

  Args:
    refine: π.
    params: Parameters at which the derivative is taken.

  Raises:
    ValueError: If the vjp of `refine.update` is not finite at zero gradients.
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
        ' as optax.scale_by_adam(eps_root=1e-8). Other transformations, such as'
        ' optax.clip_by_global_norm, have no derivative there: leave'
        ' differentiate_refinement False.'
      )


def check_with_stand_in(refine: optax.GradientTransformation) -> None:
  """Runs `check_differentiable` on stand-in parameters.

  A transformation that accepts only the real parameters passes this check.
  """
  stand_in = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  try:
    refine.update(stand_in, refine.init(stand_in), stand_in)
  except Exception:
    return
  check_differentiable(refine, stand_in)
