"""The parts of one run, each made once from the configuration."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build import methods, optimizers
from experiments.build.estimators import (
  ESTIMATORS,
  EstimatorContext,
  make_estimator,
)
from mq_jax import selection


class RunParts(NamedTuple):
  """The parts of a train step, and the choice of variables after training.

  Attributes:
    rules: Quantizer of each leaf.
    estimator: Rule that passes gradients backwards.
    refine: π, without a learning rate.
    learning_rate: α as a function of the number of updates so far.
    post_update: Transformation of the weights' move.
    meta_optimizer: Optimizer of φ.
    relaxed: The loss sees other weights than the quantized ones.
    after_training: Choice of the quantizers' variables, if there is one.
  """

  rules: selection.Rules
  estimator: mq_jax.GradientEstimator
  refine: optax.GradientTransformation
  learning_rate: Callable[[Any], Any]
  post_update: optax.GradientTransformation
  meta_optimizer: optax.GradientTransformation
  relaxed: bool
  after_training: methods.AfterTraining | None


def make_parts(config: ConfigDict, steps_per_epoch: int) -> RunParts:
  """Makes all parts that `config` names.

  Args:
    config: A configuration with values that `check` allows.
    steps_per_epoch: Number of updates per epoch, which schedules count.

  Raises:
    ConfigError: If an option of the method is unknown or out of range.
    ValueError: If a value is out of range, or two parts do not fit together.
  """
  learning_rate = optimizers.make_learning_rate(
    config, steps_per_epoch, cosine=methods.METHODS[config.quantizer].cosine
  )

  def weight_optimizer() -> optax.GradientTransformation:
    return optax.chain(
      optimizers.make_refine(config),
      optax.scale_by_learning_rate(learning_rate),
    )

  steps = max(1, config.epochs * steps_per_epoch)
  method = methods.make_method(
    config, methods.MethodContext(steps, steps_per_epoch, weight_optimizer)
  )
  relaxed = (
    method.quantizer is not None and method.quantizer.relaxed is not None
  )
  if relaxed and ESTIMATORS[config.estimator].learned:
    raise ValueError(
      f'config.estimator={config.estimator!r} has nothing to estimate:'
      ' gradients pass no quantizer with config.quantizer='
      f"{config.quantizer!r}. Set config.estimator='ste'."
    )
  rules = rules_of(config, method)
  refine = optimizers.make_refine(config)
  if method.refine is not None:
    refine = optax.chain(method.refine(rules), refine)
  return RunParts(
    rules=rules,
    estimator=make_estimator(
      config, EstimatorContext(steps_per_epoch, method.threshold)
    ),
    refine=refine,
    learning_rate=learning_rate,
    post_update=_post_update(config, method, rules),
    meta_optimizer=optimizers.make_meta_optimizer(config, steps_per_epoch),
    relaxed=relaxed,
    after_training=method.after_training,
  )


def rules_of(
  config: ConfigDict, method: methods.MethodParts
) -> selection.Rules:
  """Returns the quantizer of each leaf, with `config.float_layers` left out."""
  if method.quantizer is None:
    return [('.*', None)]
  if not config.float_layers:
    return method.quantizer
  return [(config.float_layers, None), ('.*/kernel', method.quantizer)]


def _post_update(
  config: ConfigDict, method: methods.MethodParts, rules: selection.Rules
) -> optax.GradientTransformation:
  """Makes the transformation of the weights' move.

  Raises:
    ValueError: If both the method and `config.reapply` change the move.
  """
  if method.post_update is not None:
    if config.reapply:
      raise ValueError(
        f'config.reapply=True and config.quantizer={config.quantizer!r} both'
        ' change the move of the weights: leave one of them out.'
      )
    return method.post_update(rules)
  if not config.reapply or method.quantizer is None:
    return optax.identity()

  def is_quantized(params: Any) -> Any:
    selected = selection.select(params, rules)
    paths = selection.named_leaves(params)
    return jax.tree.unflatten(
      jax.tree.structure(params), [path in selected for path in paths]
    )

  return optax.masked(_one_move_ahead(), is_quantized)


def _one_move_ahead() -> optax.GradientTransformation:
  """Keeps V = W + move in the place of the weights.

  The released code takes the loss there, because its forward pass applies the
  last move a second time: V' − V = 2 · move' − move.
  """

  def update(moves: Any, last: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree.map(lambda new, old: 2 * new - old, moves, last), moves

  return optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), update
  )


def make_train_step(
  config: ConfigDict, parts: RunParts, loss_fn: Any
) -> mq_jax.TrainStep:
  """Makes the train step of a run from its parts.

  Args:
    config: A checked configuration.
    parts: Parts of the run.
    loss_fn: Loss as `mq_jax.make_train_step` takes it.
  """
  return mq_jax.make_train_step(
    loss_fn,
    quantizer=parts.rules,
    estimator=parts.estimator,
    refine=parts.refine,
    learning_rate=parts.learning_rate,
    post_update=parts.post_update,
    meta_optimizer=parts.meta_optimizer,
    differentiate_refinement=config.differentiate_refinement,
    phi_cotangent=config.phi_cotangent,
  )
