"""Checks that deployed files compute what the trained network computes."""

import math
import pathlib
from typing import Any

import numpy as np

from experiments.common import files
from experiments.common.errors import InvalidError
from experiments.data.raw_examples import RawExamples
from experiments.deploy import worker
from experiments.deploy.artefact import run_in_batches
from experiments.records import model_file

# Largest error of a logit, relative to the largest logit of the prediction.
TOLERANCE = 1e-4
# Share of tokens whose logits may differ by up to `AMPLIFIED` instead. A
# transformer with outliers among its activations can amplify the rounding of a
# few tokens (results/deployed/gpt-seq-256-3e-3.json: one of 111,488).
RARE, AMPLIFIED = 5e-5, 1e-3
# Share of examples whose predictions may differ if activations are rounded. The
# last bit of a sum, in which two programs may differ, decides to which side an
# activation on the border of two levels rounds.
BORDERLINE = 1e-3
# The same share if a file rounds scales to float16, or a runtime the inputs of
# products to 8 bits.
ROUNDED = 0.02
# What a file, or its runtime, rounds.
INPUTS, SCALES = 'inputs', 'scales'


def run_in_fresh_process(
  path: pathlib.Path,
  examples: RawExamples,
  exact: bool = True,
  platform: str = '',
) -> np.ndarray:
  """Returns the logits of an artefact, computed in a separate process.

  Args:
    path: File of the artefact.
    examples: Examples of the test.
    exact: As in `artefact.open_here`.
    platform: As in `worker.start`.

  Raises:
    InvalidError: If the process fails.
  """
  return run_in_batches(worker.start(path, exact, platform).logits, examples)


def compare(
  path: pathlib.Path,
  found: np.ndarray,
  expected: np.ndarray,
  labels: np.ndarray,
) -> dict[str, Any]:
  """Compares the logits of an artefact with those of the trained network.

  Args:
    path: File of the artefact.
    found: Logits of the artefact, of shape (*labels.shape, classes).
    expected: Logits of the trained network, of the same shape.
    labels: Labels of the images, of shape (images,), or the token after each
      token, of shape (examples, context).

  Returns:
    JSON: 'file', 'sha256', 'bytes', 'accuracy' (percent), 'images' or 'tokens'
    (their number), 'equal_predictions', 'equal_logits' (number of images or
    tokens whose logits are within `TOLERANCE`), and 'largest_error' (of a
    logit, relative to the largest logit of its image or token). For tokens also
    'bits', the mean loss in bits.
  """
  size = np.abs(expected).max(-1)
  # A network that has not learned may have logits of 0 alone.
  error = np.abs(found - expected).max(-1) / np.where(size > 0, size, 1)
  # A NaN in the logits counts as an infinite error.
  error = np.nan_to_num(error, nan=np.inf)
  equal = found.argmax(-1) == expected.argmax(-1)
  compared = {
    'file': path.name,
    'sha256': files.sha256(path),
    'bytes': path.stat().st_size,
    'accuracy': accuracy(found, labels),
    'images' if labels.ndim == 1 else 'tokens': labels.size,
    'equal_predictions': int(equal.sum()),
    'equal_logits': int((error <= TOLERANCE).sum()),
    'largest_error': float(error.max()),
  }
  return compared | ({'bits': bits(found, labels)} if labels.ndim > 1 else {})


def bits(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the mean loss of logits in bits."""
  wanted = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  largest = logits.max(-1, keepdims=True)
  exponentials = np.exp(logits - largest)
  losses = np.log(exponentials.sum(-1)) + largest[..., 0] - wanted
  return float(np.mean(losses, dtype=np.float64) / np.log(2))


def count(artefact: dict[str, Any]) -> int:
  """Returns the number of predictions in a result of `compare`."""
  return int(artefact.get('images') or artefact['tokens'])


def check_artefacts(
  artefacts: list[dict[str, Any]], exact: bool, hint: str
) -> None:
  """Checks that all artefacts return what the trained network returns.

  Args:
    artefacts: Results of `compare`.
    exact: Require that all predictions are equal and all logits within
      `TOLERANCE`, except a share `RARE` of the tokens of a text, which must be
      within `AMPLIFIED`; else only that at most `BORDERLINE` of the predictions
      differ. Artefacts with an item 'rounded' may differ in `ROUNDED`.
    hint: Text that is added to the error.

  Raises:
    InvalidError: If an artefact returns something else.
  """
  for artefact in artefacts:
    predictions = count(artefact)
    different = predictions - artefact['equal_predictions']
    inaccurate = predictions - artefact['equal_logits']
    is_rounded = 'rounded' in artefact
    is_exact = exact and not is_rounded
    share = ROUNDED if is_rounded else BORDERLINE
    allowed = 0 if is_exact else math.floor(share * predictions)
    is_small = artefact['largest_error'] <= AMPLIFIED
    rare = RARE * predictions if 'tokens' in artefact and is_small else 0
    if different > allowed or (is_exact and inaccurate > rare):
      raise InvalidError(
        f'{artefact["file"]} is not the trained network: {different} of'
        f' {predictions} predictions differ (allowed: {allowed}). The'
        f' logits of {inaccurate} predictions differ by more than {TOLERANCE}'
        f' of the largest logit, by up to {artefact["largest_error"]:.1e}.'
        f'{hint} Nothing was written.'
      )


def check_accuracy(found: float, model: model_file.ModelFile) -> None:
  """Checks that the test accuracy is that of the run.

  Args:
    found: Test accuracy of the trained network, percent.
    model: Model file of the run.

  Raises:
    InvalidError: If the run logged another accuracy, or none.
  """
  logged = float(model.metadata.get('accuracy', 'nan'))
  if math.isnan(logged):
    raise InvalidError(
      'The model file of the run has no accuracy. Restore the file, or train'
      ' again.'
    )
  if abs(found - logged) > 100 * BORDERLINE:
    raise InvalidError(
      f'The test accuracy of the network is {found:.2f} %, but the run logged'
      f' {logged:.2f} %. Use the data of the run.'
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the percentage of labels whose logit is the largest."""
  return 100 * float(np.mean(logits.argmax(-1) == labels))
