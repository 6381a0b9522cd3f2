"""The train step: Algorithm 1 of the paper as two pure functions.

MetaQuant is training with a one-step-delayed, learned, differentiable gradient
transformation. A step applies the last loss's gradients (`late_update`), takes
the loss and its gradients at the new quantized weights, and pulls these back
through the update to train φ. One forward and one backward pass through the
network, whatever the estimator.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mq_jax import estimators, selection
from mq_jax.diagnostics import Diagnostics, diagnose
from mq_jax.estimators import GradientEstimator
from mq_jax.late_update import (
  State,
  check_differentiable,
  check_with_stand_in,
  late_update,
  weight_gradient,
)
from mq_jax.loss import Batch, LossFn, Metrics, checked_loss, merged_metrics
from mq_jax.quantizers import Quantizer, seen_by_loss
from mq_jax.selection import Rules, map_selected, named_leaves

Array = jax.Array
Params = Any


class TrainStep(NamedTuple):
  """Functions that train one network.

  Attributes:
    init: `(key, params, model_state, batch) -> state`. Iteration 0 of
      Algorithm 1: the first forward and backward pass, which updates no weight.
      Copies its inputs.
    step: `(state, batch) -> (state, metrics)`, jitted; the state is donated.
    step_fn: The pure function behind `step`, for scan, vmap and sharding.
    quantized: `(state) -> params` with Ŵ on quantized leaves.
    forward_params: `(state) -> params` as the loss sees them: Ŵ on quantized
      leaves unless a quantizer is `relaxed`.
    codes: `(state) -> {path: integer codes}`, a snapshot.
    phi_loss: `(phi, state, batch) -> loss` of a step as a function of φ.
      `jax.grad` of it is the step's φ-gradient.
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


def make_train_step(
  loss_fn: LossFn,
  quantizer: Rules,
  estimator: GradientEstimator,
  *,
  refine: optax.GradientTransformation = optax.identity(),
  learning_rate: float | Callable[[Any], Any] = 1e-3,
  post_update: optax.GradientTransformation = optax.identity(),
  meta_optimizer: optax.GradientTransformation = optax.adam(1e-3),
  differentiate_refinement: bool = False,
  phi_cotangent: str = 'ste',
) -> TrainStep:
  """Makes the train step of one network.

  Args:
    loss_fn: `(params, model_state, batch, rng) -> (loss, (model_state,
      metrics))`, pure; `loss` a scalar, `metrics` a dict. It is called with Ŵ
      in the place of the quantized weights.
    quantizer: A `Quantizer` for every leaf of two or more dimensions, or
      rules: a sequence of `(regex, Quantizer or None)` (`selection.select`).
    estimator: What passes the quantizer backwards: `ste()`, `fc_grad()`,
      `multi_fc()`, `lstm_fc()`.
    refine: π, eq. (5), without a learning rate: `optax.identity()` is SGD,
      `optax.scale_by_adam()` Adam. It gets the parameters, so weight decay
      works.
    learning_rate: α, or a schedule of the number of updates so far.
    post_update: Transforms the move −α·π(g) last, with the parameters: proximal
      steps, clips, masks.
    meta_optimizer: Optimizer of φ, with its learning rate γ.
    differentiate_refinement: Whether φ's gradient flows through `refine`.
    phi_cotangent: How ∂loss/∂Ŵ gets back to W on φ's path: 'ste', by the
      quantizer's straight-through rule, or 'estimator', by M_φ itself, eq. (8).

  Returns:
    A `TrainStep`.

  Raises:
    ValueError: If an argument is out of range, or `differentiate_refinement`
      is asked of a `refine` whose derivative is not finite at zero.
    TypeError: If an argument is of the wrong kind.

  References:
    Chen, Wang, Pan, `MetaQuant: Learning to Quantize by Learning to Penetrate
    Non-differentiable Quantization
    <https://papers.nips.cc/paper/8647>`_, 2019, Algorithm 1
  """
  if not isinstance(estimator, GradientEstimator):
    raise TypeError(
      f'estimator must be a GradientEstimator such as mq_jax.ste(), not'
      f' {estimator!r}.'
    )
  if phi_cotangent not in ('ste', 'estimator'):
    raise ValueError(
      f'phi_cotangent={phi_cotangent!r} is unknown: "ste" or "estimator".'
    )
  selection.check_rules(quantizer)
  update = functools.partial(
    late_update,
    estimator,
    refine=refine,
    learning_rate=_schedule(learning_rate),
    post_update=post_update,
    differentiate_refinement=differentiate_refinement,
  )
  if differentiate_refinement:
    check_with_stand_in(refine)
  select = functools.partial(selection.select, rules=quantizer)
  ste = estimators.ste()
  loss_at = checked_loss(loss_fn)

  def preprocessed(state: State) -> dict[str, Array]:
    return map_selected(
      lambda q, w, v: q.preprocess(w, v),
      select(state.params),
      named_leaves(state.params),
      state.variables,
    )

  def forward_params(state: State) -> Params:
    w_hat = map_selected(
      seen_by_loss, select(state.params), preprocessed(state), state.variables
    )
    return selection.replace(state.params, w_hat)

  def evaluate(
    state: State, batch: Batch, count: Array
  ) -> tuple[Array, Metrics, State]:
    # The loss and its gradients at Ŵ, eq. (7), and the model's new state.
    (loss, (model_state, metrics)), grads = jax.value_and_grad(
      loss_at, has_aux=True
    )(
      forward_params(state),
      state.model_state,
      batch,
      jax.random.fold_in(state.key, count),
    )
    return loss, metrics, state._replace(model_state=model_state, grads=grads)

  def loss_of_phi(
    phi: Any, state: State, batch: Batch
  ) -> tuple[Array, tuple[State, Metrics]]:
    selected = select(state.params)
    moved = update(selected, phi=phi, state=state)
    # What follows is a constant but for the cotangent of W', attached below.
    new = lax.stop_gradient(moved)
    loss, metrics, evaluated = evaluate(new, batch, state.step + 1)
    back, back_phi = (ste, ()) if phi_cotangent == 'ste' else (estimator, phi)
    cotangent, _ = weight_gradient(
      back, selected, lax.stop_gradient(back_phi), evaluated
    )
    loss = _with_cotangent(
      loss, _only(selected, moved.params), _only(selected, cotangent)
    )
    return loss, (evaluated, metrics)

  def first_state(
    key: Array, params: Params, model_state: Any, batch: Batch
  ) -> State:
    selected = select(params)
    variables = map_selected(
      lambda q, w: q.init(w), selected, named_leaves(params)
    )
    params = _parametrized(params, selected)
    key, phi_key = jax.random.split(key)
    state = State(
      params=params,
      model_state=model_state,
      grads=None,
      variables=variables,
      refine_state=refine.init(params),
      post_update_state=post_update.init(params),
      phi=None,
      meta_opt_state=None,
      estimator_state=None,
      key=key,
      step=jnp.zeros((), jnp.int32),
    )
    w_tilde = preprocessed(state)
    phi = estimator.init(phi_key, w_tilde)
    state = state._replace(
      phi=phi,
      meta_opt_state=meta_optimizer.init(phi),
      estimator_state=estimator.init_state(
        jax.random.fold_in(phi_key, 1), w_tilde
      ),
    )
    state = evaluate(state, batch, state.step)[2]
    # Without copies jit would hand the caller's own arrays through, and the
    # first step's donation would delete them.
    return jax.tree.map(jnp.copy, state)

  jitted_first_state = jax.jit(first_state)

  def init(key: Array, params: Params, model_state: Any, batch: Batch) -> State:
    if not select(params) and jax.tree.leaves(
      jax.eval_shape(lambda key: estimator.init(key, {}), key)
    ):
      raise ValueError(
        'The estimator is to be learned, but no leaf is quantized: full'
        ' precision is trained with mq_jax.ste().'
      )
    if differentiate_refinement:
      check_differentiable(refine, params)
    return jitted_first_state(key, params, model_state, batch)

  def step_fn(state: State, batch: Batch) -> tuple[State, Metrics]:
    (loss, (new, metrics)), phi_grad = jax.value_and_grad(
      loss_of_phi, has_aux=True
    )(state.phi, state, batch)
    moves, meta_opt_state = meta_optimizer.update(
      phi_grad, state.meta_opt_state, state.phi
    )
    new = new._replace(
      phi=optax.apply_updates(state.phi, moves),
      meta_opt_state=meta_opt_state,
      step=state.step + 1,
    )
    own = {
      'loss': loss,
      'phi_grad_norm': jnp.asarray(optax.tree.norm(phi_grad), loss.dtype),
      'finite': _all_finite((loss, new.grads, phi_grad)),
    }
    return new, merged_metrics(metrics, own)

  def quantized(state: State) -> Params:
    return selection.quantized(state.params, quantizer, state.variables)

  def codes(state: State) -> dict[str, Array]:
    return map_selected(
      lambda q, w, v: q.codes(w, v)[0],
      select(state.params),
      preprocessed(state),
      state.variables,
    )

  def diagnostics(
    state: State, since: Mapping[str, Array] | None = None
  ) -> Diagnostics:
    return diagnose(
      select(state.params),
      estimator,
      state.phi,
      preprocessed(state),
      state.variables,
      codes(state),
      since,
    )

  return TrainStep(
    init=init,
    step=jax.jit(step_fn, donate_argnums=0),
    step_fn=step_fn,
    quantized=jax.jit(quantized),
    forward_params=jax.jit(forward_params),
    codes=jax.jit(codes),
    phi_loss=lambda phi, state, batch: loss_of_phi(phi, state, batch)[0],
    diagnostics=jax.jit(diagnostics),
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


def _schedule(
  learning_rate: float | Callable[[Any], Any],
) -> Callable[[Any], Any]:
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


@jax.custom_vjp
def _with_cotangent(loss: Array, params: Params, cotangent: Params) -> Array:
  """`loss`, whose derivative with respect to `params` is `cotangent`."""
  del params, cotangent
  return loss


def _with_cotangent_fwd(
  loss: Array, params: Params, cotangent: Params
) -> tuple[Array, Params]:
  del params
  return loss, cotangent


def _with_cotangent_bwd(
  cotangent: Params, d_loss: Array
) -> tuple[Array, Params, Params]:
  scaled = jax.tree.map(lambda c: d_loss.astype(c.dtype) * c, cotangent)
  return d_loss, scaled, jax.tree.map(jnp.zeros_like, cotangent)


_with_cotangent.defvjp(_with_cotangent_fwd, _with_cotangent_bwd)
