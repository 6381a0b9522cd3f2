"""Tests the batches of a text."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.common import parallel
from experiments.common.errors import ConfigError, MissingError
from experiments.data import text
from tests.experiments.training.test_steps import assert_close

# Each byte is its place in the text, so that a batch shows where it comes from.
BYTES = np.arange(200, dtype=np.uint8)


def pipeline_of(content=BYTES, devices=1, **values):
  keys = ConfigDict(
    {'data': '', 'context': 6, 'batch_size': 4, 'epoch_steps': 0} | values
  )
  return text.text_pipeline(content, keys, parallel.data_mesh(devices))


def test_training_examples_are_anywhere_in_the_first_part():
  pipeline = pipeline_of()
  assert pipeline.steps_per_epoch == 180 // 24
  starts = set()
  for number in range(200):
    batch = pipeline.train(0, number)
    assert (batch['input'].shape, batch['input'].dtype) == ((4, 6), np.int32)
    inputs, labels = map(np.asarray, (batch['input'], batch['label']))
    np.testing.assert_array_equal(labels, inputs + 1)
    np.testing.assert_array_equal(np.diff(inputs), 1)
    starts |= {*inputs[:, 0].tolist()}
  # The last example ends with the last byte for training, 179.
  assert (min(starts), max(starts)) == (0, 173)


def test_batch_depends_on_seed_and_number_alone():
  pipeline, other = pipeline_of(), pipeline_of(epoch_steps=2)
  assert other.steps_per_epoch == 2
  first = pipeline.train(3, 20)
  pipeline.train(3, 1)
  np.testing.assert_array_equal(other.train(3, 20)['input'], first['input'])
  for seed, number in ((4, 20), (3, 21)):
    assert (pipeline.train(seed, number)['input'] != first['input']).any()


def test_test_examples_cover_the_last_part_once():
  examples = pipeline_of().evaluate
  assert examples.size == 3  # 19 labels, of which one example of 6 is left out
  batches = [examples.batch(index, 2) for index in range(2)]
  mask = np.concatenate([b['mask'] for b in batches])
  np.testing.assert_array_equal(mask, [1, 1, 1, 0])
  inputs = np.concatenate([b['input'] for b in batches])[mask == 1]
  np.testing.assert_array_equal(inputs.ravel(), np.arange(180, 198))
  labels = np.concatenate([b['label'] for b in batches])[mask == 1]
  np.testing.assert_array_equal(labels.ravel(), np.arange(181, 199))


def test_batch_of_two_devices_equals_that_of_one():
  batch = pipeline_of(devices=2).train(0, 5)
  assert len(batch['input'].sharding.device_set) == 2
  assert_close(batch, pipeline_of().train(0, 5))


def test_read_text_without_file_is_the_documentation():
  content = text.read_text('').tobytes().decode('utf-8')
  assert content.startswith('# mq_jax')
  assert '# Methods of other papers' in content


def test_read_text_returns_all_bytes(tmp_path):
  (tmp_path / 'a.txt').write_bytes(bytes(range(256)))
  content = text.read_text(str(tmp_path / 'a.txt'))
  np.testing.assert_array_equal(content, np.arange(256))
  with pytest.raises(MissingError, match=r'b\.txt.* does not exist'):
    text.read_text(str(tmp_path / 'b.txt'))


@pytest.mark.parametrize(
  ('values', 'devices', 'message'),
  [
    ({'batch_size': 31}, 1, r"data='' has 200 bytes, too few for .*size=31"),
    ({'context': 20, 'batch_size': 1}, 1, 'and the rest one example'),
    ({'batch_size': 3}, 2, 'batch_size=3 must be a multiple of 2'),
  ],
)
def test_sizes_that_do_not_fit_raise(values, devices, message):
  with pytest.raises(ConfigError, match=message):
    pipeline_of(devices=devices, **values)


def test_batch_inside_jit_equals_that_outside():
  pipeline = pipeline_of()
  traced = pipeline.traced
  batch = jax.jit(traced.batch)(traced.shared, traced.context(1, 0), 4)
  assert_close(batch, pipeline.train(1, 4))
