"""Settings of the process: memory of XLA and the cache of compiled programs.

Commands apply them. The library does not, since they affect the whole process.
"""

import ctypes
import os
import pathlib
import sys

import jax

# mallopt's names for its parameters, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def configure() -> None:
  """Keeps freed memory for the process, and compiled programs on disk.

  Compiled programs are written to `~/.cache/mq_jax`, or to the folder that
  JAX_COMPILATION_CACHE_DIR names. An empty string turns that off.
  """
  keep_memory()
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    folder = pathlib.Path(home) / 'mq_jax'
    jax.config.update('jax_compilation_cache_dir', str(folder))


def keep_memory() -> None:
  """Lets glibc keep freed memory; does nothing without glibc.

  XLA on CPU allocates its scratch memory at each step, 300 MB for a ResNet20,
  and by default glibc returns it to the system each time. The page faults take
  a quarter of a step's time (docs/performance.md).
  """
  if not sys.platform.startswith('linux'):
    return
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, 2**31 - 1)
  # The arena of a thread cannot hold blocks that large.
  mallopt(_ARENA_MAX, 1)
