"""Settings of all tests: two CPU devices, and no implicit rank promotion.

The environment is set before jax is imported. Processes that tests start
inherit the environment.
"""

import gc
import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# Tests of sharding need two devices. A count that the user set is kept.
_FLAGS = [os.environ.get('XLA_FLAGS', '')]
if '--xla_force_host_platform_device_count' not in _FLAGS[0]:
  _FLAGS.append('--xla_force_host_platform_device_count=2')

# Compiling takes most of the time of the tests. It is five times faster without
# optimization and with the older generator of code, which jaxlib 0.10 has.
# To test programs as users run them, set this variable to false. `make test`
# does so for the tests that optimization can break.
if 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ:
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    _FLAGS.append('--xla_cpu_use_fusion_emitters=false')
    # The division of one program among threads doubles the time to compile it.
    _FLAGS.append('--xla_cpu_parallel_codegen_split_count=1')
os.environ['XLA_FLAGS'] = ' '.join(_FLAGS).strip()

# Without line numbers of Python in the programs, jax lowers programs faster.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')

# All workers, and the processes that tests start, share compiled programs.
_COMPILED = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'compiled'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_COMPILED))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')

# No deadline, because the first example of a test compiles. The other settings
# are the defaults: if CI is set, every run repeats the same examples.
hypothesis.settings.register_profile('compiles', deadline=None)
hypothesis.settings.load_profile('compiles')

_DATA_FOLDERS = ('cifar-10-batches-bin', 'cifar-100-binary', 'pretrained')


def pytest_runtest_setup(item: pytest.Item) -> None:
  """Skips a test of optimized programs if XLA does not optimize."""
  is_optimized = not jax.config.read('jax_disable_most_optimizations')
  if item.get_closest_marker('optimized') and not is_optimized:
    pytest.skip(
      'Optimization can break what this test checks: `make test` runs it with'
      ' JAX_DISABLE_MOST_OPTIMIZATIONS=false.'
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Runs slow tests first, so that the workers end at the same time."""
  items.sort(key=lambda item: item.get_closest_marker('slow') is None)


def pytest_collection_finish() -> None:
  """Excludes imported modules from garbage collections, and collects rarely.

  JAX allocates many objects while it traces; a collection finds almost none.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(200_000, 20, 20)


@pytest.fixture
def x64() -> Iterator[None]:
  """Enables float64 for one test, for exact comparisons."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """Returns the folder of real data that MQ_DATA_DIR names, or skips the test.

  The folder contains those in `_DATA_FOLDERS`.
  """
  name = os.environ.get('MQ_DATA_DIR')
  if not name:
    pytest.skip(
      'MQ_DATA_DIR is not set: to test with real data, set it to a folder with'
      f' {" and ".join(_DATA_FOLDERS)}'
    )
  path = pathlib.Path(name).expanduser().resolve()
  if absent := [f for f in _DATA_FOLDERS if not (path / f).is_dir()]:
    # Skipping here would hide a mistyped path.
    pytest.fail(f'MQ_DATA_DIR={name} lacks the folders {absent}')
  return path
