"""Runs the notebooks from top to bottom, in their real settings."""

import json
import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
PICTURES = {
  'ablations': 5,
  'from_scratch': 1,
  'language_model': 2,
  'quickstart': 4,
}
SECONDS = 900


def sources(path, cell_type):
  """Returns the text of each cell of a type."""
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  return [
    ''.join(cell['source']) for cell in cells if cell['cell_type'] == cell_type
  ]


def test_notebooks_folder_has_the_four_notebooks():
  assert [path.stem for path in NOTEBOOKS] == list(PICTURES)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_badge_install_cell_and_no_outputs(path):
  book = json.loads(path.read_text(encoding='utf-8'))
  text = ''.join(''.join(cell['source']) for cell in book['cells'])
  assert f'/notebooks/{path.name})' in text  # the badge
  assert text.count('%pip install') == 1
  # Saved outputs would go out of date.
  assert not any(cell.get('outputs') for cell in book['cells'])
  # Notebooks use only the public interface.
  used = set(re.findall(r'from (experiments[\w.]*) import', text))
  public = ('configs', 'study', 'training')
  assert used <= {f'experiments.{name}' for name in public}
  assert not re.findall(r'mq_jax\._|from mq_jax', text)


def test_all_notebooks_have_the_same_install_cell():
  assert len({sources(path, 'code')[0] for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_have_titles_and_the_text_after_them_says_what_is_seen(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  for cell, after in zip(cells, [*cells[1:], None], strict=True):
    source = ''.join(cell['source'])
    if 'plt.show()' in source:
      assert re.search(r'title\(|title=', source)
      assert 'label' in source
    if 'plt.show()' in source or 'draw_differences(' in source:
      assert ''.join(after['source']).startswith('**What you see.**')


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_without_errors(path, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  # Training takes longer than compiling.
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', 'false')
  book = nbformat.read(path, as_version=4)
  nbclient.NotebookClient(
    book, timeout=SECONDS, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  pictures = 0
  for cell in book.cells:
    for output in cell.get('outputs', ()):
      assert output['output_type'] != 'error'
      pictures += 'image/png' in output.get('data', {})
  assert pictures == PICTURES[path.stem]
