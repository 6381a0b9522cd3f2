"""What is chosen on training images after training: LAPQ's clips."""

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

import mq_jax
from experiments.build import losses, method_options, train_step
from experiments.common import parallel as trials
from experiments.data import batches, datasets
from experiments.training import evaluation


def with_clips(
  config: ConfigDict, dataset: datasets.Dataset, net: Any, state: mq_jax.State
) -> mq_jax.State:
  """The first state, with the clips that LAPQ finds where it is asked for.

  Args:
    config: A checked configuration.
    dataset: Whose first training images the loss is taken on.
    net: Linen module.
    state: With a leading axis of trials, which all have the same weights.

  Returns:
    The state with new variables; of other methods, as it came.
  """
  if config.quantizer != 'lapq':
    return state
  own, options = trials.pick(state, 0), method_options.options(config)
  number = min(options.images, len(dataset.train_labels))
  split = batches.to_device(
    dataset.train_images[:number], dataset.train_labels[:number]
  )
  pixels = evaluation.pixels_of(config, dataset)
  batch = batches.eval_batch(split, 0, number, **pixels)
  evaluate = losses.make_evaluation(net, losses.LOSSES[config.loss])

  def loss(params: Any) -> Any:
    return evaluate(params, own.model_state, batch)[0] / number

  found = mq_jax.methods.lapq(
    loss, own.params, train_step.rules(config, 1), sweeps=options.sweeps
  )
  variables = {
    path: jnp.broadcast_to(clip, (config.trials, *jnp.shape(clip)))
    for path, clip in found.variables.items()
  }
  return state._replace(variables=variables)
