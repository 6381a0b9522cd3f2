"""Tests the settings of a process, in separate processes."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from experiments.common import runtime
if {keep}:
  runtime.keep_memory()
def use():
  np.empty(1 << 26, np.uint8)[:] = 1  # 64 MB, freed at once
for _ in range(3):
  use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
  use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
CACHE = """
import jax
from experiments.common import runtime
runtime.configure()
print(jax.config.jax_compilation_cache_dir)
"""


def run_program(program, **environment):
  inherited = {
    name: value
    for name, value in os.environ.items()
    if name != 'JAX_COMPILATION_CACHE_DIR'
  }
  done = subprocess.run(
    [sys.executable, '-c', program],
    env={**inherited, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='only glibc has mallopt'
)
def test_keep_memory_freed_memory_causes_no_page_faults():
  # NumPy requests huge pages, which would hide the page faults.
  small = {'NUMPY_MADVISE_HUGEPAGE': '0'}
  given_back = int(run_program(FAULTS.format(keep=False), **small))
  kept = int(run_program(FAULTS.format(keep=True), **small))
  assert given_back >= 10 * (1 << 26) // 4096
  assert kept < given_back / 100


@pytest.mark.slow
def test_configure_cache_uses_folder_from_environment(tmp_path):
  home = str(tmp_path / 'cache')
  assert run_program(CACHE, XDG_CACHE_HOME=home) == f'{home}/mq_jax'
  named = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'own')}
  assert run_program(CACHE, XDG_CACHE_HOME=home, **named) == str(
    tmp_path / 'own'
  )
  assert run_program(CACHE, JAX_COMPILATION_CACHE_DIR='') in ('', 'None')
