"""Every method's published recipe, end to end on digits and in small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

import mq_jax
from experiments.build import check, losses, method_options, methods, train_step
from experiments.common import errors
from experiments.configs.methods import NAMES, load
from experiments.configs.recipe import recipe
from experiments.data import datasets
from experiments.deploy import fold
from experiments.records import model_file
from experiments.training import initial, train
from mq_jax import selection
from mq_jax.models import BatchNorm
from mq_jax.models.activation import quantized_input
from mq_jax.selection import named_leaves
from tests.experiments import tiny

FOUR = ('block0/conv1', 'block0/shortcut', 'head', 'stem')
# Levels of a kernel, and whether a channel has its own.
LEVELS = {
  'binaryconnect': (2, False),
  'bwn': (2, True),
  'xnor': (2, True),
  'bi_real': (2, True),
  'hwgq': (2, True),
  'dorefa_w2a2': (4, False),
  'pact_w4a4': (16, False),
  'lsq': (4, False),
  'lsq_w2a2': (4, False),
  'twn': (3, False),
  'ttq': (3, False),
  'lab': (2, False),
  'lq_nets': (4, True),
  'lq_nets_vgg': (4, True),
  'proxquant': (2, False),
  'proxquant_ternary': (3, False),
  'binary_relax': (2, False),
  'inq': (17, False),
  'elq': (3, False),
  'admm': (3, False),
  'psgd': (15, False),
  'slb': (2, False),
  'slb_vgg': (2, False),
  'uniform': (15, False),
  'aciq': (16, True),
  'lapq': (16, True),
}


class Block(nn.Module):
  """The leaves of a residual block, by their names."""

  width: int
  activation: object

  @nn.compact
  def __call__(self, x, train):
    x = quantized_input(x, self.activation, jnp.float32, 'act1')
    y = nn.Dense(self.width, use_bias=False, name='conv1')(x)
    x = nn.Dense(self.width, use_bias=False, name='shortcut')(x)
    y = BatchNorm(name='norm1')(y, train)
    return y + BatchNorm(name='shortcut_norm')(x, train)


class Net(nn.Module):
  """Three dense layers, whose leaves are called as those of our networks."""

  num_classes: int
  activation: object = None
  head_norm: bool = False
  first: str = 'stem'

  @nn.compact
  def __call__(self, images, train):
    x = nn.avg_pool(images, (4, 4), (4, 4)).mean(-1).reshape(len(images), -1)
    x = nn.Dense(32, use_bias=False, name=self.first)(x)
    x = BatchNorm(name='stem_norm')(x, train, relu=self.activation is None)
    x = Block(32, self.activation, name='block0')(x, train)
    x = nn.relu(x)
    x = nn.Dense(self.num_classes, use_bias=False, name='head')(x)
    return BatchNorm(name='head_norm')(x, train)


@pytest.fixture(autouse=True)
def network(monkeypatch):
  def make(config, num_classes):
    return Net(
      num_classes,
      train_step.ACTIVATIONS[config.activation_quantizer](
        config.activation_bits
      ),
      first='conv1' if config.network in ('vgg_small', 'labnet') else 'stem',
    )

  monkeypatch.setattr(train_step, 'network', make)


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  with tiny.compilation_cache(tmp_path_factory.mktemp('cache')):
    yield


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A trained network of full precision."""
  folder = tmp_path_factory.mktemp('base')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train_step, 'network', lambda config, classes: Net(classes))
    config = train_step.base_config(shrunk(recipe('twn', epochs=1)))
    return train.train_and_evaluate(config, folder)


def shrunk(config):
  """A recipe on digits, a minute's part of its length."""
  config = ConfigDict(config)
  config.update(
    dataset='digits',
    augment=False,
    batch_size=64,
    pretrain_epochs=min(config.pretrain_epochs, 4),
    epochs=min(config.epochs, 3),
    decay_every=0,
    decay_at='2' if config.decay_at else '',
    holdout=0,
    chunk=7,
  )
  return config


def run(name, base, folder, **changes):
  config = shrunk(load(name))
  if not train_step.is_from_scratch(config):
    config.pretrained = str(base.model_path)
  config.update(changes)
  return config, train.train_and_evaluate(config, folder)


@pytest.mark.parametrize('name', NAMES)
def test_a_recipe_stands(name):
  config = load(name)
  check.check(config)
  assert name in LEVELS
  # All options are listed, so that the command line can change them.
  assert set(config.method) == set(method_options.OPTIONS[config.quantizer])


@pytest.mark.parametrize('name', NAMES)
def test_a_method_learns_resumes_and_ends_on_its_levels(name, base, tmp_path):
  config, result = run(name, base, tmp_path / 'whole')
  assert result.last_accuracy > 80  # of ten classes
  count, per_channel = LEVELS[name]
  kernels = quantized_kernels(config, result.model_path)
  most = max(number_of_levels(kernel, per_channel) for kernel in kernels)
  # A channel of 32 weights need not have one on each of 16 levels.
  assert most == count or (count == 16 and per_channel and 8 < most < count)
  if config.epochs:
    parts = in_two_parts(config, tmp_path / 'parts')
    one, other = map(
      model_file.load_model, (parts.model_path, result.model_path)
    )
    assert tiny.as_bytes(one[:2]) == tiny.as_bytes(other[:2])
    assert tiny.timeless(parts.records) == tiny.timeless(result.records)


def in_two_parts(config, folder):
  """The run again, stopped in its second epoch and gone on with."""
  asked = iter([False] * 4 + [True])
  with pytest.raises(train.Stopped):
    train.train_and_evaluate(config, folder, stop=lambda: next(asked))
  return train.train_and_evaluate(config, folder)


def quantized_kernels(config, path):
  leaves = named_leaves(model_file.load_model(path).params)
  chosen = selection.select(leaves, train_step.rules(config, 1))
  return [np.asarray(leaves[path]) for path in chosen]


def number_of_levels(kernel, per_channel):
  columns = kernel.reshape(-1, kernel.shape[-1]).T
  parts = columns if per_channel else [kernel]
  return max(len(np.unique(part)) for part in parts)


def test_levels_of_inq_are_powers_of_two(base, tmp_path):
  config, result = run('inq', base, tmp_path, epochs=1)
  for kernel in quantized_kernels(config, result.model_path):
    mantissa, _ = np.frexp(np.abs(kernel[kernel != 0]))
    np.testing.assert_array_equal(mantissa, 0.5)


def test_what_the_loss_saw_stands_beside_what_is_left(base, tmp_path):
  config, result = run('psgd', base, tmp_path, epochs=1)
  record = result.records[-1]
  trained = tmp_path / 'trained.safetensors'
  assert accuracy(result.model_path) == pytest.approx(record['test_accuracy'])
  assert accuracy(trained) == pytest.approx(record['relaxed_accuracy'])
  kept = model_file.load_model(trained)
  quantizer = methods.make(config, 1).quantizer
  left = model_file.load_model(result.model_path).params
  for path, kernel in named_leaves(left).items():
    if path.endswith('kernel'):
      wanted = mq_jax.quantizers.projected(
        quantizer, jnp.asarray(named_leaves(kept.params)[path])
      )
      np.testing.assert_allclose(kernel, wanted, rtol=1e-6)
  # And other methods can go on from there.
  changes = {'pretrained': str(trained), 'bits': 8}
  _, after = run('uniform', base, tmp_path / 'after', **changes)
  assert after.base_accuracy == pytest.approx(record['relaxed_accuracy'])


def accuracy(path):
  """Percent, of a model file on the digits' test images."""
  model, digits = model_file.load_model(path), datasets.load('digits')
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  images = (digits.test_images / 255 - digits.mean) / digits.std
  logits = Net(10).apply(variables, jnp.float32(images), train=False)
  return 100 * np.mean(np.argmax(logits, axis=-1) == digits.test_labels)


def test_statistics_are_taken_anew_with_the_weights_that_are_left(
  base, tmp_path
):
  """State Batch Norm's second set, of the first layer, by NumPy."""
  _, result = run('slb', base, tmp_path, epochs=1, float_layers='', bits=2)
  model, digits = (
    model_file.load_model(result.model_path),
    datasets.load('digits'),
  )
  images = (digits.train_images / 255 - digits.mean) / digits.std
  blocks = images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4, 5)).reshape(-1, 64)
  outputs = blocks @ np.float64(model.params['stem']['kernel'])
  parts = outputs[:1024].reshape(2, 512, -1)
  stats = model.batch_stats['stem_norm']
  np.testing.assert_allclose(stats['mean'], parts.mean((0, 1)), atol=1e-5)
  np.testing.assert_allclose(
    stats['var'], parts.var(axis=1, ddof=1).mean(0), rtol=1e-4
  )


def test_without_epochs_a_network_is_only_quantized(base, tmp_path):
  config, result = run('uniform', base, tmp_path)
  (record,) = result.records
  assert (record['epoch'], record['step']) == (0, 0)
  assert record['train_loss'] is None
  # Its first loss would have moved the statistics.
  before, after = map(
    model_file.load_model, (base.model_path, result.model_path)
  )
  assert tiny.as_bytes(before.batch_stats) == tiny.as_bytes(after.batch_stats)
  assert result.base_accuracy == pytest.approx(accuracy(base.model_path))
  # A kill between the record and the model: the record is written anew.
  result.model_path.unlink()
  again = train.train_and_evaluate(config, tmp_path)
  assert tiny.timeless(again.records) == tiny.timeless(result.records)


def test_what_is_left_is_folded_into_integers(base, tmp_path):
  _, result = run('bwn', base, tmp_path, epochs=1)
  accuracies, whole = fold.finalise(tmp_path)
  assert set(accuracies) == {'quantized', 'folded'}
  assert accuracies['quantized'] == result.last_accuracy
  assert accuracies['folded'] == pytest.approx(result.last_accuracy, abs=0.3)
  assert whole == dict.fromkeys(
    (
      'block0/conv1/kernel',
      'block0/shortcut/kernel',
      'head/kernel',
      'stem/kernel',
    ),
    2,
  )
  folded = model_file.load_model(tmp_path / 'folded.safetensors')
  for path in whole:
    kernel = named_leaves(folded.params)[path]
    np.testing.assert_array_equal(np.unique(kernel), [-1, 1])
  assert accuracy(tmp_path / 'folded.safetensors') == pytest.approx(
    accuracies['folded']
  )


def test_all_forms_of_a_network_are_tested(base, tmp_path):
  _, result = run('admm', base, tmp_path, epochs=1)
  accuracies, whole = fold.finalise(tmp_path)
  record = result.records[-1]
  assert accuracies['trained'] == record['relaxed_accuracy']
  assert accuracies['quantized'] == record['test_accuracy']
  assert set(whole.values()) == {3}
  with pytest.raises(errors.MissingError, match='no run stands in'):
    fold.finalise(tmp_path / 'elsewhere')
  with pytest.raises(errors.MissingError, match='has to quantize weights'):
    fold.finalise(base.model_path.parent)


def test_a_base_model_lacks_only_the_numbers_of_activations(base, tmp_path):
  config, result = run('pact_w4a4', base, tmp_path, epochs=1)
  # What it started from is tested as it was trained, with ReLUs.
  assert result.base_accuracy == pytest.approx(accuracy(base.model_path))
  params = model_file.load_model(result.model_path).params
  (number,) = (
    float(leaf)
    for path, leaf in named_leaves(params).items()
    if path.endswith('/number')
  )
  assert number != 10.0  # which it begins at
  # A clip is no step: where activations differ, their numbers start anew.
  again, other = (
    load('pact_w4a4'),
    load('lsq_w2a2'),
  )
  for own, start in ((again, number), (other, 0.8 / 3**0.5)):
    own.pretrained = str(result.model_path)
    net = train_step.network(own, 10)
    first, _ = initial.first_weights(own, net, pytest.fail)
    (begun,) = (
      float(leaf)
      for path, leaf in named_leaves(first).items()
      if path.endswith('/number')
    )
    assert begun == pytest.approx(start)
  del params['head']
  model_file.save_model(tmp_path / 'base.safetensors', params, {}, {})
  config.pretrained = str(tmp_path / 'base.safetensors')
  with pytest.raises(errors.InvalidError, match=r"differ.*'head/kernel'"):
    train.train_and_evaluate(config, tmp_path / 'other')


def test_trials_of_what_is_only_quantized_are_the_same(base, tmp_path):
  _, result = run('lapq', base, tmp_path, bits=2, trials=2)
  one, other = (
    model_file.load_model(tmp_path / f'quantized-seed{seed}.safetensors')
    for seed in (0, 1)
  )
  assert tiny.as_bytes(one[:2]) == tiny.as_bytes(other[:2])
  assert len(set(result.trial_accuracies)) == 1


def test_lapq_lowers_the_loss_of_training_images(base, tmp_path):
  """Beside the clips that it starts from, at 2 bits."""
  changes = {'bits': 2, 'float_layers': ''}
  found = {}
  for sweeps in (0, 1):
    _, result = run(
      'lapq',
      base,
      tmp_path / str(sweeps),
      method={'corrected': True, 'sweeps': sweeps, 'images': 512},
      **changes,
    )
    model, digits = (
      model_file.load_model(result.model_path),
      datasets.load('digits'),
    )
    variables = {'params': model.params, 'batch_stats': model.batch_stats}
    images = (digits.train_images[:512] / 255 - digits.mean) / digits.std
    logits = Net(10).apply(variables, jnp.float32(images), train=False)
    each = losses.cross_entropy(logits, jnp.asarray(digits.train_labels[:512]))
    found[sweeps] = float(each.mean())
  assert found[1] < found[0]


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'method': {'treshold': 0.1}}, r"method\.treshold is unknown to .*'ttq'"),
    ({'method': {'threshold': '0.1'}}, r"threshold='0.1' must be of float"),
    ({'method': {'threshold': 2.0}}, r'threshold=2.0 must be in'),
    (
      {'activation_quantizer': 'hwgq', 'activation_bits': 8},
      r'bits=8 must be an int',
    ),
    (
      {'activation_quantizer': 'pact', 'activation_bits': 0},
      r'bits=0 must be an int',
    ),
    ({'decay_factor': 0.0}, r'decay_factor=0.0 must be above 0'),
    (
      {'estimator': 'feature_fc'},
      r"quantizer='ttq' with .* several thresholds",
    ),
    ({'epochs': 0, 'estimator': 'fc_grad'}, r"learns nothing .* take 'ste'"),
    (
      {'quantizer': 'aciq', 'bits': 4, 'epochs': 0, 'pretrain_epochs': 0},
      r"'aciq' is for trained networks: give",
    ),
    (
      {'quantizer': 'lapq', 'bits': 4, 'epochs': 0, 'method': {'images': 0}},
      r'images=0 must be at least 1',
    ),
    ({'quantizer': 'admm', 'method': {'levels': 'a'}}, r"levels='a' must be"),
    ({'quantizer': 'proxquant', 'method': {'pull': -1.0}}, r'pull=-1.0 must'),
    (
      {'quantizer': 'elq', 'method': {'perturbation': -1.0}},
      r'perturbation=-1.0 and',
    ),
    (
      {'quantizer': 'slb', 'method': {'last': float('inf')}},
      r'end=inf must be positive',
    ),
    ({'bits': 2}, r"bits=2, but config.quantizer='ttq' has a number"),
    ({'quantizer': 'inq', 'bits': 6}, r'bits=6 has no published portions'),
    ({'quantizer': 'lapq', 'bits': 4}, r"'lapq' is for trained networks"),
    ({'quantizer': 'none', 'epochs': 0}, r'epochs=0 leaves nothing to do'),
    ({'quantizer': 'psgd', 'bits': 4, 'estimator': 'fc_grad'}, r"Take 'ste'"),
    ({'quantizer': 'lab', 'reapply': True}, r'reapply=True and .*both'),
    ({'decay_at': '9 3'}, r"decay_at='9 3' must be epochs that ascend"),
    ({'quantizer': 'slb', 'method': {'window': '1'}}, r"window='1' must be"),
    (
      {'quantizer': 'proxquant', 'method': {'prox': 'l3'}},
      r"prox='l3' must be one of \('l1', 'l2'\)",
    ),
    ({'pretrain_epochs': 0, 'trials': 2}, r'share the weights they start from'),
  ],
)
def test_what_no_run_can_have_is_refused_by_name(changes, told):
  config = recipe('ttq')
  config.method = ConfigDict()
  config.update(changes)
  with pytest.raises(check.ConfigError, match=told):
    check.check(config)


@pytest.mark.parametrize(
  'name', ['ttq', 'lsq', 'lq_nets', 'proxquant', 'inq', 'admm', 'psgd', 'slb']
)
def test_trials_as_a_batch_axis_are_what_each_is_alone(name):
  """As on an accelerator; on CPU they take turns."""
  config = shrunk(load(name))
  config.update(float_layers='', epochs=1)

  def loss_fn(params, model_state, batch, rng):
    residual = batch @ params['layer']['kernel'] - 1
    return jnp.mean(residual**2), (model_state, {})

  made = train_step.make_train_step(config, loss_fn, steps_per_epoch=6)
  batch = jax.random.normal(jax.random.key(1), (16, 8))

  def first(seed):
    kernel = jax.random.normal(jax.random.key(seed), (8, 6)) / 3
    return made.init(
      jax.random.key(seed), {'layer': {'kernel': kernel}}, {}, batch
    )

  alone = [first(seed) for seed in (0, 1)]
  together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
  step = jax.jit(jax.vmap(made.step_fn, in_axes=(0, None)))
  for _ in range(6):
    together, _ = step(together, batch)
    alone = [made.step(state, batch)[0] for state in alone]
  for i, state in enumerate(alone):
    for path, leaf in tiny.as_arrays(state._replace(key=())).items():
      own = tiny.as_arrays(together._replace(key=()))[path][i]
      np.testing.assert_allclose(own, leaf, rtol=1e-4, atol=1e-5)
