"""Tests the log of a run: its content, and how it changes on resumption."""

import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.build.schema import KEYS
from experiments.records import run_log

CONFIG = {'network': 'resnet20', 'optimizer': {'name': 'sgd', 'rate': 0.1}}


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'made' / 'metrics.jsonl'


def header(config=CONFIG, date='first'):
  return {'config': config, 'date': date}


def record(epoch, **more):
  return {
    'epoch': epoch,
    'step': 390 * epoch,
    'train_loss': 1 / epoch,
    'test_loss': 2 / epoch,
    'test_accuracy': 10.0 + epoch,
    'seconds': 1.5,
    **more,
  }


def make_log(path, epochs):
  run_log.start_log(path, header(), epochs_done=0)
  for epoch in range(1, epochs + 1):
    run_log.append(path, record(epoch))


def test_describe_run_has_config_device_and_versions():
  described = run_log.describe_run({'shape': (1, 2), 'rate': np.float32(0.5)})
  assert json.loads(json.dumps(described, allow_nan=False)) == described
  assert described['config'] == {'shape': [1, 2], 'rate': 0.5}
  assert described['device'] == {
    'kind': jax.devices()[0].device_kind,
    'platform': jax.devices()[0].platform,
    'count': jax.device_count(),
  }
  assert described['host_cpus'] == os.cpu_count()
  assert described['versions']['jax'] == jax.__version__
  assert described['versions']['numpy'] == np.__version__
  assert set(described['versions']) == {
    *('python', 'jax', 'jaxlib', 'flax', 'optax', 'mq_jax', 'numpy')
  }
  assert described['date'].endswith('+00:00')
  # The tests run the code of the checkout that contains them.
  source = run_log._source(pathlib.Path(__file__).parents[3])
  assert {name: described[name] for name in source} == source


@pytest.mark.slow
def test_source_is_commit_of_the_checkout(tmp_path, monkeypatch):
  def git(*args):
    identity = ('-c', 'user.name=n', '-c', 'user.email=e@x')
    return subprocess.run(
      ['git', '-C', str(tmp_path), *identity, *args],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()

  for variable in ('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE'):
    monkeypatch.delenv(variable, raising=False)
  none = {'commit': None, 'dirty': None}
  source = tmp_path / 'experiments' / 'train.py'
  installed = tmp_path / 'venv' / 'site-packages'
  for folder in (source.parent, tmp_path / 'mq_jax', installed):
    folder.mkdir(parents=True)
  source.write_text('a = 1\n')
  assert run_log._source(tmp_path) == none
  git('init')
  git('add', '.')
  git('commit', '-m', 'first')
  commit = git('rev-parse', 'HEAD')
  assert run_log._source(tmp_path) == {'commit': commit, 'dirty': False}
  # The output of a run does not count as a change.
  (tmp_path / 'results.jsonl').touch()
  assert run_log._source(tmp_path) == {'commit': commit, 'dirty': False}
  source.write_text('a = 2\n')
  assert run_log._source(tmp_path) == {'commit': commit, 'dirty': True}
  # A repository that contains an installed copy is not its source.
  assert run_log._source(installed) == none
  monkeypatch.setenv('GIT_DIR', '/nowhere')  # As in a git hook.
  assert run_log._source(tmp_path) == {'commit': commit, 'dirty': True}
  monkeypatch.setenv('PATH', '/nowhere')
  assert run_log._source(tmp_path) == none


def test_read_log_new_log_returns_its_records(path):
  make_log(path, epochs=2)
  assert run_log.read_log(path) == (header(), [record(1), record(2)])
  lines = path.read_text().splitlines()
  assert [json.loads(line).get('epoch') for line in lines] == [None, 1, 2]
  assert os.listdir(path.parent) == ['metrics.jsonl']


def test_append_writes_finite_numbers_and_null(path):
  run_log.start_log(path, header(), epochs_done=0)
  run_log.append(
    path,
    record(
      1,
      train_loss=float('nan'),
      test_loss=jnp.float32(-jnp.inf),
      tenth=np.float32(0.1),
      sum=0.1 + 0.2,
      phi={'s': jnp.array([1.5, jnp.nan]), 'count': np.int64(3), 'on': True},
    ),
  )

  def no_constant(name):
    raise AssertionError(f'{name} is not JSON')

  line = path.read_text().splitlines()[1]
  read = json.loads(line, parse_constant=no_constant)
  assert read['train_loss'] is None
  assert read['test_loss'] is None
  assert read['tenth'] == 0.100000001490116119384765625
  assert read['sum'] == 0.30000000000000004
  assert read['phi'] == {'s': [1.5, None], 'count': 3, 'on': True}


@given(st.floats())
def test_to_lines_any_float_is_itself_or_null(value):
  read = json.loads(run_log.to_lines([run_log._plain({'x': value}, 'record')]))[
    'x'
  ]
  if math.isfinite(value):
    assert struct.pack('d', read) == struct.pack('d', value)
  else:
    assert read is None


def test_start_log_resumed_keeps_header_and_epochs_done(path):
  make_log(path, epochs=4)
  run_log.start_log(path, header(date='second'), epochs_done=2)
  run_log.append(path, record(3, seconds=9.0))
  assert run_log.read_log(path) == (
    header(),
    [record(1), record(2), record(3, seconds=9.0)],
  )
  run_log.start_log(path, header(date='third'), epochs_done=0)
  assert run_log.read_log(path) == (header(), [])


def test_start_log_without_checkpoint_has_new_header(path):
  make_log(path, epochs=1)
  run_log.start_log(path, header(date='second'), epochs_done=None)
  assert run_log.read_log(path) == (header(date='second'), [])


def test_check_resumable_log_of_several_epochs_raises(path):
  make_log(path, epochs=1)
  run_log.check_resumable(path)
  run_log.append(path, record(2))
  with pytest.raises(ValueError, match='has 2 epochs, but there is no checkp'):
    run_log.check_resumable(path)


def test_start_log_cut_last_line_is_repaired(path):
  make_log(path, epochs=2)
  whole = path.read_bytes()
  start = whole[:-1].rindex(b'\n') + 1
  for cut in range(start, len(whole) + 1):
    path.write_bytes(whole[:cut])
    # If only the newline is missing, the record is complete.
    records = 2 if cut >= len(whole) - 1 else 1
    assert len(run_log.read_log(path)[1]) == records
    run_log.start_log(path, header(), epochs_done=1)
    run_log.append(path, record(2))
    assert path.read_bytes() == whole


def test_start_log_other_configuration_raises_with_keys(path):
  make_log(path, epochs=1)
  before = path.read_bytes()
  other = {'network': 'resnet20', 'optimizer': {'name': 'adam'}, 'seed': None}
  with pytest.raises(ValueError, match='another configuration') as error:
    run_log.start_log(path, header(other), epochs_done=0)
  assert str(error.value).splitlines()[1:] == [
    '  optimizer.name: "sgd" in the log, "adam" now',
    '  optimizer.rate: 0.1 in the log, absent now',
    '  seed: absent in the log, null now',
    'Use another --workdir, or the configuration of that run.',
  ]
  assert path.read_bytes() == before


def test_start_log_key_newer_than_the_log_has_its_default(path):
  make_log(path, epochs=1)
  default = KEYS['grid_points'].default
  newer = CONFIG | {'grid_points': default}
  run_log.start_log(path, header(newer), epochs_done=1)
  assert run_log.read_log(path) == (header(), [record(1)])
  with pytest.raises(ValueError, match='grid_points: absent in the log, 8 now'):
    run_log.start_log(path, header(CONFIG | {'grid_points': 8}), epochs_done=1)


def test_start_log_equal_configuration_of_other_types_opens(path):
  config = {'steps': (1, 2), 'limit': float('inf'), 'folder': path, 'empty': {}}
  run_log.start_log(path, header(config), epochs_done=0)
  config |= {'steps': [np.int32(1), 2]}
  run_log.start_log(path, header(config), epochs_done=0)
  del config['empty']
  with pytest.raises(ValueError, match=r'empty: \{\} in the log, absent now'):
    run_log.start_log(path, header(config), epochs_done=0)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'is empty'),
    ('{"config": {}', 'Line 1 of .* is not JSON'),
    ('{"epoch": 1}\n', "Line 1 of .* has no 'config'"),
    ('[1]\n', "Line 1 of .* has no 'config'"),
    ('{"config": {}}\n{"epoch"\n{"epoch": 2}\n', 'Line 2 of .* is not JSON'),
    ('{"config": {}}\n{"step": 2}\n', "Line 2 of .* has no 'epoch'"),
    ('{"config": {}}\n{"epoch": "1"}\n', "Line 2 of .* has no 'epoch'"),
    ('{"config": 3}\n{"epoch": 1}\n', "Line 1 of .* has no 'config'"),
    ('[' * 100_000, 'Line 1 of .* is not JSON'),
    (
      '{"config": {}}\n{"epoch": 1}\n{"epoch": 3}\n',
      'Line 3 of .* is epoch 3, but the line above is epoch 1',
    ),
  ],
)
def test_start_log_other_file_raises_and_keeps_it(path, text, message):
  path.parent.mkdir()
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    run_log.start_log(path, header({}), epochs_done=0)
  assert path.read_text() == text


def test_start_log_without_records_raises(path):
  with pytest.raises(ValueError, match='no record of epoch 1'):
    run_log.start_log(path, header(), epochs_done=1)
  make_log(path, epochs=2)
  with pytest.raises(ValueError, match='no record of epoch 3'):
    run_log.start_log(path, header(), epochs_done=3)


def test_append_bad_record_raises_and_writes_nothing(path):
  make_log(path, epochs=1)
  before = path.read_bytes()
  with pytest.raises(TypeError, match=r'record\.phi\.key\[0\] is .*object'):
    run_log.append(path, record(2, phi={'key': [object()]}))
  assert path.read_bytes() == before


@pytest.mark.slow
def test_append_killed_keeps_acknowledged_records(path):
  program = f"""
from experiments.records import run_log
path = {str(path)!r}
run_log.start_log(path, {header()!r}, epochs_done=0)
for epoch in range(1, 1_000_000):
  run_log.append(path, {{**{record(1)!r}, 'epoch': epoch, 'pad': 'x' * 5000}})
  print(epoch, flush=True)
"""
  child = subprocess.Popen(
    [sys.executable, '-c', program], stdout=subprocess.PIPE, text=True
  )
  assert child.stdout is not None
  assert child.stdout.readline() == '1\n'
  time.sleep(0.1)
  child.send_signal(signal.SIGKILL)
  acknowledged = int(child.stdout.read().splitlines()[-1])
  child.wait()
  child.stdout.close()
  epochs = [r['epoch'] for r in run_log.read_log(path)[1]]
  assert epochs == list(range(1, len(epochs) + 1))
  assert len(epochs) in (acknowledged, acknowledged + 1)
  run_log.start_log(path, header(), epochs_done=acknowledged)
  assert len(run_log.read_log(path)[1]) == acknowledged


def shown_by_tensorboard(folder):
  """Returns the scalars by tag and step, as the reader of TensorBoard does.

  The reader takes the files of a folder in the order of their names. A file
  that starts with a session log at step s hides the scalars of earlier files
  from step s on.
  """
  from tensorboardX.proto import event_pb2

  shown = {}
  for path in sorted(folder.glob('events.*')):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (length,) = struct.unpack_from('<Q', data, at)
      event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
      at += 12 + length + 4
      if event.session_log.status == event_pb2.SessionLog.START:
        for tag, values in shown.items():
          shown[tag] = [pair for pair in values if pair[0] < event.step]
      for value in event.summary.value:
        point = (event.step, value.simple_value)
        shown.setdefault(value.tag, []).append(point)
  return shown


def test_open_scalars_resumed_shows_each_epoch_once(tmp_path):
  for name, epochs_done, epochs in (('1', 0, (1, 2, 3)), ('2', 1, (2,))):
    writer = run_log.open_scalars(tmp_path, epochs_done)
    for epoch in epochs:
      run_log.write_scalars(
        writer, record(epoch, note='text', phi=[1], nan=math.nan)
      )
    writer.close()
    # The names of the files have a resolution of one second.
    for path in tmp_path.glob('events.out*'):
      path.rename(tmp_path / f'events.{name}')
  shown = shown_by_tensorboard(tmp_path)
  assert shown['step'] == [(1, 390.0), (2, 780.0)]
  assert shown['test_accuracy'] == [(1, 11.0), (2, 12.0)]
  assert set(shown) == set(record(1)) - {'epoch'}
