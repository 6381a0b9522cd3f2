"""Tests runs of two processes that train one network, over gloo on this host.

Two processes of one device each are compared with one process of two devices.
Their sums have two terms, whose order does not matter, so that all numbers are
equal bit for bit.
"""

import functools
import os
import re
import signal
import socket
import time

import jax
import pytest

from experiments.build.schema import KEYS
from experiments.configs import digits
from experiments.records import run_log, workdir
from experiments.training import train_and_evaluate
from experiments.training.progress import hidden_bar
from tests.experiments import test_cifar, tiny
from tests.experiments.data import photo_files

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('compilation_cache'),
]
STEPS = 60  # per epoch
VALUES = {
  'network': 'resnet8',
  'estimator': 'fc_grad',
  'layers': 1,
  'optimizer': 'adam',
  'batch_size': 4,
  'epoch_steps': STEPS,
  'epochs': 2,
  'pretrain_epochs': 1,
  'chunk': 2,
  'checkpoint_every': 30,
  'mesh_data': -1,
}
PEER_TIMEOUT = 10  # Seconds.
SECONDS = 120  # Limit after which a process counts as hanging.


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  tiny.put_in(monkeypatch)


def free_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


def start_two(work, output, *, devices=1, more=((), ()), **values):
  """Starts both processes of a run; returns them and their output files."""
  coordinator = f'localhost:{free_port()}'
  count = '--xla_force_host_platform_device_count='
  xla_flags = re.sub(f'{count}\\d+', '', os.environ['XLA_FLAGS'])
  cache = jax.config.jax_compilation_cache_dir
  environment = {
    **os.environ,
    'XLA_FLAGS': f'{xla_flags} {count}{devices}',
    'JAX_COMPILATION_CACHE_DIR': f'{cache}-{devices}-of-two',
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  running, paths = [], []
  output.mkdir()
  for index in range(2):
    args = test_cifar.arguments(
      work,
      f'--coordinator={coordinator}',
      '--processes=2',
      f'--process_id={index}',
      f'--peer_timeout={PEER_TIMEOUT}',
      *more[index],
      program=('-c', tiny.program('experiments.cifar')),
      **(VALUES | values),
    )
    path = output / str(index)
    with path.open('w') as file:
      running.append(test_cifar.start(args, environment, file))
    paths.append(path)
  return running, paths


@pytest.fixture
def two(tmp_path):
  """Returns `start_two`, whose processes end with the test."""
  started = []

  def start(work, name, **options):
    running, paths = start_two(work, tmp_path / name, **options)
    started.extend(running)
    return running, paths

  yield start
  for process in started:
    process.kill()
    process.wait()


def statuses(running):
  return [process.wait(SECONDS) for process in running]


@pytest.mark.parametrize('fsdp', [False, True])
def test_two_processes_killed_and_preempted_end_as_one_process(
  tmp_path, two, fsdp
):
  work, reference = tmp_path / 'two', tmp_path / 'one'
  start = functools.partial(two, fsdp=fsdp)
  config = digits.get_config()
  config.update(VALUES, fsdp=fsdp)
  train_and_evaluate(config, reference, show=hidden_bar)

  # The death of one process ends the other, which waits for it.
  running, outputs = start(work, 'killed')
  test_cifar.wait_for(
    running[0], lambda: test_cifar.saved_steps(work), 'its first checkpoint'
  )
  running[1].kill()
  began = time.monotonic()
  assert statuses(running)[0] != 0
  assert time.monotonic() - began < 6 * PEER_TIMEOUT
  assert not (work / 'quantized.safetensors').exists()
  killed_at = test_cifar.saved_steps(work)[-1]

  # The signal of one process stops both at the same step.
  running, outputs = start(work, 'preempted')
  test_cifar.wait_for(
    running[0],
    lambda: 'epoch ' in outputs[0].read_text(),
    'its first steps',
  )
  running[1].send_signal(signal.SIGTERM)
  assert statuses(running) == [128 + signal.SIGTERM] * 2
  shown = outputs[0].read_text()
  assert f'The run resumes from step {killed_at} of' in shown
  stopped_at = int(re.search(r'Checkpoint saved at step (\d+)', shown)[1])
  assert killed_at < stopped_at == test_cifar.saved_steps(work)[-1]

  running, outputs = start(work, 'resumed')
  assert statuses(running) == [0, 0], outputs[0].read_text()
  shown, silent = (path.read_text() for path in outputs)
  assert ('per device' in shown) == fsdp
  assert f'The run resumes from step {stopped_at} of' in shown
  # Only gloo prints in the other process.
  assert all(line.startswith('[Gloo]') for line in silent.splitlines())

  assert tiny.end_of_run(config, work) == tiny.end_of_run(config, reference)
  files = [
    {p.name for p in folder.iterdir() if p.is_file()}
    for folder in (work, reference)
  ]
  assert files[0] == files[1]
  header, records = run_log.read_log(work / workdir.LOG)
  assert [record['epoch'] for record in records] == [1, 2]
  assert (header['processes'], header['device']['count']) == (2, 2)
  # Both runs measured the same base model.
  first = run_log.read_log(reference / workdir.LOG)[0]
  assert header['start'] == first['start']


def test_two_processes_decode_photographs_of_their_devices(tmp_path, two):
  root = photo_files.write_folder(tmp_path / 'photos', train=10, val=5)
  values = {
    **{'dataset': 'folder', 'data_dir': str(root), 'image_size': 32},
    **{'resize': 36, 'epoch_steps': 4, 'batch_size': 8, 'epochs': 1},
    **{'estimator': 'ste', 'recalibrate': 1, 'trials': 2},
    'layers': KEYS['layers'].default,
    'pretrained': tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(2)),
    'pretrain_epochs': KEYS['pretrain_epochs'].default,
  }
  running, outputs = two(tmp_path / 'two', 'output', devices=2, **values)
  assert statuses(running) == [0, 0], outputs[0].read_text()

  config = digits.get_config()
  config.update(VALUES | values)
  train_and_evaluate(config, tmp_path / 'one', show=hidden_bar)
  (got,), (expected,) = (
    tiny.timeless(run_log.read_log(tmp_path / name / workdir.LOG)[1])
    for name in ('two', 'one')
  )
  # Four terms are summed in another order than two.
  assert got.keys() == expected.keys()
  assert len(got['trials']) == 2
  for trial, other in zip(got['trials'], expected['trials'], strict=True):
    for name in ('train_loss', 'test_loss'):
      assert trial[name] == pytest.approx(other[name], rel=1e-5)
    assert trial['test_accuracy'] == other['test_accuracy']
  names = {path.name for path in (tmp_path / 'two').glob('*.safetensors')}
  assert names == {
    'quantized-seed0.safetensors',
    'quantized-seed1.safetensors',
  }


def test_error_of_one_process_is_reported_by_process_0(tmp_path, two):
  values = {
    'pretrained': tiny.write_model(tmp_path / 'base.safetensors', tiny.Net(10)),
    'pretrain_epochs': KEYS['pretrain_epochs'].default,
  }
  (tmp_path / 'elsewhere').mkdir()
  missing = tmp_path / 'elsewhere' / 'base.safetensors'
  more = ((), (f'--config.pretrained={missing}',))
  running, outputs = two(tmp_path / 'run', 'output', more=more, **values)
  assert statuses(running) == [1, 1]
  shown, own = (path.read_text() for path in outputs)
  assert f'Process 1: There is no file {missing}' in shown
  assert f'\nThere is no file {missing}' in own
  assert 'Traceback' not in shown + own
  assert not (tmp_path / 'run' / workdir.LOG).exists()
