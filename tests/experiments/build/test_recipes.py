"""Tests the published recipe of each method in short runs on digits."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses, networks
from experiments.build.base_model import base_config, is_from_scratch
from experiments.build.check import check
from experiments.build.options import declared
from experiments.build.parts import make_parts
from experiments.common import errors
from experiments.configs.methods import NAMES, load
from experiments.data import datasets
from experiments.deploy import fold
from experiments.records import model_file, workdir
from experiments.training import initial, train
from mq_jax import selection
from mq_jax.models import BatchNorm
from mq_jax.models.activation import quantized_input
from mq_jax.selection import named_leaves
from tests.experiments import tiny

pytestmark = pytest.mark.usefixtures('compilation_cache')
# Step of a checkpoint within the second epoch, the end of the fifth chunk. An
# epoch has 22 steps.
CHECKPOINT, CHUNKS_TO_CHECKPOINT = 29, 5
# Number of levels of a kernel, and True if each channel has other levels.
LEVELS = {
  'adaste': (2, False),
  'annealed_adaste': (2, False),
  'approx_sign': (2, True),
  'bayes_binn': (2, False),
  'bitnet': (3, False),
  'bnn_plus': (2, True),
  'dsq': (2, False),
  'ewgs': (2, False),
  'ir_net': (2, True),
  'md_tanh': (2, False),
  'oscillation': (2, False),
  'rbnn': (2, True),
  'recu': (2, True),
  'reste': (2, False),
  'seq': (4, False),
  'stableqat': (4, False),
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
  """Dense layers whose leaves have the names of a residual block."""

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
  """Dense layers whose leaves have the names of our networks."""

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


def small(first):
  """Declares the small network; `first` is the name of its first layer."""
  return networks.Network(
    lambda keys, num_classes, activation: Net(
      num_classes, activation, first=first
    ),
    (),
  )


@pytest.fixture(autouse=True)
def network(monkeypatch):
  for name in networks.NETWORKS:
    first = 'conv1' if name in ('vgg_small', 'labnet') else 'stem'
    monkeypatch.setitem(networks.NETWORKS, name, small(first))


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """Trains a network in full precision."""
  folder = tmp_path_factory.mktemp('base')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(networks.NETWORKS, 'resnet20', small('stem'))
    config = base_config(shrunk(load('twn')))
    return train.train_and_evaluate(config, folder)


def shrunk(config):
  """Returns a short version of a recipe, on digits."""
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
    checkpoint_every=CHECKPOINT,
  )
  return config


def run(name, base, folder, stop=lambda: False, **changes):
  config = shrunk(load(name))
  if not is_from_scratch(config):
    config.pretrained = str(base.model_path)
  config.update(changes)
  return config, train.train_and_evaluate(config, folder, stop=stop)


@pytest.mark.parametrize('name', NAMES)
def test_recipe_lists_all_options_and_passes_check(name):
  config = load(name)
  check(config)
  assert name in LEVELS
  # The command line can change only listed options.
  assert set(config.method) == set(declared('method', config))


@pytest.mark.parametrize('name', NAMES)
def test_recipe_run_learns_resumes_and_ends_on_levels(name, base, tmp_path):
  folder, copy = tmp_path / 'uninterrupted', tmp_path / 'copy'
  chunks = itertools.count(1)

  def copy_once():
    if next(chunks) == CHUNKS_TO_CHECKPOINT + 1:
      shutil.copytree(folder, copy)
    return False

  config, result = run(name, base, folder, copy_once)
  assert result.last_accuracy > 80  # of ten classes
  count, per_channel = LEVELS[name]
  kernels = quantized_kernels(config, result.model_path)
  found = max(number_of_levels(kernel, per_channel) for kernel in kernels)
  # A channel of 32 weights may leave some of 16 levels unused.
  assert found == count or (count == 16 and per_channel and 8 < found < count)
  if config.epochs:
    # The copy is what remains of a process that is killed at that moment.
    assert (copy / workdir.CHECKPOINTS / str(CHECKPOINT)).exists()
    remaining = next(chunks) - 1 - CHUNKS_TO_CHECKPOINT
    calls = itertools.count()
    resumed = train.train_and_evaluate(
      config, copy, stop=lambda: next(calls) < 0
    )
    assert next(calls) == remaining
    model, resumed_model = map(
      model_file.load_model, (result.model_path, resumed.model_path)
    )
    assert tiny.as_bytes(resumed_model[:2]) == tiny.as_bytes(model[:2])
    assert tiny.timeless(resumed.records) == tiny.timeless(result.records)


def quantized_kernels(config, path):
  leaves = named_leaves(model_file.load_model(path).params)
  chosen = selection.select(leaves, make_parts(config, 1).rules)
  return [np.asarray(leaves[path]) for path in chosen]


def number_of_levels(kernel, per_channel):
  columns = kernel.reshape(-1, kernel.shape[-1]).T
  parts = columns if per_channel else [kernel]
  return max(len(np.unique(part)) for part in parts)


def test_inq_levels_are_powers_of_two(base, tmp_path):
  config, result = run('inq', base, tmp_path, epochs=1)
  for kernel in quantized_kernels(config, result.model_path):
    mantissa, _ = np.frexp(np.abs(kernel[kernel != 0]))
    np.testing.assert_array_equal(mantissa, 0.5)


def test_relaxed_method_also_saves_weights_of_the_loss(base, tmp_path):
  config, result = run('psgd', base, tmp_path, epochs=1)
  record = result.records[-1]
  trained = tmp_path / 'trained.safetensors'
  assert accuracy(result.model_path) == pytest.approx(record['test_accuracy'])
  assert accuracy(trained) == pytest.approx(record['relaxed_accuracy'])
  weights = named_leaves(model_file.load_model(trained).params)
  quantizer = make_parts(config, 1).rules
  quantized = named_leaves(model_file.load_model(result.model_path).params)
  for path, kernel in quantized.items():
    if path.endswith('kernel'):
      expected = mq_jax.quantizers.projected(
        quantizer, jnp.asarray(weights[path])
      )
      np.testing.assert_allclose(kernel, expected, rtol=1e-6)
  # Other methods can start from these weights.
  changes = {'pretrained': str(trained), 'bits': 8}
  _, after = run('uniform', base, tmp_path / 'after', **changes)
  assert after.base_accuracy == pytest.approx(record['relaxed_accuracy'])


def accuracy(path):
  """Returns the accuracy of a model file on the test set, in percent."""
  model, digits = model_file.load_model(path), datasets.load('digits')
  variables = {'params': model.params, 'batch_stats': model.batch_stats}
  images = (digits.test_images / 255 - digits.mean) / digits.std
  logits = Net(10).apply(variables, jnp.float32(images), train=False)
  return 100 * np.mean(np.argmax(logits, axis=-1) == digits.test_labels)


def test_recalibrate_measures_statistics_with_final_weights(base, tmp_path):
  """Compares the statistics of the first layer with NumPy."""
  _, result = run('slb', base, tmp_path, epochs=1, float_layers='', bits=2)
  model = model_file.load_model(result.model_path)
  digits = datasets.load('digits')
  images = (digits.train_images / 255 - digits.mean) / digits.std
  blocks = images.reshape(-1, 8, 4, 8, 4, 3).mean((2, 4, 5)).reshape(-1, 64)
  outputs = blocks @ np.float64(model.params['stem']['kernel'])
  parts = outputs[:1024].reshape(2, 512, -1)
  stats = model.batch_stats['stem_norm']
  np.testing.assert_allclose(stats['mean'], parts.mean((0, 1)), atol=1e-5)
  np.testing.assert_allclose(
    stats['var'], parts.var(axis=1, ddof=1).mean(0), rtol=1e-4
  )


def test_zero_epochs_only_quantizes(base, tmp_path):
  config, result = run('uniform', base, tmp_path)
  (record,) = result.records
  assert (record['epoch'], record['step']) == (0, 0)
  assert record['train_loss'] is None
  # Training would change the statistics at its first loss.
  before, after = map(
    model_file.load_model, (base.model_path, result.model_path)
  )
  assert tiny.as_bytes(before.batch_stats) == tiny.as_bytes(after.batch_stats)
  assert result.base_accuracy == pytest.approx(accuracy(base.model_path))
  # If the run was killed before it saved the model, it writes the record again.
  result.model_path.unlink()
  again = train.train_and_evaluate(config, tmp_path)
  assert tiny.timeless(again.records) == tiny.timeless(result.records)


def test_fold_bwn_kernels_are_integers(base, tmp_path):
  _, result = run('bwn', base, tmp_path, epochs=1)
  accuracies, integers = fold.fold_run(tmp_path)
  assert set(accuracies) == {'quantized', 'folded'}
  assert accuracies['quantized'] == result.last_accuracy
  assert accuracies['folded'] == pytest.approx(result.last_accuracy, abs=0.3)
  assert integers == {
    'block0/conv1/kernel': 2,
    'block0/shortcut/kernel': 2,
    'head/kernel': 2,
    'stem/kernel': 2,
  }
  folded = model_file.load_model(tmp_path / 'folded.safetensors')
  for path in integers:
    kernel = named_leaves(folded.params)[path]
    np.testing.assert_array_equal(np.unique(kernel), [-1, 1])
  assert accuracy(tmp_path / 'folded.safetensors') == pytest.approx(
    accuracies['folded']
  )
  # In training, its norms would compute another function.
  config = tiny.config(pretrained=str(tmp_path / 'folded.safetensors'))
  with pytest.raises(errors.InvalidError, match='folded into its norms'):
    train.train_and_evaluate(config, tmp_path / 'further')


def test_fold_tests_all_forms_of_network(base, tmp_path):
  _, result = run('admm', base, tmp_path, epochs=1)
  accuracies, integers = fold.fold_run(tmp_path)
  record = result.records[-1]
  assert accuracies['trained'] == record['relaxed_accuracy']
  assert accuracies['quantized'] == record['test_accuracy']
  assert set(integers.values()) == {3}


def test_fold_without_quantized_run_raises(base, tmp_path):
  with pytest.raises(errors.MissingError, match='contains no run'):
    fold.fold_run(tmp_path / 'elsewhere')
  with pytest.raises(errors.MissingError, match='must quantize weights'):
    fold.fold_run(base.model_path.parent)


def test_initial_variables_other_activations_get_initial_numbers(
  base, tmp_path
):
  config, result = run('pact_w4a4', base, tmp_path, epochs=1)
  # The base model was trained with ReLUs, and is tested with ReLUs.
  assert result.base_accuracy == pytest.approx(accuracy(base.model_path))
  params = model_file.load_model(result.model_path).params
  number = activation_number(params)
  assert number != 10.0  # the initial value
  image = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
  # The clip of PACT is not a step size of LSQ: another activation gets a new
  # number.
  for name, start in (('pact_w4a4', number), ('lsq_w2a2', 0.8 / 3**0.5)):
    next_config = load(name)
    next_config.pretrained = str(result.model_path)
    net = networks.make_network(next_config, 10)
    first, *_ = initial.initial_variables(
      next_config, net, image, str(result.model_path)
    )
    assert activation_number(first) == pytest.approx(start)
  # The file has no number of LSQ, so its number is measured.
  next_config.activation_start = 'measured'
  images = np.random.default_rng(0).normal(size=(4, 32, 32, 3))
  loaded = initial.initial_variables(
    next_config, net, image, str(result.model_path)
  )
  measured, _ = initial.fit_to_images(
    next_config, net, loaded, lambda: images.astype(np.float32)
  )
  assert activation_number(measured) != pytest.approx(start, rel=1e-3)
  del params['head']
  model_file.save_model(tmp_path / 'base.safetensors', params, {}, {})
  config.pretrained = str(tmp_path / 'base.safetensors')
  with pytest.raises(errors.InvalidError, match='head/kernel is absent and'):
    train.train_and_evaluate(config, tmp_path / 'other')


def activation_number(params):
  """Returns the parameter of the only quantized activation."""
  (number,) = (
    float(leaf)
    for path, leaf in named_leaves(params).items()
    if path.endswith('/number')
  )
  return number


def test_zero_epochs_trials_give_equal_models(base, tmp_path):
  _, result = run('lapq', base, tmp_path, bits=2, trials=2)
  first, second = (
    model_file.load_model(tmp_path / f'quantized-seed{seed}.safetensors')
    for seed in (0, 1)
  )
  assert tiny.as_bytes(first[:2]) == tiny.as_bytes(second[:2])
  assert len(set(result.trial_accuracies)) == 1


def test_lapq_sweep_lowers_loss_of_training_images(base, tmp_path):
  """Tests that one sweep at 2 bits improves on the initial clips."""
  changes = {'bits': 2, 'float_layers': ''}
  loss = {}
  for sweeps in (0, 1):
    _, result = run(
      'lapq',
      base,
      tmp_path / str(sweeps),
      method={'corrected': False, 'sweeps': sweeps, 'images': 512},
      **changes,
    )
    model = model_file.load_model(result.model_path)
    digits = datasets.load('digits')
    variables = {'params': model.params, 'batch_stats': model.batch_stats}
    images = (digits.train_images[:512] / 255 - digits.mean) / digits.std
    logits = Net(10).apply(variables, jnp.float32(images), train=False)
    labels = jnp.asarray(digits.train_labels[:512])
    loss[sweeps] = float(losses.cross_entropy(logits, labels).mean())
  assert loss[1] < loss[0]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'method': {'treshold': 0.1}}, r"method\.treshold is not an .*'ttq'"),
    ({'method': {'threshold': '0.1'}}, r"threshold='0.1' must be of type fl"),
    ({'method': {'threshold': 2.0}}, r'threshold=2.0 must be from 0 to 0.999'),
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
      r'features=.* but the quantizer has several thresholds',
    ),
    ({'epochs': 0, 'estimator': 'fc_grad'}, r"learns nothing .*='ste'"),
    (
      {'quantizer': 'aciq', 'bits': 4, 'epochs': 0, 'pretrain_epochs': 0},
      r"'aciq' quantizes trained networks: set config.pretrained",
    ),
    (
      {'quantizer': 'lapq', 'bits': 4, 'epochs': 0, 'method': {'images': 0}},
      r'images=0 must be at least 1',
    ),
    ({'quantizer': 'admm', 'method': {'levels': 'a'}}, r"levels='a' must be"),
    ({'quantizer': 'proxquant', 'method': {'pull': -1.0}}, r'pull=-1.0 must'),
    (
      {'quantizer': 'elq', 'method': {'perturbation': -1.0}},
      r'perturbation=-1.0 must be at least 0',
    ),
    (
      {'quantizer': 'slb', 'method': {'last': float('inf')}},
      r'last=inf must be finite',
    ),
    ({'bits': 2}, r"bits=2 has no effect with config.quantizer='ttq'"),
    ({'quantizer': 'inq', 'bits': 6}, r'bits=6 has no published portions'),
    ({'quantizer': 'lapq', 'bits': 4}, r"'lapq' quantizes trained networks"),
    ({'quantizer': 'none', 'epochs': 0}, r'epochs=0 .* leaves nothing to do'),
    (
      {'quantizer': 'psgd', 'bits': 4, 'estimator': 'fc_grad'},
      r"Set config.estimator='ste'",
    ),
    ({'quantizer': 'lab', 'reapply': True}, r'reapply=True and .*both'),
    ({'decay_at': '9 3'}, r"decay_at='9 3' must be ascending epochs"),
    ({'quantizer': 'slb', 'method': {'window': '1'}}, r"window='1' must be"),
    (
      {'quantizer': 'proxquant', 'method': {'prox': 'l3'}},
      r"prox='l3' must be one of \('l1', 'l2'\)",
    ),
    ({'pretrain_epochs': 0, 'trials': 2}, r'must start from the same weights'),
    (
      {'pretrained': 'base.pth', 'new_head': True, 'trials': 2},
      r'must start from the same weights.*new_head=False',
    ),
  ],
)
def test_check_impossible_recipe_raises(changes, message):
  config = load('ttq')
  config.method = ConfigDict()
  config.update(changes)
  with pytest.raises(errors.ConfigError, match=message):
    check(config)


@pytest.mark.parametrize(
  'name', ['ttq', 'lsq', 'lq_nets', 'proxquant', 'inq', 'admm', 'psgd', 'slb']
)
def test_recipe_vmapped_trials_equal_single_trials(name):
  """Tests the batch axis of trials, which only accelerators use."""
  config = shrunk(load(name))
  config.update(float_layers='', epochs=1)

  def loss_fn(params, model_state, batch, rng):
    residual = batch @ params['layer']['kernel'] - 1
    return jnp.mean(residual**2), (model_state, {})

  train_step = tiny.step_of(config, loss_fn, steps_per_epoch=6)
  batch = jax.random.normal(jax.random.key(1), (16, 8))

  def first(seed):
    kernel = jax.random.normal(jax.random.key(seed), (8, 6)) / 3
    return train_step.init(
      jax.random.key(seed), {'layer': {'kernel': kernel}}, {}, batch
    )

  alone = [first(seed) for seed in (0, 1)]
  together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
  step = jax.jit(jax.vmap(train_step.step_fn, in_axes=(0, None)))
  for _ in range(6):
    together, _ = step(together, batch)
    alone = [train_step.step(state, batch)[0] for state in alone]
  stacked = tiny.as_arrays(together._replace(key=()))
  for i, state in enumerate(alone):
    for path, leaf in tiny.as_arrays(state._replace(key=())).items():
      np.testing.assert_allclose(stacked[path][i], leaf, rtol=1e-4, atol=1e-5)
