"""Test examples as files store them, for code that prepares them itself."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Floats3 = tuple[float, float, float]


class Inputs(NamedTuple):
  """The images that a network for a data set takes, and its classes.

  Attributes:
    shape: Height, width and channels of an image.
    mean: Mean of each channel, with pixels in [0, 1].
    std: Standard deviation of each channel, with pixels in [0, 1].
    classes: Name of each class, in the order of the labels.
    resize: Short side in pixels that a photograph is scaled to before its
      centre is cropped to `shape`; None if images are scaled to `shape` as a
      whole.
  """

  shape: tuple[int, int, int]
  mean: Floats3
  std: Floats3
  classes: tuple[str, ...]
  resize: int | None = None


class Tokens(NamedTuple):
  """The tokens that a language model takes.

  Attributes:
    shape: Number of tokens of an example.
    vocabulary: Number of different tokens, at most 256.
  """

  shape: tuple[int]
  vocabulary: int


class RawExamples(NamedTuple):
  """The test examples of a data set.

  Attributes:
    inputs: Form of the examples.
    labels: int32 of shape (N,): the class of each image; of shape (N, tokens):
      the token after each token.
    batches: `(size) -> iterator` of the examples in order, uint8 of shape
      (size, *inputs.shape). The last batch may be smaller.
  """

  inputs: Inputs | Tokens
  labels: np.ndarray
  batches: Callable[[int], Iterator[np.ndarray]]
