"""Tests the gradient rules with a closed-form slope against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mq_jax
from mq_jax import estimators
from tests import problem

STEPS = 8


def ramp(step, start, end):
  """Returns T and k of the scheduled rules."""
  first, last = np.log10(start), np.log10(end)
  t = 10 ** (first + (last - first) * min(step / STEPS, 1))
  return t, max(1 / t, 1)


def sech_squared(y):
  """Returns 1 - tanh(y)^2 without cancellation and overflow."""
  e = np.exp(-2 * np.abs(y))
  return 4 * e / (1 + e) ** 2


def ede(x, cell, g, step, start=0.1, end=10.0):
  t, k = ramp(step, start, end)
  return k * t * sech_squared(t * x)


def rbnn(x, cell, g, step, start=0.01, end=10.0):
  t, k = ramp(step, start, end)
  return np.maximum(0, k * (2 * np.sqrt(t**2 / 2) - np.abs(t**2 * x)))


def reste(x, cell, g, step, power=3.0, clip=1.5, secant=0.1):
  o = 1 + (1 - np.cos(np.pi / 2 * min(step / STEPS, 1))) * (power - 1)
  size = np.abs(x)
  curve = np.maximum(size, secant) ** ((1 - o) / o) / o
  slope = np.where(size <= secant, secant ** (1 / o) / secant, curve)
  return np.where(size <= clip, slope, 0)


def approx_sign(x, cell, g, step):
  return np.where(np.abs(x) <= 1, 2 - 2 * np.abs(x), 0)


def swish_sign(x, cell, g, step, beta=5.0):
  y = beta * x
  return beta * (2 - y * np.tanh(y / 2)) / (1 + np.cosh(y))


def stableqat(x, cell, g, step, amplitude=0.21):
  # The threshold between the levels 0 and 1 is at v = 1/2. Because 2 round(v)
  # is even, v - round(v) has the same cosine as v + round(v).
  v = x / cell + 0.5
  s = np.sqrt(2) * np.pi * amplitude * np.cos(np.pi * (v - np.round(v)))
  return (1 - s) / (1 + s)


def adaste(x, cell, g, step, largest=0.5, least_gradient=1e-3, margin=1e-6):
  theta = 2 * x / cell
  far = (np.abs(g) > least_gradient) & (np.abs(theta) > margin)
  inverse = np.clip(1 / np.where(far, np.abs(theta), 1), 0, largest)
  return np.where(far, np.where(np.sign(g) == np.sign(theta), inverse, 0), 1)


def ewgs(x, cell, g, step, delta=1e-3):
  error = np.where(x >= 0, x - cell / 2, x + cell / 2)
  return 1 + delta * np.sign(g) * error


def soft(x, cell, alpha):
  """Returns the soft value of dsq, relative to the middle of the cell."""
  k = np.log(2 / alpha - 1) / cell
  return cell / 2 * np.tanh(k * x) / (1 - alpha)


def dsq(x, cell, g, step, alpha=0.2):
  k = np.log(2 / alpha - 1) / cell
  return cell / 2 * k * sech_squared(k * x) / (1 - alpha)


# Each rule with options that are not the defaults and with bad arguments.
RULES = {
  ede: ({'start': 0.3, 'end': 4.0}, [('start', 0), ('end', -1)]),
  rbnn: ({'start': 0.2, 'end': 5.0}, [('start', 0), ('end', -1)]),
  reste: ({'power': 2.0, 'clip': 1.1, 'secant': 0.2}, [('power', 0.5)]),
  approx_sign: ({}, []),
  swish_sign: ({'beta': 3.0}, [('beta', 0)]),
  stableqat: ({'amplitude': 0.1}, [('amplitude', 0.3), ('amplitude', -1)]),
  adaste: ({'largest': 0.8, 'least_gradient': 0.1, 'margin': 0.01}, []),
  ewgs: ({'delta': 0.5}, [('delta', -1)]),
  dsq: ({'alpha': 0.35}, [('alpha', 0), ('alpha', 0.9), ('learning_rate', -1)]),
}
SCHEDULED = (ede, rbnn, reste)
BAD = [(rule, *bad) for rule, (_, bads) in RULES.items() for bad in bads]
BAD += [(reste, 'clip', 0), *((rule, 'steps', 0) for rule in SCHEDULED)]
each_rule = pytest.mark.parametrize('rule', RULES)
QUANTIZERS = [mq_jax.bwn(), mq_jax.dorefa(2)]
each_quantizer = pytest.mark.parametrize('quantizer', QUANTIZERS)

# Two leaves, with random and special values.
RNG = np.random.default_rng(0)
CELL = {'a/w': RNG.uniform(0.2, 2, (60,)), 'b/w': RNG.uniform(0.2, 2, (5, 7))}
X, G = ({k: RNG.normal(size=c.shape) for k, c in CELL.items()} for _ in '12')
SPECIAL = [p + e for p in (0.1, 0.2, 1, 1.1, 1.5) for e in (0, -1e-9, 1e-9)]
SPECIAL += [0, 1e-7, 1e-3, 3, 10, 50]
X['a/w'][: 2 * len(SPECIAL)] = [*SPECIAL, *(-p for p in SPECIAL)]
X['b/w'][:3] = CELL['b/w'][:3] * [[0.5], [-0.5], [1.5]]
G['b/w'][3] = [0, 1e-3, -1e-3, 1e-4, -1e-4, 0.1, -0.1]


def make(rule, **options):
  steps = {'steps': STEPS} if rule in SCHEDULED else {}
  return getattr(estimators, rule.__name__)(**steps | options)


def run(estimator, x, cell, g, step=0, state=None, dtype=None, g_hat=None):
  """Applies an estimator; w_tilde and w_hat must not matter."""
  other = {path: np.full(np.shape(value), 7.0) for path, value in g.items()}
  fields = (g_hat or other, g, other, other, x, cell)
  cast = [{k: jnp.asarray(v, dtype) for k, v in f.items()} for f in fields]
  state = state or estimator.init_state(jax.random.key(0), cast[2])
  return estimator.apply((), mq_jax.Signals(*cast, step), state)


def slope(rule, x, cell=1.0, g=1.0, step=0, **options):
  """Returns the slopes of the library at the points x of one leaf."""
  leaves = [{'w': v} for v in np.broadcast_arrays(x, cell, g)]
  return run(make(rule, **options), *leaves, step)[0]['w'] / g


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def check(out, path, rule, step=0, **options):
  g = G[path]
  close(out[path], g * rule(X[path], CELL[path], g, step, **options))


@each_rule
@pytest.mark.parametrize('is_default', [True, False])
def test_rule_equals_oracle(x64, rule, is_default):
  options = {} if is_default else RULES[rule][0]
  for step in (0, 3, 4, STEPS, 3 * STEPS) if rule in SCHEDULED else (0, 5):
    out, _ = run(make(rule, **options), X, CELL, G, step)
    assert set(out) == set(X)
    for path, value in out.items():
      assert value.dtype == np.float64
      check(out, path, rule, step, **options)


@pytest.mark.parametrize('rule', [ede, dsq])
def test_small_slope_keeps_precision_in_float32(rule):
  x = np.linspace(-4, 4, 9, dtype=np.float32)
  leaves = [{'w': v} for v in (x, np.ones_like(x), np.ones_like(x))]
  out, _ = run(make(rule), *leaves, 4, dtype=jnp.float32)
  expected = rule(np.float64(x), 1.0, 1.0, 4)
  np.testing.assert_allclose(out['w'], expected, rtol=2e-6)


@pytest.mark.parametrize(('rule', 'option'), [(ewgs, 'delta'), (dsq, 'alpha')])
def test_state_holds_the_option_of_each_path(x64, rule, option):
  state = {'a/w': jnp.asarray(0.1), 'b/w': jnp.asarray(0.4)}
  out, new = run(make(rule), X, CELL, G, state=state)
  assert new == state
  for path, value in state.items():
    check(out, path, rule, **{option: float(value)})


@pytest.mark.parametrize('rate', [1e-3, 50])
def test_dsq_learns_alpha(x64, rate):
  state = {'a/w': jnp.asarray(0.15), 'b/w': jnp.asarray(0.3)}
  # g_ste may have the scale of the levels, as with bwn; α must not.
  g_ste = {path: 0.04 * g for path, g in G.items()}
  out, new = run(
    make(dsq, learning_rate=rate), X, CELL, g_ste, state=state, g_hat=G
  )
  for path, alpha, bound in ('a/w', 0.15, 1e-3), ('b/w', 0.3, 0.5):
    up, down = (soft(X[path], CELL[path], alpha + h) for h in (1e-5, -1e-5))
    step = rate * np.sum(G[path] * (up - down)) / 2e-5
    expected = np.clip(alpha - step, 1e-3, 0.5)
    assert (expected == bound) == (rate == 50)
    np.testing.assert_allclose(new[path], expected, rtol=1e-9)
    close(
      out[path], g_ste[path] * dsq(X[path], CELL[path], G[path], 0, alpha=alpha)
    )


ROOT = np.sqrt(2)
AT_LEVEL = (1 - ROOT * np.pi * 0.21) / (1 + ROOT * np.pi * 0.21)
END = {'step': STEPS}
HALF = {'cell': 0.5}


@pytest.mark.parametrize(
  ('rule', 'settings', 'x', 'expected'),
  [
    (ede, {}, [0, 1e-4], [1, 1 - 1e-10]),
    (rbnn, {}, [0, 150], [ROOT, 0]),
    (rbnn, END, [0, 0.1, 0.2], [10 * ROOT, 10 * ROOT - 10, 0]),
    (reste, {}, [0, 0.01, -0.1, 0.5, -1.5, 1.51], [1, 1, 1, 1, 1, 0]),
    (reste, END, [0, 0.1, -0.125, 1], [*[100 ** (1 / 3)] * 2, 4 / 3, 1 / 3]),
    (approx_sign, {}, [0, 0.25, -0.5, 1, 1.01], [2, 1.5, 1, 0, 0]),
    (swish_sign, {}, [0, 50, -50, 1e3, -1e3], [5, 0, 0, 0, 0]),
    (stableqat, HALF, [0, 0.25, -0.25], [1, AT_LEVEL, AT_LEVEL]),
    (adaste, HALF, [0, 0.25, 1, -1], [1, 0.5, 0.25, 0]),
    (adaste, HALF | {'g': -1.0}, [0, 1, -1], [1, 0, 0.25]),
    (adaste, HALF | {'g': 1e-3}, [1, -1], [1, 1]),
    (ewgs, HALF | {'delta': 0.1}, [0.25, -0.25, 0, -0.05], [1, 1, 0.975, 1.02]),
    (ewgs, {'delta': 0.1, 'g': -3.0}, [0, 1], [1.05, 0.95]),
    (dsq, HALF, [0, -0.25], [np.log(9) / 1.6, 0.225 * np.log(9)]),
  ],
)
def test_slope_by_hand(x64, rule, settings, x, expected):
  actual = slope(rule, np.array(x, float), **settings)
  np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
  ('rule', 'settings', 'bound', 'expected'),
  [
    (ede, {'step': 0}, 300, 20),
    (ede, END, 3, 2),
    (rbnn, END, 1, 2),
    (approx_sign, {}, 2, 2),
    (swish_sign, {}, 8, 2),
    (dsq, {'cell': 0.7, 'alpha': 0.4}, 0.35, 0.7),
  ],
)
def test_integral_of_slope(x64, rule, settings, bound, expected):
  x = np.linspace(-bound, bound, 20001)
  integral = np.trapezoid(slope(rule, x, **settings), x)
  np.testing.assert_allclose(integral, expected, rtol=1e-6)


def test_measured_deltas_of_diagonal_hessians(x64):
  # The gradient h w of the last leaf is constant.
  h = {'up': [[1.0, 2, 6]], 'down': [1.0, -2, -3], 'constant': [1.0, 2]}
  w = {'up': [[0.3, -2, 1]], 'down': [1.0, 2, 3], 'constant': [2.0, 1]}
  h, w = ({k: jnp.asarray(v) for k, v in tree.items()} for tree in (h, w))

  def loss(w_hat):
    return sum(jnp.sum(h[path] * w_hat[path] ** 2) / 2 for path in h)

  deltas = estimators.measured_deltas(loss, w, jax.random.key(3), samples=1)
  assert set(deltas) == set(w)
  assert deltas['down'] == deltas['constant'] == 0
  close(deltas['up'], 3 / (3 * np.std([0.3, -4, 6])))


def test_measured_deltas_average_over_samples(x64):
  def loss(w_hat):
    w, v = w_hat['w'], w_hat['v']
    return jnp.sum(w) ** 2 / 2 + w @ jnp.arange(3.0) + jnp.sum(w) * jnp.sum(v)

  arguments = loss, {'w': jnp.ones(3), 'v': jnp.ones(2)}, jax.random.key(0)
  deltas = estimators.measured_deltas(*arguments, samples=2000)
  np.testing.assert_allclose(deltas['w'], 1 / np.sqrt(6), rtol=0.15)
  with pytest.raises(ValueError, match='samples'):
    estimators.measured_deltas(*arguments, samples=0)


@each_rule
def test_leaf_without_distance_raises(rule):
  x, cell = ({'a/w': field['a/w']} for field in (X, CELL))
  with pytest.raises(ValueError, match='b/w'):
    run(make(rule), x, cell, G)
  with pytest.raises(ValueError, match=r'(first|last)/kernel'):
    train(make(rule), mq_jax.methods.twn())


@each_rule
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_narrow_gradients_keep_their_dtype(rule, dtype):
  g = {path: jnp.asarray(value, dtype) for path, value in G.items()}
  for step, other in (0, None), (0, dtype), (STEPS, None), (STEPS, dtype):
    out, _ = run(make(rule), X, CELL, g, step, dtype=other)
    for value in out.values():
      assert value.dtype == dtype
      assert np.all(np.isfinite(value.astype(np.float32)))


@pytest.mark.parametrize(('rule', 'argument', 'value'), BAD)
def test_bad_argument_raises(rule, argument, value):
  with pytest.raises(ValueError, match=f'{argument}={value}'):
    make(rule, **{argument: value})


def train(estimator, quantizer):
  train = problem.make(quantizer, estimator=estimator, learning_rate=0.01)
  state = problem.start(train)
  for batch in problem.batches(3):
    state, metrics = train.step(state, batch)
    assert metrics['finite']
  return state.params


@each_rule
@each_quantizer
def test_training_stays_finite(rule, quantizer):
  for leaf in jax.tree.leaves(train(make(rule), quantizer)):
    assert np.all(np.isfinite(leaf))


@each_quantizer
def test_ewgs_without_delta_is_ste(quantizer):
  actual = train(make(ewgs, delta=0.0), quantizer)
  expected = train(mq_jax.ste(), quantizer)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize('size', [3000, 3001])
def test_measured_deltas_rounded_constant_gradient_gives_zero(size):
  w_hat = {'a': jnp.full(size, 0.1, jnp.float32)}
  deltas = estimators.measured_deltas(
    lambda w: jnp.sum(w['a'] ** 2) / 2, w_hat, jax.random.key(0), samples=1
  )
  assert deltas['a'] == 0


def test_signals_pass_through_jit():
  g = {'a': jnp.ones(3)}
  rule = jax.jit(lambda signals: mq_jax.ste().apply((), signals, ())[0])
  np.testing.assert_array_equal(rule(mq_jax.Signals(g, g, g))['a'], 1)


@pytest.mark.parametrize(
  'quantizer',
  [
    mq_jax.methods.twn(),
    mq_jax.unquantized(mq_jax.bwn()),
    mq_jax.methods.binary_relax(mq_jax.bwn(), lambda updates: 1.0),
  ],
)
def test_init_refuses_rule_without_distance(quantizer):
  train = problem.make(quantizer, estimator=estimators.ede(10))
  with pytest.raises(ValueError, match='first/kernel from a threshold'):
    problem.start(train)
