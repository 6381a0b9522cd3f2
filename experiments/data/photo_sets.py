"""Reads the data sets of photographs: `folder` and `imagenet`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from experiments.common.errors import ConfigError, InvalidError, MissingError
from experiments.data import (
  imagenet_labels,
  imagenet_layout,
  photo_index,
  photo_records,
)
from experiments.data.photo_folders import File, Folder, list_folder
from experiments.data.photo_index import Indexed, index_folder
from experiments.data.photo_pipeline import Photos, PhotoSet
from experiments.data.store import resolve_data_dir


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

  Photographs that the folder's index does not contain are inspected first.

  Raises:
    ConfigError: If `keys.data_dir` is empty.
    MissingError: If photographs are missing, or too many are not inspected.
    InvalidError: If the folder is not as `list_folder` needs it, or photographs
      are damaged.
  """
  return _read_in_place('folder', _listed(keys), identified=True)


def folder_digest(keys: ConfigDict) -> str:
  """Returns `PhotoSet.digest` of the data set `folder`.

  It inspects no photograph: those that the index of the folder does not know
  count as complete.

  Raises:
    ConfigError: If `keys.data_dir` is empty.
    MissingError: If photographs are missing.
    InvalidError: If the folder is not as `list_folder` needs it.
  """
  assumed = photo_index.assumed_folder(_listed(keys))
  return photo_set(assumed, identified=True).digest


def _listed(keys: ConfigDict) -> Folder:
  if not keys.data_dir:
    raise ConfigError(
      "config.data_dir='' must name the folder of the photographs with"
      " config.dataset='folder'."
    )
  return list_folder(Path(keys.data_dir))


def read_imagenet(keys: ConfigDict) -> PhotoSet:
  """Reads ImageNet in `keys.data_dir`: class folders, or a prepared set.

  Raises:
    MissingError: If it is in neither form there, or is not inspected.
    InvalidError: If it is not ImageNet, or photographs are damaged.
  """
  root = resolve_data_dir(keys.data_dir)
  if (root / 'train').is_dir():
    return _read_in_place('imagenet', list_imagenet(root))
  prepared = root / imagenet_layout.SET / imagenet_layout.VERSION
  if (prepared / 'dataset_info.json').is_file():
    return photo_records.read_records(
      prepared, photo_index.prepare_command('imagenet', root)
    )
  raise MissingError(
    f'imagenet is not in {root}. Give a folder with train/WNID/* and val/* as'
    ' config.data_dir, or prepare one from the archives of image-net.org:\n'
    '  python -m experiments.prepare_data --dataset imagenet --source'
    ' FOLDER_OF_THE_ARCHIVES --data_dir DIR'
  )


def list_imagenet(root: Path) -> Folder:
  """Lists ImageNet's photographs in class folders; val may be flat.

  Raises:
    MissingError: If a folder is missing.
    InvalidError: If there are other than ImageNet's 1,000 classes.
  """

  def read_labels(val: Path, classes: tuple[str, ...]) -> dict[str, int]:
    return imagenet_labels.find_labels([val, root], classes)

  folder = list_folder(root, read_labels)
  others = [n for n in folder.classes if not re.fullmatch(r'n\d{8}', n)]
  expected = imagenet_layout.OFFICIAL.classes
  hint = "Use config.dataset='folder' for other classes."
  if others:
    raise InvalidError(
      f'{root} has a class folder {others[0]!r}, but those of ImageNet have'
      f' names such as n01440764. {hint}'
    )
  if len(folder.classes) != expected:
    raise InvalidError(
      f'{root} has {len(folder.classes)} class folders instead of the'
      f' {expected} of ImageNet. {hint}'
    )
  return folder


def _read_in_place(
  dataset: str, folder: Folder, *, identified: bool = False
) -> PhotoSet:
  command = photo_index.prepare_command(dataset, folder.root)
  most = photo_index.LARGEST_UNPREPARED
  return photo_set(
    index_folder(folder, command, most=most), identified=identified
  )


def photo_set(indexed: Indexed, *, identified: bool) -> PhotoSet:
  """Returns the data set of files on disk.

  Args:
    indexed: The files.
    identified: The paths and the sizes of the files are a part of the digest of
      the set.
  """
  folder, entries = indexed
  files = (*folder.train, *folder.test)

  def photos(files: tuple[File, ...]) -> Photos:
    # The other columns of a million files would take as much memory again.
    paths = [file.path for file in files]
    return Photos(
      read=lambda i: (folder.root / paths[i]).read_bytes(),
      name=lambda i: str(folder.root / paths[i]),
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
    _paths_and_sizes(files) if identified else None,
  )


def _paths_and_sizes(files: Sequence[File]) -> dict[str, np.ndarray]:
  paths = os.fsencode('\0'.join(file.path for file in files))
  return {
    'paths': np.frombuffer(paths, np.uint8),
    'sizes': np.array([file.size for file in files], np.int64),
  }
