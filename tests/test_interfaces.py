"""Tests that all functions take the argument names that interfaces document."""

import inspect
import re

import numpy as np
import optax
import pytest

import mq_jax
from mq_jax import estimators, methods, quantizers
from mq_jax.estimators import GradientEstimator
from mq_jax.quantizers import Quantizer

QUANTIZERS = {
  'absmean': methods.absmean,
  'aciq': lambda: methods.aciq(4),
  'annealed_adaste': lambda: methods.annealed_adaste(lambda step: 1.0),
  'bayes_binn': methods.bayes_binn,
  'binary': methods.binary,
  'binary_relax': lambda: methods.binary_relax(mq_jax.bwn(), lambda step: 1.0),
  'bwn': mq_jax.bwn,
  'clipped_uniform': lambda: methods.clipped_uniform(4),
  'dorefa': mq_jax.dorefa,
  'fixed_levels': lambda: methods.fixed_levels(methods.powers_of_two(3)),
  'inq': methods.inq,
  'lab': methods.lab,
  'libra': methods.libra,
  'lq_nets': methods.lq_nets,
  'lsq': lambda: methods.lsq(4),
  'md_tanh': lambda: methods.md_tanh(lambda step: 1.0),
  'per': lambda: mq_jax.per(mq_jax.bwn(), axes=-1),
  'powers_of_two': lambda: methods.powers_of_two(3),
  'scaled_levels': lambda: methods.scaled_levels((-1, 1)),
  'recu': lambda: methods.recu(10),
  'seq': methods.seq,
  'slb': lambda: methods.slb(1, lambda step: 1.0),
  'ttq': methods.ttq,
  'twn': methods.twn,
  'uniform': lambda: methods.uniform(4),
  'unquantized': lambda: mq_jax.unquantized(mq_jax.bwn()),
}
ESTIMATORS = {
  'adaste': estimators.adaste,
  'approx_sign': estimators.approx_sign,
  'dsq': estimators.dsq,
  'ede': lambda: estimators.ede(10),
  'ewgs': estimators.ewgs,
  'fc_grad': mq_jax.fc_grad,
  'feature_fc': mq_jax.feature_fc,
  'kernel_wise': mq_jax.kernel_wise,
  'lstm_fc': mq_jax.lstm_fc,
  'multi_fc': mq_jax.multi_fc,
  'rbnn': lambda: estimators.rbnn(10),
  'reste': lambda: estimators.reste(10),
  'stableqat': estimators.stableqat,
  'swish_sign': estimators.swish_sign,
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
  assert {*documented_names(interface), 'call'} == set(interface._fields)
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
    if attribute != 'call' and getattr(result, attribute) is not None
  }
  documented = documented_names(interface)
  assert names == {attribute: documented[attribute] for attribute in names}


@pytest.mark.parametrize(
  'call',
  [
    lambda: mq_jax.bwn(3),
    lambda: mq_jax.dorefa(2, 1.0),
    lambda: methods.twn(2),
    lambda: methods.ttq(2),
    lambda: methods.lab(2),
    lambda: methods.lsq(2, 0.1),
    lambda: methods.lq_nets(2, 0.5),
    lambda: mq_jax.fc_grad('identity'),
    lambda: mq_jax.multi_fc(3),
    lambda: mq_jax.lstm_fc(3),
    lambda: mq_jax.feature_fc(3),
    lambda: mq_jax.kernel_wise(3),
    lambda: methods.clip_weights(mq_jax.bwn(), 1.0),
    lambda: methods.admm(mq_jax.bwn(), 1e-3),
    lambda: methods.freeze_portions(mq_jax.bwn(), (1.0,), 5),
    lambda: methods.add_elq_penalties(mq_jax.bwn(), 0.1, 0.1),
    lambda: methods.scaled_levels((-1, 1), 3),
    lambda: methods.temperature_schedule('exp', 1.0, 2.0, 3),
  ],
)
def test_factory_positional_option_raises(call):
  with pytest.raises(TypeError, match='positional argument'):
    call()


# Calls of all functions that have switches, without the switches.
SWITCHED = {
  'aciq': lambda **switch: methods.aciq(4, **switch),
  'bwn': mq_jax.bwn,
  'clipped_uniform': lambda **switch: methods.clipped_uniform(4, **switch),
  'dorefa': mq_jax.dorefa,
  'fc_grad': mq_jax.fc_grad,
  'lstm_fc': mq_jax.lstm_fc,
  'make_train_step': lambda **switch: mq_jax.make_train_step(
    lambda *arguments: None, mq_jax.bwn(), mq_jax.ste(), **switch
  ),
  'md_tanh': lambda **switch: methods.md_tanh(lambda step: 1.0, **switch),
  'multi_fc': mq_jax.multi_fc,
  'pack': lambda **switch: mq_jax.pack(
    {'w': np.ones((2, 2))}, mq_jax.bwn(), **switch
  ),
  'scale_by_position': lambda **switch: methods.scale_by_position(
    mq_jax.bwn(), **switch
  ),
  'temperature_schedule': lambda **switch: methods.temperature_schedule(
    'exp', start=1.0, end=2.0, total=3, **switch
  ),
  'twn': methods.twn,
}


def test_switches_take_nothing_but_true_and_false():
  found = {
    name: [
      parameter
      for parameter, declared in inspect.signature(value).parameters.items()
      if declared.annotation is bool or isinstance(declared.default, bool)
    ]
    for module in (mq_jax, estimators, methods, quantizers)
    for name, value in vars(module).items()
    if inspect.isfunction(value)
  }
  assert {name for name, switches in found.items() if switches} == set(SWITCHED)
  for name, call in SWITCHED.items():
    for switch in found[name]:
      for value in ('False', 'no', 1, None):
        with pytest.raises(TypeError, match=f'{switch}={value!r} must be True'):
          call(**{switch: value})


def test_numpy_options_make_the_same_call():
  """A state compares the calls of its quantizers."""
  for ours, numpy in (
    (mq_jax.dorefa(8), mq_jax.dorefa(np.int8(8))),
    (mq_jax.dorefa(), mq_jax.dorefa(np.int64(1))),
    (mq_jax.bwn(), mq_jax.bwn(scaled_gradient=np.True_)),
    (
      mq_jax.per(mq_jax.bwn(), axes=-1),
      mq_jax.per(mq_jax.bwn(), axes=np.int64(-1)),
    ),
    (methods.twn(two_scales=True), methods.twn(two_scales=np.True_)),
  ):
    assert str(ours) == str(numpy)


def test_factory_wrong_call_names_arguments():
  message = r'lsq: too many positional .* lsq\(bits, optimizer=\.\.\.\)'
  with pytest.raises(TypeError, match=message):
    methods.lsq(2, 0.1)


@pytest.mark.parametrize(
  ('made', 'text'),
  [
    (mq_jax.bwn(), 'bwn()'),
    (
      mq_jax.per(mq_jax.bwn(clip=None), axes=-1),
      'per(bwn(clip=None), axes=-1)',
    ),
    (mq_jax.dorefa(2), 'dorefa(bits=2)'),
    (mq_jax.dorefa(1), 'dorefa()'),
    (methods.fixed_levels(mq_jax.bwn()), 'fixed_levels(projection=bwn())'),
    (mq_jax.unquantized(methods.twn()), 'unquantized(projection=twn())'),
    (mq_jax.ste(), 'ste()'),
    (
      mq_jax.slim(mq_jax.fc_grad(hidden=3)),
      'slim(estimator=fc_grad(hidden=3))',
    ),
    (
      methods.lsq(2, optimizer=optax.sgd(0.1)),
      'lsq(bits=2, optimizer=GradientTransformation)',
    ),
    (
      methods.binary_relax(mq_jax.bwn(), abs),
      'binary_relax(projection=bwn(), strength=abs)',
    ),
  ],
)
def test_repr_is_call_of_factory(made, text):
  assert repr(made) == str(made) == text


@pytest.mark.parametrize(
  ('factory', 'values'),
  [
    (lambda clip: mq_jax.bwn(clip=clip), (2, 2.0, np.float32(2))),
    (lambda hidden: mq_jax.fc_grad(hidden=hidden), (3, np.int64(3))),
    (lambda axes: mq_jax.per(mq_jax.bwn(), axes), ((0, 1), [0, 1])),
  ],
)
def test_repr_of_equal_options_is_equal(factory, values):
  assert len({repr(factory(value)) for value in values}) == 1


@pytest.mark.parametrize(
  'factory', [f for _, table in INTERFACES for f in table.values()]
)
def test_repr_of_every_factory_is_short(factory):
  assert re.fullmatch(r'\w+\(.*\)', repr(factory()))
  assert len(repr(factory())) < 80
  assert ' at 0x' not in repr(factory())
