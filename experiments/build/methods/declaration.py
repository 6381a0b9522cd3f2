"""The declaration of a method, and the parts of a method in one run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax
from ml_collections import ConfigDict

import mq_jax
from experiments.build.key import Key
from experiments.common.errors import ConfigError
from mq_jax import selection

Rules = selection.Rules
Transformation = Callable[[Rules], optax.GradientTransformation]
# Every method that quantizes weights reads these keys.
QUANTIZED = ('float_layers', 'reapply')


class Run(NamedTuple):
  """The facts of a run that methods depend on.

  Attributes:
    steps: Number of updates of the whole run, at least 1.
    steps_per_epoch: Number of updates per epoch.
    weight_optimizer: Makes the optimizer of the weights, learning rate
      included, for trained scales.
  """

  steps: int
  steps_per_epoch: int
  weight_optimizer: Callable[[], optax.GradientTransformation]


class AfterTraining(NamedTuple):
  """The choice of a quantizer's variables on training images.

  Attributes:
    images: Number of training images that the loss is taken on.
    choose: `(loss, params, rules) -> variables`, where `loss` maps parameters
      to the mean loss of these images and `variables` maps each path to the
      variables of its quantizer.
  """

  images: int
  choose: Callable[[Callable[[Any], Any], Any, Rules], dict[str, Any]]


class Parts(NamedTuple):
  """The parts of one method in one run.

  Attributes:
    quantizer: Quantizer of the quantized leaves; None where no leaf is.
    refine: Maps rules to the transformation that comes first in π.
    post_update: Maps rules to the transformation of the weights' move.
    threshold: W̃ at the border of the two levels; None with more levels.
    after_training: Choice of variables at the end, if the method has one.
  """

  quantizer: mq_jax.Quantizer | None
  refine: Transformation | None = None
  post_update: Transformation | None = None
  threshold: float | None = None
  after_training: AfterTraining | None = None


class Method(NamedTuple):
  """The declaration of a method.

  Attributes:
    make: `(keys, options, run) -> Parts`. `keys` has the keys in `reads`, and
      `options` all options of `config.method`.
    reads: Configuration keys that a run of this method depends on.
    options: Keys of `config.method`.
    for_trained: The method quantizes trained networks and trains nothing.
    cosine: The learning rate follows a cosine to 0 instead of the steps that
      the configuration gives.
  """

  make: Callable[[ConfigDict, ConfigDict, Run], Parts]
  reads: tuple[str, ...] = QUANTIZED
  options: Mapping[str, Key] = {}
  for_trained: bool = False
  cosine: bool = False


def numbers(options: ConfigDict, name: str) -> list[float]:
  """Returns the numbers in an option, which are separated by blanks.

  Raises:
    ConfigError: If a part of the text is not a number.
  """
  try:
    return [float(number) for number in options[name].split()]
  except ValueError as error:
    raise ConfigError(
      f'config.method.{name}={options[name]!r} must be numbers separated by'
      ' blanks.'
    ) from error
