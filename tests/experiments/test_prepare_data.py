"""Tests the command that `experiments.prepare_data` prints."""

import shlex

import pytest

from experiments.build.schema import default_config
from experiments.data import prepare_photos
from experiments.prepare_data import train_command
from experiments.training.train import make_pipeline
from tests.experiments.data.photo_files import write_folder


@pytest.mark.parametrize(('train', 'val'), [(7, 3), (7, 0), (1, 1), (80, 1)])
def test_train_command_trains_on_any_number_of_photographs(
  tmp_path, train, val
):
  root = write_folder(tmp_path / 'my photos', train=train, val=val)
  prepared = prepare_photos.prepare('folder', root)
  words = shlex.split(train_command('folder', prepared))
  assert words[:3] == ['python', '-m', 'experiments.imagenet']
  config = default_config()
  for word in words[3:]:
    name, value = word.removeprefix('--config.').split('=')
    config[name] = type(config[name])(value)
  assert make_pipeline(config).steps_per_epoch >= 1
  # The default stays if there are enough photographs.
  assert (config.batch_size == 128) == (train == 80)
