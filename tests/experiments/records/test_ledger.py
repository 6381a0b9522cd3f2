"""Tests the ledger: entries that are cut or odd are refused by name."""

import json
import pathlib
import types

import pytest

from experiments.common.errors import InvalidError
from experiments.records import cards, ledger, run_log
from tests.experiments import ledgers

RESULTS = pathlib.Path(__file__).parents[3] / 'results'


@pytest.fixture
def entry(tmp_path):
  """Writes an entry of three epochs and two trials; returns its path."""
  ledgers.write(tmp_path, 'mine', {}, [[70, 80, 90], [71, 81, 91]])
  return tmp_path / 'mine.jsonl'


def refuses(path, message='.'):
  with pytest.raises(InvalidError, match=message) as error:
    ledger.read(path.parent)
  assert str(path) in str(error.value)
  assert '\n' not in str(error.value)


def test_read_entries_of_this_project_are_complete():
  assert len(ledger.read(RESULTS)) == len(list(RESULTS.glob('*.jsonl'))) > 80
  assert len(cards.read_cards(RESULTS)) > 0


def test_read_cut_entry_is_refused_at_every_byte(entry):
  whole = entry.read_bytes()
  (run,) = ledger.read(entry.parent)
  assert len(run.records) == 3
  # If only the newline is missing, the entry is complete.
  entry.write_bytes(whole[:-1])
  assert ledger.read(entry.parent) == [run]
  ends = [i for i, byte in enumerate(whole) if byte == ord('\n')]
  near = {end + offset for end in ends for offset in (-1, 0, 1, 2)}
  for cut in sorted({*range(0, len(whole) - 1, 97), *near}):
    if cut < len(whole) - 1:
      entry.write_bytes(whole[:cut])
      refuses(entry)


@pytest.mark.parametrize(
  ('line', 'path', 'value', 'message'),
  [
    (0, ('config', 'epochs'), 4, 'the records of 3 of 4 epochs'),
    (0, ('config', 'epochs'), '3', "config.epochs='3'"),
    (0, ('config', 'epochs'), True, 'config.epochs=True'),
    (0, ('config', 'trials'), 3, 'epoch 1 does not have 3 trials'),
    (0, ('config', 'seed'), 1, 'epoch 1 has no record of seed 1'),
    (0, ('config', 'learning_rate'), 'fast', "config.learning_rate='fast'"),
    (0, ('config', 'method'), [1], r'config.method=\[1\]'),
    (0, ('config', 'optimizer'), None, 'config.optimizer=None'),
    (0, ('config',), {}, 'its configuration has no network'),
    (0, ('config',), None, "has no 'config'"),
    (0, ('device',), 'cpu', "device='cpu'"),
    (0, ('versions', 'jax'), 1, 'versions.jax=1'),
    (0, ('start',), None, 'start=None'),
    (0, ('start', 'base_accuracy'), 101, 'start.base_accuracy is 101'),
    (0, ('date',), None, 'date=None'),
    (0, ('diverged',), 3, 'diverged=3'),
    (1, ('epoch',), 2, 'Line 3 of .* is epoch 2'),
    (2, ('step',), 7, 'epoch 2 has the number 2 and step 7'),
    (2, ('seconds',), None, 'seconds of epoch 2 is None'),
    (3, ('test_accuracy',), None, 'test_accuracy of epoch 3 is None'),
    (3, ('test_accuracy',), -1, 'test_accuracy of epoch 3 is -1'),
    (3, ('test_accuracy',), 10**400, 'test_accuracy of epoch 3 is 1000'),
    (3, ('train_loss',), float('nan'), 'train_loss of epoch 3 is nan'),
    (3, ('train_loss',), '0.1', "train_loss of epoch 3 is '0.1'"),
    (3, ('s',), None, 's of epoch 3 is None'),
    (3, ('flipped', 'a/kernel'), 'x', "flipped of epoch 3 is 'x'"),
    (3, ('histogram', 0), None, 'histogram of epoch 3 is None'),
    (3, ('trials',), None, 'epoch 3 does not have 2 trials'),
    (3, ('trials', 1), 0, 'epoch 3 has no record of seed 1'),
    (
      *(3, ('trials', 1, 'test_accuracy'), 200),
      'test_accuracy of epoch 3, seed 1 is 200',
    ),
  ],
)
def test_read_odd_value_is_refused(entry, line, path, value, message):
  lines = [json.loads(text) for text in entry.read_text().splitlines()]
  place = lines[line]
  for key in path[:-1]:
    place = place[key]
  place[path[-1]] = value
  entry.write_text(''.join(json.dumps(each) + '\n' for each in lines))
  refuses(entry, message)


@pytest.mark.parametrize('text', ['', '\n', '[]\n', 'text', '\x00' * 99])
def test_read_other_file_is_refused(tmp_path, text):
  path = tmp_path / 'mine.jsonl'
  path.write_text(text)
  refuses(path)


def test_add_diverged_run_that_loses_its_end_is_refused(entry, tmp_path):
  work = tmp_path / 'run'
  work.mkdir()
  lines = entry.read_text().splitlines(keepends=True)
  (work / 'metrics.jsonl').write_text(''.join(lines[:3]))
  entry.unlink()
  added = ledger.add(work, tmp_path, 'mine', diverged='It was not finite')
  (run,) = ledger.read(tmp_path)
  assert len(run.records) == 2
  lines = added.read_text().splitlines(keepends=True)
  for kept in (1, 2):
    added.write_text(''.join(lines[:kept]))
    refuses(added, f'the records of {kept - 1} of 2 epochs')


def test_add_damaged_log_is_refused(entry, tmp_path):
  work = tmp_path / 'run'
  work.mkdir()
  text = entry.read_text().replace(
    '"test_accuracy": 81', '"test_accuracy": 810'
  )
  (work / 'metrics.jsonl').write_text(text)
  assert run_log.read_log(work / 'metrics.jsonl')
  with pytest.raises(InvalidError, match=f'{work}.* is incomplete or damaged'):
    ledger.add(work, tmp_path / 'results', 'other')
  assert not (tmp_path / 'results').exists()


@pytest.mark.parametrize('text', ['', '{', '[]', '{"name": "other"}', 'null'])
def test_read_cards_damaged_is_refused_by_name(tmp_path, text):
  path = tmp_path / cards.FOLDER / 'mine.json'
  path.parent.mkdir()
  path.write_text(text)
  with pytest.raises(InvalidError, match=f'{path} is damaged'):
    cards.read_cards(tmp_path)


def test_command_folder_without_run_exits_with_message(tmp_path, monkeypatch):
  arguments = types.SimpleNamespace(
    workdir=tmp_path / 'none', results=tmp_path, name='mine'
  )
  monkeypatch.setattr(ledger.flags, 'FLAGS', arguments)
  with pytest.raises(SystemExit, match=r'metrics\.jsonl is missing'):
    ledger.main(['ledger'])
