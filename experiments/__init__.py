"""Reproduces the papers. It imports mq_jax; mq_jax does not import it."""

import sys

from experiments.common.errors import report_missing_package

# While Python looks for a command of this package, the first argument is -m.
if sys.argv[:1] == ['-m']:
  sys.excepthook = report_missing_package
