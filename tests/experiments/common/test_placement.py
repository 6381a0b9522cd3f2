"""Tests where the arrays of a state are placed on two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.common import parallel, placement

STATE = {
  'kernel': np.arange(2 * 3 * 8 * 64, dtype=np.float32).reshape(2, 3, 8, 64),
  'bias': np.ones((2, 64), np.float32),
  'key': jax.random.split(jax.random.key(0), 2),
  'step': np.zeros(2, np.int32),
  'empty': {},
}


def make(fsdp):
  return placement.make_placement(parallel.data_mesh(2), fsdp=fsdp)


@pytest.mark.parametrize(
  ('shape', 'spec'),
  [
    ((3, 3, 64, 128), (None, None, None, 'data')),
    # Blocks, weights of a block, hidden units: the blocks stay whole.
    ((5318, 4096, 100), (None, 'data')),
    ((32, 32), ('data',)),
    ((341, 3), ()),
    ((1023, 2), (None, 'data')),
    ((1024,), ('data',)),
    ((1022,), ()),
    ((0, 4096), ()),
    ((), ()),
  ],
)
def test_spec_of_divides_the_longer_of_the_last_two_axes(shape, spec):
  assert placement.spec_of(shape, 2) == PartitionSpec(*spec)


@pytest.mark.parametrize('fsdp', [False, True])
def test_put_places_arrays_as_shapes_says_and_keeps_their_values(fsdp):
  placed = make(fsdp).put(STATE)
  shapes = make(fsdp).shapes(STATE)
  for name in ('kernel', 'bias', 'key', 'step'):
    leaf = placed[name]
    assert leaf.sharding.is_equivalent_to(shapes[name].sharding, leaf.ndim)
    assert len(leaf.sharding.device_set) == 2
  np.testing.assert_array_equal(placed['kernel'], STATE['kernel'])
  part = placed['kernel'].addressable_shards[0].data.shape
  assert part == ((2, 3, 8, 32) if fsdp else (2, 3, 8, 64))
  assert placed['bias'].is_fully_replicated


def test_put_of_placed_state_copies_nothing():
  placed = make(True).put(STATE)
  again = make(True).put(placed)
  for name in ('kernel', 'bias', 'key', 'step'):
    assert again[name] is placed[name]


@pytest.mark.parametrize('trial_axes', [0, 1])
def test_keep_divides_inside_jit(trial_axes):
  whole = jnp.asarray(STATE['kernel'] if trial_axes else STATE['kernel'][0])
  keep = make(True).keep
  kept = jax.jit(lambda x: keep(x + 1, trial_axes=trial_axes))(whole)
  part = kept.addressable_shards[0].data.shape
  assert part == (*whole.shape[:-1], 32)
  np.testing.assert_array_equal(kept, whole + 1)
