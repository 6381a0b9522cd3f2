"""Set-up that tests of runs share."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache


@pytest.fixture(scope='module')
def compilation_cache(tmp_path_factory):
  """Shares compiled programs between the runs of a test module."""
  values = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in values}
  for name, value in values.items():
    jax.config.update(name, value)
  # The first compilation of a process decides if there is a cache.
  cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  cache.reset_cache()
