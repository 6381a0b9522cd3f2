"""Finds the Pythons of this machine that mq_jax supports.

Prints their paths, the newest last. A pyenv shim can be on PATH and still fail
to run, so each Python has to import the modules that make an environment.
"""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def supported() -> list[str]:
  """Returns the versions that setup.cfg declares, such as 3.11."""
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  return re.findall(r'Python :: (3\.\d+)', config['metadata']['classifiers'])


def works(python: str) -> bool:
  """Returns whether a Python can make an environment; says why if not."""
  result = subprocess.run(
    [python, '-c', 'import ssl, venv, ensurepip'],
    capture_output=True,
    text=True,
    check=False,
  )
  if result.returncode:
    reason = result.stderr.strip().splitlines() or ['no reason given']
    print(f'Skipped, does not work: {python}: {reason[0]}', file=sys.stderr)
  return result.returncode == 0


def find(version: str) -> str | None:
  """Returns the path of a working Python of a version, if there is one."""
  pyenv = pathlib.Path(
    os.environ.get('PYENV_ROOT', pathlib.Path.home() / '.pyenv')
  )
  candidates = [shutil.which(f'python{version}')]
  candidates += map(str, pyenv.glob(f'versions/{version}.*/bin/python'))
  return next(
    (python for python in candidates if python and works(python)), None
  )


if __name__ == '__main__':
  print('\n'.join(filter(None, map(find, supported()))))
