"""The network that a run starts from, as the teacher of its loss."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.build import losses
from experiments.build.base_model import base_config
from experiments.build.networks import make_network
from experiments.data.pipeline import Batch


class Teacher(NamedTuple):
  """The teacher of a run, which does nothing unless `config.distill` is set.

  Attributes:
    variables: Parameters and batch statistics; empty without a teacher.
    add_logits: `(variables, batch) -> batch` with the logits of the teacher.
    distillation: Argument of `losses.make_loss`.
  """

  variables: dict[str, Any]
  add_logits: Callable[[dict[str, Any], Batch], Batch]
  distillation: losses.Distillation | None


def make_teacher(
  config: ConfigDict, num_classes: int, params: Any, batch_stats: Any
) -> Teacher:
  """Makes the teacher of a run: the full-precision network at its start.

  Args:
    config: A checked configuration.
    num_classes: Number of classes.
    params: Weights that the run starts from.
    batch_stats: Batch statistics that the run starts from.
  """
  if not config.distill:
    return Teacher({}, lambda variables, batch: batch, None)
  net = make_network(base_config(config), num_classes)

  def add_logits(variables: dict[str, Any], batch: Batch) -> Batch:
    logits = net.apply(variables, batch['input'], train=False)
    return batch | {losses.TEACHER_LOGITS: logits}

  return Teacher(
    {'params': params, 'batch_stats': batch_stats},
    jax.jit(add_logits),
    losses.Distillation(config.distill, config.distill_temperature),
  )
