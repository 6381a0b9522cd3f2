"""Reads a CIFAR set from an official archive, binary or python.

The source is the archive (.tar.gz or .tar) or the folder that it contains. The
names of the files distinguish CIFAR-10 from CIFAR-100.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data import cifar_pickle
from experiments.data.archives import File, SourceError, md5, open_archive

Advance = Callable[[int], object]
Report = Callable[[str, int], Advance]
# Images and labels of each split, by its name.
Splits = dict[str, tuple[np.ndarray, np.ndarray]]

PIXELS = 3 * 32 * 32
_AGAIN = 'Download the archive again.'
_CIFAR10 = 'airplane automobile bird cat deer dog frog horse ship truck'
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CLASSES = {
  'cifar10': tuple(_CIFAR10.split()),
  'cifar100': tuple(_CIFAR100.split()),
}
# MD5 of the official archives, from https://www.cs.toronto.edu/~kriz/cifar.html.
OFFICIAL_MD5 = {
  'c32a1d4ab5d03f1284b67883e8d87530': 'cifar-10-binary.tar.gz',
  'c58f30108f718f92721af3b95e74349a': 'cifar-10-python.tar.gz',
  '03b5dce01913d631647c71ecec9e9cb8': 'cifar-100-binary.tar.gz',
  'eb9058c3a382ffc7106e4002c42a8d85': 'cifar-100-python.tar.gz',
}


class Sizes(NamedTuple):
  """Numbers of images in the splits of a set."""

  train: int
  test: int


OFFICIAL = Sizes(50_000, 10_000)


class Layout(NamedTuple):
  """The files of one official archive.

  Attributes:
    name: Name of the set, 'cifar10' or 'cifar100'.
    train: Files of the training split, which have equally many images.
    test: File of the test split.
    labels: Number of label bytes in front of each image, of which the last one
      is the class; 0 for python files.
    key: Key of the labels in python files.
  """

  name: str
  train: tuple[str, ...]
  test: str
  labels: int = 0
  key: str = ''

  @property
  def files(self) -> tuple[str, ...]:
    """The names of all files."""
    return (*self.train, self.test)


_BATCHES = tuple(f'data_batch_{i}' for i in range(1, 6))
LAYOUTS = (
  Layout(
    'cifar10', tuple(f'{b}.bin' for b in _BATCHES), 'test_batch.bin', labels=1
  ),
  Layout('cifar100', ('train.bin',), 'test.bin', labels=2),
  Layout('cifar10', _BATCHES, 'test_batch', key='labels'),
  Layout('cifar100', ('train',), 'test', key='fine_labels'),
)


def quiet(text: str, total: int) -> Advance:
  """Reports nothing."""
  del text, total
  return lambda n: None


def read_source(
  source: str | os.PathLike[str],
  *,
  sizes: Sizes = OFFICIAL,
  report: Report = quiet,
  notify: Callable[[str], object] = print,
) -> tuple[str, Splits]:
  """Reads all images and labels of a source.

  Args:
    source: Archive or folder.
    sizes: Numbers of images that the source must have.
    report: Function `(text, total) -> advance`. It is called once with the
      number of images; `advance(n)` is called after each n images.
    notify: `(text)`, receives a message if the source is an archive that is
      complete, but not one of the official ones.

  Returns:
    The name of the set, and a dict from split to images, uint8 of shape
    (N, 32, 32, 3), and labels, int32 of shape (N,), in the order of the files.

  Raises:
    SourceError: If the source is not a complete set.
    OSError: If the disk fails.
  """
  source = Path(source).expanduser()
  with _open(source) as files:
    layout = _recognise(source, files)
    advance = report(f'reading {source.name}', sum(sizes))
    splits = _read_layout(files, layout, sizes, advance)
  _check_labels(splits, layout.name)
  if source.is_file() and (digest := md5(source)) not in OFFICIAL_MD5:
    notify(
      f'{source} has the MD5 {digest}, which no official archive has. It is a'
      f' complete {layout.name} set, but nothing shows that its images are'
      ' unchanged.'
    )
  return layout.name, splits


@contextlib.contextmanager
def _open(source: Path) -> Iterator[Mapping[str, File]]:
  """Opens the files of a folder, or of an archive without extracting it."""
  if source.is_dir():
    paths = [path for path in source.iterdir() if path.is_file()]
    yield {p.name: File(p.stat().st_size, p.read_bytes) for p in paths}
    return
  if not source.exists():
    raise SourceError(
      f'The source {source} does not exist. Give the path of an archive.'
    )
  with open_archive(source, _AGAIN) as files:
    yield files


def _recognise(source: Path, files: Mapping[str, File]) -> Layout:
  """Returns the layout whose files the source has."""

  def lacking(layout: Layout) -> list[str]:
    return [file for file in layout.files if file not in files]

  # The layout with the fewest missing files, which the message then names.
  layout = min(LAYOUTS, key=lambda x: len(lacking(x)) / len(x.files))
  missing = lacking(layout)
  if len(missing) == len(layout.files):
    raise SourceError(
      f'{source} contains no CIFAR set. It must contain data_batch_1.bin'
      ' (CIFAR-10 binary), train.bin (CIFAR-100 binary), data_batch_1 (CIFAR-10'
      ' python) or train (CIFAR-100 python). Give an official archive, or the'
      ' folder that it contains.'
    )
  if missing:
    raise SourceError(f'{source} lacks {", ".join(missing)}. {_AGAIN}')
  return layout


def _read_layout(
  files: Mapping[str, File], layout: Layout, sizes: Sizes, advance: Advance
) -> Splits:
  """Reads the files of an official archive."""
  splits = {}
  for split, names in (('train', layout.train), ('test', (layout.test,))):
    count = getattr(sizes, split) // len(names)
    images, labels = [], []
    for name in names:
      rows, column = _read_file(files, name, layout, count)
      images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
      labels.append(column)
      advance(count)
    splits[split] = (
      np.concatenate(images),
      np.concatenate(labels).astype(np.int32),
    )
  return splits


def _read_file(
  files: Mapping[str, File], name: str, layout: Layout, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns pixels of shape (count, PIXELS) and labels of shape (count,)."""
  size, (found, read) = count * (PIXELS + layout.labels), files[name]
  if layout.key:
    # The limit leaves room for names and labels and protects the memory.
    if not size < found < 2 * size + 100_000:
      raise SourceError(
        f'{name} has {found} bytes, but {count} images take about {size}.'
        f' {_AGAIN}'
      )
    try:
      return cifar_pickle.read_batch(read(), layout.key, count, PIXELS)
    except ValueError as error:
      raise SourceError(f'{name} is not a CIFAR file: {error}. {_AGAIN}') from (
        error
      )
  if found != size:
    raise SourceError(
      f'{name} has {found} bytes, but {count} images take {size}. {_AGAIN}'
    )
  table = np.frombuffer(read(), np.uint8).reshape(count, -1)
  return table[:, layout.labels :], table[:, layout.labels - 1]


def _check_labels(splits: Splits, name: str) -> None:
  """Checks that every class has equally many images, as in both sets."""
  classes = CLASSES[name]
  for split, (_, labels) in splits.items():
    if not 0 <= labels.min() <= labels.max() < len(classes):
      raise SourceError(
        f'The {split} labels are {labels.min()} to {labels.max()}, but those of'
        f' {name} are 0 to {len(classes) - 1}. {_AGAIN}'
      )
    counts = np.bincount(labels, minlength=len(classes))
    expected = len(labels) // len(classes)
    if (counts != expected).any():
      label = int(np.argmax(counts != expected))
      raise SourceError(
        f'The {split} split has {counts[label]} images of class {label}'
        f' ({classes[label]}), but must have {expected}. {_AGAIN}'
      )
