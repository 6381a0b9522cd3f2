"""What a configuration must be for a run to begin."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.build import (
  losses,
  method_options,
  methods,
  optimizers,
  train_step,
)
from experiments.common.errors import InvalidError
from experiments.configs import resnet20
from mq_jax import models, selection

CHOICES = {
  'network': (
    'resnet8',
    'resnet20',
    'resnet32',
    'resnet44',
    'resnet56',
    'resnet110',
    'vgg_small',
    'labnet',
  ),
  'activation_quantizer': tuple(train_step.ACTIVATIONS),
  'loss': tuple(losses.LOSSES),
  'dataset': ('cifar10', 'cifar100', 'digits'),
  'dtype': tuple(train_step.DTYPES),
  'memory_dtype': tuple(train_step.DTYPES),
  'quantizer': tuple(method_options.OPTIONS),
  'estimator': (
    'ste',
    'fc_grad',
    'multi_fc',
    'lstm_fc',
    'kernel_wise',
    'feature_fc',
  ),
  'estimator_activation': (None, 'relu', 'tanh'),
  'init': ('random', 'identity'),
  'phi_cotangent': ('ste', 'estimator'),
  'optimizer': tuple(optimizers.OPTIMIZERS),
  'meta_optimizer': ('adam', 'sgd'),
}
AT_LEAST = {
  'pretrain_epochs': 0,
  'recalibrate': 0,
  'clip': 0,
  'eps_root': 0,
  'weight_decay': 0,
  'learning_rate': 0,
  'meta_learning_rate': 0,
  'decay_every': 0,
  'meta_decay_every': 0,
  'meta_every': 1,
  'meta_stop': 0,
  'holdout': 0,
  'progress_epochs': 1,
  'batch_size': 1,
  'epochs': 0,
  'epoch_steps': 0,
  'chunk': 1,
  'checkpoint_every': 1,
  'seed': 0,
  'trials': 1,
  'mesh_data': -1,
}
LARGEST_SEED = 2**31 - 1  # what jax takes for a key in 32 bits


class ConfigError(InvalidError):
  """A configuration that no run can have; the message names the mend."""


def check(config: ConfigDict) -> None:
  """Refuses unknown keys, unknown names and values out of range.

  Raises:
    ConfigError: With the key, its value and what it may be.
  """
  known = resnet20.get_config()
  if unknown := sorted(set(config) - set(known)):
    raise ConfigError(
      f'unknown config keys {unknown}: the keys are {sorted(known)}'
    )
  if missing := sorted(set(known) - set(config)):
    raise ConfigError(
      f'config keys {missing} are missing: start from'
      ' experiments.configs.resnet20.get_config()'
    )
  _check_values(config, known)
  if config.quantizer == 'none' and config.estimator != 'ste':
    raise ConfigError(
      f'config.estimator={config.estimator!r} has nothing to estimate where'
      " config.quantizer is 'none': take 'ste'"
    )
  if config.estimator == 'ste' and (config.slim or config.per_layer):
    raise ConfigError(
      "config.estimator='ste' learns nothing, so config.slim and"
      ' config.per_layer must be False'
    )
  if config.trials > 1 and train_step.is_from_scratch(config):
    raise ConfigError(
      f'config.trials={config.trials} share the weights they start from, and'
      ' there are none: give config.pretrained, or train from random weights'
      ' one seed at a time'
    )
  if config.mesh_data == 0:
    raise ConfigError('config.mesh_data=0 must be a number of devices, or -1')
  if config.quantizer not in method_options.WITH_BITS and config.bits != 1:
    raise ConfigError(
      f'config.bits={config.bits!r}, but config.quantizer={config.quantizer!r}'
      ' has a number of levels of its own: leave it at 1'
    )
  _check_training(config)
  if (
    config.estimator == 'feature_fc'
    and 'distance' in config.features.split()
    and (config.bits > 1 or config.quantizer in ('twn', 'ttq'))
  ):
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} with'
      f' config.bits={config.bits!r} has several thresholds, and the feature'
      " 'distance' is that to one: take bits=1, or leave it out of"
      ' config.features'
    )
  try:
    train_step.network(config, 10)
    train_step.make_train_step(config, _no_loss, 1)
    _check_parts(config)
    if config.float_layers or config.estimator == 'kernel_wise':
      _check_leaves(config)
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _check_training(config: ConfigDict) -> None:
  """Refuses what cannot be trained, or what training would not use."""
  after_training = config.quantizer in method_options.AFTER_TRAINING
  if config.epochs == 0 and config.quantizer == 'none':
    raise ConfigError(
      "config.epochs=0 leaves nothing to do where config.quantizer is 'none'"
    )
  if after_training and config.epochs:
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} is for trained networks: take'
      ' config.epochs=0'
    )
  if after_training and train_step.is_from_scratch(config):
    raise ConfigError(
      f'config.quantizer={config.quantizer!r} is for trained networks: give'
      ' config.pretrained, or train one by config.pretrain_epochs'
    )
  if config.epochs == 0 and config.estimator != 'ste':
    raise ConfigError(
      f'config.estimator={config.estimator!r} learns nothing where'
      " config.epochs=0: take 'ste'"
    )
  if not config.decay_factor > 0:
    raise ConfigError(
      f'config.decay_factor={config.decay_factor!r} must be above 0'
    )
  at = config.decay_at.split()
  if not all(epoch.isdecimal() for epoch in at) or sorted(
    set(map(int, at))
  ) != list(map(int, at)):
    raise ConfigError(
      f'config.decay_at={config.decay_at!r} must be epochs that ascend, with'
      ' blanks between'
    )


def _check_parts(config: ConfigDict) -> None:
  """Refuses parts that do not go together."""
  if config.quantizer == 'none':
    return
  method = methods.make(config, 1)
  if config.estimator != 'ste' and method.quantizer.relaxed is not None:
    raise ConfigError(
      f'config.estimator={config.estimator!r} has nothing to estimate: with'
      f' config.quantizer={config.quantizer!r} gradients pass no quantizer in'
      " training. Take 'ste'"
    )
  if config.reapply and method.post_update is not None:
    raise ConfigError(
      f'config.reapply=True and config.quantizer={config.quantizer!r} both'
      ' change the move last: leave one of the two out'
    )


def _check_leaves(config: ConfigDict) -> None:
  """Refuses rules and estimators that the network's leaves do not fit."""
  params = _shapes(
    *(
      config[key]
      for key in ('network', 'activation_quantizer', 'activation_bits')
    ),
    config.head_norm,
  )
  chosen = selection.select(params, train_step.rules(config, 1))
  leaves = selection.named_leaves(params)
  estimator = train_step.estimator(config, 1)
  jax.eval_shape(
    lambda leaves: estimator.init(jax.random.key(0), leaves),
    {path: leaves[path] for path in chosen},
  )


@functools.cache
def _shapes(
  network: str, activations: str, activation_bits: int, head_norm: bool
) -> Any:
  net = getattr(models, network)(
    num_classes=10,
    activation=train_step.ACTIVATIONS[activations](activation_bits),
    head_norm=head_norm,
  )
  variables = jax.eval_shape(
    lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
  )
  return variables['params']


def _check_values(config: ConfigDict, known: ConfigDict) -> None:
  """Refuses a value of another type, or one out of its range."""
  for key, default in known.items():
    value, kind = config[key], known.get_type(key)
    # A bool is an int to Python, and an int does where a float is wanted.
    kinds = (int, float) if kind is float else (kind,)
    if not (type(value) in kinds or (value is None and default is None)):
      raise ConfigError(f'config.{key}={value!r} must be of {kind.__name__}')
  for key, choices in CHOICES.items():
    if config[key] not in choices:
      raise ConfigError(
        f'config.{key}={config[key]!r} must be one of {choices}'
      )
  for key, least in AT_LEAST.items():
    if not least <= config[key] < float('inf'):
      raise ConfigError(
        f'config.{key}={config[key]!r} must be at least {least} and finite'
      )
  if config.seed + config.trials - 1 > LARGEST_SEED:
    raise ConfigError(
      f'config.seed={config.seed!r} with config.trials={config.trials!r} must'
      f' end at {LARGEST_SEED} at most'
    )


def check_sizes(config: ConfigDict, images: int, devices: int) -> None:
  """Refuses a batch that the data cannot fill or the devices cannot split.

  Raises:
    ConfigError: With the sizes of both.
  """
  if config.batch_size % devices:
    raise ConfigError(
      f'config.batch_size={config.batch_size} must be a multiple of {devices},'
      ' the number of devices that config.mesh_data splits it over'
    )
  if config.batch_size > images - config.holdout:
    raise ConfigError(
      f'config.batch_size={config.batch_size} must be at most'
      f' {images - config.holdout}, the number of training images in'
      f' {config.dataset} less config.holdout={config.holdout}'
    )


def _no_loss(*_: Any) -> Any:
  raise NotImplementedError('only the arguments of the step are checked')
