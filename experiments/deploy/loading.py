"""Opens deployed networks that may come from an untrusted source.

Weights are read in this process, because safetensors executes nothing. Programs
are opened by `worker`. A file that differs from the card beside it is refused.
SECURITY.md says which kinds of files are safe.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from experiments.common import files, sealed
from experiments.common.errors import InvalidError, MissingError
from experiments.deploy import artefact, worker

CARD = 'card.json'


def load(
  path: str | pathlib.Path,
  *,
  notify: Callable[[str], object] = lambda text: print(text, file=sys.stderr),
) -> artefact.Artefact:
  """Opens an artefact.

  Args:
    path: File that ends in one of `artefact.SUFFIXES`.
    notify: `(text)`, receives a message if no card confirms a program.

  Returns:
    The `Artefact`, with `classes` and `resize` of the file or of the card
    beside it.

  Raises:
    MissingError: If the file or a package that opens it is missing.
    InvalidError: If the file is damaged, has another suffix, takes other
      inputs, differs from the card beside it, or contains what no program of
      `experiments.deploy` contains.
  """
  path = pathlib.Path(path)
  suffixes = ', '.join(artefact.SUFFIXES)
  if path.is_dir():
    raise InvalidError(
      f'{path} is a folder. Give a file in it that ends in one of {suffixes}.'
    )
  if path.suffix not in artefact.SUFFIXES:
    raise InvalidError(
      f'{path} must end in one of {suffixes} to be an artefact.'
    )
  if not path.is_file():
    raise MissingError(f'There is no file {path}.')
  digest, names, resize = _read_card(path)
  if digest and digest != files.sha256(path):
    raise InvalidError(
      f'{path} is not the file that {CARD} beside it describes, because its'
      ' SHA-256 differs. Copy both again, or move the card away to open the'
      ' file anyway.'
    )
  if path.suffix == '.safetensors':
    return artefact.open_here(path)
  if not digest:
    # A program does not store these facts; an ONNX model does.
    unknown = (
      ' If it takes images, the names of its classes and its crop of'
      ' photographs are unknown.'
    )
    notify(
      f'No {CARD} beside {path} has its SHA-256, so nothing shows that it is'
      f' undamaged.{unknown if path.suffix == ".stablehlo" else ""}'
    )
  network = worker.start(path)
  try:
    resize = artefact.checked_resize(network.resize or resize, network.shape)
  except ValueError as error:
    raise InvalidError(
      f'{path.with_name(CARD)} does not describe {path}: {error}. Copy both'
      ' again.'
    ) from error
  return network._replace(classes=network.classes or names, resize=resize)


def _read_card(path: pathlib.Path) -> tuple[str, tuple[str, ...], Any]:
  """Returns facts from the card beside a file, if the card lists the file.

  Returns:
    SHA-256 of the file, names of the classes, and `Artefact.resize`.

  Raises:
    InvalidError: If the card is damaged.
  """
  try:
    place = path.with_name(CARD)
    card = sealed.unseal(place, json.loads(place.read_text(encoding='utf-8')))
    digests = {entry['file']: entry['sha256'] for entry in card['artefacts']}
    # Language models have no classes.
    classes = tuple(map(str, card.get('classes', ())))
    # Cards of earlier versions have no such key.
    return str(digests[path.name]), classes, card.get('resize')
  except InvalidError:
    raise
  except (
    AttributeError,
    OSError,
    ValueError,
    RecursionError,
    LookupError,
    TypeError,
  ):
    return '', (), None
