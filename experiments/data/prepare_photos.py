"""Prepares photographs: inspects each file once, or packs ImageNet's files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.common.console import counted
from experiments.common.errors import InvalidError, MissingError
from experiments.data import (
  imagenet_layout,
  photo_index,
  photo_records,
)
from experiments.data.photo_folders import File, list_folder
from experiments.data.photo_index import Report, index_folder, prepare_command
from experiments.data.photo_sets import list_imagenet
from experiments.data.store import resolve_data_dir

DATASETS = ('folder', 'imagenet')


class Prepared(NamedTuple):
  """A data set that is ready.

  Attributes:
    data_dir: Value of config.data_dir.
    lines: Description for the user, one line each.
    train: Number of photographs to train on.
    test: Number of photographs to test on.
  """

  data_dir: Path
  lines: list[str]
  train: int
  test: int


def prepare(
  dataset: str,
  source: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None = None,
  *,
  skip_damaged: bool = False,
  report: Report = photo_index.quiet,
  sizes: imagenet_layout.Sizes = imagenet_layout.OFFICIAL,
) -> Prepared:
  """Prepares photographs for training.

  Args:
    dataset: One of `DATASETS`.
    source: Folder with train/CLASS/* and val/CLASS/*, which stay where they
      are; for 'imagenet' also a folder with its archives, or with the set that
      tensorflow-datasets prepared.
    data_dir: Folder of prepared sets, for archives only.
    skip_damaged: Leave damaged photographs out instead of raising an error.
    report: Function `(text, total) -> advance`.
    sizes: Numbers of classes and images that the archives must have.

  Raises:
    MissingError: If the source is not one of these forms.
    InvalidError: If the source or photographs are damaged.
    OSError: If a folder cannot be written.
  """
  root = Path(source).expanduser()
  if not root.is_dir():
    raise MissingError(
      f'--source={source} is not a folder. Name the folder that contains train.'
    )
  is_records = (root / imagenet_layout.SET / imagenet_layout.VERSION).is_dir()
  is_archives = (root / imagenet_layout.TRAIN).is_file()
  in_place = (root / 'train').is_dir() or dataset == 'folder'
  if data_dir and (in_place or is_records):
    raise InvalidError(
      f'--data_dir={data_dir} has no effect, since the photographs stay in'
      f' {root}. Leave it out.'
    )
  command = prepare_command(dataset, root)
  if in_place:
    return _prepare_folder(dataset, root, command, skip_damaged, report)
  if is_records:
    folder = root / imagenet_layout.SET / imagenet_layout.VERSION
    counts = photo_records.index_records(
      folder, command, skip_damaged=skip_damaged, report=report
    )
    return _prepared_records(root, counts)
  if not is_archives:
    raise MissingError(
      f'{root} has no folder train, no {imagenet_layout.TRAIN} and no folder'
      f' {imagenet_layout.SET}/{imagenet_layout.VERSION}. Give a folder with'
      ' one of them as --source.'
    )
  # The imports are slow, and folders do not need them.
  import tensorflow_datasets as tfds

  from experiments.data.imagenet_tars import prepare_tars

  tfds.disable_progress_bar()
  target = resolve_data_dir(data_dir)
  counts = prepare_tars(
    root,
    target,
    f'{command} --data_dir {target}',
    skip_damaged=skip_damaged,
    sizes=sizes,
    report=report,
  )
  return _prepared_records(target, counts)


def _prepare_folder(
  dataset: str, root: Path, command: str, skip_damaged: bool, report: Report
) -> Prepared:
  listed = list_imagenet(root) if dataset == 'imagenet' else list_folder(root)
  indexed = index_folder(
    listed, command, skip_damaged=skip_damaged, report=report
  )
  kept = indexed.folder
  lines = [f'{len(kept.classes):,} classes']
  for name in ('train', 'test'):
    files: Sequence[File] = getattr(kept, name)
    left_out = len(getattr(listed, name)) - len(files)
    text = f'{name}: {counted(len(files), "photograph")}'
    lines.append(text + (f', {left_out:,} left out' if left_out else ''))
  if kinds := photo_index.count_kinds(indexed):
    lines.append('converted when read: ' + _counts(kinds))
  if listed.ignored:
    lines.append('not read: ' + _counts(dict(listed.ignored)))
  if not kept.test:
    lines.append('Nothing to test on: train with config.holdout=NUMBER.')
  return Prepared(root, lines, len(kept.train), len(kept.test))


def _counts(counts: dict[str, int]) -> str:
  return ', '.join(f'{count:,} {name}' for name, count in counts.items())


def _prepared_records(root: Path, counts: dict[str, int]) -> Prepared:
  lines = [f'{k}: {counted(n, "photograph")}' for k, n in counts.items()]
  train, test = (counts[split] for split in photo_records.SPLITS)
  return Prepared(root, lines, train, test)
