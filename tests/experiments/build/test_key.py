"""Tests the declarations of keys and the checks of their values."""

import pytest

from experiments.build.key import Key, check_value, help_lines
from experiments.common.errors import ConfigError


@pytest.mark.parametrize(
  ('key', 'value', 'bounds'),
  [
    (Key(1, 'Count.', least=1), 0, 'at least 1'),
    (Key(1, 'Count.', above=0), 0, 'above 0'),
    (Key(1, 'Count.', least=1, most=8), 9, 'from 1 to 8'),
    (Key(0.1, 'Rate.', least=0), float('inf'), 'at least 0 and finite'),
    (Key(0.1, 'Rate.', above=0), float('inf'), 'above 0 and finite'),
    (Key(0.1, 'Rate.'), float('nan'), 'finite'),
  ],
)
def test_bounds_only_floats_must_be_finite(key, value, bounds):
  with pytest.raises(ConfigError) as error:
    check_value('config.key', key, value)
  assert str(error.value) == f'config.key={value!r} must be {bounds}.'
  (line,) = help_lines({'key': key})
  assert line.endswith(f'. {bounds.capitalize()}.')
