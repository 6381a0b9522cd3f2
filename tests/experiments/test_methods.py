"""Every method's published recipe, end to end on digits and in small."""

import importlib
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from experiments import build, config_check, methods, model_file, train
from experiments.configs.recipe import recipe
from mq_jax.models import BatchNorm
from mq_jax.models.activation import quantized_input
from mq_jax.selection import named_leaves
from tests.experiments import tiny

FOLDER = pathlib.Path(train.__file__).parent / 'configs' / 'methods'
RECIPES = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem != '__init__')
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
      build.ACTIVATIONS[config.activations](config.activation_bits),
      first='conv1' if config.network in ('vgg_small', 'labnet') else 'stem',
    )

  monkeypatch.setattr(build, 'network', make)


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  with tiny.compilation_cache(tmp_path_factory.mktemp('cache')):
    yield


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """A trained network of full precision."""
  folder = tmp_path_factory.mktemp('base')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(build, 'network', lambda config, classes: Net(classes))
    config = build.full_precision(shrunk(recipe('twn', epochs=1)))
    return train.train_and_evaluate(config, folder)


def load(name):
  module = importlib.import_module(f'experiments.configs.methods.{name}')
  return module.get_config()


def shrunk(config):
  """A recipe on digits, a minute's part of its length."""
  config = ConfigDict(config)
  config.update(
    dataset='digits',
    augment=False,
    batch_size=64,
    pretrain_epochs=min(config.pretrain_epochs, 4),
    epochs=min(config.epochs, 4),
    decay_every=0,
    decay_at='3' if config.decay_at else '',
    holdout=0,
    chunk=7,
  )
  return config


def run(name, base, folder, **changes):
  config = shrunk(load(name))
  if not build.is_from_scratch(config):
    config.pretrained = str(base.model_path)
  config.update(changes)
  return config, train.train_and_evaluate(config, folder)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_stands(name):
  config = load(name)
  config_check.check(config)
  assert name in LEVELS
  # All options are listed, so that the command line can change them.
  assert set(config.method) == set(methods.OPTIONS[config.quantizer])


@pytest.mark.parametrize('name', RECIPES)
def test_a_method_learns_and_ends_on_its_levels(name, base, tmp_path):
  config, result = run(name, base, tmp_path)
  print(name, result.last_accuracy, result.records[-1].get('relaxed_accuracy'))
  assert result.last_accuracy > 60  # of ten classes
  count, per_channel = LEVELS[name]
  kernels = quantized_kernels(config, result.model_path)
  most = max(number_of_levels(kernel, per_channel) for kernel in kernels)
  assert most == count


def quantized_kernels(config, path):
  leaves = named_leaves(model_file.load_model(path).params)
  chosen = build.selection.select(
    {p: leaf for p, leaf in leaves.items()}, build.rules(config, 1)
  )
  return [np.asarray(leaves[path]) for path in chosen]


def number_of_levels(kernel, per_channel):
  columns = kernel.reshape(-1, kernel.shape[-1]).T
  parts = columns if per_channel else [kernel]
  return max(len(np.unique(part)) for part in parts)


@pytest.mark.parametrize(
  'name', [name for name in RECIPES if load(name).epochs]
)
def test_a_run_stopped_within_a_schedule_goes_on_bit_by_bit(
  name, base, tmp_path
):
  config, whole = run(name, base, tmp_path / 'whole', epochs=2)
  asked = iter([False] * 3 + [True])
  with pytest.raises(train.Stopped):
    train.train_and_evaluate(
      config,
      tmp_path / 'parts',
      stop=lambda: next(asked),
    )
  parts = train.train_and_evaluate(config, tmp_path / 'parts')
  assert parts.model_path.read_bytes() == whole.model_path.read_bytes()
  assert tiny.timeless(parts.records) == tiny.timeless(whole.records)
