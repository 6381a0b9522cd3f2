"""Checks whether a schedule of a run depends on its number of epochs."""

from collections.abc import Mapping
from typing import Any

from experiments.build.estimators import ESTIMATORS
from experiments.build.methods import METHODS


def is_cosine(config: Mapping[str, Any]) -> bool:
  """Returns True if α follows a cosine to 0 at the end of the run."""
  return config['schedule'] == 'cosine' or METHODS[config['quantizer']].cosine


def spans_run(config: Mapping[str, Any]) -> bool:
  """Returns True if a schedule extends over the whole run.

  Otherwise a run of fewer epochs is the beginning of a longer one.

  Args:
    config: A configuration with a known quantizer and estimator.
  """
  return (
    is_cosine(config)
    or METHODS[config['quantizer']].spans_run
    or ESTIMATORS[config['estimator']].spans_run
  )
