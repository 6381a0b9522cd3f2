"""Test photographs without normalisation, decoded in threads."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ml_collections import ConfigDict

from experiments.data.photo_pipeline import (
  PIXELS,
  PhotoSet,
  split_photos,
  test_pixels,
)
from experiments.data.prefetch import cpu_count, map_bounded
from experiments.data.raw_examples import Inputs, RawExamples


def raw_photos(photos: PhotoSet, keys: ConfigDict) -> RawExamples:
  """Returns the test photographs, cropped as `photo_pipeline` crops them.

  Only one batch at a time is in memory.

  Args:
    photos: Data set before photographs are held out.
    keys: Configuration with at least the keys that `photo_pipeline` reads.

  Raises:
    ConfigError: If there are no photographs to test on.
  """
  _, test = split_photos(photos, keys.holdout)
  size, workers = len(test.labels), keys.workers or cpu_count()

  def batches_of(batch_size: int) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(workers, 'decode') as pool:
      decoded = map_bounded(
        pool, lambda i: test_pixels(test, keys, i), range(size), 4 * workers
      )
      while batch := list(itertools.islice(decoded, batch_size)):
        yield np.stack(batch)

  side = keys.image_size
  inputs = Inputs(
    (side, side, 3), *PIXELS[keys.pixels], photos.classes, keys.resize
  )
  return RawExamples(inputs, test.labels, batches_of)
