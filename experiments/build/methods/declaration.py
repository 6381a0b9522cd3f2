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


class MethodContext(NamedTuple):
  """The properties of a run that its method depends on.

  Attributes:
    steps: Number of updates of the whole run, at least 1.
    steps_per_epoch: Number of updates per epoch.
    weight_optimizer: Optimizer of the weights, learning rate included, for
      trained scales.
  """

  steps: int
  steps_per_epoch: int
  weight_optimizer: optax.GradientTransformation


class AfterTraining(NamedTuple):
  """The choice of a quantizer's variables on training images.

  Attributes:
    images: Number of training images over which the loss is averaged.
    choose: `(loss, params, rules, batch) -> variables`, where `loss` maps
      parameters and these images, the batch, to the mean loss, and `variables`
      maps each path to the variables of its quantizer.
  """

  images: int
  choose: Callable[[Callable[..., Any], Any, Rules, Any], dict[str, Any]]


class MethodParts(NamedTuple):
  """The parts of one method in one run.

  Attributes:
    quantizer: Quantizer of the quantized leaves; None if no leaf is quantized.
    refine: Maps rules to the transformation that comes first in π.
    post_update: Maps rules to the transformation of the weight updates.
    threshold: W̃ at the border of the two levels; None if there are more.
    after_training: Choice of variables if the method is `for_trained`, or None.
  """

  quantizer: mq_jax.Quantizer | None
  refine: Transformation | None = None
  post_update: Transformation | None = None
  threshold: float | None = None
  after_training: AfterTraining | None = None


class Method(NamedTuple):
  """The declaration of a method.

  Attributes:
    make: `(keys, context) -> parts`. `keys` has the keys in `reads`, and all
      options of the method in `keys.method`.
    reads: Configuration keys that the method depends on.
    options: Keys of `config.method`.
    for_trained: The method quantizes trained networks and trains nothing.
    cosine: The learning rate follows a cosine to 0 instead of the steps that
      the configuration gives.
    spans_run: The method has a schedule over all `context.steps`. `make` reads
      them itself, and not in a function that it returns, so that a test can
      compare this declaration with it.
  """

  make: Callable[[ConfigDict, MethodContext], MethodParts]
  reads: tuple[str, ...] = ()
  options: Mapping[str, Key] = {}
  for_trained: bool = False
  cosine: bool = False
  spans_run: bool = False


def numbers(option: str, text: str) -> list[float]:
  """Returns the numbers in the text of an option, separated by spaces.

  Raises:
    ConfigError: If a part of the text is not a number.
  """
  try:
    return [float(number) for number in text.split()]
  except ValueError as error:
    raise ConfigError(
      f'config.method.{option}={text!r} must be numbers separated by spaces.'
    ) from error
