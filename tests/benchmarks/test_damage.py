"""Tests that damages differ from the files, and that outcomes are counted."""

import json

import numpy as np
import pytest

from benchmarks import damage
from benchmarks.damaged_files import Format
from experiments.common.errors import InvalidError


def test_damage_of_any_content_differs_and_repeats():
  for content in (b'a', bytes(100), bytes(range(256)) * 10):
    for index in range(100):
      kind, changed = damage.damage(0, 'card', index, content)
      assert changed != content
      assert (kind, changed) == damage.damage(0, 'card', index, content)
  content = bytes(range(256)) * 10
  found = [damage.damage(0, 'card', index, content) for index in range(10)]
  assert {kind for kind, _ in found} == set(damage.KINDS)
  assert len({changed for _, changed in found}) == 10


def value(number=1.0):
  return {'w': np.full(2, number, 'f4'), 'text': 'a'}


def read_with_notice(number):
  def read(folder, notify):
    notify('nothing shows')
    return value(number)

  return read


def refuse(text):
  def read(folder, notify):
    raise InvalidError(text)

  return read


@pytest.mark.parametrize(
  ('read', 'expected'),
  [
    (lambda folder, notify: value(), damage.EQUAL),
    (lambda folder, notify: value(2.0), damage.WRONG),
    (lambda folder, notify: value() | {'text': 'b'}, damage.WRONG),
    (lambda folder, notify: value() | {'more': 1}, damage.WRONG),
    (lambda folder, notify: value(1.0)['text'][9], damage.TRACEBACK),
    (read_with_notice(1.0), damage.EQUAL_NOTICE),
    (read_with_notice(2.0), damage.OTHER_NOTICE),
    (refuse('one line'), damage.REFUSED),
    (refuse('two\nlines'), damage.LINES),
  ],
)
def test_outcome_of_each_reader(tmp_path, read, expected):
  format_ = Format(lambda folder: None, read, '*')
  frozen = damage._frozen(value())
  assert damage.outcome(format_, tmp_path, frozen)[0] == expected
  # A process of its own reports an error or a crash of what runs in it.
  isolated = format_._replace(confirm=refuse('crashed'))
  found = damage.outcome(isolated, tmp_path, frozen)[0]
  assert found == (damage.REFUSED if expected == damage.TRACEBACK else expected)


def test_watch_crash_is_counted_and_others_are_read(tmp_path, monkeypatch):
  statuses = iter([-11, None, 0])

  def run(name, seed, first, last, folder):
    status = next(statuses)
    (folder / 'undamaged').touch()
    with (folder / 'log.jsonl').open('a') as log:
      for index in range(first, last if status == 0 else first + 2):
        row = {'index': index, 'kind': 'cut short', 'outcome': damage.EQUAL}
        log.write(json.dumps(row | {'message': ''}) + '\n')
    return status

  monkeypatch.setattr(damage, '_run', run)
  rows = damage.watch('card', 0, 8, tmp_path)
  assert [row['index'] for row in rows] == list(range(8))
  assert [row['outcome'] for row in rows] == (
    [damage.EQUAL] * 2
    + [damage.CRASH]
    + [damage.EQUAL] * 2
    + [damage.HANG]
    + [damage.EQUAL] * 2
  )
  assert damage.count_outcomes('card', rows) == {
    'damaged': 'card',
    'files': 8,
    damage.REFUSED: 0,
    damage.EQUAL: 6,
    damage.EQUAL_NOTICE: 0,
    damage.OTHER_NOTICE: 0,
    'anything else': 2,
  }


def test_watch_crash_confirmed_values_are_compared(tmp_path, monkeypatch):
  def confirm(folder, notify):
    notify('nothing shows')
    return float((folder / 'number').read_text())

  format_ = Format(
    lambda folder: (folder / 'number').write_text('1'), confirm, '*', confirm
  )

  def crash(name, seed, first, last, folder):
    if first == 0:
      row = {'index': 0, 'kind': 'cut short', 'outcome': damage.EQUAL}
      (folder / 'log.jsonl').write_text(json.dumps(row) + '\n')
    (folder / 'undamaged').touch()
    (folder / 'bad').mkdir(exist_ok=True)
    (folder / 'bad' / 'number').write_text(str(max(first, 1)))
    return -11

  monkeypatch.setattr(damage, 'formats', lambda: {'number': format_})
  monkeypatch.setattr(damage, '_run', crash)
  rows = damage.watch('number', 0, 3, tmp_path)
  assert [row['outcome'] for row in rows] == [
    damage.EQUAL,
    damage.EQUAL_NOTICE,
    damage.OTHER_NOTICE,
  ]


@pytest.mark.parametrize('status', [-11, None])
def test_watch_first_file_may_crash_the_reader(tmp_path, monkeypatch, status):
  unread, read = tmp_path / 'unread', tmp_path / 'read'
  unread.mkdir()
  read.mkdir()
  monkeypatch.setattr(damage, '_run', lambda *arguments: status)
  with pytest.raises(RuntimeError, match='undamaged card cannot be read'):
    damage.watch('card', 0, 1, unread)
  monkeypatch.setattr(
    damage,
    '_run',
    lambda *arguments: (arguments[-1] / 'undamaged').touch() or status,
  )
  (row,) = damage.watch('card', 0, 1, read)
  assert row['outcome'] == (damage.CRASH if status else damage.HANG)


@pytest.mark.slow
def test_watch_damaged_cards_are_refused(tmp_path):
  rows = damage.watch('card', 0, 10, tmp_path)
  assert [row['index'] for row in rows] == list(range(10))
  assert {row['kind'] for row in rows} == set(damage.KINDS)
  assert {row['outcome'] for row in rows} <= {damage.REFUSED, damage.EQUAL}
