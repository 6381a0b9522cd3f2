"""Reads a whole CIFAR set from what people have of it.

The official binary or python archive (.tar.gz or .tar), the folder inside of
it, or folders of PNG files, train/CLASS/*.png and test/CLASS/*.png. Which set
it is shows in the files. Nothing in a pickle is executed.
"""

import contextlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

Advance = Callable[[int], object]
Report = Callable[[str, int], Advance]
Splits = dict[str, tuple[np.ndarray, np.ndarray]]

PIXELS = 3 * 32 * 32
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


class SourceError(ValueError):
  """The source is not a whole CIFAR set."""


class Sizes(NamedTuple):
  """How many images the splits of a set have; smaller in tests."""

  train: int
  test: int


OFFICIAL = Sizes(50_000, 10_000)


class Layout(NamedTuple):
  """The files of one official archive.

  Attributes:
    name: The set.
    splits: The files of each split, of equally many images.
    labels: Bytes of labels before an image, the last one of which counts; 0
      for python files.
    key: Of the labels in python files.
  """

  name: str
  splits: Mapping[str, tuple[str, ...]]
  labels: int = 0
  key: str = ''

  @property
  def files(self) -> tuple[str, ...]:
    """All files."""
    return self.splits['train'] + self.splits['test']


_BATCHES = tuple(f'data_batch_{i}' for i in range(1, 6))
LAYOUTS = (
  Layout(
    'cifar10',
    {'train': tuple(f'{b}.bin' for b in _BATCHES), 'test': ('test_batch.bin',)},
    labels=1,
  ),
  Layout(
    'cifar100', {'train': ('train.bin',), 'test': ('test.bin',)}, labels=2
  ),
  Layout('cifar10', {'train': _BATCHES, 'test': ('test_batch',)}, key='labels'),
  Layout(
    'cifar100', {'train': ('train',), 'test': ('test',)}, key='fine_labels'
  ),
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
) -> tuple[str, Splits]:
  """Reads a source whole, and writes nothing.

  Args:
    source: As in `prepare`.
    sizes: As in `prepare`.
    report: As in `prepare`.

  Returns:
    The name of the set; and by split the images, uint8 of shape (N, 32, 32, 3),
    and their labels, int32 of shape (N,), in the order of the files.

  Raises:
    SourceError: If the source is not a whole set.
    OSError: If the disk fails.
  """
  source = Path(source).expanduser()
  with _open(source) as files:
    name, layout = _recognise(source, files)
    advance = report(f'reading {source.name}', sum(sizes))
    if layout is None:
      splits = _read_folders(source, name, sizes, advance)
    else:
      splits = _read_layout(files, layout, sizes, advance)
  _check_labels(splits, name)
  return name, splits


class Files(NamedTuple):
  """What can be read by name: sizes in bytes, and the function that reads."""

  sizes: Mapping[str, int]
  read: Callable[[str], bytes]


@contextlib.contextmanager
def _open(source: Path) -> Iterator[Files]:
  """Opens the files of a folder, or of an archive without unpacking it."""
  if source.is_dir():
    paths = {path.name: path for path in source.iterdir() if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    yield Files(sizes, lambda name: paths[name].read_bytes())
    return
  if not source.exists():
    raise SourceError(f'The source {source} does not exist.')
  with contextlib.ExitStack() as stack:
    with _archive_errors(source):
      tar = stack.enter_context(tarfile.open(source))
      # Links and devices are left out, and no member's path is ever used.
      members = {
        member.name.rsplit('/', 1)[-1]: member
        for member in tar
        if member.isreg()
      }
      # tarfile stops before the compression's checksum, at the very end.
      while tar.fileobj and tar.fileobj.read(2**20):
        pass

    def read(name: str) -> bytes:
      with _archive_errors(source):
        file = tar.extractfile(members[name])
        assert file is not None  # It is for links and devices only.
        with file:
          return file.read()

    yield Files({name: m.size for name, m in members.items()}, read)


@contextlib.contextmanager
def _archive_errors(source: Path) -> Iterator[None]:
  try:
    yield
  except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
    if isinstance(error, OSError) and error.errno:
      raise  # Of the disk, not of what is on it.
    cause = str(error).partition(':')[0]
    raise SourceError(
      f'{source} is not a whole tar archive ({cause}). Was it downloaded to its'
      ' end?'
    ) from error


def _recognise(source: Path, files: Files) -> tuple[str, Layout | None]:
  """Which set a source is, and in what layout; None for folders of PNGs."""
  if (source / 'train').is_dir() and (source / 'test').is_dir():
    count = len(_class_folders(source / 'train'))
    for name, classes in CLASSES.items():
      if count == len(classes):
        return name, None
    raise SourceError(
      f'{source}/train has {count} folders of classes; CIFAR-10 has 10 and'
      ' CIFAR-100 has 100.'
    )

  def lacking(layout: Layout) -> list[str]:
    return [file for file in layout.files if file not in files.sizes]

  # The layout of which most is there, so that the message names the rest.
  layout = min(LAYOUTS, key=lambda x: len(lacking(x)) / len(x.files))
  missing = lacking(layout)
  if len(missing) == len(layout.files):
    raise SourceError(
      f'{source} holds no CIFAR set: neither data_batch_1.bin (CIFAR-10 binary)'
      ' nor train.bin (CIFAR-100 binary), data_batch_1 (CIFAR-10 python), train'
      ' (CIFAR-100 python), or the folders train and test with a folder of PNG'
      ' files for each class.'
    )
  if missing:
    raise SourceError(f'{source} lacks {", ".join(missing)}.')
  return layout.name, layout


def _read_layout(
  files: Files, layout: Layout, sizes: Sizes, advance: Advance
) -> Splits:
  """Reads the files of an official archive."""
  splits = {}
  for split, names in layout.splits.items():
    count = getattr(sizes, split) // len(names)
    size = count * (PIXELS + layout.labels)
    images, labels = [], []
    for name in names:
      found = files.sizes[name]
      if layout.key:
        # Room for the names and labels, but none for what fills the memory.
        if not size < found < 2 * size + 100_000:
          raise SourceError(
            f'{name} has {found} bytes; {count} images take about {size}.'
          )
        rows, column = _read_pickle(files.read(name), name, layout.key, count)
      else:
        if found != size:
          raise SourceError(
            f'{name} has {found} bytes; {count} images take {size}.'
          )
        table = np.frombuffer(files.read(name), np.uint8).reshape(count, -1)
        rows, column = table[:, layout.labels :], table[:, layout.labels - 1]
      images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
      labels.append(column)
      advance(count)
    splits[split] = (
      np.concatenate(images),
      np.concatenate(labels).astype(np.int32),
    )
  return splits


class _Array:
  """Stands in for a NumPy array while a python file is read."""

  state: tuple[Any, ...] = ()

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    self.state = state


class _Dtype:
  """Stands in for a NumPy dtype."""

  def __init__(self, code: Any = '', *unused: Any) -> None:
    del unused
    self.code = code

  def __setstate__(self, state: tuple[Any, ...]) -> None:
    del state  # Byte order, which single bytes have none of.


def _latin1(text: str, encoding: str) -> bytes:
  """How Python 3 writes bytes under Python 2's protocol."""
  if encoding not in ('latin1', b'latin1'):
    raise pickle.UnpicklingError(f'encoding {encoding!r}')
  return text.encode('latin1')


# A pickle may call whatever it names. These names, which the official files
# have, stand for harmless things of ours; even NumPy sees no foreign state.
_HARMLESS = {
  ('numpy.core.multiarray', '_reconstruct'): lambda *unused: _Array(),
  ('numpy._core.multiarray', '_reconstruct'): lambda *unused: _Array(),
  ('numpy', 'ndarray'): _Array,
  ('numpy', 'dtype'): _Dtype,
  ('_codecs', 'encode'): _latin1,
}


class _Unpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _HARMLESS:
      raise pickle.UnpicklingError(
        f'it asks for {module}.{name}, which no CIFAR file does'
      )
    return _HARMLESS[module, name]


def _read_pickle(
  content: bytes, name: str, key: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads rows of pixels and labels from a python file, executing nothing."""
  try:
    batch = _Unpickler(io.BytesIO(content), encoding='bytes').load()
    batch = {k.decode() if isinstance(k, bytes) else k: batch[k] for k in batch}
    _, shape, dtype, fortran, pixels = batch['data'].state
    code = dtype.code.decode() if isinstance(dtype.code, bytes) else dtype.code
    if code.lstrip('|') != 'u1':
      raise ValueError(f'the pixels are {code}, not u1')
    order: Literal['F', 'C'] = 'F' if fortran else 'C'
    rows = np.frombuffer(pixels, np.uint8).reshape(shape, order=order)
    labels = np.array(batch[key])
    if rows.shape != (count, PIXELS) or labels.shape != (count,):
      raise ValueError(f'{rows.shape} pixels and {labels.shape} labels')
    if labels.dtype.kind not in 'iu':
      raise ValueError(f'the labels are {labels.dtype}')
  except Exception as error:  # A broken pickle can raise anything.
    raise SourceError(f'{name} is no CIFAR file ({error!r}).') from error
  return rows, labels


def _class_folders(folder: Path) -> list[str]:
  names = (path.name for path in folder.iterdir() if path.is_dir())
  return sorted(name for name in names if not name.startswith(('.', '__')))


def _read_folders(
  source: Path, name: str, sizes: Sizes, advance: Advance
) -> Splits:
  """Reads folders of PNGs, named by the classes or by their numbers."""
  classes = CLASSES[name]
  numbers = tuple(map(str, range(len(classes))))
  splits = {}
  for split, total in sizes._asdict().items():
    found = _class_folders(source / split)
    folders = numbers if set(found) == set(numbers) else classes
    if set(found) != set(folders):
      raise SourceError(
        f'{source / split} lacks {sorted(set(folders) - set(found))} and has'
        f' unknown {sorted(set(found) - set(folders))}; the folders are the'
        f' names of the classes of {name}, or 0 to {len(classes) - 1}.'
      )
    images = np.empty((total, 32, 32, 3), np.uint8)
    each = total // len(classes)
    for label, folder in enumerate(folders):
      files = sorted(
        path
        for path in (source / split / folder).iterdir()
        if path.suffix.lower() == '.png' and not path.name.startswith('.')
      )
      if len(files) != each:
        raise SourceError(
          f'{source / split / folder} has {len(files)} PNG files; it takes'
          f' {each}.'
        )
      for i, path in enumerate(files, label * each):
        images[i] = _read_png(path)
      advance(each)
    splits[split] = (
      images,
      np.repeat(np.arange(len(classes), dtype=np.int32), each),
    )
  return splits


def _read_png(path: Path) -> np.ndarray:
  try:
    with Image.open(path, formats=['PNG']) as image:
      if image.size != (32, 32) or image.mode != 'RGB':
        raise ValueError(f'{image.mode} of {image.size}, not RGB of (32, 32)')
      return np.asarray(image)
  except (OSError, ValueError, SyntaxError) as error:
    raise SourceError(f'{path} is no CIFAR image ({error}).') from error


def _check_labels(splits: Splits, name: str) -> None:
  """In both sets every class has equally many images."""
  classes = CLASSES[name]
  for split, (_, labels) in splits.items():
    if not 0 <= labels.min() <= labels.max() < len(classes):
      raise SourceError(
        f'The {split} labels are {labels.min()} to {labels.max()}; those of'
        f' {name} are 0 to {len(classes) - 1}.'
      )
    counts = np.bincount(labels, minlength=len(classes))
    each = len(labels) // len(classes)
    if (counts != each).any():
      label = int(np.argmax(counts != each))
      raise SourceError(
        f'The {split} split has {counts[label]} images of class {label}'
        f' ({classes[label]}); it takes {each}.'
      )
