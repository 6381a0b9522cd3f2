"""Tests the three files of a table."""

import csv
import io

from experiments.common.markdown import Table
from experiments.report import tables

TABLE = Table(
  'mine',
  'A & B',
  ('setting', 'accuracy %'),
  [('`a_b`', '1.00 ± 0.50'), ('x, "y"', '−2.00')],
  'All of 5 % at α.',
)


def test_latex_cell_with_bar_is_escaped():
  table = Table('bars', '', ('a', 'b'), [('max |W| → λ·ρ', '2')])
  assert (
    r'max \textbar{}W\textbar{} $\rightarrow$ $\lambda$$\cdot$$\rho$ & 2'
  ) in tables.latex(table)


def test_comma_separated_round_trips():
  rows = list(csv.reader(io.StringIO(tables.comma_separated(TABLE))))
  assert rows == [list(TABLE.columns), *map(list, TABLE.rows)]


def test_latex_special_characters_are_escaped():
  text = tables.latex(TABLE)
  assert r'\caption{A \& B. All of 5 \% at $\alpha$.}' in text
  assert r'a\_b & 1.00 $\pm$ 0.50 \\' in text
  assert r'x, "y" & $-$2.00 \\' in text
  assert r'\begin{tabular}{ll}' in text


def test_write_makes_three_files(tmp_path):
  paths = tables.write(TABLE, tmp_path / 'new')
  assert [path.name for path in paths] == ['mine.md', 'mine.csv', 'mine.tex']
  assert paths[0].read_text().startswith('# A & B\n\n| setting |')
