"""Damages files of each format, and counts what happens when they are read.

  python -m benchmarks.damage --count N --json results/benchmarks/damage.json

damages N files of each format, each in one way. Processes of their own read
them, so that a crash is counted. The table has a row per format and per kind of
damage. The command fails if a file was loaded with wrong values and without a
notice, or caused a traceback or a crash.
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import table
from benchmarks.damaged_files import Format, formats

REFUSED, EQUAL = 'refused with one line', 'loaded equal values'
EQUAL_NOTICE = 'loaded equal values with a notice'
OTHER_NOTICE = 'loaded other values with a notice'
WRONG, TRACEBACK, CRASH = 'loaded wrong values', 'traceback', 'crash'
LINES, HANG = 'refused with several lines', 'no end'
GOOD = (REFUSED, EQUAL, EQUAL_NOTICE, OTHER_NOTICE)
BAD = (WRONG, TRACEBACK, CRASH, LINES, HANG)
_SECONDS = 60.0  # After this time without a result, a process is stopped.
_Damage = Callable[[np.random.Generator, bytes], bytes]


def _flip(rng: np.random.Generator, content: bytes) -> bytes:
  changed = bytearray(content)
  for place in rng.integers(0, len(content), rng.integers(1, 4)):
    changed[place] ^= 1 << rng.integers(8)
  return bytes(changed)


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
  return content[: rng.integers(0, len(content))]


def _zero(rng: np.random.Generator, content: bytes) -> bytes:
  size = min(len(content), int(2 ** rng.integers(0, 13)))
  start = rng.integers(0, len(content) - size + 1)
  return content[:start] + bytes(size) + content[start + size :]


def _swap(rng: np.random.Generator, content: bytes) -> bytes:
  first, second = rng.integers(0, len(content), 2)
  changed = bytearray(content)
  changed[first], changed[second] = changed[second], changed[first]
  return bytes(changed)


def _append(rng: np.random.Generator, content: bytes) -> bytes:
  return content + rng.bytes(int(2 ** rng.integers(0, 13)))


KINDS: dict[str, _Damage] = {
  'bits flipped': _flip,
  'cut short': _cut,
  'block of zeros': _zero,
  'bytes swapped': _swap,
  'bytes appended': _append,
}


def damage(
  seed: int, name: str, index: int, content: bytes
) -> tuple[str, bytes]:
  """Returns a kind of damage and the damaged content, which differs."""
  rng = _generator(seed, name, index, 0)
  kind = tuple(KINDS)[index % len(KINDS)]
  for _ in range(100):
    changed = KINDS[kind](rng, content)
    if changed != content:
      return kind, changed
  # A file of zeros, or of one byte.
  return 'bytes appended', _append(rng, content)


def _generator(seed: int, name: str, index: int, use: int) -> Any:
  return np.random.default_rng([seed, zlib.crc32(name.encode()), index, use])


def _frozen(value: Any) -> Any:
  """Returns a value that equals another one only if all bits are equal."""
  leaves, structure = jax.tree.flatten(value, is_leaf=lambda x: x is None)
  return structure, [
    (str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
    if hasattr(leaf, 'dtype')
    else repr(leaf)
    for leaf in leaves
  ]


def outcome(
  format_: Format, folder: pathlib.Path, expected: Any
) -> tuple[str, str]:
  """Returns the outcome of reading damaged files, and its message."""
  result = _try(format_.read, format_, folder, expected)
  if result[0] in (TRACEBACK, CRASH) and format_.confirm:
    return _try(format_.confirm, format_, folder, expected)
  return result


def _try(
  read: Callable[..., Any],
  format_: Format,
  folder: pathlib.Path,
  expected: Any,
) -> tuple[str, str]:
  notices: list[str] = []
  try:
    value = read(folder, notices.append)
  except format_.errors as error:
    return (LINES if '\n' in str(error) else REFUSED), str(error)
  except Exception as error:
    return TRACEBACK, f'{type(error).__name__}: {error}'
  is_equal = _frozen(value) == expected
  if notices:
    return (EQUAL_NOTICE if is_equal else OTHER_NOTICE), notices[0]
  return (EQUAL if is_equal else WRONG), ''


def work(
  name: str, seed: int, first: int, last: int, folder: pathlib.Path
) -> None:
  """Damages and reads the files first … last - 1, and logs each outcome.

  Args:
    name: Name of the format.
    seed: Seed of all damages.
    first: Index of the first damage.
    last: Index after the last damage.
    folder: Folder with the undamaged example in `good`, and `log.jsonl`.
  """
  format_ = formats()[name]
  good, bad = folder / 'good', folder / 'bad'
  # Reading may add a cache, or remove what a killed process left.
  shutil.rmtree(bad, ignore_errors=True)
  shutil.copytree(good, bad)
  expected = _frozen(format_.read(bad, lambda text: None))
  (folder / 'undamaged').touch()
  paths = sorted(p for p in good.glob(format_.files) if p.is_file())
  with (folder / 'log.jsonl').open('a', encoding='utf-8') as log:
    for index in range(first, last):
      choice = _generator(seed, name, index, 1).integers(len(paths))
      path = paths[choice]
      kind, content = damage(seed, name, index, path.read_bytes())
      shutil.rmtree(bad)
      shutil.copytree(good, bad)
      (bad / path.relative_to(good)).write_bytes(content)
      found, message = outcome(format_, bad, expected)
      row = {'index': index, 'kind': kind, 'outcome': found, 'message': message}
      log.write(json.dumps(row) + '\n')
      log.flush()


def watch(
  name: str, seed: int, count: int, folder: pathlib.Path
) -> list[dict[str, Any]]:
  """Runs `work` in processes, and returns the outcome of each damage."""
  format_ = formats()[name]
  (folder / 'good').mkdir()
  format_.make(folder / 'good')
  log = folder / 'log.jsonl'
  log.touch()
  rows: list[dict[str, Any]] = []
  while len(rows) < count:
    status = _run(name, seed, len(rows), count, folder)
    lines = log.read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
    if status == 0:
      continue
    if not (folder / 'undamaged').exists():
      raise RuntimeError(f'The undamaged {name} cannot be read.')
    # The process ended while it read the next file.
    kind = tuple(KINDS)[len(rows) % len(KINDS)]
    found, message = (HANG if status is None else CRASH), f'status {status}'
    if format_.confirm:
      expected = _frozen(format_.confirm(folder / 'good', lambda text: None))
      found, message = _try(format_.confirm, format_, folder / 'bad', expected)
    row = {'index': len(rows), 'kind': kind, 'outcome': found}
    with log.open('a', encoding='utf-8') as file:
      file.write(json.dumps(row | {'message': message}) + '\n')
    rows.append(row | {'message': message})
  return rows


def _run(
  name: str, seed: int, first: int, last: int, folder: pathlib.Path
) -> int | None:
  """Returns the exit status of `work` in a new process; None if it hangs."""
  arguments = [name, seed, first, last, folder]
  command = [sys.executable, '-m', 'benchmarks.damage', '--work']
  log, errors = folder / 'log.jsonl', folder / 'errors'
  with errors.open('wb') as file:
    process = subprocess.Popen(
      [*command, json.dumps(list(map(str, arguments)))],
      stdout=file,
      stderr=file,
    )
  size, changed = log.stat().st_size, time.monotonic()
  while (status := process.poll()) is None:
    time.sleep(0.1)
    if log.stat().st_size != size:
      size, changed = log.stat().st_size, time.monotonic()
    if time.monotonic() - changed > _SECONDS:
      process.kill()
      process.wait()
      return None
  if status:
    print(errors.read_text(errors='replace')[-2000:], file=sys.stderr)
  return status


def count_outcomes(
  what: str, rows: list[dict[str, Any]]
) -> dict[str, str | int]:
  """Returns a row of the table: the number of each outcome."""
  counts = Counter(row['outcome'] for row in rows)
  return {
    'damaged': what,
    'files': len(rows),
    **{outcome: counts[outcome] for outcome in GOOD},
    'anything else': sum(counts[outcome] for outcome in BAD),
  }


def main() -> None:
  """Damages files and prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--count', type=int, default=1000, help='per format')
  options.add_argument('--seed', type=int, default=0)
  options.add_argument('--only', nargs='+', choices=tuple(formats()))
  options.add_argument('--work', help=argparse.SUPPRESS)
  args = table.parse(options, {'count': 10, 'only': ['card']})
  if args.work:
    name, seed, first, last, folder = json.loads(args.work)
    work(name, int(seed), int(first), int(last), pathlib.Path(folder))
    return
  lines, damaged = [], []
  for name in args.only or formats():
    count = math.ceil(args.count * formats()[name].share)
    with tempfile.TemporaryDirectory() as folder:
      rows = watch(name, args.seed, count, pathlib.Path(folder))
    lines.append(count_outcomes(name, rows))
    print(lines[-1], flush=True)
    damaged += [{**row, 'format': name} for row in rows]
  for kind in KINDS:
    rows = [row for row in damaged if row['kind'] == kind]
    lines.append(count_outcomes(f'all: {kind}', rows))
  table.show('Damaged files', [*lines, count_outcomes('all', damaged)], args)
  if bad := [row for row in damaged if row['outcome'] in BAD]:
    sys.exit('\n'.join(map(json.dumps, bad[:20])))


if __name__ == '__main__':
  main()
