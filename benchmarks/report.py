"""Tables of benchmarks, into the pages of docs/ between their markers.

  python -m benchmarks.report

writes what results/benchmarks/NAME.json holds after every comment
`<!-- benchmark: NAME -->`, up to `<!-- end -->`. The files come from
`--json` of the other commands here.
"""

import json
import pathlib
import re

from benchmarks import table

RESULTS = pathlib.Path('results/benchmarks')
PAGES = pathlib.Path('docs')
_MARKED = re.compile(
  r'(<!-- benchmark: (?P<name>\S+) -->\n).*?(<!-- end -->)', re.DOTALL
)


def fill(page: str, results: pathlib.Path) -> str:
  """The page with every marked table made anew.

  Raises:
    FileNotFoundError: If a marker names no result.
  """

  def filled(match: re.Match[str]) -> str:
    text = (results / f'{match["name"]}.json').read_text(encoding='utf-8')
    return f'{match[1]}{table.markdown(json.loads(text))}{match[3]}'

  return _MARKED.sub(filled, page)


def main() -> None:
  """Fills the pages."""
  for path in sorted(PAGES.glob('*.md')):
    page = path.read_text(encoding='utf-8')
    filled = fill(page, RESULTS)
    if filled != page:
      path.write_text(filled, encoding='utf-8')
      print(f'wrote {path}')


if __name__ == '__main__':
  main()
