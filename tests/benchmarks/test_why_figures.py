"""Tests what docs/why.md says about its figures."""

import contextlib
import io
import pathlib
import re
import sys

import numpy as np
import pytest

from benchmarks import why_figures

FIGURES = ('why-quantizer.png', 'why-slopes.png')
PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'why.md'


@pytest.mark.parametrize(
  ('bits', 'levels', 'thresholds'),
  [(1, [-1, 1], [1 / 2]), (2, [-1, -1 / 3, 1 / 3, 1], [1 / 6, 1 / 2, 5 / 6])],
)
def test_staircase_has_levels_jumps_and_derivative_zero(
  bits, levels, thresholds
):
  w_tilde, w_hat, derivative, through = why_figures.staircase(bits)
  np.testing.assert_allclose(np.unique(w_hat), levels, rtol=1e-6)
  jumps = w_tilde[1:][np.diff(w_hat) > 0]
  np.testing.assert_allclose(jumps, thresholds, atol=w_tilde[1])
  np.testing.assert_array_equal(derivative, 0)
  np.testing.assert_array_equal(through, 1)


def test_trajectories_flip_at_the_steps_of_the_page():
  weights = why_figures.trajectories()
  start = np.float32(why_figures.START)
  np.testing.assert_array_equal(weights['derivative of Q'], start)
  # ∂loss/∂Ŵ is −2 until the flip, so the first steps have the length 2α.
  first = {name: w[1] - w[0] for name, w in weights.items()}
  step = 2 * why_figures.ALPHA
  assert first['straight-through'] == pytest.approx(step, rel=1e-5)
  assert first['straight-through, 3α'] == pytest.approx(3 * step, rel=1e-5)
  assert first['learned (FCGrad)'] == pytest.approx(step, rel=1e-5)
  slope = 2 / np.cosh(2 * why_figures.START) ** 2
  assert first['tanh-like (EDE)'] == pytest.approx(slope * step, rel=1e-5)
  flips = {name: np.argmax(w >= 0) for name, w in weights.items()}
  assert list(flips.values()) == [7, 13, 21, 27, 0]
  assert 'flip it at step 7, 13, 21, 27 and\nnever' in PAGE.read_text('utf-8')
  for w in weights.values():  # At the other level the gradient is zero.
    if w.max() >= 0:
      np.testing.assert_array_equal(w[w >= 0], w[-1])


def test_page_shows_what_its_code_prints():
  text = PAGE.read_text(encoding='utf-8')
  (code,) = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
  (shown,) = re.findall(r'^```text\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(code, {})
  rows = [
    [np.fromstring(row.strip('[]'), sep=' ') for row in lines.splitlines()]
    for lines in (shown, printed.getvalue())
  ]
  np.testing.assert_allclose(*rows, rtol=1e-5)


def test_main_writes_the_figures_of_the_page(monkeypatch, tmp_path):
  arguments = ['why_figures', '--folder', str(tmp_path)]
  monkeypatch.setattr(sys, 'argv', arguments)
  why_figures.main()
  text = PAGE.read_text(encoding='utf-8')
  for name in FIGURES:
    assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    assert f'(figures/{name})' in text
