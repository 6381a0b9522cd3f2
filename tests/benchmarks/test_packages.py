"""Tests the figure of the packages."""

import pathlib
import sys

import experiments
from benchmarks import packages


def test_layers_contain_every_package_of_the_experiments():
  found = {name for layer in packages.layers() for name in layer}
  (folder,) = experiments.__path__
  modules = {
    path.stem
    for path in pathlib.Path(folder).iterdir()
    if path.name[0] != '_' and (path.suffix == '.py' or path.is_dir())
  }
  assert found == modules


def test_main_writes_a_figure_with_a_row_per_layer(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'argv', ['packages', '--folder', str(tmp_path)])
  packages.main()
  assert (tmp_path / 'packages.png').read_bytes().startswith(b'\x89PNG')
  texts = [text.get_text() for text in packages.draw().axes[0].texts]
  for layer in packages.layers():
    assert ', '.join(layer) in texts
