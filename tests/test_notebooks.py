"""Runs the notebooks from top to bottom, with a network of one layer."""

import json
import pathlib
import re

import nbclient
import nbformat
import numpy as np
import pytest

from experiments.data import prepare
from experiments.data.cifar_archives import Sizes

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
SECONDS = 600


def test_notebooks_folder_has_three_notebooks():
  assert [path.stem for path in NOTEBOOKS] == [
    'ablations',
    'from_scratch',
    'quickstart',
  ]


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


@pytest.fixture
def noise(tmp_path):
  """Writes a CIFAR-10 of a few noise images; returns its data_dir."""
  rng = np.random.default_rng(0)
  sizes = {f'data_batch_{i}.bin': 60 for i in range(1, 6)} | {
    'test_batch.bin': 100
  }
  source = tmp_path / 'source'
  source.mkdir()
  for name, rows in sizes.items():
    table = rng.integers(0, 256, (rows, 3073), dtype=np.uint8)
    table[:, 0] = np.arange(rows) % 10
    table.tofile(source / name)
  prepare.prepare(source, tmp_path / 'sets', sizes=Sizes(300, 100))
  return tmp_path / 'sets'


# The networks of the notebooks take minutes to compile.
TINY_NETWORK = """
import pytest
from tests.experiments import tiny
tiny.put_in(pytest.MonkeyPatch())
"""


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_without_errors(path, tmp_path, noise, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(noise))
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  book = nbformat.read(path, as_version=4)
  if path.stem != 'from_scratch':
    book.cells.insert(0, nbformat.v4.new_code_cell(TINY_NETWORK))
  nbclient.NotebookClient(
    book, timeout=SECONDS, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  for cell in book.cells:
    for output in cell.get('outputs', ()):
      assert output['output_type'] != 'error'
  pictures = sum(
    'image/png' in output.get('data', {})
    for cell in book.cells
    for output in cell.get('outputs', ())
  )
  assert (
    pictures == {'ablations': 2, 'from_scratch': 0, 'quickstart': 2}[path.stem]
  )
