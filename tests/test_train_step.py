"""Tests the train step: plain training, closed forms and invalid input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import mq_jax
from mq_jax import loss, selection
from mq_jax.quantizers import quantize
from tests import problem

ESTIMATORS = {
  'ste': mq_jax.ste(),
  'fc_grad': mq_jax.fc_grad(hidden=3),
  'multi_fc tanh': mq_jax.multi_fc(hidden=3, activation='tanh'),
  'lstm_fc': mq_jax.lstm_fc(hidden=3),
}


def assert_trees_close(ours, theirs, rtol=1e-12, atol=1e-12):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def straight_through_weights(quantizer):
  """Returns W -> W^ with the straight-through rule as its derivative."""

  @jax.custom_vjp
  def forward(w):
    return quantize(quantizer, w, ())

  def backward(w, g_hat):
    g_ste = quantizer.straight_through(g_hat, quantizer.preprocess(w, ()), ())
    return (quantizer.calibrate(w, g_ste, ()),)

  forward.defvjp(lambda w: (quantize(quantizer, w, ()), w), backward)
  return forward


@pytest.mark.parametrize(
  'quantizer',
  [
    mq_jax.dorefa(),
    mq_jax.dorefa(3),
    mq_jax.bwn(),
    mq_jax.per(mq_jax.bwn(clip=0.2), axes=-1),
  ],
)
@pytest.mark.parametrize(
  'refine',
  [
    optax.identity(),
    optax.scale_by_adam(),
    optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9)),
  ],
)
def test_step_ste_equals_plain_training_with_custom_vjp(x64, quantizer, refine):
  forward = straight_through_weights(quantizer)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def loss_and_grads(params, model_state, batch):
    hat = jax.tree.map(lambda p: forward(p) if p.ndim > 1 else p, params)
    return problem.loss_fn(hat, model_state, batch, None)

  n, schedule = 5, optax.exponential_decay(0.3, 1, 0.8)
  optimizer = optax.chain(refine, optax.scale_by_learning_rate(schedule))
  params, model_state = problem.params(), problem.model_state()
  opt_state = optimizer.init(params)
  batches = list(problem.batches(n + 1))
  for batch in batches[:n]:
    (_, (model_state, _)), grads = loss_and_grads(params, model_state, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  # The batch statistics of the state are one batch ahead.
  (loss, (model_state, _)), _ = loss_and_grads(params, model_state, batches[n])

  train = problem.make(
    quantizer, mq_jax.ste(), refine=refine, learning_rate=schedule
  )
  state = problem.start(train)
  for batch in batches[1:]:
    state, metrics = train.step(state, batch)
  assert_trees_close(state.params, params)
  assert_trees_close(state.model_state, model_state)
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
  assert int(state.step) == n
  assert metrics['phi_grad_norm'] == 0


def test_init_consumes_one_batch_and_keeps_weights():
  train = problem.make()
  state = problem.start(train)
  assert_trees_close(state.params, problem.params(), rtol=0, atol=0)
  assert int(state.step) == 0
  assert state.model_state['seen'] == 1


@pytest.mark.parametrize('cotangent', ['ste', 'estimator'])
@pytest.mark.parametrize('name', ESTIMATORS)
def test_phi_loss_gradient_equals_gradient_of_step(x64, name, cotangent):
  train = problem.make(
    estimator=ESTIMATORS[name],
    refine=optax.scale_by_adam(),
    meta_optimizer=optax.sgd(1.0),
    phi_cotangent=cotangent,
  )
  state = problem.start(train)
  loss_and_gradient = jax.jit(jax.value_and_grad(train.phi_loss))
  for batch in problem.batches(3):
    loss, gradient = loss_and_gradient(state.phi, state, batch)
    phi = jax.tree.map(jnp.copy, state.phi)
    state, metrics = train.step(state, batch)
    assert_trees_close(
      state.phi, jax.tree.map(jnp.subtract, phi, gradient), 1e-9
    )
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-12)
    np.testing.assert_allclose(
      metrics['phi_grad_norm'], optax.tree.norm(gradient), rtol=1e-9
    )


def assert_gradient_is_finite_difference(function, phi, eps=1e-5):
  flat, unflatten = ravel_pytree(phi)
  gradient = ravel_pytree(jax.jit(jax.grad(function))(phi))[0]
  assert np.any(np.abs(gradient) > 1e-4)
  value = jax.jit(lambda flat: function(unflatten(flat)))
  for index in range(flat.size):
    step = jnp.zeros_like(flat).at[index].set(eps)
    difference = (value(flat + step) - value(flat - step)) / (2 * eps)
    np.testing.assert_allclose(
      difference, gradient[index], rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize(
  'estimator',
  [
    mq_jax.fc_grad(hidden=2, activation='tanh', bias=True),
    mq_jax.multi_fc(hidden=2),
    mq_jax.multi_fc(hidden=2, init='identity'),
    mq_jax.lstm_fc(hidden=2),
  ],
)
def test_phi_gradient_smooth_quantizer_equals_finite_differences(
  x64, estimator
):
  train = problem.make(problem.smooth(), estimator)
  state = problem.start(train)
  for batch in problem.batches(3):
    state, _ = train.step(state, batch)
  assert_gradient_is_finite_difference(
    lambda phi: train.phi_loss(phi, state, batch), state.phi
  )


def test_phi_gradient_of_scaled_loss_is_scaled():
  train = problem.make(problem.smooth())
  state, batch = problem.start(train), next(problem.batches(1))

  def gradient(factor):
    return jax.grad(lambda phi: factor * train.phi_loss(phi, state, batch))(
      state.phi
    )

  plain = gradient(1.0)
  assert optax.tree.norm(plain) > 1e-3
  assert_trees_close(gradient(4.0), jax.tree.map(lambda g: 4 * g, plain))


def test_phi_gradient_uses_new_variables_of_quantizer(x64):
  """Tests ∂loss/∂φ if Ŵ = c · smooth(W), with a c that each step changes."""
  smooth = problem.smooth()

  def codes(w_tilde, variables):
    index, levels = smooth.codes(w_tilde, ())
    return index, variables * levels

  quantizer = smooth._replace(
    codes=codes,
    init=lambda w: jnp.ones(()),
    update=lambda variables, w_tilde, w_hat, g_hat: 1.5 * variables,
    straight_through=lambda g_hat, w_tilde, variables: variables * g_hat,
  )
  train = problem.make(quantizer, mq_jax.multi_fc(hidden=2))
  state, batch = problem.start(train), next(problem.batches(1))
  assert_gradient_is_finite_difference(
    lambda phi: train.phi_loss(phi, state, batch), state.phi
  )


def test_phi_gradient_reaches_leaves_that_refine_couples(x64):
  def shrunk(gradients, params):
    return jax.tree.map(
      lambda g: g / (1 + optax.tree.norm(gradients, squared=True)), gradients
    )

  train = problem.make(
    problem.smooth(),
    mq_jax.multi_fc(hidden=2),
    refine=optax.stateless(shrunk),
    differentiate_refinement=True,
  )
  state, batch = problem.start(train), next(problem.batches(1))
  assert_gradient_is_finite_difference(
    lambda phi: train.phi_loss(phi, state, batch), state.phi
  )


def test_phi_gradient_through_adam_equals_finite_differences(x64):
  train = problem.make(
    problem.smooth(),
    mq_jax.multi_fc(hidden=2),
    refine=optax.scale_by_adam(eps_root=1e-8),
    differentiate_refinement=True,
  )
  state = problem.start(train)
  for batch in problem.batches(3):
    state, _ = train.step(state, batch)
  assert_gradient_is_finite_difference(
    lambda phi: train.phi_loss(phi, state, batch), state.phi
  )


@pytest.mark.parametrize('is_differentiated', [False, True])
def test_phi_gradient_ignores_derivative_of_refine_unless_asked(
  x64, is_differentiated
):
  batch = next(problem.batches(1))
  # The value of this `refine` is g, and its derivative is 2.
  doubling = optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda g: 2 * g - jax.lax.stop_gradient(g), updates
    )
  )

  def gradient(refine):
    train = problem.make(
      problem.smooth(),
      refine=refine,
      differentiate_refinement=is_differentiated,
    )
    state = problem.start(train)
    return jax.grad(train.phi_loss)(state.phi, state, batch)

  plain = gradient(optax.identity())
  assert optax.tree.norm(plain) > 1e-3
  factor = 2 if is_differentiated else 1
  assert_trees_close(
    gradient(doubling), jax.tree.map(lambda g: factor * g, plain)
  )


def test_make_train_step_differentiated_adam_without_eps_root_raises():
  refuse = pytest.raises(
    ValueError, match=r'differentiate_refinement.*eps_root'
  )
  with refuse:
    problem.make(refine=optax.scale_by_adam(), differentiate_refinement=True)
  by_path = optax.partition(
    {'kernel': optax.scale_by_adam(), 'bias': optax.identity()},
    lambda params: jax.tree.map_with_path(lambda p, _: p[-1].key, params),
  )
  with refuse:
    problem.make(refine=by_path, differentiate_refinement=True)


def test_init_differentiated_adam_for_fixed_tree_raises():
  labels = {'first': {'kernel': 'a', 'bias': 'b'}, 'last': {'kernel': 'a'}}
  refine = optax.partition(
    {'a': optax.scale_by_adam(), 'b': optax.identity()}, labels
  )
  train = problem.make(refine=refine, differentiate_refinement=True)
  with pytest.raises(ValueError, match='eps_root'):
    problem.start(train)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_with_and_without_jit_agree(x64, name):
  train = problem.make(estimator=ESTIMATORS[name], refine=optax.scale_by_adam())
  jitted, plain = problem.start(train), problem.start(train)
  for batch in problem.batches(3):
    jitted, metrics = train.step(jitted, batch)
    with jax.disable_jit():
      plain, plain_metrics = train.step_fn(plain, batch)
  assert_trees_close(jitted, plain, 1e-10, 1e-10)
  assert_trees_close(metrics, plain_metrics, 1e-10, 1e-10)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_with_learning_rate_equals_train_step_of_that_rate(x64, name):
  traces = []

  def loss_fn(params, model_state, batch, rng):
    traces.append(())
    return problem.loss_fn(params, model_state, batch, rng)

  train = mq_jax.make_train_step(
    loss_fn, mq_jax.dorefa(), ESTIMATORS[name], learning_rate=lambda step: 1e3
  )
  state = problem.start(train)
  first, *others = [
    problem.make(estimator=ESTIMATORS[name], learning_rate=rate)
    for rate in (0.1, 0.02, 0.5)
  ]
  expected = problem.start(first)
  traces.clear()
  batches = problem.batches(3)
  for rate, fixed, batch in zip(
    (0.1, 0.02, 0.5), (first, *others), batches, strict=True
  ):
    state, _ = train.step(state, batch, learning_rate=rate)
    expected, _ = fixed.step(expected, batch)
    assert_trees_close(state.params, expected.params, 1e-12, 1e-12)
  assert len(traces) == 1  # Three rates share one program.
  # Trials with separate rates are a batch axis.
  states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
  rates, batch = jnp.array([0.1, 0.3]), next(problem.batches(1))
  together, _ = jax.vmap(train.step_fn, in_axes=(0, None, 0))(
    states, batch, rates
  )
  alone, _ = train.step_fn(state, batch, 0.3)
  ours = jax.tree.map(lambda x: x[1], together.params)
  assert_trees_close(ours, alone.params, 1e-12, 1e-12)


def test_phi_loss_with_learning_rate_gives_gradient_of_step(x64):
  train = problem.make(estimator=mq_jax.fc_grad(hidden=3), learning_rate=1e-3)
  state = problem.start(train)
  first, second = problem.batches(2)
  state, _ = train.step(state, first)
  gradient = jax.grad(train.phi_loss)(state.phi, state, second, 0.1)
  _, metrics = train.step(state, second, learning_rate=0.1)
  np.testing.assert_allclose(
    optax.tree.norm(gradient), metrics['phi_grad_norm'], rtol=1e-12
  )


BAD_RATES = [True, -1.0, float('nan'), float('inf'), '1', lambda s: 1.0]
BAD_RATES += [np.array([0.1, 0.2]), np.array('a')]
BAD_RATE = r'learning_rate(\(0\))?=[\s\S]*number of at least 0'


@pytest.mark.parametrize('rate', BAD_RATES)
def test_step_invalid_learning_rate_raises_and_keeps_state(rate):
  train = problem.make()
  state = problem.start(train)
  batch = next(problem.batches(1))
  for function in (
    train.step,
    train.step_fn,
    functools.partial(train.phi_loss, state.phi),
  ):
    with pytest.raises(ValueError, match=BAD_RATE):
      function(state, batch, learning_rate=rate)
  train.step(state, batch, learning_rate=0)


@pytest.mark.parametrize('rate', BAD_RATES)
def test_make_train_step_schedule_of_invalid_rate_raises(rate):
  with pytest.raises(ValueError, match=BAD_RATE):
    problem.make(learning_rate=lambda step: rate)


def test_make_train_step_under_jit_takes_a_traced_rate():
  batch = next(problem.batches(1))

  @jax.jit
  def moved(rate):
    train = problem.make(mq_jax.bwn(), mq_jax.ste(), learning_rate=rate)
    return train.step_fn(problem.start(train), batch)[0].params

  train = problem.make(mq_jax.bwn(), mq_jax.ste(), learning_rate=0.3)
  expected, _ = train.step(problem.start(train), batch)
  assert_trees_close(moved(0.3), expected.params, 1e-6, 1e-6)


def test_model_state_of_python_numbers_is_kept():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())

  def loss_fn(params, model_state, batch, rng):
    loss, (_, metrics) = problem.loss_fn(
      params, problem.model_state(), batch, rng
    )
    return loss, ({'count': 1.0}, metrics)

  train = mq_jax.make_train_step(loss_fn, mq_jax.bwn(), mq_jax.ste())
  batch = next(problem.batches(1))
  state = train.init(jax.random.key(0), problem.params(), {'count': 0.0}, batch)
  state, metrics = train.step(state, batch)
  assert state.model_state['count'] == 1
  assert metrics['finite']


@pytest.mark.parametrize('quantizer', [mq_jax.bwn(), mq_jax.dorefa(2)])
def test_init_empty_or_not_finite_weight_raises(quantizer):
  train = problem.make(quantizer, mq_jax.ste())
  arguments = problem.model_state(), next(problem.batches(1))
  params = problem.params()
  kernel = params['first']['kernel']
  for bad in (np.nan, np.inf):
    params['first']['kernel'] = kernel.at[0, 0].set(bad)
    with pytest.raises(
      ValueError, match=r'first/kernel has values that are not'
    ):
      train.init(jax.random.key(0), params, *arguments)
  params['first']['kernel'] = kernel[:0]
  with pytest.raises(ValueError, match=r'first/kernel is empty: add a rule'):
    train.init(jax.random.key(0), params, *arguments)


@pytest.mark.parametrize(
  'quantizer',
  [mq_jax.methods.clipped_uniform(2), mq_jax.methods.lq_nets(1)],
)
def test_init_levels_of_its_own_for_each_weight_raises(quantizer):
  """A layer of one input has one weight per output channel."""

  def loss_fn(params, model_state, batch, rng):
    return jnp.mean((batch @ params['kernel']) ** 2), (model_state, {})

  train = mq_jax.make_train_step(loss_fn, quantizer, mq_jax.ste())
  params = {'kernel': jnp.linspace(-1, 1, 8)[None]}
  match = r'kernel: Each weight of shape \(1, 8\)'
  with pytest.raises(ValueError, match=match):
    train.init(jax.random.key(0), params, {}, jnp.ones((4, 1)))


def test_step_learning_rates_of_any_type_share_one_program():
  traces = []

  def loss_fn(params, model_state, batch, rng):
    traces.append(())
    return problem.loss_fn(params, model_state, batch, rng)

  train = mq_jax.make_train_step(loss_fn, mq_jax.dorefa(), mq_jax.ste())
  state = problem.start(train)
  traces.clear()
  rates = (0.1, 1, np.float32(0.5), jnp.array(0.2))
  for rate, batch in zip(rates, problem.batches(4), strict=True):
    state, _ = train.step(state, batch, rate)
  state, _ = train.step(state, batch, learning_rate=0.3)
  assert len(traces) == 1


def test_step_fn_scan_equals_loop(x64):
  train = problem.make(estimator=mq_jax.lstm_fc(hidden=3))
  batches = list(problem.batches(4))
  looped = problem.start(train)
  for batch in batches:
    looped, _ = train.step(looped, batch)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
  scanned, metrics = jax.lax.scan(train.step_fn, problem.start(train), stacked)
  assert_trees_close(scanned, looped)
  assert metrics['loss'].shape == (4,)


def test_step_donation_does_not_delete_arrays_of_caller():
  params, model_state, key = (
    problem.params(),
    problem.model_state(),
    jax.random.key(0),
  )
  batch = next(problem.batches(1))
  # This `refine` keeps the parameters themselves in its state.
  refine = optax.GradientTransformation(
    lambda params: params, lambda g, state, params: (g, params)
  )
  train = problem.make(refine=refine)
  state = train.init(key, params, model_state, batch)
  for _ in range(2):
    state, _ = train.step(state, batch)
  inputs = jax.tree.leaves((params, model_state, key, batch))
  assert not any(leaf.is_deleted() for leaf in inputs)


def test_step_donates_state():
  train = problem.make()
  state = problem.start(train)
  train.step(state, next(problem.batches(1)))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_step_traces_loss_once():
  traces = []

  def loss_fn(*arguments):
    traces.append(1)
    return problem.loss_fn(*arguments)

  train = mq_jax.make_train_step(
    loss_fn,
    mq_jax.bwn(),
    mq_jax.lstm_fc(hidden=2),
    refine=optax.scale_by_adam(),
  )
  state = problem.start(train)
  before = len(traces)
  for batch in problem.batches(4):
    state, _ = train.step(state, batch)
  assert len(traces) == before + 1


def test_step_python_number_in_a_state_compiles_nothing_again():
  traces = []

  def loss_fn(params, model_state, batch, rng):
    traces.append(1)
    loss, aux = problem.loss_fn(params, model_state, batch, rng)
    return params['scale'] * loss, aux

  train = mq_jax.make_train_step(
    loss_fn, mq_jax.bwn(), mq_jax.ste(), refine=optax.scale_by_adam()
  )
  params = problem.start(problem.make()).params | {'scale': 1.0}
  first, *batches = problem.batches(4)
  model_state = {'seen': 0, 'mean': 0.0}
  state = train.init(jax.random.key(0), params, model_state, first)
  before = len(traces)
  for batch in batches:
    state, _ = train.step(state, batch)
  assert len(traces) == before + 1
  assert int(state.model_state['seen']) == 4
  leaves = jax.tree.leaves(state)
  assert not any(getattr(leaf, 'weak_type', False) for leaf in leaves)


def test_quantized_ignores_pending_gradient():
  train = problem.make(mq_jax.dorefa(2))
  state = problem.start(train)
  state, _ = train.step(state, next(problem.batches(1)))
  hat = train.quantized(state)
  np.testing.assert_array_equal(
    hat['first']['bias'], state.params['first']['bias']
  )
  for layer in ('first', 'last'):
    np.testing.assert_allclose(
      hat[layer]['kernel'],
      quantize(mq_jax.dorefa(2), state.params[layer]['kernel'], ()),
      rtol=1e-6,
    )


def test_quantized_equals_weights_that_loss_received():
  for quantizer in (
    mq_jax.dorefa(2),
    mq_jax.bwn(),
    mq_jax.per(mq_jax.bwn(), axes=-1),
  ):
    seen = []

    def loss_fn(params, model_state, batch, rng, seen=seen):
      jax.debug.callback(
        lambda w: seen.append(np.asarray(w)), params['first']['kernel']
      )
      return problem.loss_fn(params, model_state, batch, rng)

    train = mq_jax.make_train_step(loss_fn, quantizer, mq_jax.ste())
    state = problem.start(train)
    for batch in problem.batches(2):
      state, _ = train.step(state, batch)
    stored = train.quantized(state)['first']['kernel']
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[-1], stored)


def test_diagnostics_histogram_counts_standardized_weights():
  train = problem.make(mq_jax.bwn())
  state = problem.start(train)
  w = jnp.array([30.0, -1.0, -1.0, 1.0, 1.0, 0.5] + [0.0] * 18)
  params = {**state.params, 'first': {**state.params['first']}}
  params['first']['kernel'] = w.reshape(4, 6)
  params['last'] = {'kernel': jnp.full((6, 1), 0.3)}  # one value: no spread
  counts = train.diagnostics(state._replace(params=params)).histogram
  edges = np.linspace(-4, 4, 65)
  standardised = (np.asarray(w) - np.mean(w)) / np.std(w)
  inside = np.clip(standardised, -3.99, 3.99)
  assert standardised.max() > 4
  want = np.histogram(inside, edges)[0]
  np.testing.assert_array_equal(counts['first/kernel'], want)
  assert counts['last/kernel'][32] == 6


def test_diagnostics_changed_weights_report_flips_and_saturation():
  train = problem.make(mq_jax.bwn(), mq_jax.fc_grad(hidden=3))
  state = problem.start(train)
  before = train.codes(state)
  np.testing.assert_array_equal(
    before['last/kernel'], problem.params()['last']['kernel'] >= 0
  )
  look = train.diagnostics(state, since=before)
  assert all(share == 0 for share in look.flipped.values())
  np.testing.assert_allclose(
    look.factor['s'],
    (state.phi[0]['kernel'] @ state.phi[1]['kernel'])[0, 0],
    rtol=1e-6,
  )
  # Flip one of six signs of the last layer, and move another weight beyond 1.
  w = state.params['last']['kernel']
  w = w.at[0, 0].multiply(-1).at[1, 0].set(jnp.sign(w[1, 0]) * 2)
  params = state.params | {'last': {'kernel': w}}
  look = train.diagnostics(state._replace(params=params), since=before)
  np.testing.assert_allclose(look.flipped['last/kernel'], 1 / 6)
  np.testing.assert_allclose(look.saturation['last/kernel'], 1 / 6)
  assert look.flipped['first/kernel'] == look.saturation['first/kernel'] == 0
  assert train.diagnostics(state).flipped == {}


def test_diagnostics_snapshot_of_other_layers_raises():
  train = problem.make()
  state = problem.start(train)
  with pytest.raises(ValueError, match='snapshot'):
    train.diagnostics(state, since={'first/kernel': jnp.zeros((4, 6))})


def test_codes_snapshot_survives_donation_of_state():
  train = problem.make()
  state = problem.start(train)
  before = train.codes(state)
  for batch in problem.batches(2):
    state, _ = train.step(state, batch)
  assert train.diagnostics(state, since=before).flipped.keys() == before.keys()


def test_post_update_runs_last_and_is_constant_in_phi(x64):
  def keep_within(bound):
    return optax.stateless(
      lambda moves, params: jax.tree.map(
        lambda m, p: jnp.clip(p + m, -bound, bound) - p, moves, params
      )
    )

  batch = next(problem.batches(1))
  free, kept = problem.make(), problem.make(post_update=keep_within(0.2))
  free_state, _ = free.step(problem.start(free), batch)
  kept_state, _ = kept.step(problem.start(kept), batch)
  assert_trees_close(
    kept_state.params,
    jax.tree.map(lambda p: jnp.clip(p, -0.2, 0.2), free_state.params),
  )
  # If the derivative of post_update is 0, dW'/dg is still -alpha.
  pushed = problem.make(
    post_update=optax.stateless(
      lambda moves, params: jax.tree.map(jnp.sign, moves)
    )
  )
  state = problem.start(pushed)
  gradient = jax.grad(pushed.phi_loss)(state.phi, state, batch)
  assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_quantizer_update_receives_values_of_last_loss():
  plain = mq_jax.bwn()
  noting = plain._replace(
    init=lambda w: {'seen': jnp.zeros(()), 'last': jnp.zeros_like(w)},
    codes=lambda w_tilde, variables: (
      (w_tilde >= 0).astype(jnp.uint8),
      jnp.array([-1.0, 1.0]) * (1 + variables['seen']),
    ),
    update=lambda variables, w_tilde, w_hat, g_hat: {
      'seen': variables['seen'] + 1,
      'last': g_hat * w_hat + w_tilde,
    },
  )
  train = problem.make([('last/kernel', noting), ('first/kernel', plain)])
  state = problem.start(train)
  assert state.variables['first/kernel'] == ()
  for step, batch in enumerate(problem.batches(3)):
    assert state.variables['last/kernel']['seen'] == step
    w_hat = train.quantized(state)['last']['kernel']
    # The pending gradient belongs to these levels.
    np.testing.assert_allclose(np.unique(np.abs(w_hat)), [1 + step])
    want = (
      state.grads['last']['kernel'] * w_hat + state.params['last']['kernel']
    )
    want = np.asarray(want)
    state, _ = train.step(state, batch)
    np.testing.assert_allclose(
      state.variables['last/kernel']['last'], want, rtol=1e-5
    )


@pytest.mark.usefixtures('x64')
def test_step_parametrized_weight_trains_theta():
  """Trains θ with two numbers per weight; W̃ = θ₀ − θ₁, and the loss uses W̃²."""
  quantizer = mq_jax.bwn()._replace(
    parametrized=lambda w: jnp.stack([w, jnp.zeros_like(w)], axis=-1),
    preprocess=lambda theta, variables: theta[..., 0] - theta[..., 1],
    relaxed=lambda w_tilde, variables: w_tilde**2,
    straight_through=lambda g_hat, w_tilde, variables: 2 * w_tilde * g_hat,
    calibrate=lambda theta, g, variables: jnp.stack([g, -g], axis=-1),
  )

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['w']), (model_state, {})

  train = mq_jax.make_train_step(
    loss_fn, quantizer, mq_jax.ste(), learning_rate=0.1
  )
  w, batch = np.array([[1.0, -2.0]]), np.array([[3.0, 5.0]])
  state = train.init(jax.random.key(0), {'w': jnp.asarray(w)}, {}, batch)
  assert state.params['w'].shape == (1, 2, 2)
  np.testing.assert_array_equal(state.grads['w'], batch)
  state, metrics = train.step(state, batch)
  moved = w - 2 * 0.1 * 2 * w * batch  # both halves of θ move
  np.testing.assert_allclose(metrics['loss'], np.sum(batch * moved**2))
  np.testing.assert_allclose(
    state.params['w'][..., 0] - state.params['w'][..., 1], moved
  )
  w_hat = train.quantized(state)['w']
  np.testing.assert_allclose(w_hat, np.mean(np.abs(moved)) * np.sign(moved))


def test_step_rule_with_none_trains_full_precision():
  train = problem.make([('.*', None)], mq_jax.ste())
  state = problem.start(train)
  batch = next(problem.batches(1))
  losses = []
  for _ in range(30):
    state, metrics = train.step(state, batch)
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.5 * losses[0]
  assert_trees_close(train.quantized(state), state.params)


@pytest.mark.parametrize('name', ['ste', 'lstm_fc'])
def test_step_non_finite_input_is_reported_without_error(name):
  train = problem.make(estimator=ESTIMATORS[name])
  state = problem.start(train)
  x, y = next(problem.batches(1))
  state, metrics = train.step(state, (x, y))
  assert metrics['finite']
  state, metrics = train.step(state, (x.at[0, 0].set(jnp.inf), y))
  assert not metrics['finite']


@pytest.mark.parametrize('place', ['refine', 'post_update'])
@pytest.mark.parametrize('name', ['ste', 'multi_fc tanh'])
@pytest.mark.parametrize(
  'guard',
  [optax.zero_nans(), optax.apply_if_finite(optax.identity(), 5)],
  ids=['zero_nans', 'apply_if_finite'],
)
def test_step_guard_against_nan_keeps_the_weights(guard, name, place):
  train = problem.make(
    mq_jax.bwn(),
    ESTIMATORS[name],
    meta_optimizer=optax.apply_if_finite(optax.sgd(0.1), 5),
    **{place: guard},
  )
  good, (x, y) = problem.batches(2)
  state, _ = train.step(problem.start(train), good)
  # The gradients of this batch move the weights in the step after it.
  state, metrics = train.step(state, (x * jnp.nan, y))
  assert not metrics['finite']
  before = jax.tree.map(np.array, state.params)  # The step donates its state.
  state, _ = train.step(state, good)
  jax.tree.map(np.testing.assert_array_equal, state.params, before)
  state, metrics = train.step(state, good)
  assert metrics['finite']
  moved = jax.tree.map(lambda a, b: jnp.any(a != b), state.params, before)
  assert all(jax.tree.leaves(moved))


def test_step_phi_gradient_that_optimizer_removes_is_not_finite():
  estimator = mq_jax.ste()._replace(
    init=lambda key, leaves: jnp.zeros(()),
    # The derivative of the root at 0 is infinite.
    apply=lambda phi, signals, state: (
      {path: g * (1 + jnp.sqrt(phi)) for path, g in signals.g_ste.items()},
      state,
    ),
  )
  train = problem.make(
    mq_jax.bwn(),
    estimator,
    meta_optimizer=optax.apply_if_finite(optax.sgd(0.1), 5),
  )
  state, metrics = train.step(problem.start(train), next(problem.batches(1)))
  assert jnp.isfinite(metrics['loss'])
  assert state.phi == 0
  assert not metrics['finite']


def test_step_rng_differs_in_every_step():
  def loss_fn(params, model_state, batch, rng):
    loss, (new, _) = problem.loss_fn(params, model_state, batch, rng)
    return loss, (new | {'mean': jax.random.uniform(rng)}, {})

  train = mq_jax.make_train_step(loss_fn, mq_jax.bwn(), mq_jax.ste())
  draws = []
  for seed in (0, 0, 1):
    state = problem.start(train, seed)
    draws.append(float(state.model_state['mean']))  # that of `init`
    for batch in problem.batches(3):
      state, _ = train.step(state, batch)
      draws.append(float(state.model_state['mean']))
  assert draws[:4] == draws[4:8]
  assert len(set(draws)) == 8


def test_init_raw_key_works():
  train = problem.make()
  state = train.init(
    jax.random.PRNGKey(0),
    problem.params(),
    problem.model_state(),
    next(problem.batches(1)),
  )
  assert train.step(state, next(problem.batches(1)))[1]['finite']


def make_failing_step(change):
  def loss_fn(params, model_state, batch, rng):
    return change(*problem.loss_fn(params, model_state, batch, rng))

  train = mq_jax.make_train_step(loss_fn, mq_jax.bwn(), mq_jax.ste())
  state = functools.partial(problem.start, train)
  return lambda: train.step(state(), next(problem.batches(1)))


@pytest.mark.parametrize(
  ('change', 'error', 'message'),
  [
    (lambda loss, aux: (loss[None], aux), ValueError, r'shape \(1,\)'),
    (
      lambda loss, aux: (loss, aux[0]),
      TypeError,
      r'must return .*, not \(an array float32\[\], \{',
    ),
    (
      lambda loss, aux: loss,
      TypeError,
      r'must return .*, not an array float32\[\]\.',
    ),
    (lambda loss, aux: None, TypeError, 'must return .*, not None'),
    (
      lambda loss, aux: (loss, (*aux, 1)),
      TypeError,
      r'\(an array float32\[\], \(.*, 1\)\)',
    ),
    (lambda loss, aux: (loss, (aux[0], loss)), TypeError, 'dict'),
    (
      lambda loss, aux: (loss, ({'seen': 0.0}, aux[1])),
      ValueError,
      'model_state',
    ),
    (
      lambda loss, aux: (loss, (aux[0] | {'mean': jnp.zeros(2)}, aux[1])),
      ValueError,
      r'returned .*float32\[2\]',
    ),
    (
      lambda loss, aux: (loss, (aux[0], {'loss': loss})),
      ValueError,
      r"\['loss'\]",
    ),
  ],
)
def test_step_invalid_loss_function_raises(change, error, message):
  with pytest.raises(error, match=message):
    make_failing_step(change)()


def test_init_estimator_changing_shapes_raises():
  estimator = mq_jax.ste()._replace(
    apply=lambda phi, signals, state: (
      {path: g.ravel() for path, g in signals.g_hat.items()},
      state,
    )
  )
  train = problem.make(estimator=estimator)
  with pytest.raises(AssertionError, match='shape'):
    problem.start(train)


@pytest.mark.parametrize(
  ('options', 'error', 'message'),
  [
    ({'phi_cotangent': 'adjoint'}, ValueError, "phi_cotangent='adjoint'"),
    ({'learning_rate': -1.0}, ValueError, 'learning_rate=-1.0'),
    ({'learning_rate': float('nan')}, ValueError, 'learning_rate=nan'),
    ({'learning_rate': None}, ValueError, 'learning_rate=None'),
    ({'estimator': 'ste'}, TypeError, 'estimator'),
    ({'quantizer': 'dorefa'}, TypeError, 'quantizer'),
    ({'estimator': mq_jax.fc_grad}, TypeError, 'fc_grad, which is not called'),
    ({'quantizer': mq_jax.bwn}, TypeError, 'bwn, which is not called'),
    (
      {'quantizer': [('.*', mq_jax.bwn)]},
      TypeError,
      r"'\.\*' has the function bwn, which is not called",
    ),
  ],
)
def test_make_train_step_invalid_argument_raises(options, error, message):
  with pytest.raises(error, match=message):
    problem.make(**options)


def test_make_train_step_keeps_the_rules_it_was_given():
  rules = [('first/kernel', mq_jax.bwn())]
  train = problem.make(rules, mq_jax.ste())
  rules.append(('last/kernel', mq_jax.bwn()))
  assert list(problem.start(train).variables) == ['first/kernel']
  assert list(train.selection(problem.params()).selected) == ['first/kernel']


def test_init_learned_estimator_of_several_numbers_per_weight_raises():
  slb = mq_jax.methods.slb(1, lambda updates: 1.0)
  inner = mq_jax.multi_fc(hidden=2)
  for estimator in (inner, mq_jax.fc_grad(hidden=2), mq_jax.per_layer(inner)):
    with pytest.raises(ValueError, match='first/kernel, but a learned'):
      problem.start(problem.make(slb, estimator))
  problem.start(problem.make(slb, mq_jax.ste()))


def test_init_rule_without_match_raises():
  train = problem.make([('frist/kernel', mq_jax.bwn()), ('.*kernel', None)])
  with pytest.raises(ValueError, match=r"'frist/kernel'.*first/kernel"):
    problem.start(train)


@pytest.mark.parametrize('name', ['fc_grad', 'multi_fc tanh', 'lstm_fc'])
def test_init_learned_estimator_without_quantized_leaf_raises(name):
  train = problem.make([('.*', None)], ESTIMATORS[name])
  with pytest.raises(ValueError, match=r'no leaf is quantized.*mq_jax.ste'):
    problem.start(train)


@pytest.mark.parametrize('path', ['first/kernel', 'last/kernel'])
def test_init_leaf_of_zeros_without_gradient_raises(path):
  params = problem.params()
  params = selection.replace(
    params, {path: jnp.zeros_like(selection.named_leaves(params)[path])}
  )
  arguments = (jax.random.key(0), params, problem.model_state())
  batch = next(problem.batches(1))
  with pytest.raises(ValueError, match=f'quantizer of {path}.*Zeros need'):
    problem.make(mq_jax.bwn(), mq_jax.ste()).init(*arguments, batch)
  # These quantizers pass the gradient unchanged.
  for quantizer in (mq_jax.bwn(scaled_gradient=False), mq_jax.methods.twn()):
    problem.make(quantizer, mq_jax.ste()).init(*arguments, batch)


def test_init_slice_of_zeros_without_gradient_raises():
  params = problem.params()
  params['first']['kernel'] = params['first']['kernel'].at[:, 2].set(0)
  arguments = (jax.random.key(0), params, problem.model_state())
  batch = next(problem.batches(1))
  rules = [('first/kernel', mq_jax.per(mq_jax.bwn(), axes=-1))]
  with pytest.raises(ValueError, match='first/kernel, or of a slice of it'):
    problem.make(rules, mq_jax.ste()).init(*arguments, batch)
  # Each of these slices contains other weights.
  rules = [
    (
      'first/kernel',
      mq_jax.per(mq_jax.bwn(), axes=0, group_size=3, group_axis=1),
    )
  ]
  problem.make(rules, mq_jax.ste()).init(*arguments, batch)


@pytest.mark.parametrize('where', ['weight', 'variable', 'model_state', 'phi'])
def test_step_new_values_that_are_not_finite_are_reported(where):
  """Plants one NaN that the loss of the step does not see."""
  if where == 'weight':
    poison = optax.stateless(
      lambda moves, params: jax.tree.map(
        lambda m: m.at[..., 0].set(jnp.nan) if m.ndim == 1 else m, moves
      )
    )
  else:
    poison = optax.identity()

  def loss_fn(params, model_state, batch, rng):
    kernels = {k: {'kernel': v['kernel']} for k, v in params.items()}
    kernels['first']['bias'] = jnp.zeros(6)
    loss, (new, metrics) = problem.loss_fn(kernels, model_state, batch, rng)
    if where == 'model_state':
      new = new | {'mean': jnp.where(new['seen'] > 1, jnp.nan, 0.0)}
    return loss, (new, metrics)

  quantizer = mq_jax.bwn()
  if where == 'variable':
    quantizer = quantizer._replace(
      init=lambda w: jnp.zeros(()),
      update=lambda variables, w_tilde, w_hat, g_hat: variables + jnp.nan,
    )
  to_nan = optax.stateless(
    lambda grads, params: jax.tree.map(lambda g: g + jnp.nan, grads)
  )
  train = mq_jax.make_train_step(
    loss_fn,
    quantizer,
    mq_jax.fc_grad(hidden=2) if where == 'phi' else mq_jax.ste(),
    post_update=poison,
    meta_optimizer=to_nan if where == 'phi' else optax.adam(1e-3),
  )
  _, metrics = train.step(problem.start(train), next(problem.batches(1)))
  assert jnp.isfinite(metrics['loss'])
  assert not metrics['finite']


def test_functions_of_state_map_over_trials():
  train = problem.make(mq_jax.bwn(), mq_jax.fc_grad(hidden=3))
  keys = jax.random.split(jax.random.key(0), 3)
  batch = next(problem.batches(1))
  state = jax.vmap(train.init, in_axes=(0, None, None, None))(
    keys, problem.params(), problem.model_state(), batch
  )
  before = train.codes(state)
  with pytest.raises(ValueError, match=r'trials.*of shape \(3,\)'):
    train.step_fn(state, batch)
  state, _ = jax.vmap(train.step_fn, in_axes=(0, None))(state, batch)
  # The scales of the trials differ.
  state = state._replace(
    params=jax.tree.map(
      lambda w: w * jnp.arange(1.0, 4).reshape(3, *[1] * (w.ndim - 1)),
      state.params,
    )
  )
  functions = [train.quantized, train.forward_params, train.codes]
  for function in (*functions, train.diagnostics):
    together = function(state)
    for trial in range(3):
      one = jax.tree.map(lambda leaf, trial=trial: leaf[trial], state)
      found = jax.tree.map(lambda leaf, trial=trial: leaf[trial], together)
      assert_trees_close(found, function(one), rtol=1e-6, atol=1e-6)
  flipped = train.diagnostics(state, since=before).flipped
  assert {leaf.shape for leaf in flipped.values()} == {(3,)}


def test_init_swapped_or_missing_key_raises():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  rest = (problem.params(), problem.model_state(), next(problem.batches(1)))
  keys = jax.random.split(jax.random.key(0), 2)
  wrong = (problem.params(), 0, None, keys, jax.random.key_data(keys))
  for key in (*wrong, jnp.zeros(2)):
    with pytest.raises(TypeError, match=r'init takes \(key, params, model_sta'):
      train.init(key, *rest)
  train.init(np.asarray(jax.random.PRNGKey(0)), *rest)


@pytest.mark.parametrize(
  'leaf', [jnp.arange(3), jax.random.key(0), jnp.ones(2, bool), 'text', 1j]
)
def test_init_leaf_that_cannot_be_trained_raises(leaf):
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  params = problem.params() | {'other': {'leaf': leaf}}
  batch = next(problem.batches(1))
  with pytest.raises(TypeError, match='params contain other/leaf, which is'):
    train.init(jax.random.key(0), params, problem.model_state(), batch)


def test_init_leaf_that_is_no_array_raises_with_remedy():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  params = problem.params() | {'activation': jax.nn.relu}
  batch = next(problem.batches(1))
  with pytest.raises(TypeError, match=r'activation.*eqx\.partition'):
    train.init(jax.random.key(0), params, problem.model_state(), batch)


def test_init_tied_weights_raise():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  params, bias = problem.params(), jnp.zeros(6)
  rest = (problem.model_state(), next(problem.batches(1)))
  params['first']['bias'] = params['other'] = bias  # the same zeros are no tie
  train.init(jax.random.key(0), params, *rest)
  params['tied'] = {'kernel': params['last']['kernel']}
  with pytest.raises(ValueError, match='at last/kernel and tied/kernel'):
    train.init(jax.random.key(0), params, *rest)


def test_step_value_that_is_no_state_raises():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  state, metrics = train.step(problem.start(train), next(problem.batches(1)))
  restored = dict(state._asdict())
  for wrong in (metrics, restored, tuple(state), state.params):
    with pytest.raises(TypeError, match=r'returns \(state, metrics\), but'):
      train.step(wrong, next(problem.batches(1)))
  with pytest.raises(TypeError, match=r'but state is an array float32\[3\]'):
    train.step(jnp.ones(3), state)


@functools.cache
def state_of_lab_and_fc_grad():
  return problem.start(
    problem.make(mq_jax.methods.lab(), mq_jax.fc_grad(hidden=3))
  )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (
      {'estimator': mq_jax.multi_fc(hidden=3, layers=1)},
      r'fc_grad\(hidden=3\), but this train step has multi_fc\(hidden=3, l',
    ),
    ({'estimator': mq_jax.fc_grad(hidden=4)}, r'\(hidden=3\), .*\(hidden=4\)'),
    ({'quantizer': mq_jax.methods.twn()}, r'lab\(\) for first/k.*, .* twn\(\)'),
    (
      {'quantizer': [('last/.*', mq_jax.methods.lab())]},
      r'lab\(\) for first/kernel, but this train step has full precision',
    ),
    ({'refine': optax.trace(0.9)}, r'state\.refine_state lacks trace/first'),
  ],
)
def test_functions_of_state_of_other_train_step_raise(options, message):
  if 'quantizer' not in options:
    options = options | {'quantizer': mq_jax.methods.lab()}
  state = state_of_lab_and_fc_grad()
  train = problem.make(**({'estimator': mq_jax.fc_grad(hidden=3)} | options))
  batch = next(problem.batches(1))
  for call in (
    lambda: train.step(state, batch),
    lambda: train.quantized(state),
    lambda: train.codes(state),
    lambda: train.phi_loss(state.phi, state, batch),
  ):
    with pytest.raises(ValueError, match=message):
      call()


def test_step_accepts_variables_of_parametrized_quantizer_per_channel():
  slb = mq_jax.methods.slb(1, lambda updates: 1.0 + updates)
  train = problem.make(mq_jax.per(slb, axes=-1), mq_jax.ste())
  state = problem.start(train)
  assert state.variables['first/kernel'].shape == (6,)
  after, _ = jax.eval_shape(train.step_fn, state, next(problem.batches(1)))
  assert after.variables['first/kernel'].shape == (6,)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda state: {'phi': jax.tree.map(lambda x: x[None], state.phi)},
      r'phi has 0/kernel of shape \(1, 1, 3\), not \(1, 3\)',
    ),
    (
      lambda state: {'variables': state.variables | {'x': jnp.ones(3)}},
      'variables has x, which this train step lacks',
    ),
    (lambda state: {'phi': ()}, r'phi lacks 0/kernel'),
  ],
)
def test_step_state_with_changed_part_raises(change, message):
  state = state_of_lab_and_fc_grad()
  train = problem.make(mq_jax.methods.lab(), mq_jax.fc_grad(hidden=3))
  with pytest.raises(ValueError, match=message):
    train.step(state._replace(**change(state)), next(problem.batches(1)))


def test_state_checkpoint_of_other_process_is_accepted():
  """Tests that no address is compared, with a quantizer made by functions."""

  def train():
    temperature = functools.partial(lambda updates, t: t + updates, t=1.0)
    return problem.make(mq_jax.methods.slb(1, temperature), mq_jax.ste())

  state = problem.start(train())
  assert ' at 0x' not in str(state.trained_by)
  jax.eval_shape(train().step_fn, state, next(problem.batches(1)))


def test_step_state_with_restored_dicts_raises():
  train = problem.make(mq_jax.bwn(), refine=optax.scale_by_adam())
  state = problem.start(train)
  restored = state._replace(refine_state=state.refine_state._asdict())
  with pytest.raises(ValueError, match='refine_state has another structure'):
    train.step(restored, next(problem.batches(1)))
  params = jax.tree.leaves(state.params)
  restored = state._replace(grads=dict(enumerate(params)))
  with pytest.raises(ValueError, match='grads lacks first/'):
    train.step(restored, next(problem.batches(1)))


def test_step_weights_of_another_shape_in_a_state_raise():
  train = problem.make(mq_jax.bwn())
  state = problem.start(train)
  first = {k: v[..., :3] for k, v in state.params['first'].items()}
  params = state.params | {'first': first}
  with pytest.raises(ValueError, match=r'grads has first/.* of shape .*New we'):
    train.step(state._replace(params=params), next(problem.batches(1)))


def test_functions_of_donated_state_raise_clear_error():
  train = problem.make(mq_jax.bwn(), mq_jax.fc_grad(hidden=3))
  old = problem.start(train)
  batch = next(problem.batches(1))
  train.step(old, batch)
  for call in (
    lambda: train.step(old, batch),
    lambda: train.quantized(old),
    lambda: train.diagnostics(old),
    lambda: train.pack(old),
    lambda: train.phi_loss(old.phi, old, batch),
  ):
    with pytest.raises(RuntimeError, match='earlier step, which deleted'):
      call()


@pytest.mark.parametrize('wrong', ['metrics', 'tuple', 'dict'])
def test_functions_of_state_value_that_is_no_state_raise(wrong):
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  state = problem.start(train)
  value = {
    'metrics': {'loss': jnp.ones(())},
    'tuple': (state, {}),
    'dict': state._asdict(),
  }[wrong]
  batch = next(problem.batches(1))
  for call in (
    lambda: train.quantized(value),
    lambda: train.codes(value),
    lambda: train.pack(value),
    lambda: train.phi_loss((), value, batch),
  ):
    with pytest.raises(TypeError, match='not a'):
      call()


def test_init_swapped_batch_and_model_state_names_order():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  batch = next(problem.batches(1))
  arguments = (jax.random.key(0), problem.params(), batch)
  with pytest.raises(TypeError, match='unsupported operand') as caught:
    train.init(*arguments, problem.model_state())
  note = ' '.join(caught.value.__notes__)
  assert 'init takes (key, params, model_state, batch)' in note
  assert 'an array float32[16, 4]' in note


def test_init_keys_of_phi_and_estimator_state_are_independent():
  """Tests that neither key is the other key or a split of it."""
  estimator = mq_jax.fc_grad(hidden=3)
  train = problem.make(
    mq_jax.bwn(), estimator._replace(init_state=lambda key, leaves: key)
  )
  state = problem.start(train, seed=3)
  phi_key = jax.random.split(jax.random.key(3))[1]
  leaves = {'first/kernel': jnp.ones((4, 6))}
  assert_trees_close(state.phi, estimator.init(phi_key, leaves))

  def family(key):
    keys = [key, *jax.random.split(key, 4), *jax.random.split(key, 3)]
    return {tuple(np.asarray(jax.random.key_data(k))) for k in keys}

  assert not family(phi_key) & family(state.estimator_state)


def test_step_metrics_are_the_reserved_names():
  train = problem.make(mq_jax.bwn(), mq_jax.ste())
  metrics = train.step(problem.start(train), next(problem.batches(1)))[1]
  assert set(metrics) == {'error', *loss.STEP_METRICS}
