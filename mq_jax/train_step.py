"""Checks the arguments and assembles the functions of a train step.

`mq_jax.algorithm` contains Algorithm 1 of the paper.

MetaQuant is training with a one-step-delayed, learned, differentiable gradient
transformation. A step applies the gradients of the last loss (`late_update`),
computes the loss and its gradients at the new quantized weights, and pulls
these gradients back through the update to train φ. Every estimator takes one
forward and one backward pass through the network per step.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from mq_jax import (
  algorithm,
  data_parallel,
  direction,
  init_checks,
  selection,
)
from mq_jax.checks import check_choice, check_rate, check_switch
from mq_jax.data_parallel import AxisName
from mq_jax.diagnostics import Diagnostics, codes, diagnose
from mq_jax.estimators import GradientEstimator
from mq_jax.late_update import (
  Params,
  Setup,
  State,
  check_with_stand_in,
)
from mq_jax.loss import Batch, LossFn, Metrics, checked_loss
from mq_jax.packing import PackedParams
from mq_jax.packing.packed_params import pack_state
from mq_jax.printing import describe
from mq_jax.selection import Rules, Selection
from mq_jax.state_checks import (
  check_is_state,
  check_state,
  explains_donation,
)

Array = jax.Array
PHI_COTANGENTS = ('ste', 'estimator')


class StepFn(Protocol):
  """The type of a train step."""

  def __call__(
    self, state: State, batch: Batch, learning_rate: Any = None
  ) -> tuple[State, Metrics]:
    """Runs one iteration."""


class TrainStep(NamedTuple):
  """Functions that train one network.

  Attributes:
    init: `(key, params, model_state, batch) -> state`. Iteration 0 of
      Algorithm 1: the first forward and backward pass, which updates no weight.
      Copies its inputs.
    step: `(state, batch, learning_rate=None) -> (state, metrics)`, jitted; the
      state is donated. A `learning_rate`, a number, replaces that of the train
      step in this update; another value compiles nothing again.
    step_fn: The pure function behind `step`, for scan, vmap and sharding. Its
      loss has no derivative in the state or in `learning_rate` if the
      estimator has a φ; `phi_loss` has.
    quantized: `(state) -> params` with Ŵ on quantized leaves.
    forward_params: `(state) -> params` as the loss receives them: Ŵ on
      quantized leaves unless a quantizer is `relaxed`.
    codes: `(state) -> {path: integer codes}`, a snapshot.
    phi_loss: `(phi, state, batch, learning_rate=None) -> loss` of a step as a
      function of φ. `jax.grad` of it is the φ-gradient of the step.
    diagnostics: `(state, since=None) -> Diagnostics`; `since` is an earlier
      snapshot of the codes.
    selection: `(params) -> Selection`, which prints the quantizer of each leaf.
    pack: `(state, *, model_state=None, metadata=None) -> PackedParams`: the
      network of a state, as `mq_jax.pack` packs one.

  `train.quantized`, `train.forward_params`, `train.codes` and
  `train.diagnostics` also take the state of several trials, `jax.vmap(init)`,
  and map over them.
  """

  init: Callable[[Array, Params, Any, Batch], State]
  step: StepFn
  step_fn: StepFn
  quantized: Callable[[State], Params]
  forward_params: Callable[[State], Params]
  codes: Callable[[State], dict[str, Array]]
  phi_loss: Callable[..., Array]
  diagnostics: Callable[..., Diagnostics]
  selection: Callable[[Params], Selection]
  pack: Callable[..., PackedParams]


def make_train_step(
  loss_fn: LossFn,
  quantizer: Rules,
  estimator: GradientEstimator,
  *,
  refine: optax.GradientTransformation = optax.identity(),
  learning_rate: float | optax.Schedule = 1e-3,
  post_update: optax.GradientTransformation = optax.identity(),
  meta_optimizer: optax.GradientTransformation = optax.adam(1e-3),
  differentiate_refinement: bool = False,
  phi_cotangent: str = 'ste',
  axis_name: AxisName | None = None,
) -> TrainStep:
  """Makes the train step of one network.

  Examples:
    Weights of one bit learn the signs of two slopes:

    >>> import jax, jax.numpy as jnp
    >>> def loss_fn(params, model_state, batch, rng):
    ...   error = batch['x'] @ params['kernel'] - batch['y']
    ...   return jnp.mean(error**2), (model_state, {})
    >>> x = jax.random.normal(jax.random.key(0), (64, 2))
    >>> batch = {'x': x, 'y': x @ jnp.array([[1.0], [-1.0]])}
    >>> params = {'kernel': jnp.array([[-0.3], [0.2]])}
    >>> train = mq_jax.make_train_step(
    ...   loss_fn, mq_jax.dorefa(), mq_jax.ste(), learning_rate=0.01
    ... )
    >>> state = train.init(jax.random.key(1), params, {}, batch)
    >>> for _ in range(20):
    ...   state, metrics = train.step(state, batch)
    >>> print(train.quantized(state)['kernel'].ravel(), metrics['loss'])
    [ 1. -1.] 0.0

  Args:
    loss_fn: `(params, model_state, batch, rng) -> (loss, (model_state,
      metrics))`, pure; `loss` is a scalar, `metrics` a dict. `loss_fn` receives
      the quantized weights; it needs no change.
    quantizer: Rules, a sequence of `(regex, Quantizer or None)`, or a
      `Quantizer` for every kernel (`selection.select`, `selection.is_kernel`).
    estimator: Estimator of the gradient through the quantizer: `ste()`,
      `fc_grad()`, `multi_fc()`, `lstm_fc()`, or another one of
      `mq_jax.estimators`.
    refine: π, eq. (5), without a learning rate: `optax.identity()` is SGD,
      `optax.scale_by_adam()` is Adam. It receives parameters for weight decay.
    learning_rate: α, or a schedule of the number of updates taken. Each step
      counts, also where `refine` only collects gradients (optax.MultiSteps).
    post_update: Transformation of the move −α·π(g) that runs last and receives
      the parameters: proximal steps, clips, masks.
    meta_optimizer: Optimizer of φ, with its learning rate γ.
    differentiate_refinement: True if the gradient of φ flows through `refine`.
    phi_cotangent: Rule by which the next loss passes the quantizer to train φ:
      'ste', the rule of the quantizer, or 'estimator', M_φ itself, eq. (8).
    axis_name: Name of the mapped axis, or a tuple of names, if `step_fn` runs
      inside `jax.shard_map` or `jax.pmap`: each replica receives the whole
      state and a part of the batch. The step averages the loss, its gradients,
      the metrics, and the floating point leaves of the model state over the
      replicas. `loss_fn` must return the other leaves of the model state equal
      on all replicas. Metrics are floats, such as means over the batch. None
      under `jax.jit` with sharded arrays. `()` if the replicas of a map are
      separate trainings.

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
      f' {describe(estimator)}.'
    )
  check_choice('phi_cotangent', phi_cotangent, PHI_COTANGENTS)
  check_switch(differentiate_refinement=differentiate_refinement)
  # A list may change before the functions are traced.
  rules = selection.fixed_rules(quantizer)
  transformations = {
    'refine': refine,
    'post_update': post_update,
    'meta_optimizer': meta_optimizer,
  }
  for name, transformation in transformations.items():
    direction.check_transformation(name, transformation)
  direction.check_stand_in(
    **transformations, is_learned=init_checks.is_learned(estimator, {})
  )
  if differentiate_refinement:
    check_with_stand_in(refine)
  setup = Setup(
    loss_fn=checked_loss(loss_fn),
    quantizer=rules,
    estimator=estimator,
    refine=refine,
    learning_rate=_schedule(learning_rate),
    post_update=post_update,
    meta_optimizer=meta_optimizer,
    differentiate_refinement=differentiate_refinement,
    phi_cotangent=phi_cotangent,
    axes=data_parallel.axes_of(axis_name),
  )
  first_state = jax.jit(functools.partial(algorithm.first_state, setup))
  measure = jax.jit(functools.partial(init_checks.measure, setup))

  def init(key: Array, params: Params, model_state: Any, batch: Batch) -> State:
    init_checks.check_arguments(key, params)
    data_parallel.check_init(setup.axes)
    init_checks.check_params(setup, params)
    measured = measure(params)
    leaves = selection.only(measured.is_trainable, params)
    learned = leaves if init_checks.is_learned(estimator, leaves) else ()
    init_checks.check_finite(measured.is_finite)
    direction.check_refine(measured.cosine, learned)
    init_checks.check_trainable(measured.is_trainable)
    try:
      return first_state(key, params, model_state, batch)
    except Exception as error:
      error.add_note('init takes (key, params, model_state, batch).')
      raise

  def phi_loss(
    phi: Any, state: State, batch: Batch, learning_rate: Any = None
  ) -> Array:
    check_is_state(state)
    check_state(setup, state)
    at_rate = algorithm.at_rate(setup, learning_rate)
    return algorithm.loss_after_update(at_rate, phi, state, batch)[0]

  step_fn = functools.partial(algorithm.step, setup)
  over_trials = functools.partial(_over_trials, setup)
  return TrainStep(
    init=init,
    step=_donating(step_fn),
    step_fn=step_fn,
    quantized=over_trials(
      lambda state: selection.quantized(state.params, rules, state.variables)
    ),
    forward_params=over_trials(
      functools.partial(algorithm.forward_params, setup)
    ),
    codes=over_trials(functools.partial(codes, setup)),
    phi_loss=explains_donation(phi_loss),
    diagnostics=over_trials(functools.partial(diagnose, setup)),
    selection=functools.partial(_selection, rules),
    pack=explains_donation(functools.partial(pack_state, setup)),
  )


def _donating(step_fn: StepFn) -> StepFn:
  """Returns the jitted step, which deletes the arrays of its state."""
  jitted = jax.jit(step_fn, donate_argnums=0)

  @explains_donation
  def step(
    state: State, batch: Batch, learning_rate: Any = None
  ) -> tuple[State, Metrics]:
    if learning_rate is None:
      return jitted(state, batch)
    # Numbers of different types would each compile a program.
    return jitted(state, batch, _rate(learning_rate))

  for name in ('lower', 'trace', 'eval_shape', 'clear_cache'):
    setattr(step, name, getattr(jitted, name))
  return step


def _selection(rules: Rules, params: Params) -> Selection:
  if isinstance(params, State):
    raise TypeError('selection takes parameters, not a State: state.params.')
  return selection.selection(params, rules)


def _over_trials(
  setup: Setup, function: Callable[..., Any]
) -> Callable[..., Any]:
  """Returns a jitted function of a state, mapped over the trials in it."""

  def checked(state: State, *args: Any, **kwargs: Any) -> Any:
    check_state(setup, state)
    return function(state, *args, **kwargs)

  def mapped(state: State, *args: Any, **kwargs: Any) -> Any:
    check_is_state(state)
    over: Callable[..., Any] = checked
    for _ in range(jnp.ndim(state.step)):
      over = jax.vmap(over)
    return over(state, *args, **kwargs)

  return explains_donation(jax.jit(mapped))


def _schedule(learning_rate: float | optax.Schedule) -> optax.Schedule:
  if callable(learning_rate):
    first = learning_rate(jnp.zeros((), jnp.int32))
    check_rate(first, name='learning_rate(0)')
    return learning_rate
  check_rate(learning_rate, ', or a schedule')
  return lambda step: learning_rate


def _rate(learning_rate: Any) -> Array:
  """Returns the α that `step` receives as an array of one type."""
  check_rate(learning_rate)
  return jnp.asarray(learning_rate, jnp.result_type(float))
