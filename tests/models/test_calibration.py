"""Compares measured numbers of activations with a search in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mq_jax import activations, models
from mq_jax.activations import Activation
from mq_jax.models import calibration


def error(kind, bits, x, number):
  """Returns the mean squared error of quantizing `x`, in float64."""
  top = 2**bits - 1
  step = number / top if kind == 'pact' else number
  quantized = step * np.clip(np.floor(x / step + 0.5), 0, top)
  return np.mean((quantized - x) ** 2)


@pytest.mark.parametrize(
  ('kind', 'start'), [('pact', 10.0), ('lsq_activation', 0.3)]
)
def test_measure_numbers_has_least_error_of_all_candidates(kind, start):
  bits = 3
  function = getattr(activations, kind)(bits)
  net = models.resnet8(4, activation=Activation(function, start=start))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
  variables = net.init(jax.random.key(0), images, train=False)
  params = models.measure_numbers(
    net, variables['params'], variables['batch_stats'], images
  )
  # The first quantized activation receives the rectified output of the stem.
  plain = models.resnet8(4)
  _, inner = plain.apply(
    plain.init(jax.random.key(0), images, train=False),
    images,
    train=False,
    capture_intermediates=True,
  )
  x = np.asarray(inner['intermediates']['stem_norm']['__call__'][0], np.float64)
  candidates = start * 2.0 ** (np.arange(-64, 65) / 8)
  best = min(candidates, key=lambda c: error(kind, bits, x, c))
  number = float(params['stage1']['block0']['act1']['number'])
  assert number == pytest.approx(best, rel=1e-5)
  assert number != pytest.approx(start, rel=1e-3)
  kernel = params['stem']['kernel']
  assert kernel is variables['params']['stem']['kernel']


def test_measure_numbers_without_numbers_returns_params():
  net = models.resnet8(4)
  images = jnp.zeros((2, 8, 8, 3))
  variables = net.init(jax.random.key(0), images, train=False)
  params = variables['params']
  assert (
    models.measure_numbers(net, params, variables['batch_stats'], images)
    is params
  )


class Wide(nn.Module):
  """A quantized input of more values than are measured."""

  @nn.compact
  def __call__(self, x, train):
    activation = Activation(activations.pact(3), start=1.0)
    return models.QuantizedInput(activation, name='act')(x)


def test_measure_numbers_of_large_input_uses_all_channels(monkeypatch):
  monkeypatch.setattr(calibration, '_MOST_VALUES', 2**10)
  # The first channel, which every 16th value is of, is dead.
  x = np.random.default_rng(0).uniform(0, 4, (8, 32, 32, 16))
  x[..., 0] = 0
  params = models.measure_numbers(
    Wide(), {'act': {'number': jnp.float32(1)}}, {}, jnp.asarray(x, jnp.float32)
  )
  assert 3 < float(params['act']['number']) < 5
  # Every number fits a dead layer, which keeps its start.
  params = models.measure_numbers(
    Wide(), {'act': {'number': jnp.float32(1)}}, {}, jnp.zeros((2, 4, 4, 16))
  )
  assert float(params['act']['number']) == 1
