"""Tests the memory of a state, known before it is allocated."""

import pathlib
import re
import sys

import jax
import pytest

import mq_jax
from experiments.common import placement
from experiments.common.errors import InvalidError
from experiments.training import state_memory, train, train_and_evaluate
from experiments.training.position import with_codes
from experiments.training.progress import hidden_bar
from tests.experiments import tiny
from tests.experiments.training.test_steps import tiny_steps

pytestmark = pytest.mark.usefixtures('compilation_cache')
LSTM = {
  'estimator': 'lstm_fc',
  'hidden': 50,
  'optimizer': 'adam',
  'trials': 2,
  'batch_size': 4,
}


def shapes_of(steps):
  return steps.placement.shapes(
    jax.eval_shape(lambda state: with_codes(steps, state), steps.state_shape())
  )


@pytest.mark.parametrize('devices', [1, 2])
def test_bytes_per_device_are_those_of_the_arrays(monkeypatch, devices):
  monkeypatch.setattr(placement, 'MIN_DIVIDED_SIZE', 32)
  steps = tiny_steps(tiny.config(**LSTM, mesh_data=devices, fsdp=devices > 1))
  found = state_memory.bytes_per_device(shapes_of(steps))
  state = steps.start()
  for part, fields in state_memory.PARTS.items():
    leaves = jax.tree.leaves([getattr(state, field) for field in fields])
    expected = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert found[part] == expected, part
  assert found['estimator'] > 10 * found['weights']


def test_parts_name_all_large_fields():
  named = {name for names in state_memory.PARTS.values() for name in names}
  assert named | {'key', 'step', 'trained_by'} == set(mq_jax.State._fields)


def test_describe_state_larger_than_the_device_raises():
  config = tiny.config(**LSTM)
  shapes = shapes_of(tiny_steps(config))
  whole = sum(state_memory.bytes_per_device(shapes).values())
  line = state_memory.describe_state(config, shapes, whole)
  assert line.startswith(f'state: {whole / 1000:.1f} kB (estimator ')
  with pytest.raises(InvalidError) as error:
    state_memory.describe_state(config, shapes, whole - 1)
  for remedy in (
    'trials',
    'fsdp',
    'memory_dtype=bfloat16',
    'hidden',
    'grid_points=32',
  ):
    assert f'config.{remedy}' in str(error.value)
  config.update(trials=1, fsdp=True, memory_dtype='bfloat16')
  with pytest.raises(InvalidError, match=r'Try config\.grid_points=32 with'):
    state_memory.describe_state(config, shapes, whole - 1)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_available_memory_of_cpu_is_that_of_the_host():
  text = pathlib.Path('/proc/meminfo').read_text(encoding='ascii')
  kilobytes = int(re.search(r'MemTotal: +(\d+) kB', text)[1])
  assert state_memory.available_memory() == 1024 * kilobytes


def test_run_larger_than_the_device_raises_before_its_first_step(
  tmp_path, monkeypatch
):
  tiny.put_in(monkeypatch)
  base = tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10))
  monkeypatch.setattr(train, 'available_memory', lambda: 1000)
  with pytest.raises(InvalidError, match=r'may use 1\.0 kB there'):
    train_and_evaluate(
      tiny.config(pretrained=base), tmp_path / 'run', show=hidden_bar
    )
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
