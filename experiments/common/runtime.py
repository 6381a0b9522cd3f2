"""Settings of the process: memory of XLA and the cache of compiled programs.

Commands apply them. The library does not, since they affect the whole process.
"""

import contextlib
import ctypes
import os
import pathlib
import sys

import jax

# Bound of the compiled programs on disk, in bytes.
CACHE_SIZE = 2 * 2**30

# mallopt's names for its parameters, from malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def configure(*, fast_compilation: bool = False) -> None:
  """Keeps freed memory for the process, and compiled programs on disk.

  Compiled programs are written to `~/.cache/mq_jax`, which only this user can
  open, or to the folder that JAX_COMPILATION_CACHE_DIR names. An empty string
  turns that off. The folder in `~/.cache` keeps at most `CACHE_SIZE` bytes from
  one start to the next.

  Args:
    fast_compilation: Compile faster, into slower programs.
  """
  keep_memory()
  if fast_compilation:
    jax.config.update('jax_disable_most_optimizations', True)
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  folder = pathlib.Path(home) / 'mq_jax'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever can write to the folder can make this process run other programs.
    folder.chmod(0o700)
    shrink(folder, CACHE_SIZE)
  except OSError as error:
    print(f'Compiled programs are not kept on disk: {error}', flush=True)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))


def shrink(folder: pathlib.Path, size: int) -> None:
  """Removes the files that were not used for longest, down to `size` bytes.

  JAX does the same, with `jax_compilation_cache_max_size`, only if the package
  filelock is installed.
  """
  used = []
  for path in folder.iterdir():
    # Another process may remove the file at the same time.
    with contextlib.suppress(FileNotFoundError):
      status = path.stat()
      last = max(status.st_atime, status.st_mtime)
      used.append((last, status.st_size, path))
  total = 0
  for _, bytes_used, path in sorted(used, reverse=True):
    total += bytes_used
    if total > size and path.is_file():
      path.unlink(missing_ok=True)


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
