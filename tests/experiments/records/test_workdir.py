"""Tests the lookup of runs in folders."""

from experiments.configs import digits
from experiments.records import workdir


def test_is_complete_model_file_without_log_returns_false(tmp_path):
  config = digits.get_config()
  workdir.model_path(tmp_path, config).touch()
  assert not workdir.is_complete(tmp_path, config)
