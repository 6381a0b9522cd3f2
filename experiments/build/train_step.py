"""From a configuration to a network, its loss and its train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build import methods, optimizers
from experiments.configs import resnet20
from mq_jax import activations, models, selection

Array = jax.Array
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# Beside ReLU, the activations that have a number of bits, and what they begin
# with if they train a number: PACT's clip, and a step that is LSQ's for half a
# normal distribution, whose mean is 0.4.
ACTIVATIONS: dict[str, Callable[[int], mq_jax.Activation | None]] = {
  'relu': lambda bits: None,
  'sign': lambda bits: mq_jax.Activation(
    activations.sign, signed=True, binary=True
  ),
  'bi_real': lambda bits: mq_jax.Activation(
    activations.bi_real_sign, signed=True, binary=True
  ),
  'dorefa': lambda bits: mq_jax.Activation(activations.dorefa_activation(bits)),
  'hwgq': lambda bits: mq_jax.Activation(activations.hwgq(bits)),
  'pact': lambda bits: mq_jax.Activation(activations.pact(bits), start=10.0),
  'lsq': lambda bits: mq_jax.Activation(
    activations.lsq_activation(bits), start=0.8 / (2**bits - 1) ** 0.5
  ),
}
BASE_KEYS = (
  'network',
  'head_norm',
  'loss',
  'augment',
  'dataset',
  'data_dir',
  'dtype',
  'seed',
  'holdout',
  'mesh_data',
  'batch_size',
  'chunk',
  'checkpoint_every',
)


def base_config(config: ConfigDict) -> ConfigDict:
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


def is_from_scratch(config: ConfigDict | dict[str, Any]) -> bool:
  """Whether a run begins with random weights.

  Args:
    config: The whole configuration, also one that was read from a log.
  """
  no_base = config['quantizer'] == 'none' or config['pretrain_epochs'] == 0
  return bool(no_base and not config['pretrained'])


def rules(config: ConfigDict, steps_per_epoch: int) -> selection.Rules:
  """The `Quantizer`, or the rules, that `config` names."""
  if config.quantizer == 'none':
    return [('.*', None)]
  one = methods.make(config, steps_per_epoch).quantizer
  if not config.float_layers:
    return one
  return [(config.float_layers, None), ('.*/kernel', one)]


def estimator(
  config: ConfigDict, steps_per_epoch: int
) -> mq_jax.GradientEstimator:
  """The `GradientEstimator` that `config` names."""
  made = _estimator(config, steps_per_epoch)
  made = mq_jax.per_layer(made) if config.per_layer else made
  return mq_jax.slim(made) if config.slim else made


def _estimator(
  config: ConfigDict, steps_per_epoch: int
) -> mq_jax.GradientEstimator:
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
  if config.estimator == 'kernel_wise':
    return mq_jax.kernel_wise(hidden=config.hidden, init=config.init)
  if config.estimator == 'feature_fc':
    return mq_jax.feature_fc(
      tuple(config.features.split()),
      config.hidden,
      steps=config.progress_epochs * steps_per_epoch,
      threshold=0.5 if config.quantizer == 'dorefa' else 0.0,
    )
  make = {'fc_grad': mq_jax.fc_grad, 'multi_fc': mq_jax.multi_fc}
  return make[config.estimator](
    hidden=config.hidden,
    layers=config.layers,
    activation=config.estimator_activation,
    init=config.init,
  )


def refine(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """π: what the method does to gradients, then the optimizer."""
  optimizer = optimizers.refine(config)
  if config.quantizer == 'none':
    return optimizer
  method = methods.make(config, steps_per_epoch)
  if method.refine is None:
    return optimizer
  return optax.chain(method.refine(rules(config, steps_per_epoch)), optimizer)


def post_update(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """What is done to the weights' move last."""
  if config.quantizer == 'none':
    return optax.identity()
  own = rules(config, steps_per_epoch)
  method = methods.make(config, steps_per_epoch)
  if method.post_update is not None:
    return method.post_update(own)
  if not config.reapply:
    return optax.identity()

  def quantized(params: Any) -> Any:
    chosen = selection.select(params, own)
    paths = selection.named_leaves(params)
    return jax.tree.unflatten(
      jax.tree.structure(params), [path in chosen for path in paths]
    )

  return optax.masked(_one_move_ahead(), quantized)


def _one_move_ahead() -> optax.GradientTransformation:
  """Keeps V = W + move in the weights' place, so that the loss is taken there.

  That is the order of the released code, whose forward pass applies the last
  move a second time: V' − V = 2 · move' − move.
  """

  def update(moves: Any, last: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree.map(lambda new, old: 2 * new - old, moves, last), moves

  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), update
  )


def make_train_step(
  config: ConfigDict, loss_fn: Any, steps_per_epoch: int
) -> mq_jax.TrainStep:
  """The train step of `config`; its schedules count `steps_per_epoch`."""
  return mq_jax.make_train_step(
    loss_fn,
    quantizer=rules(config, steps_per_epoch),
    estimator=estimator(config, steps_per_epoch),
    refine=refine(config, steps_per_epoch),
    learning_rate=optimizers.learning_rate(config, steps_per_epoch),
    post_update=post_update(config, steps_per_epoch),
    meta_optimizer=optimizers.meta_optimizer(config, steps_per_epoch),
    differentiate_refinement=config.differentiate_refinement,
    phi_cotangent=config.phi_cotangent,
  )


def network(config: ConfigDict, num_classes: int) -> Any:
  """The Linen module that `config` names."""
  return getattr(models, config.network)(
    num_classes=num_classes,
    dtype=DTYPES[config.dtype],
    activation=ACTIVATIONS[config.activation_quantizer](config.activation_bits),
    head_norm=config.head_norm,
  )
