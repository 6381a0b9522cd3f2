"""Plants bugs in copies of the code, and counts those that the tests notice.

  python -m benchmarks.mutants --json results/benchmarks/mutants.json

A bug of `benchmarks.mutant_list` is killed if its tests fail. The table has a
row per module and names the bugs that survive. --only REGEX selects bugs.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import table
from benchmarks.mutant_list import MUTANTS, Mutant

ROOT = pathlib.Path(__file__).parents[1]
# The tests need these, and a mutant changes one of them.
COPIED: tuple[str, ...] = (
  *('mq_jax', 'experiments', 'benchmarks', 'tests', 'docs'),
  *('setup.cfg', 'pyproject.toml', 'README.md'),
)
FAILED, PASSED = 1, 0  # exit status of pytest


def main() -> None:
  """Runs the tests of each mutant and prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--only', default='', help='regex of module and bug')
  options.add_argument('--workers', type=int, default=2)
  args = table.parse(options, {'only': 'selection'})
  chosen = [
    mutant
    for mutant in MUTANTS
    if re.search(args.only, f'{mutant.module}: {mutant.bug}')
  ]
  for mutant in chosen:
    mutated(mutant)  # A mutant that no longer applies ends the command here.
  with concurrent.futures.ThreadPoolExecutor(args.workers) as pool:
    killed = list(pool.map(is_killed, chosen))
  found = dict(zip(chosen, killed, strict=True))
  table.show('Planted bugs that the tests notice', rows(found), args)


def rows(found: dict[Mutant, bool]) -> list[dict[str, Any]]:
  """Returns a row per module: bugs, killed bugs, surviving bugs."""
  modules = sorted({mutant.module for mutant in found})
  lines = []
  for module in modules:
    mutants = [mutant for mutant in found if mutant.module == module]
    survivors = [mutant.bug for mutant in mutants if not found[mutant]]
    lines.append(
      {
        'module': f'`{module}`',
        'bugs': len(mutants),
        'killed': len(mutants) - len(survivors),
        'survivors': '; '.join(survivors),
      }
    )
  total = {
    'module': 'all',
    'bugs': len(found),
    'killed': sum(found.values()),
    'survivors': '',
  }
  return [*lines, total]


def mutated(mutant: Mutant) -> str:
  """Returns the text of the module with the bug.

  Raises:
    SystemExit: If the replaced text does not occur exactly once.
  """
  text = (ROOT / mutant.module).read_text(encoding='utf-8')
  if text.count(mutant.old) != 1:
    raise SystemExit(
      f'{mutant.module} contains {mutant.old!r} {text.count(mutant.old)} times,'
      f' not once: update the mutant "{mutant.bug}".'
    )
  return text.replace(mutant.old, mutant.new)


def is_killed(mutant: Mutant) -> bool:
  """Returns True if a test fails on a copy of the code with the bug.

  Raises:
    SystemExit: If pytest cannot run the tests.
  """
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder)
    for name in COPIED:
      source, target = ROOT / name, copy / name
      if source.is_dir():
        ignored = shutil.ignore_patterns('__pycache__', 'results')
        shutil.copytree(source, target, ignore=ignored)
      else:
        shutil.copy2(source, target)
    (copy / mutant.module).write_text(mutated(mutant), encoding='utf-8')
    process = subprocess.run(
      [
        *(sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider'),
        *('-m', 'not slow and not optimized', *mutant.tests.split()),
      ],
      cwd=copy,
      env={**os.environ, 'PYTHONPATH': str(copy), 'CI': 'true'},
      capture_output=True,
      text=True,
      check=False,
    )
  if process.returncode not in (FAILED, PASSED):
    raise SystemExit(
      f'pytest could not test "{mutant.bug}" in {mutant.module}:\n'
      f'{process.stdout[-2000:]}{process.stderr[-2000:]}'
    )
  killed = process.returncode == FAILED
  print(
    f'{"killed  " if killed else "SURVIVED"} {mutant.module}: {mutant.bug}',
    flush=True,
  )
  return killed


if __name__ == '__main__':
  main()
