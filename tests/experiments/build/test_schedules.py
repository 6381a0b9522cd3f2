"""Tests which schedules depend on the number of epochs of a run."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.build import schedules
from experiments.build.estimators import ESTIMATORS, EstimatorContext
from experiments.build.key import defaults
from experiments.build.methods import METHODS, MethodContext
from experiments.build.options import declared
from experiments.configs import resnet20


def read_length(declaration, field, config, context_type, *others):
  """Returns True if the declared factory reads the length of the run."""
  read = []

  class Probe(context_type):
    @property
    def steps(self):
      read.append(True)
      return 10

  config[field] = defaults(declared(field, config))
  parts = declaration.make(config, Probe(10, 5, *others))
  for name in ('refine', 'post_update'):
    if transformation := getattr(parts, name, None):
      transformation([('.*', None)])
  return bool(read)


@pytest.mark.parametrize('name', METHODS)
def test_method_that_reads_the_length_spans_the_run(name):
  config = resnet20.get_config(quantizer=name)
  config.bits = 1 if name == 'oscillation' else 2
  found = read_length(
    METHODS[name], 'method', config, MethodContext, optax.sgd(0.1)
  )
  assert METHODS[name].spans_run == found


@pytest.mark.parametrize(
  ('rise', 'updates', 'beta'),
  [
    (0.5, 0, 0.01),
    (0.5, 250, 2**0.5),  # the geometric mean of 0.01 and 200
    (0.5, 500, 200.0),
    (0.5, 1000, 200.0),
    (0.0, 0, 0.01),
    (0.0, 1, 200.0),
  ],
)
def test_beta_of_annealed_adaste_rises_in_its_share_of_the_run(
  rise, updates, beta
):
  config = resnet20.get_config(quantizer='annealed_adaste')
  config['method'] = defaults(declared('method', config))
  config.method.rise = rise
  context = MethodContext(1000, 5, optax.sgd(0.1))
  quantizer = METHODS['annealed_adaste'].make(config, context).quantizer
  value = quantizer.relaxed(jnp.asarray(-0.3), jnp.asarray(updates))
  expected = -min((0.3 + 1.01 * beta) / (1 + beta), 1)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_estimator_that_reads_the_length_spans_the_run(name):
  config = resnet20.get_config(estimator=name)
  found = read_length(ESTIMATORS[name], 'rule', config, EstimatorContext, 0.0)
  assert ESTIMATORS[name].spans_run == found


@pytest.mark.parametrize(
  ('keys', 'spans'),
  [
    ({}, False),
    ({'decay_every': 3}, False),
    ({'estimator': 'multi_fc'}, False),
    ({'schedule': 'cosine'}, True),
    ({'quantizer': 'none'}, True),
    ({'quantizer': 'slb'}, True),
    ({'estimator': 'ede'}, True),
  ],
)
def test_spans_run_of_configurations(keys, spans):
  assert schedules.spans_run(resnet20.get_config(**keys)) is spans
