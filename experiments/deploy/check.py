"""Whether deployed files are the network that was trained."""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.records import model_file

TOLERANCE = 1e-4  # of logits, over an image's largest
# Share of images whose predictions may differ where activations are rounded:
# one on the border of two levels falls to either side by the last bit of a sum,
# which no two programs need have in common.
BORDERLINE = 1e-3
_ROOT = pathlib.Path(__file__).resolve().parents[2]


def in_fresh_process(path: pathlib.Path, images: np.ndarray) -> np.ndarray:
  """The logits of an artefact, from a process that knows its file alone."""
  with tempfile.TemporaryDirectory() as folder:
    given, result = (pathlib.Path(folder) / n for n in ('x.npy', 'y.npy'))
    np.save(given, images)
    paths = os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        'experiments.deploy.artefact',
        path,
        given,
        result,
      ],
      env=os.environ | {'PYTHONPATH': paths.rstrip(os.pathsep)},
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      raise InvalidError(
        f'{path.name} does not run in a process of its own:\n{done.stderr}'
      )
    logits: np.ndarray = np.load(result)
    return logits


def compared(
  path: pathlib.Path,
  found: np.ndarray,
  expected: np.ndarray,
  labels: np.ndarray,
) -> dict[str, Any]:
  """What is to know of one artefact.

  Args:
    path: Its file.
    found: Its logits, `(images, classes)`.
    expected: Those of the trained network.
    labels: `(images,)`.

  Returns:
    JSON: 'file', 'sha256', 'bytes', 'accuracy' (percent), 'images',
    'equal_predictions', 'equal_logits' (images whose logits are within
    `TOLERANCE`), and 'largest_error': of an image's logits, over the largest of
    them.
  """
  error = np.abs(found - expected).max(1) / np.abs(expected).max(1)
  # A NaN is no small error.
  error = np.nan_to_num(error, nan=np.inf)
  equal = found.argmax(1) == expected.argmax(1)
  return {
    'file': path.name,
    'sha256': files.sha256(path),
    'bytes': path.stat().st_size,
    'accuracy': accuracy(found, labels),
    'images': len(labels),
    'equal_predictions': int(equal.sum()),
    'equal_logits': int((error <= TOLERANCE).sum()),
    'largest_error': float(error.max()),
  }


def check(artefacts: list[dict[str, Any]], exact: bool, hint: str) -> None:
  """Raises `InvalidError` unless all give what the trained network gives."""
  for one in artefacts:
    images = one['images']
    others = images - one['equal_predictions']
    far = images - one['equal_logits']
    if others > (0 if exact else BORDERLINE * images) or (exact and far):
      raise InvalidError(
        f'{one["file"]} is not the trained network: {others} of {images}'
        f' predictions differ, and the logits of {far} images by more than'
        f' {TOLERANCE} of the largest, by up to'
        f' {one["largest_error"]:.1e}.{hint} Nothing was written.'
      )


def check_accuracy(found: float, model: model_file.ModelFile) -> None:
  """Raises `InvalidError` unless the run's own test found the same, percent."""
  logged = float(model.metadata.get('accuracy', 'nan'))
  if abs(found - logged) > 100 * BORDERLINE:
    raise InvalidError(
      f'the network has {found:.2f} % on these test images, and had'
      f' {logged:.2f} % in its run: are the data those of the run?'
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
  """Percent of the images whose largest logit is that of their label."""
  return 100 * float(np.mean(logits.argmax(1) == labels))
