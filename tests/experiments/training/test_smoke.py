"""Tests the folders of smoke runs."""

import shutil

import pytest

from experiments.build.schema import default_config
from experiments.common.errors import BusyError, ConfigError, InvalidError
from experiments.records import workdir
from experiments.training import smoke
from experiments.training.train import make_pipeline
from tests.experiments.data import photo_files


@pytest.mark.parametrize(
  ('folder', 'expected'),
  [('.', 'here-smoke'), ('runs/..', 'here-smoke'), ('..', '-smoke')],
)
def test_smoke_folder_path_without_name_is_beside_that_folder(
  tmp_path, monkeypatch, folder, expected
):
  here = tmp_path / 'here'
  here.mkdir()
  monkeypatch.chdir(here)
  if folder == '..':
    expected = tmp_path.with_name(tmp_path.name + expected)
  assert smoke.smoke_folder(folder) == tmp_path / expected


def test_smoke_folder_root_raises():
  with pytest.raises(InvalidError, match='cannot add -smoke to the name of /'):
    smoke.smoke_folder('/')


def test_empty_smoke_folder_keeps_nothing_of_the_last_run(tmp_path):
  path = smoke.empty_smoke_folder(tmp_path / 'run')
  mark = list(path.iterdir())
  (path / 'checkpoints').mkdir()
  (path / 'checkpoints' / '1').touch()
  (path / 'link').symlink_to(tmp_path)
  (path / 'log').touch()
  assert smoke.empty_smoke_folder(tmp_path / 'run') == path
  assert list(path.iterdir()) == mark
  assert tmp_path.exists()


def test_empty_smoke_folder_in_use_raises_and_keeps_its_files(tmp_path):
  path = smoke.empty_smoke_folder(tmp_path / 'run')
  (path / 'log').touch()
  with workdir.lock(path), pytest.raises(BusyError, match='is in use'):
    smoke.empty_smoke_folder(tmp_path / 'run')
  assert (path / 'log').exists()


def test_locked_smoke_folder_keeps_others_out(tmp_path):
  with (
    smoke.locked_smoke_folder(tmp_path / 'run'),
    pytest.raises(BusyError, match='is in use'),
  ):
    smoke.empty_smoke_folder(tmp_path / 'run')


@pytest.mark.parametrize('names', [[], [workdir.LOCK]])
def test_empty_smoke_folder_killed_before_mark_is_used(tmp_path, names):
  path = tmp_path / 'run-smoke'
  path.mkdir()
  for name in names:
    (path / name).touch()
  assert smoke.empty_smoke_folder(tmp_path / 'run') == path


def test_empty_smoke_folder_stopped_while_it_deletes_can_be_used_again(
  tmp_path, monkeypatch
):
  path = smoke.empty_smoke_folder(tmp_path / 'run')
  (path / 'checkpoints').mkdir()

  def forbidden(folder, **_):
    raise PermissionError(13, 'Permission denied', str(folder))

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', forbidden)
    with pytest.raises(PermissionError, match='checkpoints'):
      smoke.empty_smoke_folder(tmp_path / 'run')
  assert smoke.empty_smoke_folder(tmp_path / 'run') == path
  assert not (path / 'checkpoints').exists()


def test_empty_smoke_folder_of_other_origin_raises(tmp_path):
  path = tmp_path / 'run-smoke'
  path.mkdir()
  (path / 'thesis.tex').touch()
  with pytest.raises(InvalidError, match='not from an earlier --smoke'):
    smoke.empty_smoke_folder(tmp_path / 'run')
  assert [entry.name for entry in path.iterdir()] == ['thesis.tex']
  shutil.rmtree(path)
  path.touch()
  with pytest.raises(InvalidError, match='is a file, not a folder'):
    smoke.empty_smoke_folder(tmp_path / 'run')


def test_smoke_config_of_photographs_needs_few(tmp_path):
  root = photo_files.write_folder(tmp_path / 'photos', train=8, val=0)
  config = smoke.smoke_config(photo_files.config(root, batch_size=128))
  pipeline = make_pipeline(config)
  assert (pipeline.steps_per_epoch, pipeline.evaluate.size) == (1, 8)
  (root / 'train' / 'cat' / 'cat_0.jpg').unlink()
  with pytest.raises(
    ConfigError, match='need 16 training images, and there are 15'
  ):
    make_pipeline(config)


def test_smoke_config_of_images_in_memory_is_unchanged():
  config = smoke.smoke_config(default_config())
  assert (config.epoch_steps, config.batch_size, config.holdout) == (2, 16, 64)
