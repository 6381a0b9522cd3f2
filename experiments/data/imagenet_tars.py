"""Writes ImageNet's archives as array_record files, without TensorFlow.

The archives are those of ILSVRC 2012: ILSVRC2012_img_train.tar contains one
archive per class, ILSVRC2012_img_val.tar all validation images. JPEG files are
stored as they are. The set is written to a temporary folder, read back,
decoded, and only then moved to its final folder.
"""

import contextlib
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import tensorflow_datasets as tfds

from experiments.common import files
from experiments.common.errors import InvalidError, MissingError
from experiments.data import imagenet_labels, photo_records
from experiments.data.archives import (
  SourceError,
  counting_headers,
  tar_errors,
)
from experiments.data.imagenet_layout import (
  OFFICIAL,
  SET,
  TRAIN,
  VAL,
  VERSION,
  Sizes,
)
from experiments.data.photo_index import Advance, Report, quiet

STAGING = '.mq_jax_prepare_'
LARGEST_IMAGE = 2**26  # Bytes; the largest has 15 MB.
_AGAIN = 'Download the archive again.'
# Each member may have a header of extended attributes.
_TRAIN_HEADERS, _CLASS_HEADERS, _VAL_HEADERS = 4_000, 10_000, 200_000

Photo = tuple[str, int, bytes]


def prepare_tars(
  source: Path,
  root: Path,
  command: str,
  *,
  skip_damaged: bool = False,
  sizes: Sizes = OFFICIAL,
  report: Report = quiet,
) -> dict[str, int]:
  """Prepares the archives in a folder.

  Args:
    source: Folder with both archives and a list of the classes of validation
      images (`imagenet_labels`).
    root: Folder of prepared sets.
    command: Command that prepares the set, for messages.
    skip_damaged: Leave damaged photographs out instead of raising an error.
    sizes: Numbers of classes and images that the archives must have.
    report: Function `(text, total) -> advance`.

  Returns:
    The number of photographs of each split.

  Raises:
    MissingError: If an archive or the list is missing.
    InvalidError: If an archive or a photograph is damaged.
    OSError: If the folder of the set cannot be written or exists.
  """
  for name in (TRAIN, VAL):
    if not (source / name).is_file():
      raise MissingError(
        f'{source / name} is missing. Download it from image-net.org, or give'
        ' a folder with train/WNID/* and val/WNID/*.'
      )
  names = _class_names(source / TRAIN)
  if len(names) != sizes.classes:
    raise SourceError(
      f'{source / TRAIN} has {len(names)} classes instead of {sizes.classes}.'
      f' {_AGAIN}'
    )
  labels = imagenet_labels.find_labels([source], names)
  target = root / SET / VERSION
  if target.exists():
    raise FileExistsError(
      f'{target} exists. To inspect the set there, give --source {root}. To'
      ' prepare it again, remove that folder.'
    )
  root.mkdir(parents=True, exist_ok=True)
  files.remove_old_folders(root, STAGING)
  with tempfile.TemporaryDirectory(prefix=STAGING, dir=root) as staging:
    checksums: dict[str, int] = {}
    builder = _Builder(
      source=source,
      names=names,
      labels=labels,
      checksums=checksums,
      report=report,
      data_dir=staging,
      file_format='array_record',
    )
    # The builder prints that it downloads, and prints the temporary folder.
    with contextlib.redirect_stdout(None):
      builder.download_and_prepare(
        # By default it would first look for a prepared set in the cloud.
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    for split, path in zip(photo_records.SPLITS, (TRAIN, VAL), strict=True):
      found = builder.info.splits[split].num_examples
      if found != (expected := getattr(sizes, split)):
        raise SourceError(
          f'{source / path} has {found:,} images instead of {expected:,}.'
          f' {_AGAIN}'
        )
    written = Path(staging) / SET / VERSION
    counts = photo_records.index_records(
      written,
      command,
      skip_damaged=skip_damaged,
      checksums=checksums,
      report=report,
    )
    target.parent.mkdir(exist_ok=True)
    os.rename(written, target)
  return counts


class _Builder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """Writes the images of the archives."""

  name = SET
  VERSION = tfds.core.Version(VERSION)

  def __init__(
    self,
    *,
    source: Path,
    names: tuple[str, ...],
    labels: dict[str, int],
    checksums: dict[str, int],
    report: Report,
    **options: Any,
  ):
    self._source, self._names, self._labels = source, names, labels
    self._checksums, self._report = checksums, report
    super().__init__(**options)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'file_name': tfds.features.Text(),
          'image': tfds.features.Image(encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(names=self._names),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    train, val = self._source / TRAIN, self._source / VAL
    photos = (
      _train_photos(train, self._names, self._report),
      _val_photos(val, self._labels, self._report),
    )
    return {
      split: self._generate_examples(found)
      for split, found in zip(photo_records.SPLITS, photos, strict=True)
    }

  def _generate_examples(
    self, photos: Iterator[Photo]
  ) -> Iterator[tuple[str, Any]]:
    for name, label, content in photos:
      if name in self._checksums:
        raise SourceError(f'{self._source} has {name} twice. {_AGAIN}')
      self._checksums[name] = zlib.crc32(content)
      yield name, {'file_name': name, 'image': content, 'label': label}


def _class_names(path: Path) -> tuple[str, ...]:
  """Returns the sorted WNIDs of the classes of the training archive."""
  with path.open('rb') as file:
    names = [name for name, _, _ in _members(path, file, _TRAIN_HEADERS)]
  for name in names:
    if not re.fullmatch(r'n\d{8}\.tar', name):
      raise SourceError(
        f'{path} contains {name!r} instead of archives such as n01440764.tar.'
        f' {_AGAIN}'
      )
  if len(set(names)) < len(names):
    raise SourceError(f'{path} has an archive twice. {_AGAIN}')
  return tuple(sorted(name.removesuffix('.tar') for name in names))


def _train_photos(
  path: Path, names: tuple[str, ...], report: Report
) -> Iterator[Photo]:
  advance = report('writing train, classes', len(names))
  with path.open('rb') as file:
    for archive, _, opened in _members(path, file, _TRAIN_HEADERS):
      label = names.index(archive.removesuffix('.tar'))
      for name, size, inner in _members(path, opened, _CLASS_HEADERS):
        yield name, label, _content(path, name, size, inner)
      advance(1)


def _val_photos(
  path: Path, labels: dict[str, int], report: Report
) -> Iterator[Photo]:
  advance: Advance = report('writing validation', len(labels))
  with path.open('rb') as file:
    for name, size, opened in _members(path, file, _VAL_HEADERS):
      stem = name.rpartition('.')[0]
      label = labels.get(name, labels.get(stem))
      if label is None:
        raise InvalidError(
          f'The list of classes has none for {name} of {path}. Use the complete'
          ' list.'
        )
      yield name, label, _content(path, name, size, opened)
      advance(1)


def _content(path: Path, name: str, size: int, opened: IO[bytes]) -> bytes:
  if size > LARGEST_IMAGE:
    raise SourceError(
      f'{path} contains {name} of {size} bytes, which no image of ImageNet has.'
      f' {_AGAIN}'
    )
  with tar_errors(path, _AGAIN):
    content = opened.read()
  if len(content) != size:
    raise SourceError(f'{path} ends within {name}. {_AGAIN}')
  return content


def _members(
  path: Path, file: IO[bytes], headers: int
) -> Iterator[tuple[str, int, IO[bytes]]]:
  """Yields name, size and content of each regular file of an archive.

  Paths of members are not used, apart from their last part.
  """
  with tar_errors(path, _AGAIN):
    tar: Any = tarfile.open(  # noqa: SIM115, the caller closes the file.
      fileobj=file, mode='r:', tarinfo=counting_headers(headers)
    )
  while True:
    with tar_errors(path, _AGAIN):
      member = tar.next()
      # Otherwise the list of all members would stay in memory.
      tar.members = []
    if member is None:
      return
    if member.isreg() and not member.issparse():
      opened = tar.extractfile(member)
      assert opened is not None  # It is None for links and devices only.
      yield member.name.rsplit('/', 1)[-1], member.size, opened
