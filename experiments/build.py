"""From a configuration to a network, its loss and its train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.configs import resnet20
from mq_jax import models, selection

Array = jax.Array
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# π without learning rate and weight decay, and whether the latter is decoupled.
OPTIMIZERS: dict[str, tuple[Callable[[ConfigDict], Any], bool]] = {
  'sgd': (lambda config: optax.identity(), False),
  'momentum': (lambda config: optax.trace(0.9), False),
  'adam': (lambda config: optax.scale_by_adam(eps_root=config.eps_root), False),
  'adamw': (lambda config: optax.scale_by_adam(eps_root=config.eps_root), True),
  'rmsprop': (lambda config: optax.scale_by_rms(), False),
  'lion': (lambda config: optax.scale_by_lion(), True),
}
BASE_KEYS = (
  'network',
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
  if config.quantizer == 'none':
    return [('.*', None)]
  clip = config.clip or None
  if config.quantizer == 'dorefa':
    one = mq_jax.dorefa(bits=config.bits, clip=clip)
  else:
    one = mq_jax.bwn(
      per_channel=config.per_channel,
      clip=clip,
      scaled_gradient=config.scaled_gradient,
    )
  if not config.full_precision:
    return one
  return [(config.full_precision, None), ('.*/kernel', one)]


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
    activation=config.activation,
    init=config.init,
  )


def refine(config: ConfigDict) -> optax.GradientTransformation:
  """π: the optimizer that `config` names, without a learning rate."""
  make, decoupled = OPTIMIZERS[config.optimizer]
  optimizer = make(config)
  if not config.weight_decay:
    return optimizer
  decay = optax.add_decayed_weights(config.weight_decay)
  parts = (optimizer, decay) if decoupled else (decay, optimizer)
  return optax.chain(*parts)


def meta_optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
  """What trains φ, with its learning rate γ.

  Between its turns, and once it has stopped, φ stands still.
  """
  gamma = schedule(
    config, config.meta_learning_rate, config.meta_decay_every, steps_per_epoch
  )
  last = config.meta_stop * steps_per_epoch or jnp.inf

  def rate(step: Array) -> Array:
    has_turn = (step % config.meta_every == 0) & (step < last)
    return jnp.where(has_turn, gamma(step), 0.0)

  make = {'adam': optax.adam, 'sgd': optax.sgd}[config.meta_optimizer]
  return make(rate)


def finish(config: ConfigDict) -> optax.GradientTransformation:
  """What is done to the weights' move last."""
  if not config.reapply:
    return optax.identity()

  def quantized(params: Any) -> Any:
    chosen = selection.select(params, quantizer(config))
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


def schedule(
  config: ConfigDict, initial: float, decay_every: int, steps_per_epoch: int
) -> Callable[[Any], Any]:
  """A learning rate as a function of the number of updates so far."""
  if config.quantizer == 'none':
    return optax.cosine_decay_schedule(initial, config.epochs * steps_per_epoch)
  if not decay_every:
    return optax.constant_schedule(initial)
  return optax.exponential_decay(
    initial, decay_every * steps_per_epoch, 0.1, staircase=True
  )


def make_train_step(
  config: ConfigDict, loss_fn: Any, steps_per_epoch: int
) -> mq_jax.TrainStep:
  """The train step of `config`; its schedules count `steps_per_epoch`."""
  return mq_jax.make_train_step(
    loss_fn,
    quantizer=quantizer(config),
    estimator=estimator(config, steps_per_epoch),
    refine=refine(config),
    learning_rate=schedule(
      config, config.learning_rate, config.decay_every, steps_per_epoch
    ),
    finish=finish(config),
    meta_optimizer=meta_optimizer(config, steps_per_epoch),
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
