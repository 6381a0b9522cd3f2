"""The floating-point operations of a program, counted from its jaxpr.

XLA counts the body of a loop once, however often it runs. This count covers the
multiplications and additions of products and convolutions only, in every
iteration of a loop.
"""

from typing import Any

import jax
from jax.interpreters import partial_eval

from mq_jax.packing import macs


def count(function: Any, *args: Any) -> int:
  """Counts the FLOPs of `function(*args)` in its products and convolutions.

  Args:
    function: Function as `jax.make_jaxpr` takes it.
    *args: Arrays or shapes.

  Returns:
    Number of FLOPs. A condition counts as its most expensive branch, a while
    loop of unknown length as one run of its body.
  """
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  # XLA does not compute results that nothing reads.
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return 2 * macs.count(jaxpr)[None]
