"""Writes a CIFAR set as tensorflow-datasets stores it, without TensorFlow.

The source is read and checked completely before anything is written. The set is
written to a temporary folder, read back, compared with the source, and only
then moved to its final folder. A preparation that is stopped at any moment thus
leaves nothing that could be mistaken for a set.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from experiments.common import files
from experiments.data import store
from experiments.data.cifar_archives import (
  CLASSES,
  OFFICIAL,
  Advance,
  Report,
  Sizes,
  Splits,
  quiet,
  read_source,
)

VERSION = '3.0.2'  # of tensorflow-datasets' own cifar10 and cifar100
STAGING = '.mq_jax_prepare_'


def prepare(
  source: str | os.PathLike[str],
  data_dir: str | os.PathLike[str] | None = None,
  *,
  sizes: Sizes = OFFICIAL,
  report: Report = quiet,
) -> Path:
  """Prepares the set in `source`, unless `data_dir` contains it already.

  Args:
    source: Archive or folder, as for `cifar_archives.read_source`.
    data_dir: Folder of prepared sets, as for `datasets.load`.
    sizes: Numbers of images that the source must have.
    report: Function `(text, total) -> advance`. It is called at the start of
      each stage with the number of images; `advance(n)` is called after each n
      images.

  Returns:
    The folder of the prepared set.

  Raises:
    SourceError: If the source is not a complete set. Nothing is then written.
    OSError: If the folder of the set cannot be written or contains something
      else.
  """
  root = store.resolve_data_dir(data_dir)
  name, splits = read_source(source, sizes=sizes, report=report)
  target = root / name / VERSION
  if target.exists():
    try:
      return store.find_prepared(name, root)
    except FileNotFoundError as error:
      raise FileExistsError(
        f'{target} exists, but is not a set that can be read. Remove the folder'
        ' and run this command again.'
      ) from error
  root.mkdir(parents=True, exist_ok=True)
  files.remove_old_folders(root, STAGING)
  with tempfile.TemporaryDirectory(prefix=STAGING, dir=root) as staging:
    advance = report('writing', sum(sizes))
    builder = BUILDERS[name](
      splits=splits,
      advance=advance,
      data_dir=staging,
      file_format='array_record',
    )
    # The builder prints that it downloads, and prints the temporary folder.
    with contextlib.redirect_stdout(None):
      builder.download_and_prepare(
        # By default it would first look for a prepared set in the cloud.
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
      )
    written = store.find_prepared(name, staging)
    # Reading also writes the decoded pixels that later starts read.
    *arrays, _ = store.read_prepared(written, report('checking', sum(sizes)))
    expected = (*splits['train'], *splits['test'])
    if not all(map(np.array_equal, arrays, expected)):
      raise OSError(
        f'{written} did not read back as it was written. Check the disk and run'
        ' this command again.'
      )
    target.parent.mkdir(exist_ok=True)
    os.rename(written, target)
  return target


class _Builder(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """Writes splits that are in memory."""

  VERSION = tfds.core.Version(VERSION)

  def __init__(self, *, splits: Splits, advance: Advance, **options: Any):
    self._splits = splits
    self._advance = advance
    super().__init__(**options)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(shape=(32, 32, 3)),
          'label': tfds.features.ClassLabel(names=CLASSES[self.name]),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {split: self._generate_examples(split) for split in self._splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, Any]]:
    images, labels = self._splits[split]
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      # Encoded here, because TensorFlow would have to encode an array.
      png = io.BytesIO()
      Image.fromarray(image).save(png, 'PNG')
      png.seek(0)
      yield i, {'id': f'{split}_{i:05d}', 'image': png, 'label': int(label)}
      self._advance(1)


class _Cifar10(_Builder, skip_registration=True):  # type: ignore[call-arg]
  name = 'cifar10'


class _Cifar100(_Builder, skip_registration=True):  # type: ignore[call-arg]
  name = 'cifar100'


BUILDERS = {'cifar10': _Cifar10, 'cifar100': _Cifar100}
