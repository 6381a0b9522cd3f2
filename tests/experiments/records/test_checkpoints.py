"""Tests checkpoints: exact, checked against the template, safe from kill -9."""

import collections
import contextlib
import logging
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils

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


def test_save_does_not_ask_jax_for_preemption(tmp_path, monkeypatch):
  # JAX would keep the number of the step, and miss a signal until our count of
  # calls is larger.
  def ask(step):
    raise AssertionError(step)

  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', ask)
  with checkpoints.open_manager(tmp_path) as manager:
    assert not manager.reached_preemption(7)
    checkpoints.save(manager, 7, make_state(), {})


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


def save_two(folder):
  """Saves checkpoints of steps 1 and 2; returns the state of each."""
  states = {step: make_state(step) for step in (1, 2)}
  with checkpoints.open_manager(folder) as manager:
    for step, state in states.items():
      checkpoints.save(manager, step, state, {'at': step, 'sum': step / 3})
  return states


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A folder of two checkpoints, to copy, and their states."""
  folder = tmp_path_factory.mktemp('two') / 'checkpoints'
  return folder, save_two(folder)


def copy_of(two, tmp_path):
  return pathlib.Path(shutil.copytree(two[0], tmp_path / 'copy'))


def restore(folder, **options):
  with checkpoints.open_manager(folder) as manager:
    template = jax.eval_shape(make_state)
    return checkpoints.restore_latest(manager, template, **options)


def flip_a_bit(data, rng):
  place = rng.integers(len(data))
  flipped = data[place] ^ (1 << rng.integers(8))
  return data[:place] + bytes([flipped]) + data[place + 1 :]


def cut(data, rng):
  return data[: rng.integers(len(data))]


def zero(data, rng):
  start = rng.integers(len(data))
  return data[:start] + bytes(len(data) - start)


def remove(data, rng):
  return None


@pytest.mark.parametrize('damage', [flip_a_bit, cut, zero, remove])
def test_restore_latest_damaged_file_never_gives_other_values(
  two, tmp_path, damage
):
  folder, states = copy_of(two, tmp_path), two[1]
  rng = np.random.default_rng(0)
  files = sorted(p for p in (folder / '2').rglob('*') if p.is_file())
  set_aside = 0
  # A state that is read from other bytes must have the values that were saved.
  for path in files:
    whole, notices = path.read_bytes(), []
    damaged = damage(whole, rng)
    path.unlink()
    if damaged is not None:
      path.write_bytes(damaged)
    step, state, progress = restore(folder, notify=notices.append)
    assert_same(state, states[step])
    assert progress == {'at': step, 'sum': step / 3}
    if step == 1:
      set_aside += 1
      (message,) = notices
      assert 'The checkpoint of step 2 is damaged (' in message
      assert f'is now {folder / "2.damaged"}' in message
      assert '\n' not in message
      (folder / '2.damaged').rename(folder / '2')
    path.write_bytes(whole)
  assert set_aside >= 5


def test_restore_latest_flipped_bit_in_array_data_is_set_aside(tmp_path):
  # Random numbers are not compressed, so most bits are those of the array.
  state = {'a': jax.random.bits(jax.random.key(0), (4000,))}
  with checkpoints.open_manager(tmp_path) as manager:
    for step in (1, 2):
      checkpoints.save(manager, step, state, {})
  (path,) = (
    p
    for p in (tmp_path / '2' / 'state').rglob('*')
    if p.is_file() and p.stat().st_size > 10_000
  )
  whole = path.read_bytes()
  for place in (5000, 10_000, 15_000):
    data = bytearray(whole)
    data[place] ^= 4
    path.write_bytes(data)
    with checkpoints.open_manager(tmp_path) as manager:
      assert checkpoints.restore_latest(manager, state).step == 1
    (tmp_path / '2.damaged').rename(tmp_path / '2')


@pytest.mark.parametrize(
  ('item', 'old', 'new'),
  [
    ('progress', '"at": 2', '"at": 1'),
    ('leaves', 'float32[3, 3, 2, 4]', 'float32[3, 3, 4, 2]'),
    ('leaves', 'bfloat16', 'bfloat19'),
    ('digests', '": "', '": "0'),
  ],
)
def test_restore_latest_changed_json_is_set_aside(
  two, tmp_path, item, old, new
):
  folder = copy_of(two, tmp_path)
  path = folder / '2' / item / 'metadata'
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new, 1))
  assert restore(folder).step == 1


@pytest.mark.parametrize('item', ['state', 'progress', 'digests'])
def test_restore_latest_mixture_of_two_checkpoints_is_set_aside(
  two, tmp_path, item
):
  folder = copy_of(two, tmp_path)
  shutil.rmtree(folder / '2' / item)
  shutil.copytree(folder / '1' / item, folder / '2' / item)
  assert restore(folder).step == 1


def test_restore_latest_renamed_checkpoint_is_set_aside(two, tmp_path):
  folder = copy_of(two, tmp_path)
  (folder / '2').rename(folder / '3')
  assert restore(folder).step == 1


def test_restore_latest_refused_state_is_set_aside(two, tmp_path):
  folder, notices = copy_of(two, tmp_path), []

  def check(state):
    if bool((state.params['bias'] == two[1][2].params['bias']).all()):
      raise checkpoints.DamagedError('its bias is bad')

  assert restore(folder, check=check, notify=notices.append).step == 1
  assert 'damaged (its bias is bad)' in notices[0]


def test_restore_latest_all_damaged_raises_and_keeps_them(two, tmp_path):
  folder = copy_of(two, tmp_path)
  for step in (1, 2):
    shutil.rmtree(folder / str(step) / 'digests')
  with pytest.raises(RuntimeError, match=r'step 2: .*step 1: .*') as error:
    restore(folder)
  assert f'No checkpoint in {folder} can be read' in str(error.value)
  assert sorted(os.listdir(folder)) == ['1', '2']


def test_save_after_damage_takes_the_step_again(two, tmp_path):
  folder, states = copy_of(two, tmp_path), two[1]
  for name in ('2.damaged', '2.damaged2'):
    (folder / '2' / 'digests' / 'metadata').unlink()
    with checkpoints.open_manager(folder) as manager:
      checkpoints.restore_latest(manager, states[1])
      checkpoints.save(manager, 2, states[2], {'at': 2, 'sum': 2 / 3})
    assert (folder / name).is_dir()
    assert restore(folder).step == 2


def test_open_manager_stray_entries_do_not_block(tmp_path):
  states = save_two(tmp_path)
  (tmp_path / '9' / 'state').mkdir(parents=True)
  (tmp_path / '007').mkdir()
  (tmp_path / 'notes').mkdir()
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / '3').write_text('a file in the place of a checkpoint')
  with checkpoints.open_manager(tmp_path) as manager:
    assert checkpoints.restore_latest(manager, states[1]).step == 2
    checkpoints.save(manager, 3, states[1], {})
    assert checkpoints.restore_latest(manager, states[1]).step == 3
  assert sorted(os.listdir(tmp_path)) == [
    *('2', '3', '3.damaged', 'notes', 'notes.txt')
  ]


def test_open_manager_unusable_folder_raises(tmp_path, monkeypatch):
  place = tmp_path / 'file'
  place.touch()
  with pytest.raises(FileExistsError), checkpoints.open_manager(place):
    pytest.fail('A file is no folder.')
  # The superuser may write everywhere.
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(PermissionError), checkpoints.open_manager(tmp_path):
    pytest.fail('The folder cannot be written.')


def test_open_manager_only_empty_folder_has_no_checkpoint(tmp_path):
  (tmp_path / '9').mkdir()
  assert restore(tmp_path) is None


@pytest.mark.skipif(sys.platform != 'linux', reason='limits a file on Linux')
def test_save_without_space_raises_one_line_and_keeps_checkpoint(tmp_path):
  states = save_two(tmp_path)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  large = {'a': jax.random.bits(jax.random.key(0), (300_000,))}
  with checkpoints.open_manager(tmp_path) as manager:
    # Python ignores SIGXFSZ, so that a write beyond the limit is an OSError.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
      with pytest.raises(OSError, match='step 3 cannot be written') as error:
        checkpoints.save(manager, 3, large, {})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert '\n' not in str(error.value)
  assert 'checkpoint of step 2 is unchanged' in str(error.value)
  assert_same(restore(tmp_path).state, states[2])
  assert sorted(os.listdir(tmp_path)) == ['1', '2']


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
  for number in range(1000):
    (left / f'half{number}').write_bytes(b'\0')
  template = {'a': jnp.ones(2)}
  with checkpoints.open_manager(tmp_path) as manager:
    assert os.listdir(tmp_path) == []
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
