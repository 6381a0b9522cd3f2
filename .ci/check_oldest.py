"""Checks that each installed package has the lowest version in setup.cfg.

A resolver installs a later version if another package needs it. The tests would
then say nothing about the version in setup.cfg.
"""

import configparser
import importlib.metadata
import pathlib
import re
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def lower_bounds() -> dict[str, str]:
  """Returns the lowest version of each package that the tests need."""
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  lines = config['options']['install_requires'].splitlines()
  lines += config['options.extras_require']['test'].splitlines()
  found = (re.match(r'([\w.-]+)>=([\d.]+)', line) for line in lines if line)
  return {match[1]: match[2] for match in found if match}


def main() -> None:
  """Prints the versions, and fails if one of them is not the lowest."""
  wrong = []
  for name, lowest in lower_bounds().items():
    version = importlib.metadata.version(name)
    print(f'{name}=={version}')
    if re.sub(r'(\.0)+$', '', version) != re.sub(r'(\.0)+$', '', lowest):
      wrong.append(f'{name}>={lowest} in setup.cfg must be >={version}')
  sys.exit('\n'.join(wrong))


if __name__ == '__main__':
  main()
