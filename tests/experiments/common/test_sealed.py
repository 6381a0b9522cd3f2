"""Tests that a changed JSON object is refused."""

import json
import pathlib

import pytest

from experiments.common import sealed
from experiments.common.errors import InvalidError

ENTRY = {'accuracy': 82.46, 'name': 'a', 'more': [1, {'b': None}]}
REST = [{'epoch': 1, 'loss': 0.1 + 0.2}]
PATH = pathlib.Path('card.json')


def test_unseal_returns_sealed_object():
  text = json.dumps([sealed.seal(ENTRY, REST), *REST])
  first, *rest = json.loads(text)
  assert sealed.unseal(PATH, first, rest) == ENTRY
  # Earlier versions wrote no digest.
  assert sealed.unseal(PATH, ENTRY, []) == ENTRY


def test_unseal_changed_object_raises():
  entry = sealed.seal(ENTRY, REST)
  for changed, rest in (
    (entry | {'accuracy': 82.47}, REST),
    (entry | {'other': 1}, REST),
    (entry | {sealed.KEY: 0}, REST),
    ({**ENTRY, 'contend_sha255': entry[sealed.KEY]}, REST),
    (entry, [{'epoch': 1, 'loss': 0.3}]),
    (entry, []),
  ):
    with pytest.raises(InvalidError, match=r'card\.json is damaged: its cont'):
      sealed.unseal(PATH, changed, rest)
