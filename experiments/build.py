"""From a configuration to a network, its loss and its train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.configs import resnet20
from experiments.errors import InvalidError
from mq_jax import models

Array = jax.Array
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
CHOICES = {
  'network': (
    'resnet8',
    'resnet20',
    'resnet32',
    'resnet44',
    'resnet56',
    'resnet110',
  ),
  'dataset': ('cifar10', 'cifar100', 'digits'),
  'dtype': tuple(DTYPES),
  'memory_dtype': tuple(DTYPES),
  'quantizer': ('dorefa', 'bwn', 'none'),
  'estimator': ('ste', 'fc_grad', 'multi_fc', 'lstm_fc'),
  'activation': (None, 'relu', 'tanh'),
  'init': ('random', 'identity'),
  'phi_cotangent': ('ste', 'estimator'),
  'optimizer': ('sgd', 'momentum', 'adam'),
}
AT_LEAST = {
  'pretrain_epochs': 1,
  'clip': 0,
  'eps_root': 0,
  'weight_decay': 0,
  'learning_rate': 0,
  'meta_learning_rate': 0,
  'decay_every': 1,
  'batch_size': 1,
  'epochs': 1,
  'chunk': 1,
  'checkpoint_every': 1,
  'seed': 0,
  'trials': 1,
  'mesh_data': -1,
}
LARGEST_SEED = 2**31 - 1  # what jax takes for a key in 32 bits
BASE_KEYS = (
  'network',
  'dataset',
  'data_dir',
  'dtype',
  'seed',
  'mesh_data',
  'batch_size',
  'chunk',
  'checkpoint_every',
)


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
  if config.trials > 1 and config.quantizer == 'none' and not config.pretrained:
    raise ConfigError(
      f'config.trials={config.trials} share the weights they start from, and'
      ' there are none: give config.pretrained, or train from random weights'
      ' one seed at a time'
    )
  if config.mesh_data == 0:
    raise ConfigError('config.mesh_data=0 must be a number of devices, or -1')
  if config.quantizer == 'bwn' and config.bits != 1:
    raise ConfigError(f'config.bits={config.bits!r}, but bwn has 1 bit')
  try:
    quantizer(config), estimator(config), make_train_step(config, _no_loss, 1)
  except ValueError as error:
    raise ConfigError(str(error)) from error


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


def check_batch_size(config: ConfigDict, images: int, devices: int) -> None:
  """Refuses a batch that is larger than the training set, or cannot be split.

  Raises:
    ConfigError: With the sizes of both.
  """
  if config.batch_size % devices:
    raise ConfigError(
      f'config.batch_size={config.batch_size} must be a multiple of {devices},'
      ' the number of devices that config.mesh_data splits it over'
    )
  if config.batch_size > images:
    raise ConfigError(
      f'config.batch_size={config.batch_size} must be at most {images}, the'
      f' number of training images in {config.dataset}'
    )


def _no_loss(*_: Any) -> Any:
  raise NotImplementedError('only the arguments of the step are checked')


def full_precision(config: ConfigDict) -> ConfigDict:
  """The run that makes the base model of `config`, by the standard recipe.

  SGD with momentum 0.9, weight decay 1e-4 and a cosine from 0.1 to 0, from
  random weights, as ResNets for CIFAR are trained. What only quantized training
  reads is left at its default, so that runs which differ in it share a base.
  """
  base = resnet20.get_config()
  base.update({key: config[key] for key in BASE_KEYS})
  base.update(
    quantizer='none',
    estimator='ste',
    optimizer='momentum',
    weight_decay=1e-4,
    learning_rate=0.1,
    epochs=config.pretrain_epochs,
  )
  return base


def quantizer(config: ConfigDict) -> Any:
  """The `Quantizer`, or the rules, that `config` names."""
  clip = config.clip or None
  if config.quantizer == 'dorefa':
    return mq_jax.dorefa(bits=config.bits, clip=clip)
  if config.quantizer == 'bwn':
    return mq_jax.bwn(
      per_channel=config.per_channel,
      clip=clip,
      scaled_gradient=config.scaled_gradient,
    )
  return [('.*', None)]


def estimator(config: ConfigDict) -> mq_jax.GradientEstimator:
  """The `GradientEstimator` that `config` names."""
  if config.estimator == 'ste':
    return mq_jax.ste()
  if config.estimator == 'lstm_fc':
    narrow = config.memory_dtype != 'float32'
    return mq_jax.lstm_fc(
      config.hidden,
      carry=config.carry,
      init=config.init,
      memory_dtype=DTYPES[config.memory_dtype] if narrow else None,
    )
  make = {'fc_grad': mq_jax.fc_grad, 'multi_fc': mq_jax.multi_fc}
  return make[config.estimator](
    hidden=config.hidden,
    layers=config.layers,
    activation=config.activation,
    init=config.init,
  )


def refine(config: ConfigDict) -> optax.GradientTransformation:
  """π: the optimizer that `config` names, without a learning rate."""
  optimizers = {
    'sgd': optax.identity(),
    'momentum': optax.trace(0.9),
    'adam': optax.scale_by_adam(eps_root=config.eps_root),
  }
  optimizer = optimizers[config.optimizer]
  if not config.weight_decay:
    return optimizer
  return optax.chain(optax.add_decayed_weights(config.weight_decay), optimizer)


def schedule(
  config: ConfigDict, initial: float, steps_per_epoch: int
) -> Callable[[Any], Any]:
  """A learning rate as a function of the number of updates so far."""
  if config.quantizer == 'none':
    return optax.cosine_decay_schedule(initial, config.epochs * steps_per_epoch)
  return optax.exponential_decay(
    initial, config.decay_every * steps_per_epoch, 0.1, staircase=True
  )


def make_train_step(
  config: ConfigDict, loss_fn: Any, steps_per_epoch: int
) -> mq_jax.TrainStep:
  """The train step of `config`; its schedules count `steps_per_epoch`."""
  return mq_jax.make_train_step(
    loss_fn,
    quantizer=quantizer(config),
    estimator=estimator(config),
    refine=refine(config),
    learning_rate=schedule(config, config.learning_rate, steps_per_epoch),
    meta_optimizer=optax.adam(
      schedule(config, config.meta_learning_rate, steps_per_epoch)
    ),
    differentiate_refinement=config.differentiate_refinement,
    phi_cotangent=config.phi_cotangent,
  )


def network(config: ConfigDict, num_classes: int) -> Any:
  """The Linen module that `config` names."""
  return getattr(models, config.network)(
    num_classes=num_classes, dtype=DTYPES[config.dtype]
  )


def make_loss(net: Any) -> Callable[..., Any]:
  """Mean cross entropy of a network with batch statistics.

  Args:
    net: Linen module: `(images, train) -> logits`.

  Returns:
    `loss_fn(params, batch_stats, batch, rng)` as `mq_jax.make_train_step`
    takes it; its metrics have `accuracy`, 0 to 1.
  """

  def loss_fn(
    params: Any, batch_stats: Any, batch: dict[str, Array], rng: Array
  ) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    del rng  # no layer of these networks is random
    logits, new = net.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['image'],
      train=True,
      mutable=['batch_stats'],
    )
    losses, correct = _scores(logits, batch['label'])
    return losses.mean(), (new['batch_stats'], {'accuracy': correct.mean()})

  return loss_fn


def make_evaluation(net: Any) -> Callable[..., tuple[Array, Array]]:
  """Sums of loss and of correct answers over one batch.

  Returns:
    `(params, batch_stats, batch) -> (loss sum, correct)`, where
    `batch['mask']` is 0 on examples that do not count.
  """

  def evaluate(
    params: Any, batch_stats: Any, batch: dict[str, Array]
  ) -> tuple[Array, Array]:
    logits = net.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['image'],
      train=False,
    )
    losses, correct = _scores(logits, batch['label'])
    return jnp.sum(losses * batch['mask']), jnp.sum(correct * batch['mask'])

  return evaluate


def _scores(logits: Array, labels: Array) -> tuple[Array, Array]:
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses, (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
