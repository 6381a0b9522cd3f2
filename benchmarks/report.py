"""Fills the pages of docs/ with the tables of benchmarks.

  python -m benchmarks.report

writes the result in results/benchmarks/NAME.json after every comment
`<!-- benchmark: NAME -->`, up to `<!-- end -->`. The other commands of this
package make these files with `--json`.
"""

import functools
import json
import pathlib
from collections.abc import Callable

from benchmarks import table
from experiments.common import markdown

RESULTS = pathlib.Path('results/benchmarks')
PAGES = pathlib.Path('docs')


def texts(results: pathlib.Path) -> dict[str, Callable[[], str]]:
  """Returns the function that makes the Markdown of each result, by name."""
  return {
    path.stem: functools.partial(_text, path) for path in results.glob('*.json')
  }


def _text(path: pathlib.Path) -> str:
  return table.markdown(json.loads(path.read_text(encoding='utf-8')))


def main() -> None:
  """Fills the pages."""
  pages = sorted(PAGES.glob('*.md'))
  for path in markdown.fill_files(pages, 'benchmark', texts(RESULTS)):
    print(f'wrote {path}')


if __name__ == '__main__':
  main()
