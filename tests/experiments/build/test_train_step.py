"""From a configuration to its parts: what is refused, and what is built."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from experiments.build import check, losses, optimizers, train_step
from experiments.configs import digits, resnet20, resnet110
from mq_jax import models, selection
from mq_jax.estimators import features, wrappers
from tests.experiments import tiny


@pytest.mark.parametrize(
  'config',
  [
    resnet20.get_config(),
    resnet110.get_config(),
    digits.get_config(),
    tiny.config(),
    train_step.base_config(resnet20.get_config()),
  ],
)
def test_configurations_that_stand(config):
  check.check(config)


@pytest.mark.parametrize('quantizer', ['dorefa', 'bwn'])
@pytest.mark.parametrize('optimizer', list(optimizers.OPTIMIZERS))
@pytest.mark.parametrize('estimator', ['ste', 'fc_grad', 'multi_fc', 'lstm_fc'])
def test_every_choice_goes_with_every_other(quantizer, optimizer, estimator):
  config = tiny.config(
    quantizer=quantizer, optimizer=optimizer, estimator=estimator
  )
  check.check(config)


@pytest.mark.parametrize(
  ('key', 'value', 'mend'),
  [
    ('network', 'resnet21', "'resnet20', 'resnet32'"),
    ('dataset', 'mnist', "'cifar10', 'cifar100', 'digits'"),
    ('dtype', 'float16', "'float32', 'bfloat16'"),
    ('quantizer', 'xnor', "'none', 'dorefa', 'bwn'"),
    ('estimator', 'fc', "'ste', 'fc_grad'"),
    ('estimator_activation', 'gelu', "None, 'relu', 'tanh'"),
    ('init', 'zeros', "'random', 'identity'"),
    ('phi_cotangent', 'both', "'ste', 'estimator'"),
    ('optimizer', 'adagrad', "'sgd', 'momentum', 'adam'"),
    ('meta_optimizer', 'lion', "'adam', 'sgd'"),
    ('bits', 0, '1 to 8'),
    ('bits', 9, '1 to 8'),
    ('hidden', 0, 'hidden'),
    ('clip', -1.0, 'at least 0'),
    ('eps_root', -1.0, 'at least 0'),
    ('weight_decay', -1e-4, 'at least 0'),
    ('learning_rate', -1e-3, 'at least 0'),
    ('learning_rate', float('nan'), 'finite'),
    ('learning_rate', float('inf'), 'finite'),
    ('meta_learning_rate', -1e-3, 'at least 0'),
    ('decay_every', -1, 'at least 0'),
    ('meta_decay_every', -1, 'at least 0'),
    ('meta_every', 0, 'at least 1'),
    ('meta_stop', -1, 'at least 0'),
    ('holdout', -1, 'at least 0'),
    ('batch_size', 0, 'at least 1'),
    ('epochs', -1, 'at least 0'),
    ('pretrain_epochs', -1, 'at least 0'),
    ('chunk', 0, 'at least 1'),
    ('checkpoint_every', -5, 'at least 1'),
    ('seed', -1, 'at least 0'),
    ('seed', 2**31, 'at 2147483647 at most'),
    ('trials', 0, 'at least 1'),
    ('mesh_data', 0, 'a number of devices, or -1'),
    ('mesh_data', -2, 'at least -1'),
    ('memory_dtype', 'float16', 'must be one of'),
  ],
)
def test_a_value_out_of_range_is_refused_by_name(key, value, mend):
  config = tiny.config()
  config[key] = value
  with pytest.raises(check.ConfigError) as error:
    check.check(config)
  assert repr(value) in str(error.value)
  assert mend in str(error.value)
  assert key in str(error.value)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('epochs', 3.0),
    ('epochs', True),
    ('epochs', '3'),
    ('seed', None),
    ('learning_rate', '1e-3'),
    ('learning_rate', None),
    ('carry', 1),
    ('network', 20),
  ],
)
def test_a_value_of_another_type_is_refused_by_name(key, value):
  # As somebody may write it in a notebook, without ml_collections' own check.
  config = ConfigDict(tiny.config().to_dict() | {key: value})
  with pytest.raises(check.ConfigError, match=f'config.{key}=') as error:
    check.check(config)
  assert repr(value) in str(error.value)


def test_a_whole_number_is_a_learning_rate():
  check.check(ConfigDict(tiny.config().to_dict() | {'learning_rate': 1}))


def test_unknown_and_missing_keys_are_refused_by_name():
  config = tiny.config(lerning_rate=0.1)
  with pytest.raises(check.ConfigError, match=r"\['lerning_rate'\].*'bits'"):
    check.check(config)
  config = tiny.config()
  del config.bits
  with pytest.raises(check.ConfigError, match=r"\['bits'\] are missing"):
    check.check(config)


@pytest.mark.parametrize(
  ('values', 'mend'),
  [
    ({'quantizer': 'none'}, "take 'ste'"),
    ({'quantizer': 'bwn', 'bits': 2}, "'bwn' has a number of levels"),
    ({'differentiate_refinement': True}, 'eps_root'),
    ({'float_layers': '('}, r"rule '\(' is not a valid regular expression"),
    ({'estimator': 'feature_fc', 'features': ''}, r'features=\(\) must be'),
    ({'estimator': 'feature_fc', 'features': 'age'}, r"\['age'\]"),
    ({'estimator': 'feature_fc', 'bits': 2}, 'leave it out'),
    ({'estimator': 'ste', 'slim': True}, 'must be False'),
    ({'estimator': 'ste', 'per_layer': True}, 'must be False'),
  ],
)
def test_values_that_do_not_go_together_are_refused(values, mend):
  with pytest.raises(check.ConfigError, match=mend):
    check.check(tiny.config(**values))


def test_a_batch_that_the_data_or_the_devices_do_not_fit_is_refused():
  config = tiny.config()
  check.check_sizes(config, images=256, devices=2)
  with pytest.raises(check.ConfigError, match='256 must be at most 255'):
    check.check_sizes(config, images=255, devices=1)
  with pytest.raises(check.ConfigError, match='256 must be a multiple of 3'):
    check.check_sizes(config, images=256, devices=3)
  config.holdout = 10
  with pytest.raises(
    check.ConfigError, match=r'at most 255.*config\.holdout=10'
  ):
    check.check_sizes(config, images=265, devices=1)


def test_base_model_depends_on_nothing_that_only_quantizing_reads():
  ours = tiny.config(
    seed=3, batch_size=100, pretrain_epochs=9, network='resnet8'
  )
  base = train_step.base_config(ours)
  other = ours.copy_and_resolve_references()
  other.update(
    quantizer='bwn',
    estimator='fc_grad',
    hidden=7,
    learning_rate=0.5,
    meta_learning_rate=0.5,
    decay_every=1,
    epochs=1,
    clip=0.0,
    pretrained='elsewhere',
  )
  assert train_step.base_config(other) == base
  assert (base.quantizer, base.estimator, base.pretrained) == (
    'none',
    'ste',
    '',
  )
  assert (base.seed, base.batch_size, base.network) == (3, 100, 'resnet8')
  assert base.epochs == 9
  check.check(base)


def test_learning_rate_is_divided_by_ten_every_so_many_epochs():
  def rates(steps, **values):
    config = tiny.config(learning_rate=0.5, **values)
    rate = optimizers.learning_rate(config, steps_per_epoch=5)
    return [float(rate(step)) for step in steps]

  np.testing.assert_allclose(
    rates((0, 9, 10, 19, 20), decay_every=2),
    [0.5, 0.5, 0.05, 0.05, 0.005],
    rtol=1e-6,
  )
  assert rates((0, 1000), decay_every=0) == [0.5, 0.5]
  # At epochs that are named, whatever `decay_every` says, by another factor.
  np.testing.assert_allclose(
    rates((4, 5, 14, 15), decay_at='1 3', decay_factor=0.5),
    [0.5, 0.25, 0.25, 0.125],
    rtol=1e-6,
  )


def test_phi_moves_only_in_its_turns_and_until_it_is_stopped():
  config = tiny.config(
    meta_optimizer='sgd',
    meta_learning_rate=0.5,
    meta_every=3,
    meta_stop=2,
    meta_decay_every=1,
  )
  optimizer = optimizers.meta_optimizer(config, steps_per_epoch=5)
  phi, moves = jnp.array(0.0), []
  state = optimizer.init(phi)
  for _ in range(16):
    move, state = optimizer.update(jnp.array(1.0), state, phi)
    moves.append(float(-move))
  want = np.zeros(16)
  want[[0, 3]], want[[6, 9]] = 0.5, 0.05
  np.testing.assert_allclose(moves, want, rtol=1e-6)


def test_reapplied_moves_put_the_loss_one_move_ahead():
  post_update = train_step.post_update(tiny.config(reapply=True), 1)
  seen = {'kernel': jnp.zeros((1, 1)), 'bias': jnp.zeros(1)}
  kept, state = 0.0, post_update.init(seen)
  for move in (0.5, -0.25, 1.0):
    moves = {'kernel': jnp.full((1, 1), move), 'bias': jnp.full(1, move)}
    finished, state = post_update.update(moves, state, seen)
    seen = optax.apply_updates(seen, finished)
    kept += move
    assert float(seen['kernel'][0, 0]) == kept + move
    assert float(seen['bias'][0]) == kept  # not quantized


def test_leaves_that_do_not_fit_are_refused_before_a_run():
  with pytest.raises(check.ConfigError, match=r"'conv9' matches no leaf"):
    check.check(tiny.config(float_layers='conv9'))
  with pytest.raises(check.ConfigError, match=r'shortcut/kernel has shape'):
    check.check(
      tiny.config(estimator='kernel_wise', float_layers='head/kernel')
    )
  check.check(
    tiny.config(
      estimator='kernel_wise',
      float_layers='head/kernel|.*/shortcut/kernel',
    )
  )


def test_full_precision_leaves_and_quantized_ones():
  config = tiny.config(float_layers=r'head/kernel|.*/shortcut/kernel')
  shapes = jax.eval_shape(
    lambda: models.resnet8().init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
  )['params']
  chosen = set(selection.select(shapes, train_step.rules(config, 1)))
  everything = set(selection.select(shapes, train_step.rules(tiny.config(), 1)))
  assert everything - chosen == {
    'head/kernel',
    'stage2/block0/shortcut/kernel',
    'stage3/block0/shortcut/kernel',
  }


@pytest.mark.parametrize(
  ('values', 'state'),
  [
    ({'estimator': 'multi_fc', 'slim': True}, wrappers.SlimState),
    ({'estimator': 'feature_fc'}, features.FeatureState),
    ({'estimator': 'fc_grad', 'per_layer': True}, dict),
    (
      {'estimator': 'lstm_fc', 'slim': True, 'per_layer': True},
      wrappers.SlimState,
    ),
  ],
)
def test_estimators_by_name(values, state):
  made = train_step.estimator(tiny.config(**values), steps_per_epoch=5)
  w = {'a': jnp.ones((3, 3, 1, 2))}
  assert isinstance(made.init_state(jax.random.key(0), w), state)


def test_base_model_anneals_by_a_cosine_to_zero():
  base = train_step.base_config(tiny.config(pretrain_epochs=4))
  rate = optimizers.learning_rate(base, steps_per_epoch=5)
  at = [float(rate(step)) for step in (0, 5, 10, 20)]
  want = [0.1, 0.05 * (1 + np.sqrt(0.5)), 0.05, 0.0]
  np.testing.assert_allclose(at, want, rtol=1e-6, atol=1e-9)


def moves(refine, params, *gradients):
  """The last of the refined gradients of one weight."""
  state = refine.init(params)
  for gradient in gradients:
    out, state = refine.update(gradient, state, params)
  return float(out)


@pytest.mark.usefixtures('x64')
def test_optimizers_by_hand():
  weight, first, second = jnp.array(3.0), jnp.array(2.0), jnp.array(1.0)

  def last(**values):
    return moves(
      optimizers.refine(tiny.config(**values)), weight, first, second
    )

  assert last(optimizer='sgd') == 1.0
  # 0.9·2 + 1
  assert last(optimizer='momentum') == pytest.approx(2.8)
  # m = (0.9·0.2 + 0.1)/(1 − 0.81), v = (0.999·0.004 + 0.001)/(1 − 0.998001)
  m, v = 0.28 / 0.19, 0.004996 / 0.001999
  assert last(optimizer='adam') == pytest.approx(m / (np.sqrt(v) + 1e-8))
  assert last(optimizer='adam', eps_root=1.0) == pytest.approx(
    m / (np.sqrt(v + 1) + 1e-8)
  )
  # The decay joins the gradient before the momentum: 0.9·(2 + 0.3) + 1.3
  decayed = last(optimizer='momentum', weight_decay=0.1)
  assert decayed == pytest.approx(0.9 * 2.3 + 1.3)
  # Decoupled, it does not: Adam's move, and 0.1·3 beside it.
  assert last(optimizer='adamw', weight_decay=0.1) == pytest.approx(
    m / (np.sqrt(v) + 1e-8) + 0.3
  )
  # v = 0.9·0.4 + 0.1
  assert last(optimizer='rmsprop') == pytest.approx(1 / np.sqrt(0.46 + 1e-8))
  # The sign of 0.9·m + 0.1·g, with m = 0.01·2; then −0.9·0.02 + 0.1·0.1 < 0.
  assert last(optimizer='lion') == 1.0
  refine = optimizers.refine(tiny.config(optimizer='lion', weight_decay=0.1))
  turned = moves(refine, weight, jnp.array(-2.0), jnp.array(0.1))
  assert turned == pytest.approx(-1 + 0.3)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('estimator', ['ste', 'fc_grad'])
@pytest.mark.parametrize('decay', [0.0, 0.1])
@pytest.mark.parametrize('optimizer', optimizers.OPTIMIZERS)
def test_one_step_of_every_optimizer(optimizer, decay, estimator):
  """Of a loss that is linear in Ŵ, so that the gradient is known: g, or s·g."""
  config = tiny.config(
    quantizer='bwn',
    scaled_gradient=False,
    clip=0.0,
    estimator=estimator,
    layers=1,
    init='identity',
    optimizer=optimizer,
    weight_decay=decay,
    learning_rate=0.25,
  )
  w = np.array([[0.5, -2.0], [1.5, 3.0]])
  g = np.array([[2.0, -0.5], [-1.0, 0.25]])

  def loss_fn(params, model_state, batch, rng):
    return jnp.sum(batch * params['kernel']), (model_state, {})

  train = train_step.make_train_step(config, loss_fn, steps_per_epoch=10)
  state = train.init(
    jax.random.key(0), {'kernel': jnp.asarray(w)}, {}, jnp.asarray(g)
  )
  state, _ = train.step(state, jnp.asarray(g))
  _, decoupled = optimizers.OPTIMIZERS[optimizer]
  coupled = g if decoupled else g + decay * w
  refined = {
    'sgd': coupled,
    'momentum': coupled,
    'adam': coupled / (np.abs(coupled) + 1e-8),
    'adamw': coupled / (np.abs(coupled) + 1e-8),
    'rmsprop': coupled / np.sqrt(0.1 * coupled**2 + 1e-8),
    'lion': np.sign(coupled),
  }[optimizer]
  want = w - 0.25 * (refined + decay * w * decoupled)
  np.testing.assert_allclose(state.params['kernel'], want, rtol=1e-9)


@pytest.mark.parametrize('depth', [8, 20, 32, 44, 56, 110])
def test_networks_by_name(depth):
  net = train_step.network(tiny.config(network=f'resnet{depth}'), 100)
  assert (net.blocks, net.num_classes) == ((depth - 2) // 6, 100)
  assert f'resnet{depth}' in check.CHOICES['network']


def test_resnet8_has_the_weights_its_docstring_says():
  shapes = jax.eval_shape(
    lambda: models.resnet8().init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
  )
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves if leaf.ndim > 1) == 77_360


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_dtype_is_that_of_the_computation(dtype):
  net = train_step.network(tiny.config(dtype=dtype), 10)
  assert net.dtype == jnp.dtype(dtype)


def oracle(logits, labels):
  """Cross entropy and hit of each example, in float64."""
  logits = np.asarray(logits, np.float64)
  top = logits.max(axis=1, keepdims=True)
  log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
  losses = log_sum - logits[np.arange(len(labels)), labels]
  return losses, logits.argmax(axis=1) == labels


def a_batch(size=6):
  rng = np.random.default_rng(0)
  return {
    'image': jnp.asarray(rng.normal(size=(size, 32, 32, 3)), jnp.float32),
    'label': jnp.asarray(rng.integers(0, 10, size), jnp.int32),
  }


def test_loss_is_the_mean_over_the_batch_in_training_mode():
  net, batch = tiny.Net(10), a_batch()
  weights = tiny.variables(net)
  loss, (stats, metrics) = losses.make_loss(net)(
    weights['params'], weights['batch_stats'], batch, jax.random.key(0)
  )
  logits, new = net.apply(
    weights, batch['image'], train=True, mutable=['batch_stats']
  )
  each, hits = oracle(logits, batch['label'])
  assert float(loss) == pytest.approx(each.mean(), rel=1e-5)
  assert float(metrics['accuracy']) == pytest.approx(hits.mean())
  assert tiny.as_bytes(stats) == tiny.as_bytes(new['batch_stats'])
  assert tiny.as_bytes(stats) != tiny.as_bytes(weights['batch_stats'])


def test_evaluation_counts_what_the_mask_shows():
  net, batch = tiny.Net(10), a_batch()
  weights = tiny.variables(net)
  logits = net.apply(weights, batch['image'], train=False)
  # One wrong answer and one right one are masked.
  labels = np.asarray(logits.argmax(axis=1)).astype(np.int32)
  labels[:3] = (labels[:3] + 1) % 10
  batch['label'] = jnp.asarray(labels)
  batch['mask'] = jnp.array([0.0, 1, 1, 0, 1, 1])
  loss, correct = losses.make_evaluation(net)(
    weights['params'], weights['batch_stats'], batch
  )
  each, _ = oracle(logits, labels)
  assert float(correct) == 2.0
  assert float(loss) == pytest.approx(each[[1, 2, 4, 5]].sum(), rel=1e-5)


def test_the_step_has_the_config_s_rates():
  """One leaf that is not quantized moves by exactly −α(t)·gradient."""
  config = tiny.config(
    quantizer='dorefa',
    estimator='ste',
    optimizer='sgd',
    learning_rate=0.5,
    decay_every=1,
  )

  def loss_fn(params, model_state, batch, rng):
    loss = jnp.sum(params['bias'] * batch) + jnp.sum(params['kernel'] ** 2)
    return loss, (model_state, {})

  step = train_step.make_train_step(config, loss_fn, steps_per_epoch=2)
  params = {'bias': jnp.zeros(2), 'kernel': jnp.ones((2, 2))}
  ones = jnp.ones(2)
  state = step.init(jax.random.key(0), params, {}, ones)
  seen = []
  for _ in range(4):
    state, _ = step.step(state, ones)
    seen.append(float(state.params['bias'][0]))
  np.testing.assert_allclose(seen, [-0.5, -1.0, -1.05, -1.1], rtol=1e-6)
  assert isinstance(optimizers.refine(config), optax.GradientTransformation)
