"""Checks that deployed files compute what the trained network computes."""

import pathlib
from typing import Any

import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.data.raw_images import RawImages
from experiments.deploy import worker
from experiments.deploy.artefact import run_in_batches
from experiments.records import model_file

# Largest error of a logit, relative to the largest logit of the image.
TOLERANCE = 1e-4
# Share of images whose predictions may differ if activations are rounded. The
# last bit of a sum, in which two programs may differ, decides to which side an
# activation on the border of two levels rounds.
BORDERLINE = 1e-3


def run_in_fresh_process(path: pathlib.Path, images: RawImages) -> np.ndarray:
  """Returns the logits of an artefact, computed in a separate process.

  Raises:
    InvalidError: If the process fails.
  """
  return run_in_batches(worker.start(path).logits, images)


def compare(
  path: pathlib.Path,
  found: np.ndarray,
  expected: np.ndarray,
  labels: np.ndarray,
) -> dict[str, Any]:
  """Compares the logits of an artefact with those of the trained network.

  Args:
    path: File of the artefact.
    found: Logits of the artefact, of shape (images, classes).
    expected: Logits of the trained network, of the same shape.
    labels: Labels of the images, of shape (images,).

  Returns:
    JSON: 'file', 'sha256', 'bytes', 'accuracy' (percent), 'images',
    'equal_predictions', 'equal_logits' (number of images whose logits are
    within `TOLERANCE`), and 'largest_error' (of a logit, relative to the
    largest logit of its image).
  """
  error = np.abs(found - expected).max(1) / np.abs(expected).max(1)
  # A NaN in the logits counts as an infinite error.
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


def check_artefacts(
  artefacts: list[dict[str, Any]], exact: bool, hint: str
) -> None:
  """Checks that all artefacts return what the trained network returns.

  Args:
    artefacts: Results of `compare`.
    exact: Require that all predictions are equal and all logits within
      `TOLERANCE`; else only that at most `BORDERLINE` of the predictions
      differ.
    hint: Text that is added to the error.

  Raises:
    InvalidError: If an artefact returns something else.
  """
  for artefact in artefacts:
    images = artefact['images']
    different = images - artefact['equal_predictions']
    inaccurate = images - artefact['equal_logits']
    allowed = 0 if exact else BORDERLINE * images
    if different > allowed or (exact and inaccurate):
      raise InvalidError(
        f'{artefact["file"]} is not the trained network: {different} of'
        f' {images} predictions differ, and the logits of {inaccurate} images'
        f' differ by more than {TOLERANCE} of the largest logit, by up to'
        f' {artefact["largest_error"]:.1e}.{hint} Nothing was written.'
      )


def check_accuracy(found: float, model: model_file.ModelFile) -> None:
  """Checks that the test accuracy is that of the run.

  Args:
    found: Test accuracy of the trained network, percent.
    model: Model file of the run.

  Raises:
    InvalidError: If the run logged another accuracy.
  """
  logged = float(model.metadata.get('accuracy', 'nan'))
  if abs(found - logged) > 100 * BORDERLINE:
    raise InvalidError(
      f'The test accuracy of the network is {found:.2f} %, but the run logged'
      f' {logged:.2f} %. Use the data of the run.'
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the percentage of images whose largest logit is their label's."""
  return 100 * float(np.mean(logits.argmax(1) == labels))
