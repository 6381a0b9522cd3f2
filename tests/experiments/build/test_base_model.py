"""Tests the configuration of base models."""

import numpy as np

from experiments.build import optimizers
from experiments.build.base_model import base_config
from experiments.build.check import check
from experiments.build.methods import METHODS
from tests.experiments import tiny


def test_base_config_ignores_keys_of_quantized_training():
  config = tiny.config(
    seed=3, batch_size=100, pretrain_epochs=9, network='resnet8'
  )
  base = base_config(config)
  other = config.copy_and_resolve_references()
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
  assert base_config(other) == base
  assert (base.quantizer, base.estimator, base.pretrained) == (
    'none',
    'ste',
    '',
  )
  assert (base.seed, base.batch_size, base.network) == (3, 100, 'resnet8')
  assert base.epochs == 9
  check(base)


def test_base_config_learning_rate_follows_cosine_to_zero():
  base = base_config(tiny.config(pretrain_epochs=4))
  rate = optimizers.make_learning_rate(
    base,
    steps_per_epoch=5,
    initial=base.learning_rate,
    cosine=METHODS[base.quantizer].cosine,
  )
  rates = [float(rate(step)) for step in (0, 5, 10, 20)]
  expected = [0.1, 0.05 * (1 + np.sqrt(0.5)), 0.05, 0.0]
  np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-9)
