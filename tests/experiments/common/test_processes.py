"""Tests how the processes of a run find each other, agree and fail."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments.common import parallel, processes
from experiments.common.errors import (
  InvalidError,
  MissingError,
  PeerError,
  UnreachableError,
  exit_on_user_error,
)


@pytest.fixture
def forbid_connecting(monkeypatch):
  def fail(*args, **kwargs):
    pytest.fail('the process connected')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)


@pytest.mark.usefixtures('forbid_connecting')
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      {'coordinator': 'a:1'},
      '--coordinator without --processes and --process_id: give all',
    ),
    (
      {'processes': 2, 'process_id': 0},
      '--processes and --process_id without --coordinator: give all',
    ),
    (
      {'is_distributed': True, 'processes': 2},
      'leave out --processes, or leave out --distributed',
    ),
    (
      {'coordinator': 'a', 'processes': 2, 'process_id': 0},
      '--coordinator=a must be HOST:PORT',
    ),
    (
      {'coordinator': 'a:1', 'processes': 0, 'process_id': 0},
      '--processes=0 must be at least 1',
    ),
    (
      {'coordinator': 'a:1', 'processes': 2, 'process_id': 2},
      '--process_id=2 must be from 0 to 1',
    ),
    (
      {'coordinator': 'a:1', 'processes': 2, 'process_id': -1},
      '--process_id=-1 must be from 0 to 1',
    ),
    (
      {'is_distributed': True, 'peer_timeout': 0},
      '--peer_timeout=0 must be at least 1',
    ),
  ],
)
def test_start_wrong_flags_raises_before_it_connects(arguments, message):
  with pytest.raises(InvalidError, match=message):
    processes.start(**arguments)


@pytest.mark.usefixtures('forbid_connecting')
def test_start_without_flags_keeps_one_process():
  processes.start()
  assert not processes.are_several()
  assert processes.is_first()


@pytest.mark.parametrize(
  ('raised', 'message'),
  [
    (ValueError('coordinator_address should'), 'finds no SLURM, Open MPI'),
    (RuntimeError('DEADLINE'), 'cannot be connected .DEADLINE.'),
  ],
)
def test_start_without_peers_says_what_to_do(monkeypatch, raised, message):
  def fail(*args, **kwargs):
    raise raised

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  with pytest.raises(UnreachableError, match=message):
    processes.start(is_distributed=True)


def be_process(monkeypatch, index, gather):
  """Makes this process one of two; `gather` adds what the other one gives."""
  monkeypatch.setattr(processes, 'are_several', lambda: True)
  monkeypatch.setattr(jax, 'process_index', lambda: index)
  monkeypatch.setattr(multihost_utils, 'process_allgather', gather)
  monkeypatch.setattr(
    multihost_utils, 'broadcast_one_to_all', lambda own: gather(own)[0]
  )


class Recorded:
  """Records what one process gives, so that another one can receive it."""

  def __init__(self):
    self.given = []

  def record(self, own):
    self.given.append(own)
    return np.stack([own, own])

  def replay(self, own):
    other = self.given.pop(0)
    assert other.shape == np.shape(own) or np.ndim(own) == 1
    return np.stack([other, np.resize(own, other.shape)])


def fail():
  raise MissingError('There is no file é.')


def test_from_first_other_process_gets_result_without_calling(monkeypatch):
  for value in ({'text': 'é' * 3000, 'number': 0.1}, None):
    recorded = Recorded()
    be_process(monkeypatch, 0, recorded.record)
    assert processes.from_first(lambda value=value: value) == value
    be_process(monkeypatch, 1, recorded.replay)
    assert processes.from_first(fail) == value


def test_from_first_error_ends_other_process_silently(monkeypatch, capsys):
  recorded = Recorded()
  be_process(monkeypatch, 0, recorded.record)
  with pytest.raises(MissingError):
    processes.from_first(fail)
  be_process(monkeypatch, 1, recorded.replay)
  with (
    pytest.raises(SystemExit) as ended,
    exit_on_user_error(),
  ):
    processes.from_first(lambda: None)
  assert ended.value.code == 1
  assert capsys.readouterr().err == ''


def test_together_error_of_other_process_is_raised(monkeypatch):
  recorded = Recorded()
  be_process(monkeypatch, 1, recorded.record)
  with pytest.raises(MissingError):
    processes.together(fail)
  be_process(monkeypatch, 0, lambda own: recorded.replay(own)[::-1])
  with pytest.raises(PeerError, match=r'Process 1: There is no file é\.'):
    processes.together(lambda: 'result')


def test_check_equal_names_what_differs_in_both_processes(monkeypatch):
  recorded = Recorded()
  be_process(monkeypatch, 0, recorded.record)
  processes.check_equal({'a': '1', 'b': '2'}, 'the same values')
  be_process(monkeypatch, 1, recorded.replay)
  message = 'the same values, but b is 3, and 2 in process 0'
  with pytest.raises(InvalidError, match=message):
    processes.check_equal({'a': '1', 'b': '3'}, 'the same values')

  # Process 0 receives the message of process 1.
  def receive(own):
    if np.ndim(own) == 0:
      return np.stack([own, np.int32(len(message))])
    text = np.frombuffer(message.encode().ljust(len(own), b'\0'), np.uint8)
    return np.stack([own, text])

  be_process(monkeypatch, 0, receive)
  with pytest.raises(PeerError, match=f'Process 1: {message}'):
    processes.check_equal({'a': '1', 'b': '2'}, 'the same values')


def test_in_first_other_process_does_not_enter(monkeypatch):
  recorded = Recorded()
  be_process(monkeypatch, 0, recorded.record)
  entered = []

  class Context:
    def __enter__(self):
      entered.append(jax.process_index())

    def __exit__(self, *error):
      entered.append('left')

  with processes.in_first(Context):
    assert entered == [0]
  be_process(monkeypatch, 1, recorded.replay)
  with processes.in_first(Context):
    pass
  assert entered == [0, 'left']


def test_functions_of_one_process_only_call():
  assert processes.from_first(lambda: 3) == 3
  assert processes.together(lambda: 4) == 4
  assert processes.largest(5) == 5
  assert processes.agreed(lambda: True)
  assert not processes.agreed(lambda: False)
  processes.check_equal({'a': '1'}, 'anything')
  with pytest.raises(MissingError):
    processes.from_first(fail)


def test_data_mesh_of_several_processes_takes_all_devices(monkeypatch):
  monkeypatch.setattr(processes, 'are_several', lambda: True)
  count = len(jax.devices())
  assert parallel.data_mesh(-1).size == parallel.data_mesh(count).size == count
  with pytest.raises(InvalidError, match=r'config\.mesh_data=1 must be -1'):
    parallel.data_mesh(1)
