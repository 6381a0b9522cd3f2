"""Tests checkpoints: exact, checked against the template, safe from kill -9."""

import collections
import contextlib
import logging
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.records import checkpoints
from tests.experiments.tiny import assert_same

State = collections.namedtuple(
  'State', 'params opt_state memory nothing keys step'
)


def make_state(seed=0):
  key = jax.random.key(seed)
  params = {
    'conv': {'kernel': jax.random.normal(key, (3, 3, 2, 4))},
    'bias': jax.random.normal(key, (4,), jnp.bfloat16),
  }
  # A comparison by value would miss these: two NaNs of different
  # payload, a negative zero, and the smallest subnormal number.
  bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32)
  return State(
    params,
    optax.adamw(1e-3).init(params),
    {'h': jnp.asarray(bits.view(np.float32)), 'mask': jnp.array([True, False])},
    (),
    {'one': key, 'many': jax.random.split(key, 3)},
    jnp.int32(7),
  )


@pytest.fixture
def manager(tmp_path):
  with checkpoints.open_manager(tmp_path / 'made' / 'on the way') as manager:
    yield manager


def test_restore_latest_empty_folder_returns_none(manager):
  assert checkpoints.restore_latest(manager, make_state()) is None


@pytest.mark.parametrize('abstract', [False, True])
def test_restore_latest_saved_is_bit_exact(manager, abstract):
  state = make_state()
  progress = {
    'epoch': 3,
    'step_in_epoch': 100,
    'loss_sum': 0.1 + 0.2,
    'smallest': 5e-324,
    'huge': 1.7976931348623157e308,
    'inf': float('inf'),
    'nested': {'list': [1 / 3, None, True, 'text']},
  }
  checkpoints.save(manager, 7, state, progress)
  template = make_state(seed=1)
  if abstract:
    template = jax.eval_shape(make_state)
  step, restored, read = checkpoints.restore_latest(manager, template)
  assert step == 7
  assert read == progress
  assert_same(restored, state)


def test_open_manager_keeps_and_reads_newest(tmp_path):
  with checkpoints.open_manager(tmp_path) as manager:
    for step in (1, 5, 9):
      checkpoints.save(manager, step, {'a': jnp.full(3, step)}, {'at': step})
  assert sorted(os.listdir(tmp_path)) == ['5', '9']
  with checkpoints.open_manager(tmp_path) as manager:
    step, state, progress = checkpoints.restore_latest(
      manager, {'a': jnp.zeros(3, jnp.int32)}
    )
  assert (step, progress) == (9, {'at': 9})
  np.testing.assert_array_equal(state['a'], [9, 9, 9])


def test_save_donated_state_is_unchanged(manager):
  # Large enough (32 MB) that writing outlasts the steps that follow.
  wipe = jax.jit(
    lambda t: jax.tree.map(lambda x: 0 * x - 7, t), donate_argnums=0
  )
  state = {'h': jax.random.normal(jax.random.key(0), (8_000_000,))}
  want = np.array(state['h'])
  checkpoints.save(manager, 1, state, {})
  for _ in range(3):
    state = wipe(state)
  jax.block_until_ready(state)
  got = checkpoints.restore_latest(manager, state).state
  np.testing.assert_array_equal(got['h'], want)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      lambda s: s._replace(step=jnp.zeros((2,), jnp.int32)),
      r'step: int32\[\] in the checkpoint, int32\[2\] in this run',
    ),
    (
      lambda s: s._replace(step=jnp.zeros((), jnp.float32)),
      r'step: int32\[\] in the checkpoint, float32\[\] in this run',
    ),
    (
      lambda s: s._replace(params={'bias': s.params['bias']}),
      r'params/conv/kernel: float32\[3, 3, 2, 4\] in the checkpoint, absent',
    ),
    (
      lambda s: s._replace(nothing={'phi': jnp.ones(2)}),
      r'nothing/phi: absent in the checkpoint, float32\[2\] in this run',
    ),
    (
      lambda s: s._replace(keys={**s.keys, 'one': jnp.zeros(2, jnp.uint32)}),
      r'keys/one: key<fry>\[\] in the checkpoint, uint32\[2\] in this run',
    ),
    (
      lambda s: s._replace(opt_state=(), params={}),
      r'(?s)opt_state: absent.*params/conv/kernel.*and 3 more',
    ),
  ],
)
def test_restore_latest_other_state_names_leaves(manager, change, message):
  state = make_state()
  checkpoints.save(manager, 7, state, {})
  with pytest.raises(ValueError, match=message) as error:
    checkpoints.restore_latest(manager, change(state))
  assert 'another --workdir' in str(error.value)
  assert str(manager.directory) in str(error.value)


def test_save_bad_input_raises_and_writes_nothing(manager):
  state = {'a': jnp.ones(2)}
  with pytest.raises(TypeError, match='float32'):
    checkpoints.save(manager, 1, state, {'loss': np.float32(1)})
  assert os.listdir(manager.directory) == []
  checkpoints.save(manager, 5, state, {})
  for step in (5, 4):
    with pytest.raises(ValueError, match=f'step {step} is not above 5'):
      checkpoints.save(manager, step, state, {})


def test_restore_latest_damaged_raises_with_folder(manager):
  state = {'a': jax.random.normal(jax.random.key(0), (1000,))}
  for step in (1, 2):
    checkpoints.save(manager, step, state, {})
  folder = pathlib.Path(manager.directory)
  for file in (folder / '2' / 'state').rglob('*'):
    if file.is_file() and file.stat().st_size > 1000:
      os.truncate(file, 100)
  with pytest.raises(RuntimeError, match=f'{folder}/2 cannot be read'):
    checkpoints.restore_latest(manager, state)


@pytest.mark.slow
def test_save_under_absl_hides_messages_of_orbax():
  program = """
import tempfile
from absl import app, logging
import jax.numpy as jnp
from experiments.records import checkpoints
def main(_):
  state = {'a': jnp.ones(3)}
  logging.set_verbosity(logging.INFO)
  with tempfile.TemporaryDirectory() as folder:
    with checkpoints.open_manager(folder) as manager:
      checkpoints.save(manager, 1, state, {})
      logging.info('ours')
      checkpoints.restore_latest(manager, state)
app.run(main)
"""
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  lines = done.stderr.splitlines()
  assert len(lines) == 1, done.stderr
  assert lines[0].endswith('ours')
  assert logging.getLogger('absl').filters == []


def test_open_manager_removes_incomplete_checkpoint(tmp_path):
  left = tmp_path / '50.orbax-checkpoint-tmp'  # Orbax's name for it.
  left.mkdir()
  (left / 'half').write_bytes(b'\0' * 1000)
  template = {'a': jnp.ones(2)}
  with checkpoints.open_manager(tmp_path) as manager:
    assert checkpoints.restore_latest(manager, template) is None
    checkpoints.save(manager, 1, template, {})
  assert os.listdir(tmp_path) == ['1']


# A run that saves in a loop is killed several times. Every leaf is a function
# of the step, so that a mixture of two states fails the comparison.

SIZE = 500_000


def state_at(step):
  key = jax.random.fold_in(jax.random.key(0), step)
  return {
    'key': key,
    'first': jax.random.bits(key, (SIZE,)),
    'last': (jnp.full((SIZE,), step), ()),
  }


def run_until_killed(folder, pipe):
  """Restores and reports it, then reports the start and end of each save."""
  # Where there is a GPU, pytest's own process holds its memory.
  jax.config.update('jax_platforms', 'cpu')
  with checkpoints.open_manager(folder) as manager:
    step = 0
    restored = checkpoints.restore_latest(manager, jax.eval_shape(state_at, 0))
    if restored is not None:
      step, state, progress = restored
      assert_same(state, state_at(step))
      assert progress == {'step': step, 'third': step / 3}
    pipe.send(('restored', step))
    while True:
      step += 1
      state = state_at(step)
      pipe.send(('saving', step))
      checkpoints.save(manager, step, state, {'step': step, 'third': step / 3})
      pipe.send(('saved', step))


def drain(pipe):
  messages = []
  with contextlib.suppress(EOFError):
    while pipe.poll():
      messages.append(pipe.recv())
  return messages


@pytest.mark.slow
def test_save_killed_loses_only_that_save(tmp_path):
  context = multiprocessing.get_context('forkserver')
  context.set_forkserver_preload(['experiments.records.checkpoints', __name__])
  saved, cut_short, seconds = 0, 0, 0.2
  rounds = 8
  for attempt in range(rounds):
    ours, theirs = context.Pipe()
    child = context.Process(
      target=run_until_killed, args=(str(tmp_path), theirs)
    )
    child.start()
    theirs.close()
    assert ours.poll(30), 'the child does not start'
    kind, step = ours.recv()  # EOFError: the restored state was inconsistent
    assert kind == 'restored'
    # A save that was not acknowledged may still be complete.
    assert step in (saved, saved + 1)
    saved = step
    # Times two complete saves, then kills during a third one.
    for _ in range(2):
      assert ours.recv() == ('saving', saved + 1)
      start = time.monotonic()
      assert ours.recv() == ('saved', saved + 1)
      seconds = time.monotonic() - start
      saved += 1
    assert ours.recv() == ('saving', saved + 1)
    time.sleep(seconds * (attempt + 0.5) / rounds)
    child.kill()
    child.join()
    for kind, step in drain(ours):
      if kind == 'saved':
        saved = step
    ours.close()
    cut_short += any('tmp' in name for name in os.listdir(tmp_path))
  # Otherwise no kill happened during a save.
  assert cut_short >= 1
  template = jax.eval_shape(state_at, 0)
  with checkpoints.open_manager(tmp_path) as manager:
    step, state, _ = checkpoints.restore_latest(manager, template)
    assert step in (saved, saved + 1)
    assert_same(state, state_at(step))
    checkpoints.save(manager, step + 1, {'a': jnp.ones(2)}, {})
  assert sorted(os.listdir(tmp_path)) == sorted([str(step), str(step + 1)])
