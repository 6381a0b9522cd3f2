"""Tests that folded networks keep their outputs, with integer kernels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import methods, models
from mq_jax.selection import map_selected, named_leaves, replace, select

pytestmark = pytest.mark.usefixtures('x64')


def network(seed=0):
  """Returns a ResNet8, random variables in float64, and images."""
  net = models.resnet(8, num_classes=4, dtype=jnp.float64)
  rng = np.random.default_rng(seed)
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)))
  shapes = jax.eval_shape(
    lambda x: net.init(jax.random.key(0), x, train=False), x
  )

  def leaf(path, like):
    if path[-1].key in ('scale', 'var'):
      return jnp.asarray(rng.uniform(0.5, 1.5, like.shape))
    return jnp.asarray(rng.normal(size=like.shape))

  return net, jax.tree_util.tree_map_with_path(leaf, shapes), x


@functools.partial(jax.jit, static_argnums=0)
def logits(net, params, batch_stats, x):
  variables = {'params': params, 'batch_stats': batch_stats}
  return net.apply(variables, x, train=False)


def paths(params):
  return [path for path in named_leaves(params) if path.endswith('/kernel')]


def tables(params, rules):
  """Returns quantized parameters, and the scale of each leaf that has one."""
  selected = select(params, rules)
  pairs = map_selected(
    lambda q, w: q.codes(q.preprocess(w, q.init(w)), q.init(w)),
    selected,
    named_leaves(params),
  )
  scales = {p: models.scale_of(levels) for p, (_, levels) in pairs.items()}
  values = {p: mq_jax.dequantize(*pair) for p, pair in pairs.items()}
  scales = {p: alpha for p, alpha in scales.items() if alpha is not None}
  return replace(params, values), scales


def assert_close(found, expected):
  np.testing.assert_allclose(
    found, expected, rtol=1e-10, atol=1e-10 * np.max(np.abs(expected))
  )


@pytest.mark.parametrize('size', [1e-3, None, 10.0])
@pytest.mark.parametrize('channels', [False, True])
def test_fold_scales_each_quantizer_keeps_outputs(size, channels):
  net, variables, x = network()
  rng = np.random.default_rng(1)
  codes, scales = {}, {}
  for path in paths(variables['params']):
    kernel = named_leaves(variables['params'])[path]
    codes[path] = rng.integers(-3, 4, kernel.shape).astype(float)
    shape = kernel.shape[-1:] if channels else ()
    scales[path] = np.exp(rng.uniform(-7, 2.3, shape)) if size is None else size
  values = {path: scales[path] * codes[path] for path in codes}
  params = replace(variables['params'], values)
  stats = variables['batch_stats']
  folded, means = models.fold_scales(params, stats, scales)
  before, after = logits(net, params, stats, x), logits(net, folded, means, x)
  assert np.ptp(before) > 0.01
  assert_close(after, before)
  for path, leaf in named_leaves(folded).items():
    old = named_leaves(params)[path]
    assert leaf.dtype == old.dtype == jnp.float64
    if path.startswith('head') or path.endswith('bias'):
      np.testing.assert_array_equal(leaf, old)
    elif path.endswith('kernel'):
      np.testing.assert_array_equal(leaf, codes[path])
  for path, leaf in named_leaves(means).items():
    same = np.array_equal(leaf, named_leaves(stats)[path])
    assert same == path.endswith('/var'), path


@pytest.mark.parametrize(
  ('quantizer', 'integers', 'shape'),
  [
    (mq_jax.bwn(), {-1, 1}, ()),
    (mq_jax.per(mq_jax.bwn(), axes=-1), {-1, 1}, (16,)),
    (methods.twn(), {-1, 0, 1}, ()),
    (mq_jax.dorefa(2), {-3, -1, 1, 3}, ()),
    (methods.lsq(2), {-2, -1, 0, 1}, ()),
    (methods.uniform(3), {-3, -2, -1, 0, 1, 2, 3}, ()),
    (methods.scaled_levels((-4, -2, -1, 1, 2, 4)), {-4, -2, -1, 1, 2, 4}, ()),
  ],
)
def test_fold_scales_quantizer_leaves_integers(quantizer, integers, shape):
  net, variables, x = network(2)
  stats = variables['batch_stats']
  rules = [
    ('(stem|.*(2/block0/shortcut|3/block0/conv2)|head)/kernel', quantizer)
  ]
  params, scales = tables(variables['params'], rules)
  assert len(scales) == 4
  assert scales['stem/kernel'].shape == shape
  folded, means = models.fold_scales(params, stats, scales)
  for path in scales:
    if path != 'head/kernel':
      assert set(np.unique(named_leaves(folded)[path])) <= integers, path
  # A large layer uses all levels.
  last = folded['stage3']['block0']['conv2']['kernel']
  assert set(np.unique(last)) == integers
  np.testing.assert_array_equal(
    folded['head']['kernel'], params['head']['kernel']
  )
  before = logits(net, params, stats, x)
  assert_close(logits(net, folded, means, x), before)


def test_fold_scales_trained_state_keeps_outputs():
  """Compares with a tolerance: `quantized` is compiled, the scales are not."""
  w = jax.random.normal(jax.random.key(0), (3, 3, 16, 16), jnp.float32)
  ones = jnp.ones(16, jnp.float32)
  params = {'conv1': {'kernel': w}, 'norm1': {'scale': ones}}
  stats = {'norm1': {'mean': ones}}
  rules = [('conv1/kernel', mq_jax.bwn())]

  def loss_fn(params, state, batch, rng):
    return jnp.sum(batch * params['conv1']['kernel']), (state, {})

  train = mq_jax.make_train_step(
    loss_fn, rules, mq_jax.ste(), refine=optax.scale_by_adam()
  )
  state = train.init(jax.random.key(1), params, stats, w**2)
  state, _ = train.step(state, w**2)
  _, scales = tables(state.params, rules)
  folded, means = models.fold_scales(
    train.quantized(state), state.model_state, scales
  )
  alpha = np.mean(np.abs(state.params['conv1']['kernel']))
  np.testing.assert_array_equal(
    folded['conv1']['kernel'], 2.0 * train.codes(state)['conv1/kernel'] - 1
  )
  np.testing.assert_allclose(means['norm1']['mean'], 1 / alpha, rtol=1e-5)
  np.testing.assert_allclose(folded['norm1']['scale'], alpha, rtol=1e-5)
  assert folded['conv1']['kernel'].dtype == jnp.float32


def test_fold_scales_vgg_folds_convolutions_and_biases():
  params = {
    'conv3': {'kernel': jnp.full((3, 3, 2, 4), 0.5)},
    'norm3': {'scale': jnp.full(4, 3.0), 'bias': jnp.ones(4)},
    'dense1': {'kernel': jnp.full((4, 4), -0.5), 'bias': jnp.ones(4)},
    'dense1_norm': {'scale': jnp.full(4, 3.0), 'bias': jnp.ones(4)},
    'head': {'kernel': jnp.full((4, 2), 0.5), 'bias': jnp.ones(2)},
    'head_norm': {'scale': jnp.full(2, 3.0), 'bias': jnp.ones(2)},
  }
  norms = ('norm3', 'dense1_norm', 'head_norm')
  stats = {name: {'mean': 2 * params[name]['bias']} for name in norms}
  scales = {path: 0.5 for path in paths(params)}
  folded, means = models.fold_scales(params, stats, scales)
  for layer, norm, sign in zip(
    ('conv3', 'dense1', 'head'), norms, (1, -1, 1), strict=True
  ):
    np.testing.assert_array_equal(
      folded[layer]['kernel'], sign * np.ones(params[layer]['kernel'].shape)
    )
    assert set(np.asarray(folded[norm]['scale'])) == {1.5}
    assert set(np.asarray(folded[norm]['bias'])) == {1.0}
    assert set(np.asarray(means[norm]['mean'])) == {4.0}
  # Dense layers have biases, which are divided by the scale too.
  assert set(np.asarray(folded['dense1']['bias'])) == {2.0}


def test_fold_scales_kernel_without_scale_is_unchanged():
  trained = methods.ttq(threshold=0.3)
  _, variables, _ = network(3)
  asymmetric = jnp.array([-1.3, 0.0, 0.8])
  assert models.scale_of(asymmetric) is None
  stem = variables['params']['stem']['kernel']
  start = trained.init(stem)._replace(scales=jnp.array([0.8, 1.3]))
  assert models.scale_of(trained.codes(stem, start)[1]) is None
  # The scale of another kernel has no effect.
  rng = np.random.default_rng(4)
  kernel = asymmetric[rng.integers(0, 3, (3, 3, 3, 16))]
  params = replace(variables['params'], {'stem/kernel': kernel})
  large = replace(params, {'stem/kernel': 0.1 * (256 + 0 * kernel)})
  small = replace(params, {'stem/kernel': 0.1 * (255 + 0 * kernel)})
  stats = variables['batch_stats']
  for kernels, alpha in ((params, 0.8), (params, 1.3), (large, 0.1)):
    same = models.fold_scales(kernels, stats, {'stem/kernel': alpha})
    jax.tree.map(np.testing.assert_array_equal, same, (kernels, stats))
  # A norm without statistics cannot take a scale.
  same = models.fold_scales(small, {}, {'stem/kernel': 0.1})
  jax.tree.map(np.testing.assert_array_equal, same, (small, {}))
  folded, _ = models.fold_scales(small, stats, {'stem/kernel': 0.1})
  assert set(np.unique(folded['stem']['kernel'])) == {255}


def test_fold_scales_bfloat16_kernel_does_not_count_as_integers():
  kernel = jnp.array([[100.3, -57.6]], jnp.bfloat16)
  params = {'conv1': {'kernel': kernel}, 'norm1': {'scale': jnp.ones(2)}}
  stats = {'norm1': {'mean': jnp.ones(2)}}
  folded, _ = models.fold_scales(params, stats, {'conv1/kernel': 1.0})
  np.testing.assert_array_equal(folded['conv1']['kernel'], kernel)


@pytest.mark.parametrize(
  ('scales', 'match'),
  [
    ({'stem': 1.0}, "'stem' is not a path .*stem/kernel"),
    (
      {'stem/kernel': 0.0},
      r'stem/kernel must be positive and finite, not 0\.0',
    ),
    ({'stem/kernel': -1.0}, r'positive and finite, not -1\.0'),
    ({'stem/kernel': float('nan')}, 'positive and finite, not nan'),
    ({'stem/kernel': float('inf')}, 'positive and finite, not inf'),
    ({'stem/kernel': np.array([1.0] * 15 + [0])}, 'must be positive'),
    ({'stem/kernel': np.ones(3)}, r'shape \(3,\).* have shape \(16,\)'),
    ({'stem/kernel': np.ones((1, 1, 1, 16))}, r'shape \(1, 1, 1, 16\)'),
  ],
)
def test_fold_scales_invalid_scale_raises(scales, match):
  _, variables, _ = network()
  with pytest.raises(ValueError, match=match):
    models.fold_scales(variables['params'], variables['batch_stats'], scales)


def normalised(x, params, stats, epsilon):
  """Computes batch norm by its closed form in float64."""
  x, params, stats = jax.tree.map(np.asarray, (x, params, stats))
  deviation = np.sqrt(stats['var'] + epsilon)
  return (x - stats['mean']) / deviation * params['scale'] + params['bias']


@pytest.mark.parametrize('epsilon', [1e-5, 1e-3, 0.5])
def test_fold_norms_matches_closed_form(epsilon):
  """Uses variances as small as epsilon, so that epsilon matters."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 4, 5)))
  params = {'scale': rng.normal(size=5), 'bias': rng.normal(size=5)}
  stats = {'mean': rng.normal(size=5), 'var': epsilon * rng.uniform(size=5)}
  params, stats = jax.tree.map(jnp.asarray, (params, stats))
  folded = models.fold_norms({'norm': params}, {'norm': stats}, epsilon)
  assert folded.keys() == {'norm'}
  assert folded['norm'].keys() == {'scale', 'shift'}
  norm = models.BatchNorm(jnp.float64, epsilon=epsilon)
  y = norm.apply({'params': folded['norm']}, x, train=False)
  expected = normalised(x, params, stats, epsilon)
  np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
  factor = params['scale'] / np.sqrt(stats['var'] + epsilon)
  np.testing.assert_allclose(folded['norm']['scale'], factor, rtol=1e-14)
  shift = params['bias'] - factor * stats['mean']
  np.testing.assert_allclose(folded['norm']['shift'], shift, rtol=1e-12)
  # In a network that is a single norm, the leaves have no parent.
  assert_same_tree(models.fold_norms(params, stats, epsilon), folded['norm'])
  # Blocks keep their shortcut and ReLU.
  shortcut = jnp.asarray(rng.normal(size=x.shape))
  y = norm.apply(
    {'params': folded['norm']}, x, train=False, shortcut=shortcut, relu=True
  )
  np.testing.assert_allclose(
    y, np.maximum(expected + shortcut, 0), rtol=1e-12, atol=1e-12
  )
  # A different epsilon gives a different norm.
  other = models.fold_norms({'norm': params}, {'norm': stats}, 2 * epsilon)
  assert not np.allclose(other['norm']['scale'], factor, rtol=1e-3)


def assert_same_tree(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_fold_norms_keeps_outputs_of_network():
  net, variables, x = network(5)
  params, stats = variables['params'], variables['batch_stats']
  folded = models.fold_norms(params, stats)
  before = logits(net, params, stats, x)
  assert np.ptp(before) > 0.01
  assert_close(logits(net, folded, {}, x), before)
  new, old = named_leaves(folded), named_leaves(params)
  norms = {path.rpartition('/')[0] for path in named_leaves(stats)}
  assert len(norms) == 9
  for path, leaf in new.items():
    assert leaf.dtype == jnp.float64
    if path.rpartition('/')[0] in norms:
      assert path.endswith(('/scale', '/shift'))
      assert new[path].shape == old[f'{path.rpartition("/")[0]}/bias'].shape
    else:
      assert leaf is old[path]
  assert new.keys() - old.keys() == {f'{norm}/shift' for norm in norms}
  assert old.keys() - new.keys() == {f'{norm}/bias' for norm in norms}
  # The arguments are unchanged.
  assert named_leaves(variables['params']).keys() == old.keys()


def test_fold_scales_then_fold_norms_keeps_outputs():
  net, variables, x = network(6)
  params, scales = tables(
    variables['params'], [('.*conv./kernel', mq_jax.per(mq_jax.bwn(), axes=-1))]
  )
  stats = variables['batch_stats']
  before = logits(net, params, stats, x)
  assert len(scales) == 6
  folded = models.fold_norms(*models.fold_scales(params, stats, scales))
  for path in scales:
    assert set(np.unique(named_leaves(folded)[path])) == {-1, 1}
  assert_close(logits(net, folded, {}, x), before)


def test_batch_norm_folded_in_training_raises():
  net, variables, x = network()
  folded = models.fold_norms(variables['params'], variables['batch_stats'])
  for stats in ({}, {'batch_stats': variables['batch_stats']}):
    with pytest.raises(ValueError, match='folded and cannot be trained'):
      net.apply(
        {'params': folded, **stats}, x, train=True, mutable=['batch_stats']
      )


def test_fold_norms_keeps_dtype_of_scale():
  ones = jnp.ones(2, jnp.float32)
  folded = models.fold_norms(
    {'a': {'scale': 3 * ones, 'bias': ones}},
    {'a': {'mean': ones, 'var': ones / 4}},
    0.0,
  )
  assert folded['a']['scale'].dtype == jnp.float32
  assert folded['a']['shift'].dtype == jnp.float32
  np.testing.assert_array_equal(folded['a']['scale'], [6, 6])
  np.testing.assert_array_equal(folded['a']['shift'], [-5, -5])


@pytest.mark.parametrize(
  ('missing', 'match'),
  [
    (('bias',), r"params lacks \['b/norm/bias'\]"),
    (('scale',), r"params lacks \['b/norm/scale'\]"),
    (('scale', 'bias'), r"\['b/norm/bias', 'b/norm/scale'\]"),
  ],
)
def test_fold_norms_missing_norm_raises(missing, match):
  ones = jnp.ones(2)
  norm = {'scale': ones, 'bias': ones}
  left = {name: leaf for name, leaf in norm.items() if name not in missing}
  params = {'a': norm, 'b': {'norm': left}}
  stats = {'mean': ones, 'var': ones}
  with pytest.raises(ValueError, match=match):
    models.fold_norms(params, {'a': stats, 'b': {'norm': stats}})
  # Folded norms have no bias either.
  once = models.fold_norms({'a': norm}, {'a': stats})
  with pytest.raises(ValueError, match=r"\['a/bias'\]"):
    models.fold_norms(once, {'a': stats})


def test_fold_norms_without_statistics_changes_nothing():
  params = {'a': {'scale': jnp.ones(2), 'bias': jnp.ones(2)}, 'w': jnp.ones(2)}
  assert_same_tree(models.fold_norms(params, {}), params)
