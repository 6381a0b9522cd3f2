"""Tables and figures from the ledger; nothing else makes numbers of ours.

  python -m experiments.report [--results DIR] [--out docs/results]

writes every study of which the paper has numbers or the ledger runs as
Markdown, CSV and LaTeX, and its figures as PNG and SVG, into --out, and prints
the tables. In a checkout it also fills README.md and docs/*.md, where a comment
`<!-- table: NAME -->` begins a table and `<!-- end -->` ends it.
"""

import pathlib

from absl import app, flags

from experiments.records import ledger
from experiments.report.deployed_table import read_cards
from experiments.report.write import OUT, ROOT, fill, write_all
from experiments.study import spec


def main(argv: list[str]) -> None:
  """Writes all that the ledger gives, and fills this project's pages."""
  del argv
  arguments = flags.FLAGS
  runs, studies = ledger.read(arguments.results), spec.load_all()
  cards = read_cards(arguments.results)
  out = pathlib.Path(arguments.out)
  for path in write_all(runs, studies, out, print, cards):
    print(f'wrote {path}')
  if pathlib.Path(arguments.results).resolve() != ROOT / ledger.RESULTS:
    return
  for path in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]:
    page = path.read_text(encoding='utf-8')
    filled = fill(page, runs, studies)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      print(f'wrote {path}')


if __name__ == '__main__':
  flags.DEFINE_string('results', ledger.RESULTS, 'Folder of the ledger.')
  flags.DEFINE_string('out', OUT, 'Folder for tables and figures.')
  app.run(main)
