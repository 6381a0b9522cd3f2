"""Tests the table and the figure of rules at their best step sizes."""

import math
import statistics

import numpy as np
import pytest

from experiments.configs import gpt
from experiments.records import ledger
from experiments.report import tuned
from experiments.study import spec
from tests.experiments import ledgers

# Bits per byte of the seeds of each setting.
BITS = {
  'full-0.001': [2.0, 2.2],
  '1bit-ste-0.001': [3.0, 3.5],
  # The mean over the common seeds 0 and 1 chooses this step size.
  '1bit-ste-0.01': [3.3, 3.1, 3.2],
  '1bit-dsq-0.001': [3.1, 3.0, 3.3],
  '1bit-dsq-0.01': [],
}


@pytest.fixture
def study_and_runs(tmp_path):
  settings = {
    name: gpt.get_config(
      epochs=1,
      learning_rate=float(name.rpartition('-')[2]),
      estimator='dsq' if 'dsq' in name else 'ste',
      quantizer='none' if 'full' in name else 'bwn',
    )
    for name in BITS
  }
  for name, values in BITS.items():
    for seed, value in enumerate(values):
      ledgers.write(
        tmp_path,
        f'{name}-{seed}',
        settings[name].to_dict() | {'seed': seed},
        [50.0],
        test_loss=value * math.log(2),
      )
  study = spec.Study('Title', settings, figures=False, tuned=True)
  return study, ledger.read(tmp_path)


def test_best_takes_the_lowest_mean_over_common_seeds(study_and_runs):
  rows = tuned.best(*study_and_runs)
  assert [(r.forward, r.backward, r.rate, r.rates) for r in rows] == [
    ('full', '', 0.001, 1),
    ('1bit', 'ste', 0.01, 2),
    ('1bit', 'dsq', 0.001, 1),
  ]


def test_best_never_takes_a_step_size_at_which_a_seed_diverged(
  study_and_runs, tmp_path
):
  study, _ = study_and_runs
  for name, seed in (('1bit-ste-0.01', 3), ('1bit-dsq-0.01', 0)):
    config = study.settings[name].to_dict() | {'seed': seed}
    ledgers.write(tmp_path, f'{name}-bad', config, [], diverged='at step 9')
  rows = tuned.best(study, ledger.read(tmp_path))
  assert [(r.forward, r.backward, r.rate, r.rates) for r in rows] == [
    ('full', '', 0.001, 1),
    ('1bit', 'ste', 0.001, 2),
    ('1bit', 'dsq', 0.001, 2),
  ]


@pytest.mark.parametrize(
  ('data', 'rate', 'rates'),
  [
    (['a', 'a', 'b'], 0.001, 2),
    (['b', 'a', 'a'], 0.01, 2),
    # A run of an older log has no digest.
    (['', 'a', 'a'], 0.01, 3),
    (['a', '', 'b'], 0.01, 1),
  ],
)
def test_best_compares_step_sizes_on_the_same_data_only(
  tmp_path, data, rate, rates
):
  settings = {}
  losses = {'0.001': 3.0, '0.003': 3.1, '0.01': 1.0}
  for (number, value), digest in zip(losses.items(), data, strict=True):
    config = gpt.get_config(epochs=1, learning_rate=float(number))
    settings[f'1bit-ste-{number}'] = config
    ledgers.write(
      tmp_path,
      number,
      config.to_dict(),
      [50.0],
      test_loss=value,
      start={'data': digest},
    )
  study = spec.Study('Title', settings, figures=False, tuned=True)
  (row,) = tuned.best(study, ledger.read(tmp_path))
  assert (row.rate, row.rates) == (rate, rates)


def test_table_has_the_paired_difference_from_straight_through(study_and_runs):
  table = tuned.tuned_table('text', *study_and_runs)
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  assert table.name == 'text_tuned'
  assert [row['bits per byte'] for row in rows] == [
    '2.1000',
    '3.2000',
    '3.1333',
  ]
  assert [row['trials'] for row in rows] == ['2', '3', '3']
  assert [row['tried'] for row in rows] == ['1', '2', '1']
  assert rows[0]['difference'] == rows[1]['difference'] == ''
  differences = [3.1 - 3.3, 3.0 - 3.1, 3.3 - 3.2]
  mean = statistics.fmean(differences)
  assert rows[2]['difference'] == f'{mean:+.4f}'
  # Student's t of two degrees of freedom at 97.5 %.
  half = 4.302653 * statistics.stdev(differences) / math.sqrt(3)
  assert rows[2]['95 % of it from'] == f'{mean - half:+.4f}'
  assert rows[2]['to'] == f'{mean + half:+.4f}'


def test_figure_has_a_line_per_rule_and_full_precision(study_and_runs):
  study, runs = study_and_runs
  (axis,) = tuned.draw(study, tuned.best(study, runs)).axes
  names = axis.get_legend_handles_labels()[1]
  assert sorted(names) == ['dsq', 'full precision', 'ste']
  ste, dsq = (bars.lines[0].get_ydata() for bars in axis.containers)
  np.testing.assert_allclose([ste[0], dsq[0]], [3.2, 9.4 / 3])
  assert [tick.get_text() for tick in axis.get_xticklabels()] == ['1bit\nbwn']
  (line,) = (li for li in axis.lines if li.get_label() == 'full precision')
  np.testing.assert_allclose(line.get_ydata(), 2.1)
