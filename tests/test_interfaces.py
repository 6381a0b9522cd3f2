"""Tests that all functions take the argument names that interfaces document."""

import inspect
import re

import pytest

import mq_jax
from mq_jax import estimators, methods, quantizers
from mq_jax.estimators import GradientEstimator
from mq_jax.quantizers import Quantizer

QUANTIZERS = {
  'aciq': lambda: methods.aciq(4),
  'binary': methods.binary,
  'binary_relax': lambda: methods.binary_relax(mq_jax.bwn(), lambda step: 1.0),
  'bwn': mq_jax.bwn,
  'clipped_uniform': lambda: methods.clipped_uniform(4),
  'dorefa': mq_jax.dorefa,
  'fixed_levels': lambda: methods.fixed_levels(methods.powers_of_two(3)),
  'inq': methods.inq,
  'lab': methods.lab,
  'lq_nets': methods.lq_nets,
  'lsq': lambda: methods.lsq(4),
  'powers_of_two': lambda: methods.powers_of_two(3),
  'scaled_levels': lambda: methods.scaled_levels((-1, 1)),
  'slb': lambda: methods.slb(1, lambda step: 1.0),
  'ttq': methods.ttq,
  'twn': methods.twn,
  'uniform': lambda: methods.uniform(4),
  'unquantized': lambda: mq_jax.unquantized(mq_jax.bwn()),
}
ESTIMATORS = {
  'fc_grad': mq_jax.fc_grad,
  'feature_fc': mq_jax.feature_fc,
  'kernel_wise': mq_jax.kernel_wise,
  'lstm_fc': mq_jax.lstm_fc,
  'multi_fc': mq_jax.multi_fc,
  'per_layer': lambda: mq_jax.per_layer(mq_jax.fc_grad()),
  'slim': lambda: mq_jax.slim(mq_jax.fc_grad()),
  'ste': mq_jax.ste,
}
INTERFACES = [(Quantizer, QUANTIZERS), (GradientEstimator, ESTIMATORS)]


def documented_names(interface):
  """Returns the argument names of each attribute from the docstring."""
  found = re.findall(r'^ +(\w+): [^`]*`\(([^)]*)\) ->', interface.__doc__, re.M)
  return {attribute: arguments.split(', ') for attribute, arguments in found}


@pytest.mark.parametrize(('interface', 'factories'), INTERFACES)
def test_interface_documents_all_functions_and_table_has_all_factories(
  interface, factories
):
  assert set(documented_names(interface)) == set(interface._fields)
  exported = {
    name: value
    for module in (mq_jax, estimators, methods, quantizers)
    for name, value in vars(module).items()
    if inspect.isfunction(value)
  }
  assert set(factories) == {
    name
    for name, value in exported.items()
    if inspect.signature(value).return_annotation is interface
  }


@pytest.mark.parametrize(
  ('interface', 'factory'),
  [
    pytest.param(interface, factory, id=name)
    for interface, factories in INTERFACES
    for name, factory in factories.items()
  ],
)
def test_functions_take_documented_argument_names(interface, factory):
  result = factory()
  names = {
    attribute: list(inspect.signature(getattr(result, attribute)).parameters)
    for attribute in interface._fields
    if getattr(result, attribute) is not None
  }
  documented = documented_names(interface)
  assert names == {attribute: documented[attribute] for attribute in names}
