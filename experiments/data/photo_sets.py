"""Reads the data set `folder`: any folder of photographs."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.common.errors import ConfigError
from experiments.data import photo_index
from experiments.data.photo_folders import File, list_folder
from experiments.data.photo_index import Indexed, index_folder
from experiments.data.photo_pipeline import Photos, PhotoSet


def check_photo_keys(keys: ConfigDict) -> None:
  """Refuses keys that do not fit each other; reads no files.

  Raises:
    ConfigError: If the crop is larger than the scaled photograph.
  """
  if keys.resize < keys.image_size:
    raise ConfigError(
      f'config.resize={keys.resize} must be at least'
      f' config.image_size={keys.image_size}: the short side of test images is'
      ' scaled to it before they are cropped.'
    )


def read_folder(keys: ConfigDict) -> PhotoSet:
  """Reads the data set `folder` in `keys.data_dir`.

  Photographs that the folder's index does not know are inspected first.

  Raises:
    ConfigError: If `keys.data_dir` is empty.
    MissingError: If photographs are missing, or too many are not inspected.
    InvalidError: If the folder is not as `list_folder` needs it, or photographs
      are damaged.
  """
  if not keys.data_dir:
    raise ConfigError(
      "config.data_dir='' must name the folder of the photographs with"
      " config.dataset='folder'."
    )
  folder = list_folder(Path(keys.data_dir))
  return photo_set(
    index_folder(
      folder,
      photo_index.prepare_command('folder', folder.root),
      most=photo_index.LARGEST_UNPREPARED,
    )
  )


def photo_set(indexed: Indexed) -> PhotoSet:
  """Returns the data set of files on disk."""
  folder, entries = indexed

  def photos(files: tuple[File, ...]) -> Photos:
    return Photos(
      read=lambda i: (folder.root / files[i].path).read_bytes(),
      name=lambda i: str(folder.root / files[i].path),
      labels=np.array([file.label for file in files], np.int32),
      orientations=np.array(
        [entries[file.path].orientation for file in files], np.uint8
      ),
    )

  return PhotoSet(
    folder.classes,
    photos(folder.train),
    photos(folder.test) if folder.test else None,
    str(folder.root),
  )
