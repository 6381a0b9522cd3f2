"""Tests batches that threads make row by row."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from experiments.common import parallel
from experiments.data import device_batch


def test_start_batch_decodes_only_rows_of_own_devices(monkeypatch):
  """Imitates a process that owns the second of two devices."""
  mesh = parallel.data_mesh(2)
  second = jax.devices()[1]
  decoded, made = [], {}

  class Sharding:
    def __init__(self, *unused):
      pass

    def addressable_devices_indices_map(self, shape):
      return {second: (slice(3, 6),)}

  def make(shape, sharding, part):
    made[shape] = part((slice(3, 6), *[slice(None)] * (len(shape) - 1)))
    return made[shape]

  monkeypatch.setattr(device_batch, 'NamedSharding', Sharding)
  monkeypatch.setattr(jax, 'make_array_from_callback', make)

  def pixels(row):
    decoded.append(row)
    return np.full((2, 2, 3), row, np.uint8)

  with ThreadPoolExecutor(2) as pool:
    batch = device_batch.start_batch(
      pool, mesh, 2, pixels, {'label': np.arange(6)}
    ).result()
  assert sorted(decoded) == [3, 4, 5]
  np.testing.assert_array_equal(batch['label'], [3, 4, 5])
  np.testing.assert_array_equal(batch['input'][:, 0, 0, 0], [3, 4, 5])
  assert set(made) == {(6,), (6, 2, 2, 3)}


def test_start_batch_has_the_error_of_a_row():
  def pixels(row):
    if row == 5:
      raise OSError('row 5')
    return np.full((2, 2, 3), row, np.uint8)

  columns = {'label': np.arange(8)}
  with ThreadPoolExecutor(2) as pool:
    failed = device_batch.start_batch(
      pool, parallel.data_mesh(1), 2, pixels, columns
    )
    with pytest.raises(OSError, match='row 5'):
      failed.result(10)
