"""Tests the memory of a state, known before it is allocated."""

import jax
import pytest

from experiments.common import placement
from experiments.training import state_memory
from tests.experiments import tiny
from tests.experiments.training.test_steps import tiny_steps

PARTS = {
  'weights': ('params', 'model_state', 'variables'),
  'gradients': ('grads',),
  'optimizer': ('refine_state', 'post_update_state'),
  'estimator': ('phi', 'meta_opt_state', 'estimator_state'),
}
LSTM = {'estimator': 'lstm_fc', 'hidden': 50, 'optimizer': 'adam', 'trials': 2}


@pytest.mark.parametrize('divided_over', [1, 2])
def test_bytes_per_device_are_those_of_the_arrays(monkeypatch, divided_over):
  monkeypatch.setattr(placement, 'DIVIDED_FROM', 32)
  steps = tiny_steps(
    tiny.config(
      **LSTM, batch_size=4, mesh_data=divided_over, fsdp=divided_over > 1
    )
  )
  found = state_memory.bytes_per_device(steps.state_shape(), divided_over)
  state = steps.start()
  for part, fields in PARTS.items():
    leaves = jax.tree.leaves([getattr(state, field) for field in fields])
    expected = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert found[part] == expected, part
  assert found['estimator'] > 10 * found['weights']


def test_describe_state_larger_than_the_device_raises():
  state = tiny_steps(tiny.config(**LSTM, batch_size=4)).state_shape()
  whole = sum(state_memory.bytes_per_device(state, 1).values())
  line = state_memory.describe_state(state, divided_over=1, available=whole)
  assert line.startswith(f'state: {whole / 1000:.1f} kB (estimator ')
  remedy = r'memory_dtype=bfloat16.*config\.hidden'
  with pytest.raises(ValueError, match=remedy):
    state_memory.describe_state(state, divided_over=1, available=whole - 1)
  per_device = state_memory.describe_state(
    state, divided_over=2, available=None
  )
  assert ' per device (estimator ' in per_device
