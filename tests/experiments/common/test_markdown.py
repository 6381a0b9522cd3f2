"""Tests Markdown tables, and the markers between which they are written."""

import pytest

from experiments.common import markdown

TABLE = markdown.Table(
  'mine',
  'A & B',
  ('setting', 'accuracy %'),
  [('`a_b`', '1.00 ± 0.50'), ('x, "y"', '−2.00')],
  'All of 5 % at α.',
)


def test_markdown_table_with_note_has_rule_and_note():
  assert markdown.markdown(TABLE) == (
    '| setting | accuracy % |\n| --- | --- |\n| `a_b` | 1.00 ± 0.50 |\n'
    '| x, "y" | −2.00 |\n\nAll of 5 % at α.\n'
  )


def test_markdown_cell_with_bar_is_escaped():
  table = markdown.Table('bars', '', ('a', 'b'), [('max |W| → λ·ρ', '2')])
  lines = markdown.markdown(table).splitlines()
  assert lines[2] == r'| max \|W\| → λ·ρ | 2 |'


def test_table_lines_aligned_pads_each_column():
  assert markdown.table_lines(('a', 'bcd'), [('ef', '1')], aligned=True) == [
    '| a  | bcd |',
    '| -- | --- |',
    '| ef | 1   |',
  ]


PAGE = 'a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- other: x -->\n'


def test_fill_replaces_tables_of_one_kind_only():
  filled = markdown.fill(PAGE, 'table', {'x': lambda: 'new\n'})
  assert filled == PAGE.replace('old', 'new')
  assert markdown.fill(PAGE, 'benchmark', {}) == PAGE


def test_fill_unknown_name_raises():
  with pytest.raises(ValueError, match="no table called 'x'"):
    markdown.fill(PAGE, 'table', {'y': lambda: ''})


def test_fill_without_end_before_next_marker_raises():
  page = PAGE.replace('<!-- end -->\n', '') + PAGE.replace(
    'table: x', 'table: y'
  )
  texts = {'x': lambda: 'new\n', 'y': lambda: 'new\n'}
  with pytest.raises(ValueError, match="'x' has no <!-- end -->"):
    markdown.fill(page, 'table', texts)
  with pytest.raises(ValueError, match="'x' has no <!-- end -->"):
    markdown.fill('<!-- table: x -->\nold\n', 'table', texts)


def test_fill_files_returns_changed_pages(tmp_path):
  paths = [tmp_path / 'a.md', tmp_path / 'b.md']
  paths[0].write_text(PAGE)
  paths[1].write_text('nothing')
  texts = {'x': lambda: 'new\n'}
  assert markdown.fill_files(paths, 'table', texts) == paths[:1]
  assert paths[0].read_text() == PAGE.replace('old', 'new')
  assert markdown.fill_files(paths, 'table', texts) == []
