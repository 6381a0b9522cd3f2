"""Algorithm 1 of the paper: its iterations as pure functions of a state."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax import data_parallel
from mq_jax.checks import check_rate
from mq_jax.derivatives import with_cotangent
from mq_jax.estimators import ste
from mq_jax.late_update import (
  Params,
  Setup,
  State,
  late_update,
  preprocessed,
  weight_gradient,
)
from mq_jax.loss import Batch, Metrics
from mq_jax.precision import strong
from mq_jax.quantizers import forward_weight
from mq_jax.selection import (
  initial_variables,
  map_selected,
  named_leaves,
  only,
  replace,
  select,
)
from mq_jax.state_checks import calls, check_is_state, check_state

Array = jax.Array


def first_state(
  setup: Setup, key: Array, params: Params, model_state: Any, batch: Batch
) -> State:
  """Runs iteration 0, which updates no weight.

  Args:
    setup: The `Setup`.
    key: PRNG key of φ, of the estimator's state and of the losses.
    params: The weights to train.
    model_state: Model state that the first loss receives.
    batch: Batch of the first loss.

  Returns:
    The state after the first loss.
  """
  # A weak dtype would become strong in a step, which compiles a new program.
  params, model_state = jax.tree.map(strong, (params, model_state))
  selected = select(params, setup.quantizer)
  weights = named_leaves(params)
  variables = initial_variables(params, setup.quantizer)
  parametrized = {
    path: q.parametrized(weights[path])
    for path, q in selected.items()
    if q.parametrized is not None
  }
  params = replace(params, parametrized)
  w_tilde = preprocessed(selected, params, variables)
  key, phi_key, state_key = jax.random.split(key, 3)
  phi = setup.estimator.init(phi_key, w_tilde)
  state = State(
    params=params,
    model_state=model_state,
    grads=None,
    variables=variables,
    refine_state=setup.refine.init(params),
    post_update_state=setup.post_update.init(params),
    phi=phi,
    meta_opt_state=setup.meta_optimizer.init(phi),
    estimator_state=setup.estimator.init_state(state_key, w_tilde),
    key=key,
    step=jnp.zeros((), jnp.int32),
    trained_by=calls(setup.estimator, selected),
  )
  state = evaluate(setup, state, batch, state.step)[2]
  # A rule that does not fit a quantizer fails here, and not in the first step.
  # The compiler removes the unused result.
  weight_gradient(setup.estimator, selected, phi, state)
  return state


def step(
  setup: Setup, state: State, batch: Batch, learning_rate: Any = None
) -> tuple[State, Metrics]:
  """Runs one iteration: late update, loss, and update of φ.

  Args:
    setup: The `Setup`.
    state: State before the iteration.
    batch: Batch of the loss.
    learning_rate: α of this update, which may be traced; None: that of the
      setup.

  Raises:
    TypeError: If `state` is not a `State`.
    ValueError: If the state contains several trials or belongs to another train
      step, if the step does not run in a map over `setup.axes`, or if α is not
      one finite number of at least 0.
  """
  check_is_state(state)
  if jnp.ndim(state.step):
    raise ValueError(
      f'The state contains trials of shape {jnp.shape(state.step)}: map the'
      ' step over them, jax.vmap(train.step_fn).'
    )
  check_state(setup, state)
  data_parallel.check_bound(setup.axes)
  setup = at_rate(setup, learning_rate)
  (loss, (new, loss_metrics)), phi_grad = jax.value_and_grad(
    functools.partial(loss_after_update, setup), has_aux=True
  )(state.phi, state, batch)
  moves, meta_opt_state = setup.meta_optimizer.update(
    phi_grad, state.meta_opt_state, state.phi
  )
  new = new._replace(
    phi=optax.apply_updates(state.phi, moves),
    meta_opt_state=meta_opt_state,
    step=state.step + 1,
  )
  values = [loss, phi_grad, new.phi, new.grads]
  values += [new.params, new.variables, new.model_state]
  step_metrics = {
    'loss': loss,
    'phi_grad_norm': jnp.asarray(optax.tree.norm(phi_grad), loss.dtype),
    'finite': _all_finite(values),
  }
  return new, loss_metrics | step_metrics


def at_rate(setup: Setup, learning_rate: Any) -> Setup:
  """Returns the setup with another α; the same setup if α is None.

  Raises:
    ValueError: If α is not one finite number of at least 0.
  """
  if learning_rate is None:
    return setup
  check_rate(learning_rate)
  return setup._replace(learning_rate=lambda step: learning_rate)


def loss_after_update(
  setup: Setup, phi: Any, state: State, batch: Batch
) -> tuple[Array, tuple[State, Metrics]]:
  """Returns the loss after the late update, differentiable in φ, eq. (8).

  Args:
    setup: The `Setup`.
    phi: φ, the differentiable argument.
    state: State whose pending gradients are applied.
    batch: Batch of the loss.

  Returns:
    `(loss, (state, metrics))`. The new state has the updated weights and the
    gradients of this loss, but still the old `phi`, `meta_opt_state` and
    `step`.
  """
  selected = select(state.params, setup.quantizer)
  data_parallel.check_sharding(only(selected, state.params))
  updated = late_update(setup, selected, phi, state)
  # Everything from here on is constant in φ, except for the cotangent of W'
  # that `with_cotangent` attaches to the loss.
  loss, metrics, evaluated = evaluate(
    setup, lax.stop_gradient(updated), batch, state.step + 1
  )
  if setup.phi_cotangent == 'ste':
    rule, rule_phi = ste(), ()
  else:
    rule, rule_phi = setup.estimator, lax.stop_gradient(phi)
  cotangent, _ = weight_gradient(
    rule, selected, rule_phi, evaluated._replace(step=state.step + 1)
  )
  # With `differentiate_refinement`, φ reaches the other leaves, too, if π
  # couples leaves, as a clip of the global norm does.
  loss = with_cotangent(loss, updated.params, cotangent)
  return loss, (evaluated, metrics)


def evaluate(
  setup: Setup, state: State, batch: Batch, count: Array
) -> tuple[Array, Metrics, State]:
  """Returns the loss, its metrics, and the state with its gradients, eq. (7).

  Args:
    setup: The `Setup`.
    state: State with the weights at which the loss is computed.
    batch: Batch of the loss.
    count: Number of weight updates taken before this loss. `loss_fn` receives
      the key of the state with this number folded in.

  Returns:
    `(loss, metrics, state)`, with the gradients at Ŵ as `state.grads` and the
    new `state.model_state`, averaged over the axes of `setup.axes` over which
    the current trace maps.
  """
  # `init` may run outside of the map, on a whole batch.
  axes = data_parallel.bound_axes(setup.axes or ())
  (loss, (model_state, metrics)), grads = data_parallel.value_and_grad(
    setup.loss_fn, axes
  )(
    forward_params(setup, state),
    state.model_state,
    batch,
    jax.random.fold_in(state.key, count),
  )
  return loss, metrics, state._replace(model_state=model_state, grads=grads)


def forward_params(setup: Setup, state: State) -> Params:
  """Returns the parameters that the loss receives, eqs. (1) and (2)."""
  selected = select(state.params, setup.quantizer)
  w_tilde = preprocessed(selected, state.params, state.variables)
  w_hat = map_selected(forward_weight, selected, w_tilde, state.variables)
  return replace(state.params, w_hat)


def _all_finite(tree: Any) -> Array:
  finite = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite))
