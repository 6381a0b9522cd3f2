"""Tests the benchmarks that count bits: their rows, and wrong results."""

import json
import sys

import jax.numpy as jnp
import pytest

from benchmarks import bit_networks, table, xnor
from mq_jax.models.cpu import bit_convolution


def run(monkeypatch, path):
  args = ['xnor', '--quick', '--rounds', '1', '--json', str(path)]
  monkeypatch.setattr(sys, 'argv', args)
  monkeypatch.setattr(xnor, 'SHAPES', ((4, 16, 1),))
  monkeypatch.setattr(xnor, 'ROUND_FLOPS', 1)
  xnor.main()


def test_xnor_writes_one_row(monkeypatch, tmp_path, capsys):
  path = tmp_path / 'result.json'
  run(monkeypatch, path)
  result = json.loads(path.read_text())
  (row,) = result['rows']
  assert (row['image'], row['batch']) == ('4x4x16', 1)
  assert all(ratio > 0 for ratio in row['bits / float32'])
  assert 'network' not in result['config']
  assert table.markdown(result) in capsys.readouterr().out


def test_xnor_different_results_exit(monkeypatch, tmp_path):
  right = bit_convolution.pack_filters

  def unpadded(w, height, width):
    filters = right(w, height, width)
    constant = jnp.full_like(filters.constant, 9 * w.shape[2])
    return filters._replace(constant=constant)

  monkeypatch.setattr(bit_convolution, 'pack_filters', unpadded)
  with pytest.raises(SystemExit, match=r'differ at \(1, 4, 4, 16\)'):
    run(monkeypatch, tmp_path / 'result.json')


def run_networks(monkeypatch, path):
  args = ['bit_networks', '--quick', '--rounds', '1', '--json', str(path)]
  monkeypatch.setattr(sys, 'argv', args)
  monkeypatch.setattr(bit_networks, 'NETWORKS', ('resnet8',))
  monkeypatch.setattr(bit_networks, 'BATCHES', (2,))
  monkeypatch.setattr(bit_networks, 'ROUND_FLOPS', 1)
  bit_networks.main()


def test_bit_networks_writes_one_row(monkeypatch, tmp_path, capsys):
  path = tmp_path / 'result.json'
  run_networks(monkeypatch, path)
  result = json.loads(path.read_text())
  (row,) = result['rows']
  assert (row['network'], row['batch']) == ('resnet8', 2)
  for name in ('ratio', 'constants: ratio', 'packed constants: ratio'):
    assert all(ratio > 0 for ratio in row[name])
  assert table.markdown(result) in capsys.readouterr().out


def test_bit_networks_different_logits_exit(monkeypatch, tmp_path):
  right = bit_convolution.convolve_words
  monkeypatch.setattr(
    bit_convolution, 'convolve_words', lambda *args: right(*args) + 1
  )
  with pytest.raises(SystemExit, match="logits of 'bits' differ"):
    run_networks(monkeypatch, tmp_path / 'result.json')
