"""Plants bugs in copies of the code, and counts those that the tests notice.

  python -m benchmarks.mutants --json results/benchmarks/mutants.json

A bug of `MUTANTS` is killed if its tests fail. The tests first run on unchanged
code, where they must pass. The table has a row per module and names the bugs
that survive. --only REGEX selects bugs. --done FILE keeps each result, so that
the same command continues after an interruption.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import mutant_list, network_mutants, rule_mutants, table
from benchmarks.mutant_list import Mutant

MUTANTS = [
  *mutant_list.MUTANTS,
  *rule_mutants.MUTANTS,
  *network_mutants.MUTANTS,
]
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
  options.add_argument(
    '--done',
    type=pathlib.Path,
    metavar='FILE',
    help='JSON lines of results; their bugs are not tested again',
  )
  args = table.parse(options, {'only': 'selection'})
  chosen = [
    mutant
    for mutant in MUTANTS
    if re.search(args.only, f'{mutant.module}: {mutant.bug}')
  ]
  for mutant in chosen:
    mutated(mutant)  # A mutant that no longer applies ends the command here.
  done = args.done
  del args.done  # The file of the table has no paths of this machine.
  found = run(chosen, args.workers, done)
  table.show('Planted bugs that the tests notice', rows(found), args)


def run(
  mutants: Sequence[Mutant], workers: int, done: pathlib.Path | None = None
) -> dict[Mutant, bool]:
  """Tests unchanged code and then each mutant.

  Args:
    mutants: The bugs.
    workers: Number of pytest processes at the same time.
    done: File of results. A mutant with a result of the same change and the
      same tests is not tested. New results are appended.

  Returns:
    True for each mutant that the tests kill, in the order of `mutants`.

  Raises:
    SystemExit: If the tests fail on unchanged code, or if pytest cannot run.
  """
  known = _read(done) if done else {}
  if done:
    done.parent.mkdir(parents=True, exist_ok=True)
  missing = [mutant for mutant in mutants if _identity(mutant) not in known]
  # Tests in another order are the same tests.
  tests = {frozenset(m.tests.split()): m.tests for m in missing}

  def finish(mutant: Mutant) -> None:
    killed = is_killed(mutant)
    known[_identity(mutant)] = killed
    if done:
      with done.open('a', encoding='utf-8') as file:
        file.write(json.dumps(mutant._asdict() | {'killed': killed}) + '\n')

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    list(pool.map(check_unchanged, tests.values()))
    list(pool.map(finish, missing))
  return {mutant: known[_identity(mutant)] for mutant in mutants}


def _identity(mutant: Mutant) -> Mutant:
  """Returns the mutant without its description, which may change."""
  return mutant._replace(bug='')


def _read(done: pathlib.Path) -> dict[Mutant, bool]:
  """Returns the results in a file, which need not exist."""
  if not done.exists():
    return {}
  results = map(json.loads, done.read_text(encoding='utf-8').splitlines())
  return {
    _identity(Mutant(*(result[name] for name in Mutant._fields))): result[
      'killed'
    ]
    for result in results
  }


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


def check_unchanged(tests: str) -> None:
  """Raises `SystemExit` if the tests do not pass on unchanged code."""
  status, output = _test(tests)
  if status != PASSED:
    raise SystemExit(
      f'{tests} must pass on unchanged code before bugs are planted:\n{output}'
    )


def is_killed(mutant: Mutant) -> bool:
  """Returns True if a test fails on a copy of the code with the bug.

  Raises:
    SystemExit: If pytest cannot run the tests.
  """
  status, output = _test(mutant.tests, {mutant.module: mutated(mutant)})
  if status not in (FAILED, PASSED):
    raise SystemExit(
      f'pytest could not test "{mutant.bug}" in {mutant.module}:\n{output}'
    )
  killed = status == FAILED
  print(
    f'{"killed  " if killed else "SURVIVED"} {mutant.module}: {mutant.bug}',
    flush=True,
  )
  return killed


def _test(
  tests: str, changes: Mapping[str, str] | None = None
) -> tuple[int, str]:
  """Runs tests on a copy of the code.

  Args:
    tests: Arguments of pytest.
    changes: New text of files by their paths.

  Returns:
    The exit status and the end of the output of pytest.
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
    for name, text in (changes or {}).items():
      (copy / name).write_text(text, encoding='utf-8')
    process = subprocess.run(
      [
        *(sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider'),
        *('-m', 'not slow and not optimized', *tests.split()),
      ],
      cwd=copy,
      env={**os.environ, 'PYTHONPATH': str(copy), 'CI': 'true'},
      capture_output=True,
      text=True,
      check=False,
    )
  return process.returncode, process.stdout[-2000:] + process.stderr[-2000:]


if __name__ == '__main__':
  main()
