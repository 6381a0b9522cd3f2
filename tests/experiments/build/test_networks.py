"""Tests the networks and activations that a configuration names."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.build.check import check
from experiments.build.networks import (
  ACTIVATION_QUANTIZERS,
  make_activation,
  make_network,
  network_options,
)
from experiments.build.schema import KEYS
from experiments.common.errors import ConfigError
from mq_jax import models
from tests.experiments import tiny


@pytest.mark.parametrize('depth', [8, 20, 32, 44, 56, 110])
def test_make_network_has_depth_and_classes_of_config(depth):
  net = make_network(tiny.config(network=f'resnet{depth}'), 100)
  assert (net.blocks, net.num_classes) == (((depth - 2) // 6,) * 3, 100)
  assert f'resnet{depth}' in KEYS['network'].choices


def test_resnet8_weight_count_matches_docstring():
  shapes = jax.eval_shape(
    lambda: models.resnet8().init(
      jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False
    )
  )
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(leaf.size for leaf in leaves if leaf.ndim > 1) == 77_360


def test_make_network_mobilenet_has_width_and_padding_of_config():
  config = tiny.config(network='mobilenet_v2', width=0.5, padding='same')
  net = make_network(config, 7)
  assert net == models.mobilenet_v2(7, width=0.5, padding='same')
  assert make_network(tiny.config(network='resnet18'), 7) == models.resnet18(7)


def test_network_options_are_what_the_weights_belong_to():
  config = tiny.config(network='mobilenet_v2', width=0.5, padding='same')
  expected = {'head_norm': 'False', 'width': '0.5', 'padding': 'same'}
  assert network_options(config) == expected
  assert network_options(tiny.config(network='resnet20')) == {
    'head_norm': 'False'
  }


def test_check_width_without_effect_raises():
  config = tiny.config(network='resnet20', width=0.5)
  with pytest.raises(
    ConfigError, match=r'width=0.5 has no effect .*Only with .*mobilenet_v2\.'
  ):
    check(config)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_make_network_dtype_is_dtype_of_computation(dtype):
  net = make_network(tiny.config(dtype=dtype), 10)
  assert net.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize(
  ('name', 'bits'),
  # 'absmax' has no levels of 1 bit.
  sorted({*itertools.product(ACTIVATION_QUANTIZERS, (1, 2))} - {('absmax', 1)}),
)
def test_make_activation_binary_flag_matches_values(name, bits):
  config = tiny.config(activation_quantizer=name, activation_bits=bits)
  activation = make_activation(config)
  if activation is None:
    assert name == 'relu'
    return
  number = () if activation.start is None else (activation.start,)
  values = activation.function(jnp.linspace(-3, 3, 101), *number)
  is_binary = set(np.unique(values)) == {-1, 1}
  assert activation.binary == is_binary
