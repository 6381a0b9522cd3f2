"""Checks the wheel and the sdist in dist/, as a user would install them.

Both must contain the library and nothing else. Each is installed into an empty
environment of every Python, and trains a small network there.

Usage: check_dist.py [PYTHON ...]

Without arguments, all supported Pythons of this machine are tested. A Python
that is named must work.
"""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import pythons

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_UV = pathlib.Path(sys.executable).with_name('uv')
# The files of an sdist outside mq_jax/.
_SDIST = {
  'CHANGELOG.md',
  'CITATION.cff',
  'LICENSE',
  'MANIFEST.in',
  'PKG-INFO',
  'README.md',
  'pyproject.toml',
  'setup.cfg',
  'setup.py',
}


def check_contents(wheel: pathlib.Path, sdist: pathlib.Path) -> None:
  """Exits if a file is absent from the wheel or sdist, or must not be there."""
  library = {
    str(path.relative_to(_ROOT)) for path in (_ROOT / 'mq_jax').rglob('*.py')
  }
  library.add('mq_jax/py.typed')
  with zipfile.ZipFile(wheel) as file:
    in_wheel = {name for name in file.namelist() if '.dist-info/' not in name}
  with tarfile.open(sdist) as file:
    names = [member.name for member in file if member.isfile()]
  in_sdist = {name.split('/', 1)[1] for name in names}
  in_sdist = {name for name in in_sdist if '.egg-info/' not in name}
  for path, found, expected in (
    (wheel, in_wheel, library),
    (sdist, in_sdist, library | _SDIST),
  ):
    if found != expected:
      sys.exit(
        f'{path.name} lacks {sorted(expected - found)}, and must not contain'
        f' {sorted(found - expected)}: see options.packages and'
        ' options.package_data in setup.cfg, and MANIFEST.in'
      )


def check_install(python: str, *files: pathlib.Path) -> None:
  """Installs each file into an empty environment, and trains a network."""
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    # A Python that is named must be there.
    'UV_PYTHON_DOWNLOADS': 'never',
    # Compiling takes most of the time.
    'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
  }
  for name in ('PYTHONPATH', 'VIRTUAL_ENV'):
    environment.pop(name, None)
  with tempfile.TemporaryDirectory() as folder:
    inside = f'{folder}/bin/python'

    def run(*command: str | pathlib.Path) -> None:
      subprocess.run(command, check=True, cwd=folder, env=environment)

    run(_UV, 'venv', '-q', '--clear', '--python', python, folder)
    for file in files:
      print(f'{file.name}: ', end='', flush=True)
      install = (_UV, 'pip', 'install', '-q', '--python', inside)
      run(*install, '--reinstall-package', 'mq_jax', file)
      # Isolated, so that mq_jax is not imported from the current folder.
      run(inside, '-I', _ROOT / '.ci' / 'smoke.py')


def main(named: list[str]) -> None:
  """Checks the only wheel and the only sdist in dist/."""
  (wheel,) = (_ROOT / 'dist').glob('*.whl')
  (sdist,) = (_ROOT / 'dist').glob('*.tar.gz')
  check_contents(wheel, sdist)
  tested = 0
  for version in named or pythons.supported():
    python = version if named else pythons.find(version)
    if python:
      check_install(python, wheel, sdist)
      tested += 1
    else:
      print(f'Skipped: this machine has no working Python {version}.')
  if not tested:
    sys.exit('This machine has no working Python that mq_jax supports.')


if __name__ == '__main__':
  try:
    main(sys.argv[1:])
  except subprocess.CalledProcessError as error:
    sys.exit(f'Failed: {" ".join(map(str, error.cmd))}')
