"""Tests the settings of a process, in separate processes."""

import os
import platform
import stat
import subprocess
import sys

import jax
import pytest

from experiments.common import runtime

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


def test_shrink_removes_what_was_not_used_for_longest(tmp_path):
  for age, name in enumerate(('newest', 'used', 'old', 'oldest')):
    path = tmp_path / name
    path.write_bytes(bytes(10))
    os.utime(path, (1000 - age, 1000 - age))
  os.utime(tmp_path / 'used', (1005, 500))  # Written early and read late.
  runtime.shrink(tmp_path, 40)
  assert len(os.listdir(tmp_path)) == 4
  runtime.shrink(tmp_path, 25)
  assert sorted(os.listdir(tmp_path)) == ['newest', 'used']
  runtime.shrink(tmp_path, 0)
  assert os.listdir(tmp_path) == []


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
  """Sets the home of caches; JAX's own settings are restored."""
  before = jax.config.jax_compilation_cache_dir
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(runtime, 'keep_memory', lambda: None)
  yield tmp_path
  jax.config.update('jax_compilation_cache_dir', before)


def test_configure_cache_is_bounded_and_private(cache_home, monkeypatch):
  folder = cache_home / 'mq_jax'
  folder.mkdir(mode=0o777)
  folder.chmod(0o777)
  (folder / 'program').write_bytes(bytes(100))
  monkeypatch.setattr(runtime, 'CACHE_SIZE', 50)
  runtime.configure()
  assert jax.config.jax_compilation_cache_dir == str(folder)
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
  assert os.listdir(folder) == []


def test_configure_cache_file_in_its_place_leaves_it_off(cache_home, capsys):
  before = jax.config.jax_compilation_cache_dir
  (cache_home / 'mq_jax').write_text('a file')
  runtime.configure()
  assert jax.config.jax_compilation_cache_dir == before
  assert 'Compiled programs are not kept on disk' in capsys.readouterr().out


@pytest.mark.slow
def test_configure_cache_uses_folder_from_environment(tmp_path):
  home = str(tmp_path / 'cache')
  assert run_program(CACHE, XDG_CACHE_HOME=home) == f'{home}/mq_jax'
  named = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'own')}
  assert run_program(CACHE, XDG_CACHE_HOME=home, **named) == str(
    tmp_path / 'own'
  )
  assert run_program(CACHE, JAX_COMPILATION_CACHE_DIR='') in ('', 'None')
