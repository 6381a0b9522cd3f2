"""The train step: Algorithm 1 of the paper as two pure functions.

MetaQuant is training with a one-step-delayed, learned, differentiable gradient
transformation. A step applies the gradients of the last loss (`late_update`),
computes the loss and its gradients at the new quantized weights, and pulls
these gradients back through the update to train φ. Every estimator takes one
forward and one backward pass through the network per step.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax import selection
from mq_jax.derivatives import with_cotangent
from mq_jax.diagnostics import Diagnostics, diagnose
from mq_jax.estimators import GradientEstimator, ste
from mq_jax.late_update import (
  State,
  check_differentiable,
  check_with_stand_in,
  late_update,
  weight_gradient,
)
from mq_jax.loss import Batch, LossFn, Metrics, checked_loss, merged_metrics
from mq_jax.quantizers import Quantizer, forward_weight
from mq_jax.selection import Rules, map_selected, named_leaves, select

Array = jax.Array
Params = Any
Schedule = Callable[[Any], Any]


class TrainStep(NamedTuple):
  """Functions that train one network.

  Attributes:
    init: `(key, params, model_state, batch) -> state`. Iteration 0 of
      Algorithm 1: the first forward and backward pass, which updates no weight.
      Copies its inputs.
    step: `(state, batch) -> (state, metrics)`, jitted; the state is donated.
    step_fn: The pure function behind `step`, for scan, vmap and sharding.
    quantized: `(state) -> params` with Ŵ on quantized leaves.
    forward_params: `(state) -> params` as the loss receives them: Ŵ on
      quantized leaves unless a quantizer is `relaxed`.
    codes: `(state) -> {path: integer codes}`, a snapshot.
    phi_loss: `(phi, state, batch) -> loss` of a step as a function of φ.
      `jax.grad` of it is the φ-gradient of the step.
    diagnostics: `(state, since=None) -> Diagnostics`; `since` is an earlier
      snapshot of the codes.
  """

  init: Callable[[Array, Params, Any, Batch], State]
  step: Callable[[State, Batch], tuple[State, Metrics]]
  step_fn: Callable[[State, Batch], tuple[State, Metrics]]
  quantized: Callable[[State], Params]
  forward_params: Callable[[State], Params]
  codes: Callable[[State], dict[str, Array]]
  phi_loss: Callable[[Any, State, Batch], Array]
  diagnostics: Callable[..., Diagnostics]


class _Parts(NamedTuple):
  """The checked arguments of `make_train_step`."""

  loss: LossFn
  rules: Rules
  estimator: GradientEstimator
  refine: optax.GradientTransformation
  learning_rate: Schedule
  post_update: optax.GradientTransformation
  meta_optimizer: optax.GradientTransformation
  differentiate_refinement: bool
  phi_cotangent: str


def make_train_step(
  loss_fn: LossFn,
  quantizer: Rules,
  estimator: GradientEstimator,
  *,
  refine: optax.GradientTransformation = optax.identity(),
  learning_rate: float | Schedule = 1e-3,
  post_update: optax.GradientTransformation = optax.identity(),
  meta_optimizer: optax.GradientTransformation = optax.adam(1e-3),
  differentiate_refinement: bool = False,
  phi_cotangent: str = 'ste',
) -> TrainStep:
  """Makes the train step of one network.

  Args:
    loss_fn: `(params, model_state, batch, rng) -> (loss, (model_state,
      metrics))`, pure; `loss` is a scalar, `metrics` a dict. `loss_fn` receives
      the quantized weights; it needs no change.
    quantizer: A `Quantizer` for every leaf of two or more dimensions, or
      rules: a sequence of `(regex, Quantizer or None)` (`selection.select`).
    estimator: Estimator of the gradient through the quantizer: `ste()`,
      `fc_grad()`, `multi_fc()`, `lstm_fc()`.
    refine: π, eq. (5), without a learning rate: `optax.identity()` is SGD,
      `optax.scale_by_adam()` is Adam. It receives the parameters, so weight
      decay works.
    learning_rate: α, or a schedule of the number of updates taken.
    post_update: Last transformation of the move −α·π(g), with the parameters:
      proximal steps, clips, masks.
    meta_optimizer: Optimizer of φ, with its learning rate γ.
    differentiate_refinement: True if the gradient of φ flows through `refine`.
    phi_cotangent: Rule that converts ∂loss/∂Ŵ to ∂loss/∂W in the gradient of φ:
      'ste' is the straight-through rule of the quantizer, 'estimator' is M_φ
      itself, eq. (8).

  Returns:
    A `TrainStep`.

  Raises:
    ValueError: If an argument is out of range, or if `differentiate_refinement`
      is True and the derivative of `refine` is not finite at zero.
    TypeError: If an argument has the wrong type.

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, Algorithm 1
  """
  if not isinstance(estimator, GradientEstimator):
    raise TypeError(
      'estimator must be a GradientEstimator such as mq_jax.ste(), not'
      f' {estimator!r}.'
    )
  if phi_cotangent not in ('ste', 'estimator'):
    raise ValueError(
      f'phi_cotangent={phi_cotangent!r} is unknown: choose "ste" or'
      ' "estimator".'
    )
  selection.check_rules(quantizer)
  if differentiate_refinement:
    check_with_stand_in(refine)
  parts = _Parts(
    loss=checked_loss(loss_fn),
    rules=quantizer,
    estimator=estimator,
    refine=refine,
    learning_rate=_schedule(learning_rate),
    post_update=post_update,
    meta_optimizer=meta_optimizer,
    differentiate_refinement=differentiate_refinement,
    phi_cotangent=phi_cotangent,
  )
  step_fn = functools.partial(_step, parts)
  first_state = jax.jit(functools.partial(_first_state, parts))
  return TrainStep(
    init=functools.partial(_init, parts, first_state),
    step=jax.jit(step_fn, donate_argnums=0),
    step_fn=step_fn,
    quantized=jax.jit(
      lambda state: selection.quantized(
        state.params, quantizer, state.variables
      )
    ),
    forward_params=jax.jit(functools.partial(_forward_params, parts)),
    codes=jax.jit(functools.partial(_codes, parts)),
    phi_loss=lambda phi, state, batch: _loss(parts, phi, state, batch)[0],
    diagnostics=jax.jit(functools.partial(_diagnostics, parts)),
  )


def _init(
  parts: _Parts,
  first_state: Callable[[Array, Params, Any, Batch], State],
  key: Array,
  params: Params,
  model_state: Any,
  batch: Batch,
) -> State:
  """Checks its arguments and makes the first state."""
  if not select(params, parts.rules) and jax.tree.leaves(
    jax.eval_shape(lambda key: parts.estimator.init(key, {}), key)
  ):
    raise ValueError(
      'The estimator has a φ to learn, but no leaf is quantized: train full'
      ' precision with mq_jax.ste().'
    )
  if parts.differentiate_refinement:
    check_differentiable(parts.refine, params)
  return first_state(key, params, model_state, batch)


def _first_state(
  parts: _Parts, key: Array, params: Params, model_state: Any, batch: Batch
) -> State:
  """Runs iteration 0 of Algorithm 1."""
  selected = select(params, parts.rules)
  variables = map_selected(
    lambda q, w: q.init(w), selected, named_leaves(params)
  )
  params = _parametrized(params, selected)
  w_tilde = _preprocessed(selected, params, variables)
  key, phi_key = jax.random.split(key)
  phi = parts.estimator.init(phi_key, w_tilde)
  state_key = jax.random.fold_in(phi_key, 1)
  state = State(
    params=params,
    model_state=model_state,
    grads=None,
    variables=variables,
    refine_state=parts.refine.init(params),
    post_update_state=parts.post_update.init(params),
    phi=phi,
    meta_opt_state=parts.meta_optimizer.init(phi),
    estimator_state=parts.estimator.init_state(state_key, w_tilde),
    key=key,
    step=jnp.zeros((), jnp.int32),
  )
  state = _evaluate(parts, state, batch, state.step)[2]
  # Without copies jit would return the caller's own arrays, and the donation of
  # the first step would delete them.
  return jax.tree.map(jnp.copy, state)


def _step(parts: _Parts, state: State, batch: Batch) -> tuple[State, Metrics]:
  """Runs one iteration of Algorithm 1."""
  (loss, (new, loss_metrics)), phi_grad = jax.value_and_grad(
    functools.partial(_loss, parts), has_aux=True
  )(state.phi, state, batch)
  moves, meta_opt_state = parts.meta_optimizer.update(
    phi_grad, state.meta_opt_state, state.phi
  )
  new = new._replace(
    phi=optax.apply_updates(state.phi, moves),
    meta_opt_state=meta_opt_state,
    step=state.step + 1,
  )
  step_metrics = {
    'loss': loss,
    'phi_grad_norm': jnp.asarray(optax.tree.norm(phi_grad), loss.dtype),
    'finite': _all_finite((loss, new.grads, phi_grad)),
  }
  return new, merged_metrics(loss_metrics, step_metrics)


def _loss(
  parts: _Parts, phi: Any, state: State, batch: Batch
) -> tuple[Array, tuple[State, Metrics]]:
  """Returns the loss after the late update, differentiable in φ."""
  selected = select(state.params, parts.rules)
  updated = late_update(
    parts.estimator,
    selected,
    parts.refine,
    parts.learning_rate,
    parts.post_update,
    parts.differentiate_refinement,
    phi,
    state,
  )
  # Everything from here on is constant in φ, except for the cotangent of W'
  # that `with_cotangent` attaches to the loss.
  loss, metrics, evaluated = _evaluate(
    parts, lax.stop_gradient(updated), batch, state.step + 1
  )
  if parts.phi_cotangent == 'ste':
    rule, rule_phi = ste(), ()
  else:
    rule, rule_phi = parts.estimator, lax.stop_gradient(phi)
  cotangent, _ = weight_gradient(rule, selected, rule_phi, evaluated)
  loss = with_cotangent(
    loss, _only(selected, updated.params), _only(selected, cotangent)
  )
  return loss, (evaluated, metrics)


def _evaluate(
  parts: _Parts, state: State, batch: Batch, count: Array
) -> tuple[Array, Metrics, State]:
  """Computes the loss, its gradients at Ŵ, eq. (7), and the model state."""
  (loss, (model_state, metrics)), grads = jax.value_and_grad(
    parts.loss, has_aux=True
  )(
    _forward_params(parts, state),
    state.model_state,
    batch,
    jax.random.fold_in(state.key, count),
  )
  return loss, metrics, state._replace(model_state=model_state, grads=grads)


def _preprocessed(
  selected: Mapping[str, Quantizer], params: Params, variables: dict[str, Any]
) -> dict[str, Array]:
  return map_selected(
    lambda q, w, v: q.preprocess(w, v),
    selected,
    named_leaves(params),
    variables,
  )


def _forward_params(parts: _Parts, state: State) -> Params:
  selected = select(state.params, parts.rules)
  w_tilde = _preprocessed(selected, state.params, state.variables)
  w_hat = map_selected(forward_weight, selected, w_tilde, state.variables)
  return selection.replace(state.params, w_hat)


def _codes(parts: _Parts, state: State) -> dict[str, Array]:
  selected = select(state.params, parts.rules)
  w_tilde = _preprocessed(selected, state.params, state.variables)
  return map_selected(
    lambda q, w, v: q.codes(w, v)[0], selected, w_tilde, state.variables
  )


def _diagnostics(
  parts: _Parts, state: State, since: Mapping[str, Array] | None = None
) -> Diagnostics:
  selected = select(state.params, parts.rules)
  return diagnose(
    selected,
    parts.estimator,
    state.phi,
    _preprocessed(selected, state.params, state.variables),
    state.variables,
    _codes(parts, state),
    since,
  )


def _parametrized(params: Params, selected: Mapping[str, Quantizer]) -> Params:
  leaves = named_leaves(params)
  return selection.replace(
    params,
    {
      path: q.parametrized(leaves[path])
      for path, q in selected.items()
      if q.parametrized is not None
    },
  )


def _schedule(learning_rate: float | Schedule) -> Schedule:
  if callable(learning_rate):
    return learning_rate
  no_number = learning_rate is None or isinstance(learning_rate, bool | str)
  if no_number or not float(learning_rate) >= 0:
    raise ValueError(
      f'learning_rate={learning_rate!r} must be a number of at least 0, or a'
      ' schedule.'
    )
  return lambda step: learning_rate


def _only(paths: Iterable[str], tree: Any) -> dict[str, Array]:
  leaves = named_leaves(tree)
  return {path: leaves[path] for path in paths}


def _all_finite(tree: Any) -> Array:
  finite = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in jax.tree.leaves(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite))
