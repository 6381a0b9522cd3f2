"""How a process of ours runs XLA: its memory and what it compiles.

For programs, not for the library: these are settings of the whole process.
"""

import ctypes
import os
import pathlib
import sys

import jax

# mallopt's names for its parameters, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def configure() -> None:
  """Keeps freed memory, and compiled programs, for the next time.

  Compiled programs go to `~/.cache/mq_jax`, or to where
  JAX_COMPILATION_CACHE_DIR says; set that to an empty string for none.
  """
  keep_memory()
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', str(cache_directory()))


def cache_directory() -> pathlib.Path:
  """Where compiled programs are kept."""
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(home) / 'mq_jax'


def keep_memory() -> None:
  """Lets glibc keep what is freed; does nothing where there is no glibc.

  XLA on CPU takes its scratch memory anew at each step, 300 MB of it for a
  ResNet20, and by default glibc gives that back to the system each time: the
  page faults are a quarter of a step's time (docs/performance.md).
  """
  if not sys.platform.startswith('linux'):
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, 2**31 - 1)
  # A block of one thread's own arena cannot be so large.
  mallopt(_ARENA_MAX, 1)
