"""Text as bytes: training examples at random places, a test in order."""

import functools
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.common import parallel
from experiments.common.errors import ConfigError, MissingError
from experiments.data.on_device import check_split, from_traced, test_batch
from experiments.data.pipeline import Batch, Examples, Pipeline, TracedBatches
from experiments.data.raw_examples import RawExamples, Tokens

Array = jax.Array
# The configuration keys that `text_pipeline` depends on.
READS = ('data', 'context', 'batch_size', 'epoch_steps')
VOCABULARY = 256
TEST_SHARE = 0.1
# Tokens that a test computes at a time.
TEST_TOKENS = 2**16
_ROOT = pathlib.Path(__file__).parents[2]


def read_text(path: str) -> np.ndarray:
  """Returns the bytes of a text, uint8.

  Args:
    path: File; empty for the documentation of this project.

  Raises:
    MissingError: If the file is missing.
  """
  if not path:
    pages = [_ROOT / 'README.md', *sorted((_ROOT / 'docs').glob('*.md'))]
    return np.concatenate([_bytes_of(page) for page in pages])
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise MissingError(
      f'config.data={path!r} does not exist or is not a file: set config.data'
      ' to a text file, or leave it empty for the documentation of mq_jax. A'
      ' finished run needs its text at the same place.'
    )
  return _bytes_of(file)


def _bytes_of(path: pathlib.Path) -> np.ndarray:
  return np.frombuffer(path.read_bytes(), np.uint8)


def text_digest(text: np.ndarray) -> str:
  """Returns the SHA-256 of a text, uint8."""
  return hashlib.sha256(text.data).hexdigest()


def divide(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the beginning of a text for training, and its end for the test."""
  place = len(text) - int(TEST_SHARE * len(text))
  return text[:place], text[place:]


def _count(test_text: Any, context: int) -> int:
  """Returns the number of examples of a test; each has a byte after it."""
  return (len(test_text) - 1) // context


def raw_text(text: np.ndarray, keys: ConfigDict) -> RawExamples:
  """Returns the examples of the test of `text_pipeline`.

  Args:
    text: uint8 of shape (bytes,).
    keys: Configuration with at least the keys in `READS`.

  Raises:
    ConfigError: If the text is too short for one example of the test.
  """
  _, test_text = divide(text)
  count = _count(test_text, keys.context)
  if count < 1:
    raise ConfigError(
      f'config.data={keys.data!r} has {len(text):,} bytes, whose last'
      f' {TEST_SHARE:.0%} holds no example of config.context={keys.context}:'
      ' use the text of the run.'
    )
  tokens = test_text[: count * keys.context].reshape(count, keys.context)
  labels = test_text[1 : tokens.size + 1].reshape(tokens.shape)

  def batches_of(size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(tokens), size):
      yield tokens[start : start + size]

  inputs = Tokens((keys.context,), VOCABULARY)
  return RawExamples(inputs, labels.astype(np.int32), batches_of)


def text_pipeline(text: np.ndarray, keys: ConfigDict, mesh: Mesh) -> Pipeline:
  """Makes the pipeline of a text.

  A batch has 'input', int32 of shape (batch_size, context), and 'label', the
  byte after each input. An epoch has as many bytes as the training text.

  Args:
    text: uint8 of shape (bytes,).
    keys: Configuration with at least the keys in `READS`.
    mesh: Devices that each batch is split over.

  Raises:
    ConfigError: If the text is too short, or the devices cannot split a batch
      evenly.
  """
  check_split(keys.batch_size, mesh)
  train_text, test_text = divide(text)
  context = keys.context
  steps = len(train_text) // (keys.batch_size * context)
  if not steps or len(test_text) <= context:
    raise ConfigError(
      f'The text of config.data={keys.data!r} has {len(text):,} bytes, too few'
      f' for config.batch_size={keys.batch_size} and config.context={context}:'
      ' use a longer text, or smaller numbers. The first'
      f' {1 - TEST_SHARE:.0%} must hold one batch, and the rest one example.'
    )
  steps = min(steps, keys.epoch_steps or steps)

  def examples_at(text: Array, starts: Array) -> Batch:
    tokens = text[starts[:, None] + jnp.arange(context + 1)[None]].astype(
      jnp.int32
    )
    return {'input': tokens[:, :-1], 'label': tokens[:, 1:]}

  def train_batch(shared: Array, seed: Array, number: Array) -> Batch:
    key = jax.random.fold_in(jax.random.key(seed), number)
    last = len(train_text) - context
    starts = jax.random.randint(key, (keys.batch_size,), 0, last)
    return parallel.split_batch(examples_at(shared, starts), mesh)

  def in_order(on_devices: Array) -> Examples:
    size = _count(on_devices, context)

    @functools.partial(jax.jit, static_argnames='batch_size')
    def batch(text: Array, index: Array, batch_size: int) -> Batch:
      places = index * batch_size + jnp.arange(batch_size)
      mask = (places < size).astype(jnp.float32)
      starts = jnp.minimum(places, size - 1) * context
      made = examples_at(text, starts) | {'mask': mask}
      return test_batch(made, mesh)

    largest = 1 << max(0, (TEST_TOKENS // context).bit_length() - 1)
    return Examples(size, functools.partial(batch, on_devices), largest)

  shared = parallel.replicated(train_text, mesh)
  traced = TracedBatches(shared, _seed_alone, train_batch)
  return Pipeline(
    steps_per_epoch=steps,
    classes=tuple(f'byte {value}' for value in range(VOCABULARY)),
    train=from_traced(traced, steps, mesh),
    evaluate=in_order(parallel.replicated(test_text, mesh)),
    calibrate=in_order(shared),
    traced=traced,
    digest=text_digest(text),
  )


def _seed_alone(seed: Any, epoch: Any) -> Any:
  """Returns the context of a batch, which does not depend on the epoch."""
  del epoch
  return seed
