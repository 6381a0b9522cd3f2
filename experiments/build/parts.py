"""The parts of one run, each made once from the configuration."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build import methods, optimizers, options
from experiments.build.estimators import (
  ESTIMATORS,
  EstimatorContext,
  make_estimator,
)
from experiments.build.networks import NETWORKS
from experiments.build.schedules import is_cosine
from mq_jax import selection


class RunParts(NamedTuple):
  """The parts of a run.

  Attributes:
    rules: Quantizer of each leaf.
    step_arguments: Arguments of `mq_jax.make_train_step` by name, without the
      loss.
    relative_rate: α as a multiple of `config.learning_rate`, a function of the
      number of updates so far.
    relaxed: The loss gets other weights than the quantized ones.
    after_training: Choice of the quantizers' variables in a run that trains
      nothing; None if the method makes no such choice.
  """

  rules: selection.Rules
  step_arguments: dict[str, Any]
  relative_rate: Callable[[Any], Any]
  relaxed: bool
  after_training: methods.AfterTraining | None


def make_parts(config: ConfigDict, steps_per_epoch: int) -> RunParts:
  """Makes all parts that `config` names.

  Args:
    config: A configuration with values that `check` allows.
    steps_per_epoch: Number of updates per epoch, which schedules count.

  Raises:
    ConfigError: If an option of the method or of the estimator is unknown or
      out of range.
    ValueError: If a value is out of range, or two parts do not fit together.
  """
  refine = optimizers.make_refine(config)
  rate_from = functools.partial(
    optimizers.make_learning_rate,
    config,
    steps_per_epoch,
    cosine=is_cosine(config),
  )
  learning_rate = rate_from(config.learning_rate)
  context = methods.MethodContext(
    steps=max(1, config.epochs * steps_per_epoch),
    steps_per_epoch=steps_per_epoch,
    weight_optimizer=optax.chain(
      refine, optax.scale_by_learning_rate(learning_rate)
    ),
  )
  for field in options.OPTIONS:
    options.check_options(field, config)
  method = methods.make_method(
    config, options.complete('method', config), context
  )
  relaxed = bool(method.quantizer and method.quantizer.relaxed)
  if relaxed and ESTIMATORS[config.estimator].learned:
    raise ValueError(
      f'config.estimator={config.estimator!r} has nothing to estimate:'
      ' gradients pass no quantizer with config.quantizer='
      f"{config.quantizer!r}. Set config.estimator='ste'."
    )
  rules: selection.Rules = [('.*', None)]
  if method.quantizer is not None:
    rules = _rules(config, method.quantizer)
  if method.refine is not None:
    refine = optax.chain(method.refine(rules), refine)
  step_arguments = {
    'quantizer': rules,
    'estimator': make_estimator(
      config,
      options.complete('rule', config),
      EstimatorContext(context.steps, steps_per_epoch, method.threshold),
    ),
    'refine': refine,
    'learning_rate': learning_rate,
    'post_update': _post_update(config, method, rules),
    'meta_optimizer': optimizers.make_meta_optimizer(config, steps_per_epoch),
    'differentiate_refinement': config.differentiate_refinement,
    'phi_cotangent': config.phi_cotangent,
  }
  return RunParts(
    rules, step_arguments, rate_from(1.0), relaxed, method.after_training
  )


def _rules(config: ConfigDict, quantizer: mq_jax.Quantizer) -> selection.Rules:
  """Returns the quantizer of each leaf.

  A stack of layers has separate scales for them, and `config.group_size` makes
  scales for groups of inputs.
  """
  network = NETWORKS[config.network]
  if not (config.float_layers or config.group_size or network.stacked):
    return quantizer

  def sliced(*axes: int) -> mq_jax.Quantizer:
    if config.group_size:
      return mq_jax.per(quantizer, (*axes, -1), group_size=config.group_size)
    return mq_jax.per(quantizer, axes) if axes else quantizer

  rules: list[tuple[str, mq_jax.Quantizer | None]] = []
  if config.float_layers:
    rules.append((config.float_layers, None))
  if not network.stacked:
    return [*rules, ('.*/kernel', sliced())]
  rules.append((network.stacked, sliced(0)))
  if config.quantize_ends:
    rules.append((network.ends, sliced()))
  return rules


def _post_update(
  config: ConfigDict, method: methods.MethodParts, rules: selection.Rules
) -> optax.GradientTransformation:
  """Makes the transformation of the updates of the weights.

  Raises:
    ValueError: If both the method and `config.reapply` change the updates.
  """
  if method.post_update is not None:
    if config.reapply:
      raise ValueError(
        f'config.reapply=True and config.quantizer={config.quantizer!r} both'
        ' change the updates of the weights: leave one of them out.'
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
  """Stores V = W + move instead of the weights W.

  The released code takes the loss there, because its forward pass applies the
  last move a second time: V' − V = 2 · move' − move.
  """

  def update(moves: Any, last: Any, params: Any = None) -> tuple[Any, Any]:
    del params
    return jax.tree.map(lambda new, old: 2 * new - old, moves, last), moves

  return optax.GradientTransformation(optax.tree.zeros_like, update)
