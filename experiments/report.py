"""Tables from the ledger, into the pages between their markers.

  python -m experiments.report

writes every table that README.md and docs/*.md mark by a comment
`<!-- table: NAME -->` and end by `<!-- end -->`. Nothing else makes numbers of
these pages.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from experiments import ledger

_MARKED = re.compile(
  r'(<!-- table: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)
_COLUMNS = (
  'forward',
  'backward',
  'optimizer',
  'α',
  'seed',
  's at start',
  's at end',
  'train loss',
  'test accuracy',
  'run',
)


def first_epoch_table(runs: Sequence[ledger.Run]) -> str:
  """One-epoch runs from a pretrained network, one row a run, as Markdown."""
  chosen = [run for run in runs if run.header['config']['epochs'] == 1]
  rows = [_row(run) for run in sorted(chosen, key=_order)]
  lines = [_COLUMNS, ['---'] * len(_COLUMNS), *rows]
  table = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
  return f'{table}\n\n{_conditions(chosen)}\n'


TABLES = {'first-epoch': first_epoch_table}


def _order(run: ledger.Run) -> Any:
  config = run.header['config']
  return (
    config['quantizer'],
    config['optimizer'],
    config['estimator'] != 'ste',
    run.name,
  )


def _row(run: ledger.Run) -> list[str]:
  config, start = run.header['config'], run.header['start']
  last = run.records[-1]
  return [
    _forward(config),
    _backward(config),
    config['optimizer'],
    f'{config["learning_rate"]:g}',
    str(config['seed']),
    _factor(start),
    _factor(last),
    f'{last["train_loss"]:.3f}',
    f'{last["test_accuracy"]:.2f} %',
    f'`{run.name}`',
  ]


def _forward(config: dict[str, Any]) -> str:
  if config['quantizer'] == 'dorefa':
    return f'dorefa({config["bits"]})'
  return str(config['quantizer'])


def _backward(config: dict[str, Any]) -> str:
  words = [config['estimator']]
  if config['estimator'] in ('fc_grad', 'multi_fc') and config['layers'] != 2:
    words.append(f'{config["layers"]} layers')
  if config['init'] != 'random':
    words.append(f'init={config["init"]}')
  return ', '.join(words)


def _factor(values: dict[str, Any]) -> str:
  if 's' not in values:
    return ''
  offset = f', offset {values["offset"]:.2f}' if 'offset' in values else ''
  return f'{values["s"]:+.2f}{offset}'


def _conditions(runs: Sequence[ledger.Run]) -> str:
  """What all of these runs share, said once; what differs, said in full."""
  described = {
    'network': {run.header['config']['network'] for run in runs},
    'dataset': {run.header['config']['dataset'] for run in runs},
    'batch size': {run.header['config']['batch_size'] for run in runs},
    'γ': {run.header['config']['meta_learning_rate'] for run in runs},
    'full precision': {
      f'{run.header["start"]["full_precision_accuracy"]:.2f} %' for run in runs
    },
    'device': {run.header['device']['kind'] for run in runs},
    'jax': {run.header['versions']['jax'] for run in runs},
  }
  parts = [
    f'{name} {", ".join(map(str, sorted(values)))}'
    for name, values in described.items()
  ]
  return f'One epoch, one trial a row; {"; ".join(parts)}.'


def fill(page: str, runs: Sequence[ledger.Run]) -> str:
  """The page with every marked table made anew.

  Raises:
    ValueError: If a marker names no table.
  """

  def table(match: re.Match[str]) -> str:
    if match['name'] not in TABLES:
      raise ValueError(
        f'no table is called {match["name"]!r}: there are {sorted(TABLES)}.'
      )
    return f'{match[1]}{TABLES[match["name"]](runs)}{match[3]}'

  return _MARKED.sub(table, page)


def main(argv: list[str]) -> None:
  """Fills all pages from the ledger."""
  del argv
  runs = ledger.read(flags.FLAGS.results)
  for path in [pathlib.Path('README.md'), *pathlib.Path('docs').glob('*.md')]:
    page = path.read_text(encoding='utf-8')
    filled = fill(page, runs)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      print(f'wrote {path}')


if __name__ == '__main__':
  flags.DEFINE_string('results', ledger.RESULTS, 'Folder of the ledger.')
  app.run(main)
