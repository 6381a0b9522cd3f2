"""Losses of a network: the mean in training, and sums in a test."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mq_jax.precision import widened

Array = jax.Array


def cross_entropy(logits: Array, labels: Array) -> Array:
  """Returns the cross entropy of each example."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def squared_hinge(logits: Array, labels: Array) -> Array:
  """Returns the squared hinge loss of each example, mean over classes.

  It is the loss of an L2 support vector machine that separates each class from
  the others.
  """
  signs = 2 * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype) - 1
  return jnp.mean(jnp.maximum(0, 1 - signs * logits) ** 2, axis=-1)


Losses = Callable[[Array, Array], Array]
LOSSES: dict[str, Losses] = {
  'cross_entropy': cross_entropy,
  'squared_hinge': squared_hinge,
}
# Networks with at least this many classes are also judged by their five largest
# logits, as the papers do for ImageNet.
TOP5_CLASSES = 100


class Distillation(NamedTuple):
  """A loss that also compares with the logits of a teacher.

  Attributes:
    share: Share of the comparison in the loss, from 0 to 1.
    temperature: T, by which both logits are divided.
  """

  share: float
  temperature: float


# Logits of the teacher in a batch.
TEACHER_LOGITS = 'teacher_logits'


def soft_label_loss(
  logits: Array, teacher_logits: Array, temperature: float
) -> Array:
  """Returns T² KL(softmax(z_teacher/T) || softmax(z/T)) of each example.

  The factor T² keeps the size of the gradient for all temperatures.

  References:
    Hinton, Vinyals, Dean, `Distilling the Knowledge in a Neural Network
    <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.1
  """
  divergence = optax.losses.kl_divergence_with_log_targets(
    jax.nn.log_softmax(logits / temperature),
    jax.nn.log_softmax(teacher_logits / temperature),
  )
  return temperature**2 * divergence


def make_loss(
  net: Any,
  losses: Losses = cross_entropy,
  distillation: Distillation | None = None,
) -> Callable[..., Any]:
  """Makes the mean loss of a network with batch statistics.

  Args:
    net: Linen module: `(inputs, train) -> logits`.
    losses: `(logits, labels) -> loss of each example`.
    distillation: Comparison with `batch['teacher_logits']`; None: no
      comparison.

  Returns:
    `loss_fn(params, batch_stats, batch, rng)` as `mq_jax.make_train_step`
    takes it; its metrics have `accuracy`, 0 to 1.
  """

  def loss_fn(
    params: Any, batch_stats: Any, batch: dict[str, Array], rng: Array
  ) -> tuple[Array, tuple[Any, dict[str, Array]]]:
    del rng  # No layer of these networks is random.
    logits, new = net.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['input'],
      train=True,
      mutable=['batch_stats'],
    )
    loss_per_example, correct = _scores(losses, logits, batch['label'])
    if distillation:
      share, temperature = distillation
      soft = soft_label_loss(
        widened(logits), widened(batch[TEACHER_LOGITS]), temperature
      )
      loss_per_example = (1 - share) * loss_per_example + share * _per_example(
        soft
      )
    return loss_per_example.mean(), (
      new['batch_stats'],
      {'accuracy': correct.mean()},
    )

  return loss_fn


def make_evaluation(
  net: Any, losses: Losses = cross_entropy
) -> Callable[..., dict[str, Array]]:
  """Makes the sums of losses and of correct answers over one batch.

  Args:
    net: Linen module: `(inputs, train) -> logits`.
    losses: `(logits, labels) -> loss of each example`.

  Returns:
    `(params, batch_stats, batch) -> sums`, where `batch['mask']` is 0 on
    examples that do not count. The sums are `loss`, the number `accuracy` of
    correct answers, and, for `TOP5_CLASSES` or more classes, the number
    `top5_accuracy` of labels among the five largest logits.
  """

  def evaluate(
    params: Any, batch_stats: Any, batch: dict[str, Array]
  ) -> dict[str, Array]:
    logits = net.apply(
      {'params': params, 'batch_stats': batch_stats},
      batch['input'],
      train=False,
    )
    loss_per_example, correct = _scores(losses, logits, batch['label'])
    scores = {'loss': loss_per_example, 'accuracy': correct}
    if logits.ndim == 2 and logits.shape[-1] >= TOP5_CLASSES:
      _, largest = jax.lax.top_k(logits, 5)
      is_among = jnp.any(largest == batch['label'][:, None], axis=-1)
      scores['top5_accuracy'] = is_among.astype(jnp.float32)
    return {name: jnp.sum(s * batch['mask']) for name, s in scores.items()}

  return evaluate


def _scores(
  losses: Losses, logits: Array, labels: Array
) -> tuple[Array, Array]:
  logits = widened(logits)
  correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
  return _per_example(losses(logits, labels)), _per_example(correct)


def _per_example(values: Array) -> Array:
  """Returns the mean of each example, which may have a value per token."""
  return jnp.mean(values.reshape(len(values), -1), axis=1)
