"""Tests the FLOP counts and tables of the benchmarks, and their checks."""

import json
import os
import pathlib
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import mq_jax
from benchmarks import (
  cases,
  compile,
  decode,
  depthwise,
  epoch,
  flops,
  lanes,
  lstm_grid,
  lstm_width,
  measure,
  memory,
  methods,
  psgd,
  pytorch,
  report,
  rules,
  scaling,
  slopes,
  step_time,
  surface,
  trajectories,
  trials,
)
from experiments.build import networks
from experiments.build.estimators import ESTIMATORS
from experiments.common import markdown
from experiments.configs import methods as recipes
from mq_jax import models, selection
from mq_jax.models import BatchNorm
from tests.experiments import tiny

ROOT = pathlib.Path(__file__).parents[2]
NHWC = ('NHWC', 'HWIO', 'NHWC')


class Wide(nn.Module):
  """Two dense layers, which compile faster than a ResNet.

  The weights fill several of the blocks that estimators process.
  """

  num_classes: int = 10
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train):
    x = nn.avg_pool(images, (8, 8), (8, 8)).reshape(len(images), -1)
    x = nn.Dense(1600, dtype=self.dtype)(BatchNorm(self.dtype)(x, train))
    return nn.Dense(self.num_classes, dtype=self.dtype)(jnp.tanh(x))


@pytest.fixture
def quick_network(monkeypatch):
  """Replaces the network that the benchmarks have with --quick."""

  def make_wide(num_classes=10, dtype=jnp.float32, **unused):
    del unused
    return Wide(num_classes, dtype)

  monkeypatch.setattr(models, 'resnet8', make_wide)


def test_count_products_match_closed_forms():
  a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
  assert flops.count(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5 * 6
  looped = lambda a, b: lax.map(lambda t: t[0] @ t[1], (a, b))  # noqa: E731
  assert flops.count(looped, a, b) == 2 * 3 * 4 * 5 * 6
  either = lambda a, b: lax.cond(  # noqa: E731
    a[0, 0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((3, 4, 6))
  )
  assert flops.count(jax.jit(either), a, b) == 2 * 3 * 4 * 5 * 6
  assert flops.count(jnp.tanh, a) == 0
  unread = lambda a, b: (a @ b, a + 1)[1]  # noqa: E731
  assert flops.count(jax.jit(unread), a, b) == 0


@pytest.mark.parametrize('stride', [1, 2])
def test_count_convolution_gradients_cost_as_much_as_forward(stride):
  x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

  def convolve(x, w):
    return lax.conv_general_dilated(
      x, w, (stride,) * 2, ((1, 1), (1, 1)), dimension_numbers=NHWC
    )

  side = 8 // stride
  forward = 2 * (2 * side * side * 5) * (3 * 3 * 3)
  assert flops.count(convolve, x, w) == forward

  def both(x, w):
    y, pullback = jax.vjp(convolve, x, w)
    return pullback(y)

  assert flops.count(both, x, w) == pytest.approx(3 * forward, rel=0.01)


@pytest.fixture(scope='module')
def at():
  return cases.problem(Wide(), 8, 'float32')


def test_problem_of_a_language_model_has_its_rules():
  at = cases.problem('gpt', 2, 'float32')
  assert at.batch['input'].shape == at.batch['label'].shape == (2, 128)
  np.testing.assert_array_equal(
    at.batch['input'][:, 1:], at.batch['label'][:, :-1]
  )
  state = cases.quantized(at, 'ste', 100).state
  packed = mq_jax.pack(state.params, at.rules(mq_jax.bwn()))
  kernel = packed.params['blocks']['mlp']['up']['kernel']
  assert kernel.levels.shape == (4, 1, 1, 1)  # A scale per block.
  head = packed.params['head']['kernel']
  assert head.shape == (128, 256)
  assert head.dtype == np.float32


def work(at, name, hidden):
  case = cases.quantized(at, name, hidden)
  return flops.count(case.step_fn, case.state, case.batch)


def test_count_estimators_match_cost_model(at):
  ste = work(at, cases.STE, 1)
  weights = cases.weights(at)
  for name in cases.COLLAPSED:
    assert 0 <= work(at, name, 64) - ste < weights
  # Blocks are padded; the count includes the padding.
  padded = -(-weights // 4096) * 4096
  for name in ('multi_fc, tanh', 'multi_fc, 3 layers, tanh', 'lstm_fc'):
    predicted = scaling.estimator_flops(name, padded, 64, 0)
    assert work(at, name, 64) - ste == pytest.approx(predicted, rel=0.06)
  leaves = len(selection.select(at.params, mq_jax.bwn()))
  on_grid = 'lstm_fc, 32 points'
  assert work(at, on_grid, 64) - ste == pytest.approx(
    scaling.estimator_flops(on_grid, 0, 64, leaves), rel=0.06
  )


def test_count_network_matches_cost_model():
  at = cases.problem('resnet20', 2, 'float32')
  predicted = scaling.MODELS[0].network * 2 / 128
  assert work(at, cases.STE, 1) == pytest.approx(predicted, rel=0.01)
  assert cases.weights(at) == scaling.MODELS[0].weights


def run_quick(monkeypatch, tmp_path, module, *args):
  path = tmp_path / 'result.json'
  monkeypatch.setattr(
    sys, 'argv', ['benchmark', '--quick', '--json', str(path), *args]
  )
  module.main()
  return json.loads(path.read_text())


@pytest.mark.usefixtures('quick_network')
def test_problem_declared_network_is_made(monkeypatch):
  network = networks.Network(
    lambda keys, classes, activation: Wide(classes), ()
  )
  monkeypatch.setitem(networks.NETWORKS, 'mine', network)
  at = cases.problem('mine', 2, 'float32')
  assert cases.weights(at) == cases.weights(cases.problem(Wide(), 2, 'float32'))


def test_step_time_stack_not_collapsed_exits(monkeypatch, tmp_path):
  monkeypatch.setitem(
    cases.ESTIMATORS,
    'fc_grad',
    lambda hidden: mq_jax.fc_grad(hidden=hidden, activation='tanh'),
  )
  args = ['--only', 'fc_grad', '--rounds', '1', '--steps', '1']
  with pytest.raises(SystemExit, match=r"should have collapsed: \['fc_grad'\]"):
    run_quick(monkeypatch, tmp_path, step_time, *args)


@pytest.mark.slow
@pytest.mark.usefixtures('quick_network')
def test_benchmarks_write_expected_rows(monkeypatch, tmp_path, capsys):
  small = ['--rounds', '1', '--batch_size', '4']
  only = ['--only', 'multi_fc', '--steps', '1']
  result = run_quick(monkeypatch, tmp_path, step_time, *only, *small)
  rows = result['rows']
  names = ['full precision', 'ste', 'multi_fc']
  assert [row['backward'] for row in rows] == names
  assert rows[1]['time / STE'] == [1.0, 1.0, 1.0]
  assert all(row['ms'] > 0 and row['XLA GFLOP'] > 0 for row in rows)
  assert 'json' not in result['config']
  assert '| multi_fc' in capsys.readouterr().out

  estimators = (
    'ste',
    'fc_grad',
    'multi_fc',
    'lstm_fc',
    'lstm_fc, bfloat16 memory',
  )
  monkeypatch.setattr(
    cases, 'ESTIMATORS', {name: cases.ESTIMATORS[name] for name in estimators}
  )
  monkeypatch.setattr(memory, 'UNBLOCKED', ('lstm_fc',))
  rows = run_quick(monkeypatch, tmp_path, memory, *small)['rows']
  kept = {row['backward']: row for row in rows}
  wide, narrow = kept['lstm_fc'], kept['lstm_fc, bfloat16 memory']
  assert kept['multi_fc']['estimator state MiB'] == 0
  assert narrow['estimator state MiB'] < 0.52 * wide['estimator state MiB']
  assert narrow['beyond STE MiB'] < 0.7 * wide['beyond STE MiB']
  unblocked = kept['lstm_fc, unblocked']
  assert unblocked['beyond STE MiB'] > 3 * wide['beyond STE MiB']

  rows = run_quick(
    monkeypatch, tmp_path, trials, '--trials', '2', '--steps', '1', *small
  )['rows']
  assert [row['trials'] for row in rows] == ['fc_grad', '2, a batch axis']
  rows = run_quick(monkeypatch, tmp_path, epoch, '--images', '8', *small)[
    'rows'
  ]
  assert [row['what'] for row in rows] == ['bare steps', 'epoch']
  rows = run_quick(
    monkeypatch, tmp_path, compile, '--only', 'multi_fc', '--batch_size', '4'
  )['rows']
  assert all(row['together s'] > 0 for row in rows)


def test_no_cache_compiles_again(tmp_path):
  names = ('jax_compilation_cache_dir', 'jax_enable_compilation_cache')
  names += ('jax_persistent_cache_min_compile_time_secs',)
  names += ('jax_persistent_cache_min_entry_size_bytes',)
  before = {name: getattr(jax.config, name) for name in names}
  values = (str(tmp_path), True, 0, -1)
  try:
    for name, value in zip(names, values, strict=True):
      jax.config.update(name, value)
    measure.compilation_cache.reset_cache()
    jax.jit(lambda x: x + 1.25).lower(1.0).compile()
    cached = len(list(tmp_path.iterdir()))
    assert cached
    with measure.no_cache():
      jax.jit(lambda x: x + 2.25).lower(1.0).compile()
    assert len(list(tmp_path.iterdir())) == cached
    jax.jit(lambda x: x + 3.25).lower(1.0).compile()
    assert len(list(tmp_path.iterdir())) > cached
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    measure.compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.usefixtures('quick_network')
def test_decode_writes_expected_rows(monkeypatch, tmp_path):
  args = ['--rounds', '1', '--images', '16', '--steps', '1']
  result = run_quick(monkeypatch, tmp_path, decode, *args)
  *decoding, training = result['rows']
  assert {row['what'].split(',')[0] for row in decoding} == {
    'train crop',
    'test crop',
  }
  assert all(row['images/s'][0] > 0 for row in result['rows'])
  assert training['what'] == 'training, batch 8'
  assert 0 <= training['share of waiting'][0] < 1
  assert result['config']['folder'] is False


def test_psgd_writes_rows_and_figure(monkeypatch, tmp_path):
  tiny.put_in(monkeypatch)
  monkeypatch.setattr(psgd, 'BITS', (4,))
  monkeypatch.setattr(psgd, 'SPARSITIES', (0.5,))
  monkeypatch.setattr(surface, 'STEPS', (-1, 0, 1))
  monkeypatch.setattr(surface, 'CENTRE', 1)
  path = tiny.write_model(tmp_path / 'net.safetensors', tiny.Net(10))
  figure = tmp_path / 'surface.png'
  rows = run_quick(
    monkeypatch,
    tmp_path,
    psgd,
    *('--networks', f'sgd={path}', '--figure', str(figure)),
    *('--dataset', 'digits', '--network', 'resnet8'),
  )['rows']
  assert [(row['method'], row['bits of activations']) for row in rows] == [
    ('none', ''),
    ('uniform', ''),
    ('lapq', ''),
    ('uniform', '8'),
    ('pruned', ''),
  ]
  # At 4 bits, a network of one layer loses little.
  assert rows[1]['accuracy %'] == pytest.approx(rows[0]['accuracy %'], abs=15)
  # The tiny network has no activations to round.
  assert rows[3]['accuracy %'] == rows[1]['accuracy %']
  assert rows[-1]['zero weights %'] == 50
  assert figure.stat().st_size > 1000


def test_rules_has_one_row_per_rule_without_phi(
  quick_network, monkeypatch, tmp_path
):
  rows = run_quick(monkeypatch, tmp_path, rules)['rows']
  assert rows[0]['rule'] == 'ste'
  assert {row['rule'] for row in rows} == {
    name for name, declared in ESTIMATORS.items() if not declared.learned
  }


def test_slopes_by_hand_and_one_panel_per_rule():
  middle = len(slopes.DISTANCES) // 2
  made = rules.rules()
  np.testing.assert_array_equal(slopes.slope(made['ste'], 0.5), 1)
  approx = slopes.slope(made['approx_sign'], 0.0)
  np.testing.assert_allclose(
    approx, np.maximum(2 - 2 * np.abs(slopes.DISTANCES), 0), atol=1e-6
  )
  assert slopes.slope(made['ede'], 1.0)[middle] == pytest.approx(10)
  # AdaSTE depends on the sign of the gradient.
  against = slopes.slope(made['adaste'], 0.0, g=-1.0)
  np.testing.assert_array_equal(
    against, slopes.slope(made['adaste'], 0.0)[::-1]
  )
  figure = slopes.draw()
  titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
  assert titles == list(made)


def test_trajectories_has_matched_rates_and_distances(monkeypatch, tmp_path):
  tiny.put_in(monkeypatch)
  some = {
    name: rule
    for name, rule in rules.rules(2).items()
    if name in ('ste', 'approx_sign', 'ewgs')
  }
  monkeypatch.setattr(rules, 'rules', lambda steps: some)
  path = tiny.write_model(tmp_path / 'net.safetensors', tiny.Net(10))
  rows = run_quick(
    monkeypatch,
    tmp_path,
    trajectories,
    *('--pretrained', str(path), '--optimizers', 'sgd'),
    *('--dataset', 'digits', '--network', 'resnet8'),
  )['rows']
  names = [trajectories.OTHER_BATCHES, 'approx_sign', 'ewgs']
  rates = trajectories.OPTIMIZERS['sgd'][1]
  assert [row['rule'] for row in rows] == names * len(rates)
  for rate, (noise, approx, ewgs) in zip(
    rates, zip(*[iter(rows)] * 3, strict=True), strict=True
  ):
    assert float(noise['α']) == float(ewgs['α']) == rate
    # Its slopes are from 0 to 2, so its gradients have another length.
    assert float(approx['α']) != rate
    distances = [row['distance / move of STE'] for row in (noise, approx, ewgs)]
    assert 0 < distances[2] < distances[0]
    assert all(0 <= row['equal codes %'] <= 100 for row in (noise, approx))


def test_depthwise_writes_expected_rows(monkeypatch, tmp_path):
  monkeypatch.setattr(depthwise, 'SHAPES', ((4, 8, 2),))
  (row,) = run_quick(monkeypatch, tmp_path, depthwise)['rows']
  assert (row['image'], row['stride']) == ('4x4x8', 2)
  for name in ("result / XLA's", "gradients / XLA's"):
    assert all(ratio > 0 for ratio in row[name])


def test_lstm_width_has_one_row_per_width(monkeypatch, tmp_path):
  rows = run_quick(monkeypatch, tmp_path, lstm_width)['rows']
  assert [row['backward'] for row in rows] == [
    'ste',
    'lstm_fc, 1',
    'lstm_fc, 4',
    'lstm_fc, 1, 32 points',
    'lstm_fc, 4, 32 points',
  ]
  memory = [row['peak MiB'] for row in rows]
  # Each hidden unit keeps h and c per weight, in float32.
  assert rows[0]['time / STE'][0] == 1
  assert memory[0] < memory[1] < memory[2]


@pytest.mark.slow
@pytest.mark.skipif(
  not hasattr(os, 'sched_setaffinity'), reason='binds processes to cores'
)
def test_lanes_has_one_process_and_one_per_core(monkeypatch, tmp_path):
  cores = os.sched_getaffinity(0)
  one, several = run_quick(monkeypatch, tmp_path, lanes, '--batch_size', '2')[
    'rows'
  ]
  assert (one['processes'], one['cores of each']) == (1, len(cores))
  assert (several['processes'], several['cores of each']) == (len(cores), 1)
  assert one['throughput / one process'] == [1, 1, 1]
  assert several['steps per second'] > 0
  assert os.sched_getaffinity(0) == cores


def test_lstm_grid_errors_are_smaller_than_factor(monkeypatch, tmp_path):
  text = tmp_path / 'text.txt'
  text.write_text('To be, or not to be: that is the question. ' * 60)
  rows = run_quick(
    monkeypatch, tmp_path, lstm_grid, '--data', str(text), '--points', '2', '9'
  )['rows']
  first, last = (
    {name: float(value) for name, value in row.items()} for row in rows
  )
  # The first φ gives every weight the factor 1.
  assert first == {
    'step': 1,
    'mean': 1,
    'std': 0,
    'error, 2 points': 0,
    'error, 9 points': 0,
  }
  assert last['mean'] != 1
  assert 0 < last['error, 9 points'] < 1e-4


def test_pytorch_without_pytorch_exits(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'torch', None)
  with pytest.raises(SystemExit, match='pip install torch'):
    run_quick(monkeypatch, tmp_path, pytorch)


def test_methods_writes_expected_rows(monkeypatch, tmp_path):
  small = ('--rounds', '1', '--batch_size', '2', '--steps', '1')
  rows = run_quick(monkeypatch, tmp_path, methods, *small, '--only', 'slb')[
    'rows'
  ]
  assert [row['method'] for row in rows] == ['ste', 'slb']
  assert rows[0]['time / STE'] == [1.0, 1.0, 1.0]
  assert rows[1]['ms'] > 0
  # SLB has two numbers per weight instead of one.
  kept = [row['numbers kept per weight'] for row in rows]
  assert kept == pytest.approx([0, 1], abs=1e-3)
  assert set(methods.recipes()) < set(recipes.NAMES)


@pytest.mark.optimized
def test_peak_lstm_includes_memory_once():
  at = cases.problem('resnet20', 4, 'float32')
  ste = cases.quantized(at, cases.STE, hidden=100)
  lstm = cases.quantized(at, 'lstm_fc', hidden=100)
  kept = memory.bytes_of(lstm.state.estimator_state)
  assert kept > 2 * 4 * 100 * cases.weights(at)
  assert memory.peak(lstm) - memory.peak(ste) < 1.2 * kept


def test_ratios_are_taken_within_rounds():
  assert measure.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
  # The ratios of the rounds are 2/1, 6/2 and 4/4.
  seconds = [[1.0, 2.0], [2.0, 6.0], [4.0, 4.0]]
  assert measure.ratios(seconds, 1, over=0) == (2.0, 1.0, 3.0)


def test_benchmark_tables_on_pages_match_results():
  pages = [path.read_text() for path in (ROOT / report.PAGES).glob('*.md')]
  texts = report.texts(ROOT / report.RESULTS)
  shown = re.findall(r'<!-- benchmark: (\S+) -->', '\n'.join(pages))
  assert sorted(shown) == sorted(texts)
  for page in pages:
    assert markdown.fill(page, 'benchmark', texts) == page
