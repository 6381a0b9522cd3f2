"""Tests the oracle: finite differences, closed forms and hand calculation.

Other tests compare `mq_jax` with `tests/oracle.py`. These tests verify the
oracle itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import oracle

BATCH_SHAPE = (4, 5, 6, 2)
CLASSES = 3
ESTIMATORS = ('fc_grad', 'multi_fc', 'lstm_fc')


class Problem(NamedTuple):
  params: Any
  model_state: Any
  batch: Any
  next_batch: Any


def make_batch(rng: np.random.Generator) -> dict[str, Any]:
  return {
    'image': rng.normal(size=BATCH_SHAPE),
    'label': rng.integers(0, CLASSES, BATCH_SHAPE[0]),
  }


@pytest.fixture
def problem() -> Problem:
  rng = np.random.default_rng(0)
  params = {
    'conv': {'kernel': 0.3 * rng.normal(size=(3, 3, 2, 4))},
    'norm': {'scale': rng.uniform(0.5, 1.5, 4), 'bias': rng.normal(size=4)},
    'shortcut': {'kernel': rng.normal(size=(1, 1, 4, 5))},
    'dense': {
      'kernel': rng.normal(size=(5, CLASSES)),
      'bias': rng.normal(size=CLASSES),
    },
  }
  model_state = {
    'norm': {'mean': rng.normal(size=4), 'var': rng.uniform(0.5, 2, 4)}
  }
  return Problem(params, model_state, make_batch(rng), make_batch(rng))


def numeric_grad(fn: Callable[[Any], float], tree: Any, eps: float) -> Any:
  """Returns the central difference of `fn` for each number in `tree`."""
  tree = oracle.float64(tree)

  def differentiate_leaf(leaf: np.ndarray) -> np.ndarray:
    # The leaf shares memory with `tree`, so `fn` sees the change.
    grad = np.zeros_like(leaf)
    for index in np.ndindex(leaf.shape):
      kept = leaf[index]
      leaf[index] = kept + eps
      above = fn(tree)
      leaf[index] = kept - eps
      below = fn(tree)
      leaf[index] = kept
      grad[index] = (above - below) / (2 * eps)
    return grad

  return oracle.tree_map(differentiate_leaf, tree)


def assert_trees_close(
  actual: Any, expected: Any, rtol: float = 1e-12, atol: float = 1e-14
) -> None:
  oracle.tree_map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol),
    actual,
    expected,
  )


def smallest_leaf_maximum(tree: Any) -> float:
  """Returns the minimum over leaves of the largest magnitude in a leaf."""
  found: list[float] = []
  oracle.tree_map(lambda x: found.append(float(np.abs(x).max())), tree)
  return min(found)


def make_estimator(name: str, **options: Any) -> tuple[oracle.Estimator, Any]:
  """Returns an estimator and a small random phi."""
  rng = np.random.default_rng(7)
  if name == 'lstm_fc':
    return oracle.lstm_fc(hidden=3, **options), oracle.lstm_phi(rng, hidden=3)
  if name == 'ste':
    return oracle.ste(), ()
  layers = options.pop('layers', 2)
  biases = options.pop('biases', False)
  factory = {'fc_grad': oracle.fc_grad, 'multi_fc': oracle.multi_fc}[name]
  return factory(**options), oracle.fc_phi(rng, layers, 8, biases)


# The network.


def test_conv3x3_first_tap_reads_upper_left_pixel() -> None:
  x = np.arange(1.0, 13.0).reshape(1, 3, 4, 1)
  kernel = np.zeros((3, 3, 1, 1))
  kernel[0, 0] = 1.0
  expected = np.array([[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7]])
  np.testing.assert_array_equal(oracle.conv3x3(x, kernel)[0, :, :, 0], expected)


def test_conv3x3_sums_over_window_and_input_channels() -> None:
  x = np.ones((1, 3, 3, 2))
  kernel = np.ones((3, 3, 2, 1))
  kernel[:, :, 1] = 10.0
  expected = 11 * np.array([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
  np.testing.assert_array_equal(oracle.conv3x3(x, kernel)[0, :, :, 0], expected)


def test_loss_and_grads_forward_pass_equals_hand_computed_loss() -> None:
  # The centre tap passes the image, 1, 2, 3, 6: mean 3, variance 14 / 4.
  kernel = np.zeros((3, 3, 1, 1))
  kernel[1, 1] = 1.0
  params = {
    'conv': {'kernel': kernel},
    'norm': {'scale': np.array([2.0]), 'bias': np.array([0.5])},
    'shortcut': {'kernel': np.full((1, 1, 1, 1), 3.0)},
    'dense': {
      'kernel': np.array([[1.0, -1.0]]),
      'bias': np.array([0.25, 0.0]),
    },
  }
  model_state = {'norm': {'mean': np.array([1.0]), 'var': np.array([2.0])}}
  batch = {
    'image': np.array([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1),
    'label': np.array([1]),
  }
  loss, new_state, _ = oracle.loss_and_grads(params, model_state, batch)
  std = np.sqrt(3.5 + 1e-5)
  # After scale and bias, -4/std + .5 and -2/std + .5 are below zero.
  pooled = 3 * (0.5 + (6 / std + 0.5)) / 4
  margin = (pooled + 0.25) - (-pooled)
  np.testing.assert_allclose(loss, np.log1p(np.exp(margin)), rtol=1e-14)
  np.testing.assert_allclose(new_state['norm']['mean'], 0.9 + 0.1 * 3)
  np.testing.assert_allclose(new_state['norm']['var'], 1.8 + 0.1 * 14 / 3)


def test_loss_and_grads_equal_finite_differences(problem: Problem) -> None:
  _, _, grads = oracle.loss_and_grads(
    problem.params, problem.model_state, problem.batch
  )
  expected = numeric_grad(
    lambda params: oracle.loss_and_grads(
      params, problem.model_state, problem.batch
    )[0],
    problem.params,
    eps=1e-5,
  )
  assert smallest_leaf_maximum(grads) > 1e-3
  assert_trees_close(grads, expected, rtol=1e-6, atol=1e-9)


# Quantizers.


def test_dorefa_2_bits_equals_hand_computed_values() -> None:
  # tanh of these is 0, 1/2, -1/2, -3/4.
  w = np.arctanh([0.0, 0.5, -0.5, -0.75])
  quantizer = oracle.dorefa(bits=2)
  w_tilde = quantizer.preprocess(w)
  np.testing.assert_allclose(w_tilde, [1 / 2, 5 / 6, 1 / 6, 0], atol=1e-15)
  # 3 w_tilde is 1.5 (a tie, upwards), 2.5 and 0.5 up to rounding, and 0.
  w_hat = quantizer.quantize(np.array([0.5, 0.84, 0.16, 0.0]))
  np.testing.assert_allclose(w_hat, [1 / 3, 1, -1, -1], rtol=1e-15)
  g = quantizer.calibrate(w, np.array([1.0, 2.0, -1.0, 4.0]))
  np.testing.assert_allclose(g, [4 / 3, 2, -1, 7 / 3], rtol=1e-14)


def test_dorefa_1_bit_is_sign_with_zero_upwards() -> None:
  quantizer = oracle.dorefa(bits=1)
  w = np.array([[0.0, -1e-9], [1e-9, -2.0]])
  w_hat = quantizer.quantize(quantizer.preprocess(w))
  np.testing.assert_array_equal(w_hat, [[1, -1], [1, -1]])


def test_dorefa_layer_of_zeros_stays_finite() -> None:
  quantizer = oracle.dorefa(bits=1)
  w = np.zeros(3)
  np.testing.assert_array_equal(quantizer.preprocess(w), [0.5] * 3)
  np.testing.assert_array_equal(
    quantizer.calibrate(w, np.arange(3.0)), np.arange(3.0)
  )


@pytest.mark.parametrize(
  ('clip', 'kept'), [(1.0, [1, 1, 1, 0]), (0.5, [1, 0, 0, 0]), (None, [1] * 4)]
)
def test_dorefa_straight_through_clips_at_given_clip(
  clip: float | None, kept: list[int]
) -> None:
  g_hat = np.array([2.0, 3.0, 4.0, 5.0])
  w_tilde = np.array([-0.5, 0.75, -1.0, 1.5])
  g_ste = oracle.dorefa(1, clip).straight_through(g_hat, w_tilde)
  np.testing.assert_array_equal(g_ste, g_hat * kept)


def test_dorefa_calibrate_is_twice_derivative_of_preprocess(
  problem: Problem,
) -> None:
  # The layer's maximum is a constant, as in equation (4).
  w = problem.params['conv']['kernel']
  largest = np.abs(np.tanh(w)).max()
  expected = numeric_grad(
    lambda v: float(np.sum(np.tanh(v) / (2 * largest) + 0.5)), w, eps=1e-5
  )
  g = oracle.dorefa(1).calibrate(w, np.ones_like(w))
  np.testing.assert_allclose(g, 2 * expected, rtol=1e-7, atol=1e-9)


def test_bwn_per_layer_equals_hand_computed_values() -> None:
  quantizer = oracle.bwn()
  w = np.array([[0.0, -2.0], [1.0, -1.0]])
  np.testing.assert_array_equal(quantizer.preprocess(w), w)
  np.testing.assert_array_equal(quantizer.quantize(w), [[1, -1], [1, -1]])
  g_hat = np.array([[1.0, 2.0], [3.0, 4.0]])
  np.testing.assert_array_equal(
    quantizer.straight_through(g_hat, 2 * w), [[2, 0], [0, 0]]
  )
  np.testing.assert_array_equal(quantizer.calibrate(w, g_hat), g_hat)


@pytest.mark.parametrize(
  ('axis', 'alpha'), [(-1, [[0.5, 1.5]]), (0, [[1.0], [1.0]])]
)
def test_bwn_per_channel_equals_hand_computed_values(
  axis: int, alpha: list[list[float]]
) -> None:
  quantizer = oracle.bwn(per_channel=True, channel_axis=axis)
  w = np.array([[0.0, -2.0], [1.0, -1.0]])
  sign = np.array([[1.0, -1.0], [1.0, -1.0]])
  np.testing.assert_array_equal(quantizer.quantize(w), alpha * sign)
  inside = np.array([[1.0, 0.0], [1.0, 1.0]])
  np.testing.assert_array_equal(
    quantizer.straight_through(np.full((2, 2), 3.0), w),
    3 * np.array(alpha) * inside,
  )


def test_bwn_without_scale_or_clip_returns_gradient_unchanged() -> None:
  quantizer = oracle.bwn(clip=None, scaled_gradient=False)
  g_hat = np.array([1.0, -2.0])
  w_tilde = np.array([0.1, 9.0])
  np.testing.assert_array_equal(
    quantizer.straight_through(g_hat, w_tilde), g_hat
  )


# Estimators.


def leaves(rng: np.random.Generator) -> oracle.Leaves:
  return {'a': rng.normal(size=(2, 3)), 'b': rng.normal(size=4)}


def make_signals(
  make: Callable[[], oracle.Leaves],
) -> tuple[oracle.Leaves, oracle.Leaves, oracle.Leaves]:
  """Calls `make` for each of g_hat, w_tilde and g_ste."""
  return make(), make(), make()


def random_memory(rng: np.random.Generator) -> Any:
  def normal(n: int) -> oracle.LSTMState:
    return oracle.LSTMState(rng.normal(size=(n, 3)), rng.normal(size=(n, 3)))

  return {'a': normal(6), 'b': normal(4)}


@pytest.mark.parametrize('use_ste', [False, True])
@pytest.mark.parametrize(
  ('name', 'options'),
  [
    (name, {'activation': activation, 'layers': layers, 'biases': biases})
    for name in ('fc_grad', 'multi_fc')
    for activation in (None, 'relu', 'tanh')
    for layers, biases in ((1, False), (2, False), (3, True))
  ]
  + [('lstm_fc', {'carry': True}), ('lstm_fc', {'carry': False})],
)
def test_estimator_phi_grad_equals_finite_differences(
  name: str, options: Any, use_ste: bool
) -> None:
  estimator, phi = make_estimator(name, use_ste=use_ste, **options)
  rng = np.random.default_rng(1)
  inputs = make_signals(lambda: leaves(rng))
  cot = leaves(rng)
  state = estimator.init_state(inputs[0])
  if options.get('carry'):
    state = random_memory(rng)

  def weighted_sum(phi: Any) -> float:
    g_tilde, _ = estimator.apply(phi, *inputs, state)
    return sum(float(np.sum(cot[p] * g_tilde[p])) for p in cot)

  grads = estimator.phi_grad(phi, *inputs, state, cot)
  assert_trees_close(
    grads, numeric_grad(weighted_sum, phi, eps=1e-5), rtol=1e-6, atol=1e-8
  )
  if options.get('carry', True):
    assert smallest_leaf_maximum(grads) > 1e-3


@pytest.mark.parametrize(
  ('name', 'use_ste', 'expected'),
  [
    # The stack is the scalar 2 * 3 - 1 * 4 = 2.
    ('fc_grad', False, [2 * 3.0, 2 * -1.0]),
    ('fc_grad', True, [2 * 7.0, 2 * 9.0]),
    ('multi_fc', False, [3 * (2 * 0.5), -1 * (2 * -4.0)]),
    ('multi_fc', True, [7 * (2 * 0.5), 9 * (2 * -4.0)]),
  ],
)
def test_fc_estimators_equal_hand_computed_values(
  name: str, use_ste: bool, expected: list[float]
) -> None:
  phi = (
    {'kernel': np.array([[2.0, -1.0]])},
    {'kernel': np.array([[3.0], [4.0]])},
  )
  estimator, _ = make_estimator(name, use_ste=use_ste)
  g_hat, w_tilde, g_ste = (
    {'a': np.array(x)} for x in ([3.0, -1.0], [0.5, -4.0], [7.0, 9.0])
  )
  state = estimator.init_state(w_tilde)
  g_tilde, _ = estimator.apply(phi, g_hat, w_tilde, g_ste, state)
  np.testing.assert_array_equal(g_tilde['a'], expected)


@pytest.mark.parametrize(
  ('activation', 'expected'),
  [
    # Hidden units at x = 2 are 5 and -5. The last layer has no activation.
    (None, 3 * 5 + 4 * -5 - 20),
    ('relu', 3 * 5 - 20),
    ('tanh', 3 * np.tanh(5) - 4 * np.tanh(5) - 20),
  ],
)
def test_fc_biases_and_activation_equal_hand_computed_value(
  activation: oracle.Activation, expected: float
) -> None:
  phi = (
    {'kernel': np.array([[2.0, -1.0]]), 'bias': np.array([1.0, -3.0])},
    {'kernel': np.array([[3.0], [4.0]]), 'bias': np.array([-20.0])},
  )
  out = oracle.fc(phi, np.array([[2.0]]), activation)
  np.testing.assert_allclose(out, [[expected]], rtol=1e-15)


def test_lstm_fc_two_steps_equal_hand_computed_values() -> None:
  def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))

  # Gates in the order i, f, g, o; hidden size 1.
  phi = {
    'lstm': {
      'input_kernel': np.array([[0.5, -1.0, 2.0, 0.25]]),
      'recurrent_kernel': np.array([[1.0, 0.5, -0.5, 2.0]]),
      'input_bias': np.array([0.1, 0.2, 0.3, 0.4]),
      'recurrent_bias': np.array([0.0, 1.0, 0.0, -1.0]),
    },
    'head': {'kernel': np.array([[3.0]]), 'bias': np.array([0.5])},
  }
  x, g_hat = 0.8, 10.0
  c1 = sigmoid(0.5 * x + 0.1) * np.tanh(2 * x + 0.3)
  h1 = sigmoid(0.25 * x - 0.6) * np.tanh(c1)
  c2 = sigmoid(-x + 1.2 + 0.5 * h1) * c1
  c2 += sigmoid(0.5 * x + 0.1 + h1) * np.tanh(2 * x + 0.3 - 0.5 * h1)
  h2 = sigmoid(0.25 * x - 0.6 + 2 * h1) * np.tanh(c2)

  estimator = oracle.lstm_fc(hidden=1)
  numbers = iter((g_hat, x, np.nan))
  inputs = make_signals(lambda: {'a': np.array([next(numbers)])})
  state = estimator.init_state(inputs[0])
  first, state = estimator.apply(phi, *inputs, state)
  second, state = estimator.apply(phi, *inputs, state)
  np.testing.assert_allclose(first['a'], g_hat * (3 * h1 + 0.5), rtol=1e-14)
  np.testing.assert_allclose(second['a'], g_hat * (3 * h2 + 0.5), rtol=1e-14)
  np.testing.assert_allclose(state['a'].h, [[h2]], rtol=1e-14)
  np.testing.assert_allclose(state['a'].c, [[c2]], rtol=1e-14)


def test_lstm_fc_without_carry_repeats_result_of_first_step() -> None:
  estimator, phi = make_estimator('lstm_fc', carry=False)
  rng = np.random.default_rng(2)
  inputs = make_signals(lambda: leaves(rng))
  state = estimator.init_state(inputs[0])
  first, state = estimator.apply(phi, *inputs, state)
  second, _ = estimator.apply(phi, *inputs, state)
  assert_trees_close(second, first, rtol=0, atol=0)


def test_lstm_fc_coordinates_are_independent() -> None:
  estimator, phi = make_estimator('lstm_fc')
  rng = np.random.default_rng(3)
  inputs = make_signals(lambda: {'a': rng.normal(size=(2, 2))})
  state = estimator.init_state(inputs[0])
  for _ in range(2):
    together, state = estimator.apply(phi, *inputs, state)
  corners = iter(inputs)
  alone = make_signals(lambda: {'a': next(corners)['a'][1:, 1:]})
  alone_state = estimator.init_state(alone[0])
  for _ in range(2):
    part, alone_state = estimator.apply(phi, *alone, alone_state)
  np.testing.assert_allclose(part['a'], together['a'][1:, 1:], rtol=1e-14)


# Refinement.


def test_adam_two_steps_equal_hand_computed_values() -> None:
  refine = oracle.adam()
  params = {'w': np.array([5.0])}
  state = refine.init(params)
  first, state = refine.update({'w': np.array([-2.0])}, state, params)
  np.testing.assert_allclose(first['w'], [-2 / (2 + 1e-8)], rtol=1e-15)
  # m = .9 * -.2 + .1 * 6 = .42 over .19; v = .999 * .004 + .001 * 36 over
  # .001999.
  second, _ = refine.update({'w': np.array([6.0])}, state, params)
  expected = (0.42 / 0.19) / (np.sqrt(0.039996 / 0.001999) + 1e-8)
  np.testing.assert_allclose(second['w'], [expected], rtol=1e-12)


def test_adam_weight_decay_is_added_to_gradient() -> None:
  params = {'w': np.array([5.0, -3.0])}
  g = {'w': np.array([1e-8, 2e-8])}
  decayed = oracle.adam(weight_decay=1e-8)
  refined, _ = decayed.update(g, decayed.init(params), params)
  # g + decay * w is 6e-8 and -1e-8, of the size of eps, so that it shows.
  np.testing.assert_allclose(refined['w'], [6 / 7, -1 / 2], rtol=1e-12)


# The iteration.


def configure(
  estimator: oracle.Estimator,
  quantizer: oracle.Quantizer | None = None,
  **options: Any,
) -> oracle.Config:
  quantizer = oracle.dorefa(1) if quantizer is None else quantizer
  defaults: dict[str, Any] = {
    'quantizers': oracle.everywhere(quantizer),
    'refine': oracle.sgd(),
    'learning_rate': 0.1,
  }
  return oracle.Config(estimator=estimator, **(defaults | options))


def start(config: oracle.Config, phi: Any, problem: Problem) -> oracle.State:
  return oracle.init(
    config, phi, problem.params, problem.model_state, problem.batch
  )


def smooth_dorefa() -> oracle.Quantizer:
  """Makes dorefa with infinitely many bits: W^ = 2 W~ - 1."""
  return oracle.dorefa(1)._replace(quantize=lambda w_tilde: 2 * w_tilde - 1)


def with_exact_calibration(quantizer: oracle.Quantizer) -> oracle.Quantizer:
  """Calibrates with twice the full derivative of A, including the maximum."""

  def calibrate(w: np.ndarray, g_tilde: np.ndarray) -> np.ndarray:
    t = np.tanh(w)
    largest = np.abs(t).max()
    g_t = g_tilde / largest
    top = np.unravel_index(np.abs(t).argmax(), t.shape)
    g_t[top] -= np.sign(t[top]) * np.sum(g_tilde * t) / largest**2
    return g_t * (1 - t**2)

  return quantizer._replace(calibrate=calibrate)


def assert_far_from_zero(phi_grads: Any) -> None:
  """Checks that gradients are much larger than rounding errors."""
  assert smallest_leaf_maximum(phi_grads) > 1e-6


@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_phi_grads_smooth_quantizer_equal_finite_differences(
  problem: Problem, name: str
) -> None:
  # The printed calibration is twice the derivative of A, so it includes the
  # slope 2 of Q; the straight-through slope is 1. The maximum in A is constant
  # here: from W' to the loss, each leaf uses the maximum of the step.
  estimator, phi = make_estimator(name)
  config = configure(estimator, smooth_dorefa())
  state, _ = oracle.step(config, start(config, phi, problem), problem.batch)

  def frozen(w: np.ndarray) -> oracle.Quantizer:
    largest = np.abs(np.tanh(w)).max()
    return smooth_dorefa()._replace(
      preprocess=lambda v: np.tanh(v) / (2 * largest) + 0.5
    )

  late = oracle.late_update(config, state, state.phi)
  kept = oracle.flatten(late.params)
  downstream = config._replace(
    quantizers={path: frozen(kept[path]) for path in config.quantizers}
  )

  def loss(phi: Any) -> float:
    params = oracle.late_update(config, state, phi).params
    w_hat = oracle.quantized(downstream, params)
    return oracle.loss_and_grads(w_hat, state.model_state, problem.next_batch)[
      0
    ]

  _, aux = oracle.step(config, state, problem.next_batch)
  expected = numeric_grad(loss, state.phi, eps=1e-4)
  assert_far_from_zero(aux.phi_grads)
  assert_trees_close(aux.phi_grads, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('use_ste', [False, True])
@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_phi_grads_exact_calibration_equal_finite_differences(
  problem: Problem, name: str, use_ste: bool
) -> None:
  # From the loss back to W', the maximum depends on the weight. From g_tilde to
  # W', the printed diagonal rule applies.
  estimator, phi = make_estimator(name, use_ste=use_ste)
  config = configure(estimator, smooth_dorefa())
  state, _ = oracle.step(config, start(config, phi, problem), problem.batch)
  _, aux = oracle.step(config, state, problem.next_batch)
  late = oracle.late_update(config, state, state.phi)
  exact = with_exact_calibration(smooth_dorefa())
  w_hat = oracle.quantized(config, late.params)
  _, _, g_hat = oracle.loss_and_grads(
    w_hat, state.model_state, problem.next_batch
  )
  w, g = oracle.flatten(late.params), oracle.flatten(g_hat)
  cot = {path: exact.calibrate(w[path], g[path]) for path in oracle.QUANTIZED}

  # First the cotangent of W' itself: the printed rule differs from the exact
  # one only at the largest weight of each layer.
  def loss_of_weights(changed: oracle.Leaves) -> float:
    params = oracle.unflatten(w | changed)
    return oracle.loss_and_grads(
      oracle.quantized(config, params), state.model_state, problem.next_batch
    )[0]

  quantized_leaves = {path: w[path] for path in oracle.QUANTIZED}
  assert_trees_close(
    cot,
    numeric_grad(loss_of_weights, quantized_leaves, eps=1e-5),
    rtol=1e-6,
    atol=1e-9,
  )
  for path in oracle.QUANTIZED:
    differs = ~np.isclose(cot[path], aux.w_cotangent[path], rtol=1e-9)
    assert differs.sum() == 1
    assert np.abs(w[path])[differs] == np.abs(w[path]).max()

  # Then phi: phi_grad is linear in its cotangent, which includes -lr and the
  # calibration.
  old = oracle.flatten(state.params)
  pending = oracle.flatten(state.grads)
  printed = oracle.dorefa(1)
  w_tilde = {p: printed.preprocess(old[p]) for p in oracle.QUANTIZED}
  fed = {p: pending[p] for p in oracle.QUANTIZED}
  grads = config.estimator.phi_grad(
    state.phi,
    fed,
    w_tilde,
    fed,  # W~ is within [0, 1], where nothing is clipped
    state.estimator_state,
    {p: -0.1 * printed.calibrate(old[p], cot[p]) for p in oracle.QUANTIZED},
  )
  expected = numeric_grad(
    lambda phi: oracle.phi_loss(config, phi, state, problem.next_batch),
    state.phi,
    eps=1e-4,
  )
  assert_far_from_zero(grads)
  assert_trees_close(grads, expected, rtol=1e-5, atol=1e-9)


def test_step_phi_grads_of_fc_grad_are_products_of_gradients(
  problem: Problem,
) -> None:
  # Under FCGrad, SGD and BWN without alpha or clip, dloss/dk is minus the
  # learning rate times the inner product of successive gradients.
  k = 1.7
  quantizer = oracle.bwn(clip=None, scaled_gradient=False)
  config = configure(oracle.fc_grad(), quantizer)
  state = start(config, ({'kernel': np.array([[k]])},), problem)
  new_state, aux = oracle.step(config, state, problem.next_batch)
  old, new = oracle.flatten(state.grads), oracle.flatten(new_state.grads)
  inner = sum(float(np.sum(old[p] * new[p])) for p in oracle.QUANTIZED)
  np.testing.assert_allclose(
    aux.phi_grads[0]['kernel'], [[-0.1 * inner]], rtol=1e-12
  )


def test_step_ste_cotangent_has_scale_and_clip_of_bwn(
  problem: Problem,
) -> None:
  estimator, phi = make_estimator('multi_fc')
  config = configure(estimator, oracle.bwn())
  state, aux = oracle.step(
    config, start(config, phi, problem), problem.next_batch
  )
  w = state.params['shortcut']['kernel']
  kept = np.abs(w) <= 1
  assert 0 < kept.sum() < w.size
  np.testing.assert_allclose(
    aux.w_cotangent['shortcut/kernel'],
    np.abs(w).mean() * kept * state.grads['shortcut']['kernel'],
    rtol=1e-14,
  )


def test_step_estimator_cotangent_is_factor_times_ste_cotangent(
  problem: Problem,
) -> None:
  phi = ({'kernel': np.array([[3.0]])},)
  config = configure(oracle.fc_grad())
  state = start(config, phi, problem)
  _, by_ste = oracle.step(config, state, problem.next_batch)
  _, by_estimator = oracle.step(
    config._replace(phi_cotangent='estimator'), state, problem.next_batch
  )
  assert_far_from_zero(by_ste.phi_grads)
  np.testing.assert_allclose(
    by_estimator.phi_grads[0]['kernel'],
    3 * by_ste.phi_grads[0]['kernel'],
    rtol=1e-12,
  )


def test_step_estimator_cotangent_uses_memory_after_update(
  problem: Problem,
) -> None:
  estimator, phi = make_estimator('lstm_fc')
  config = configure(estimator, oracle.bwn(), phi_cotangent='estimator')
  state = start(config, phi, problem)
  for _ in range(2):
    old = state
    state, aux = oracle.step(config, state, problem.next_batch)
  # BWN calibrates with 1, so the cotangent of W' is g_tilde itself.
  path = 'dense/kernel'
  w = state.params['dense']['kernel']
  memory = state.estimator_state[path]
  out, _ = oracle.lstm(old.phi, w.reshape(-1, 1), memory)
  np.testing.assert_allclose(
    aux.w_cotangent[path],
    state.grads['dense']['kernel'] * out.reshape(w.shape),
    rtol=1e-13,
  )
  stale, _ = oracle.lstm(old.phi, w.reshape(-1, 1), old.estimator_state[path])
  assert np.abs(stale - out).max() > 1e-4


@pytest.mark.parametrize('phi_cotangent', ['ste', 'estimator'])
@pytest.mark.parametrize('name', ESTIMATORS)
def test_step_phi_moves_by_gamma_times_adam(
  problem: Problem, name: str, phi_cotangent: Any
) -> None:
  estimator, phi = make_estimator(name)
  config = configure(
    estimator,
    phi_cotangent=phi_cotangent,
    meta_learning_rate=lambda step: [0.25, 0.5][step],
  )
  state = start(config, phi, problem)
  after_one, first = oracle.step(config, state, problem.next_batch)
  after_two, second = oracle.step(config, after_one, problem.batch)
  g1, g2 = first.phi_grads, second.phi_grads
  expected = oracle.tree_map(
    lambda p, g: p - 0.25 * g / (np.abs(g) + 1e-8), phi, g1
  )
  assert_trees_close(after_one.phi, expected)
  expected = oracle.tree_map(
    lambda p, a, b: (
      p
      - 0.5
      * ((0.09 * a + 0.1 * b) / 0.19)
      / (np.sqrt((0.000999 * a**2 + 0.001 * b**2) / 0.001999) + 1e-8)
    ),
    after_one.phi,
    g1,
    g2,
  )
  assert_trees_close(after_two.phi, expected, rtol=1e-10)


def test_init_changes_batch_statistics_only(problem: Problem) -> None:
  estimator, phi = make_estimator('lstm_fc')
  state = start(configure(estimator), phi, problem)
  assert state.step == 0
  assert_trees_close(state.params, problem.params, rtol=0, atol=0)
  assert_trees_close(state.phi, phi, rtol=0, atol=0)
  w_hat = {
    **problem.params,
    **{
      name: problem.params[name]
      | {'kernel': np.where(problem.params[name]['kernel'] >= 0, 1.0, -1.0)}
      for name in ('conv', 'shortcut', 'dense')
    },
  }
  _, model_state, grads = oracle.loss_and_grads(
    w_hat, problem.model_state, problem.batch
  )
  assert_trees_close(state.grads, grads, rtol=1e-14)
  assert_trees_close(state.model_state, model_state, rtol=1e-14)
  for memory in state.estimator_state.values():
    assert not memory.h.any()
    assert not memory.c.any()


@pytest.mark.parametrize(
  'refine', [oracle.sgd(), oracle.adam(weight_decay=0.1)]
)
def test_step_ste_equals_plain_training_one_step_late(
  problem: Problem, refine: oracle.Refine
) -> None:
  rates = [0.1, 0.05, 0.2]
  config = configure(
    oracle.ste(),
    oracle.bwn(),
    refine=refine,
    learning_rate=lambda step: rates[step],
  )
  batches = [problem.batch, problem.next_batch] * 2
  state = start(config, (), problem)
  for batch in batches[1:]:
    state, aux = oracle.step(config, state, batch)
  assert state.step == 3

  # Plain training updates at once, so batches 0, 1 and 2 determine its weights.
  params, model_state = problem.params, problem.model_state
  refine_state = refine.init(params)
  for batch, rate in zip(batches, rates, strict=False):
    alphas = {
      name: np.abs(params[name]['kernel']).mean()
      for name in ('conv', 'shortcut', 'dense')
    }
    w_hat = {
      name: leaf
      if name not in alphas
      else leaf
      | {'kernel': alphas[name] * np.where(leaf['kernel'] >= 0, 1, -1)}
      for name, leaf in params.items()
    }
    _, model_state, grads = oracle.loss_and_grads(w_hat, model_state, batch)
    for name, alpha in alphas.items():
      grads[name]['kernel'] *= alpha * (np.abs(params[name]['kernel']) <= 1)
    refined, refine_state = refine.update(grads, refine_state, params)
    params = oracle.tree_map(lambda w, r, a=rate: w - a * r, params, refined)
  assert_trees_close(state.params, params, rtol=1e-11)
  # The losses and statistics are one batch ahead.
  w_hat = oracle.quantized(config, state.params)
  loss, model_state, _ = oracle.loss_and_grads(w_hat, model_state, batches[3])
  np.testing.assert_allclose(aux.loss, loss, rtol=1e-11)
  assert_trees_close(state.model_state, model_state, rtol=1e-11)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_phi_loss_equals_loss_of_step(problem: Problem, name: str) -> None:
  estimator, phi = make_estimator(name)
  config = configure(estimator, refine=oracle.adam())
  state, _ = oracle.step(config, start(config, phi, problem), problem.batch)
  _, aux = oracle.step(config, state, problem.next_batch)
  loss = oracle.phi_loss(config, state.phi, state, problem.next_batch)
  assert loss == aux.loss


def test_step_leaf_without_quantizer_keeps_full_precision(
  problem: Problem,
) -> None:
  estimator, phi = make_estimator('multi_fc')
  config = configure(estimator, quantizers={'conv/kernel': oracle.dorefa(1)})
  state, aux = oracle.step(
    config, start(config, phi, problem), problem.next_batch
  )
  assert aux.w_hat['dense']['kernel'] is state.params['dense']['kernel']
  assert set(np.unique(aux.w_hat['conv']['kernel'])) == {-1.0, 1.0}
  assert list(aux.g_tilde) == ['conv/kernel']


def test_step_does_not_modify_input_state(problem: Problem) -> None:
  estimator, phi = make_estimator('lstm_fc')
  config = configure(estimator, refine=oracle.adam())
  state = start(config, phi, problem)
  once, _ = oracle.step(config, state, problem.next_batch)
  again, _ = oracle.step(config, state, problem.next_batch)
  assert_trees_close(again.params, once.params, rtol=0, atol=0)
  assert_trees_close(again.phi, once.phi, rtol=0, atol=0)
