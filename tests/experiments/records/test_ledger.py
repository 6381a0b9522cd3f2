"""Tests the command that adds a run to the ledger."""

import types

import pytest

from experiments.records import ledger


def test_command_folder_without_run_exits_with_message(tmp_path, monkeypatch):
  arguments = types.SimpleNamespace(
    workdir=tmp_path / 'none', results=tmp_path, name='mine'
  )
  monkeypatch.setattr(ledger.flags, 'FLAGS', arguments)
  with pytest.raises(SystemExit, match=r'metrics\.jsonl is missing'):
    ledger.main(['ledger'])
