"""The command line, the table and the JSON that all benchmarks share."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.build.networks import DTYPES, NETWORKS
from experiments.common import runtime
from experiments.common.markdown import table_lines
from experiments.records import run_log

Row = dict[str, Any]


def parser(doc: str, *, any_images: bool = False) -> argparse.ArgumentParser:
  """Returns the options of a benchmark of one network.

  Args:
    doc: Text that starts with the title of the benchmark.
    any_images: The sides of the images and the number of classes are options.
  """
  options = bare_parser(doc)
  options.add_argument('--network', choices=NETWORKS, default='resnet20')
  options.add_argument('--batch_size', type=_positive, default=128)
  options.add_argument('--dtype', choices=tuple(DTYPES), default='float32')
  if any_images:
    options.add_argument('--image_size', type=_positive, default=32)
    options.add_argument('--classes', type=_positive, default=10)
  return options


def bare_parser(doc: str) -> argparse.ArgumentParser:
  """Returns the options of every benchmark; `doc` starts with its title."""
  options = argparse.ArgumentParser(description=doc.splitlines()[0])
  options.add_argument('--rounds', type=_positive, default=7)
  options.add_argument(
    '--quick', action='store_true', help='small sizes; takes less than a minute'
  )
  options.add_argument(
    '--json', metavar='FILE', help='also write the rows to FILE'
  )
  return options


def _positive(text: str) -> int:
  number = int(text)
  if number < 1:
    raise argparse.ArgumentTypeError(f'{text} must be 1 or more')
  return number


def parse(options: argparse.ArgumentParser, quick: Row) -> argparse.Namespace:
  """Reads the command line; --quick changes the defaults to `quick`."""
  runtime.keep_memory()
  if options.parse_known_args()[0].quick:
    options.set_defaults(**quick)
  return options.parse_args()


def show(
  title: str, rows: Sequence[Row], args: argparse.Namespace, note: str = ''
) -> None:
  """Prints the rows as Markdown, and writes them as JSON if --json is given."""
  sizes = {k: v for k, v in vars(args).items() if k != 'json'}
  result = {
    'title': title,
    'note': note,
    **run_log.describe_run(sizes),
    'rows': list(rows),
  }
  print(f'\n{markdown(result)}')
  if args.json:
    path = pathlib.Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')


def markdown(result: Mapping[str, Any]) -> str:
  """Returns a result of `show` as the text of a page."""
  device, sizes, rows = result['device'], result['config'], result['rows']
  names = list(rows[0])
  cells = [[_cell(row[name]) for name in names] for row in rows]
  conditions = (
    f'{device["kind"]} x {device["count"]}, {result["host_cpus"]} host cores,'
    f' jax {result["versions"]["jax"]}'
  )
  if 'network' in sizes:
    conditions += f'; {sizes["network"]}'
    if 'batch_size' in sizes:
      conditions += f', batch {sizes["batch_size"]}, {sizes["dtype"]}'
    side = sizes.get('image_size', 32)
    conditions += '' if side == 32 else f', {side}x{side} pixels'
  table = table_lines(names, cells, aligned=True)
  lines = [f'{result["title"]}.', f'{conditions}.', '', *table]
  if note := result.get('note'):
    lines += ['', note]
  return '\n'.join(lines) + '\n'


def _cell(value: Any) -> str:
  if isinstance(value, list | tuple):
    median, minimum, maximum = value
    return f'{median:.3f} ({minimum:.3f}-{maximum:.3f})'
  if isinstance(value, float):
    return f'{value:.3f}'
  return '' if value is None else str(value)
