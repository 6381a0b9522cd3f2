"""Tests differences that are paired over seeds."""

import numpy as np
import pytest
from scipy import stats

from experiments.records import ledger
from experiments.report import comparison, figures, paired, study_table
from experiments.study import spec
from tests.experiments import ledgers

# Three seeds each. The seeds differ by more than the rules.
STE = [80.0, 85.0, 90.0]
EDE = [81.0, 85.5, 92.5]


def make_study():
  settings = {
    f'{optimizer}-{rule}': spec.in_protocol(
      'fair', optimizer=optimizer, estimator=rule, epochs=1, learning_rate=0.3
    )
    for optimizer in ('sgd', 'adam')
    for rule in ('ste', 'ede', 'dsq')
  }
  return spec.Study(
    'Rules',
    settings,
    figures=False,
    baselines={
      name: f'{config.optimizer}-ste'
      for name, config in settings.items()
      if config.estimator != 'ste'
    },
  )


def write(folder, study, **accuracies):
  for name, values in accuracies.items():
    config = study.settings[name.replace('_', '-', 1)].to_dict()
    ledgers.write(folder, name, config, [[value] for value in values])
  return ledger.read(folder)


def rows_of(study, runs):
  table = study_table.study_table('rules', study, runs)
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  return {row['setting'].strip('`'): row for row in rows}, table.note


def test_difference_is_paired_and_has_the_interval_of_student(tmp_path):
  study = make_study()
  runs = write(tmp_path, study, sgd_ste=STE, sgd_ede=EDE)
  rows, note = rows_of(study, runs)
  differences = np.subtract(EDE, STE)
  half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / np.sqrt(3)
  expected = differences.mean() + np.array([0, -half, half])
  t = differences.mean() / (differences.std(ddof=1) / np.sqrt(3))
  ours = [rows['sgd-ede'][name] for name in paired.COLUMNS]
  assert ours == [
    *(f'{number:+.2f}' for number in expected),
    f'{2 * stats.t.sf(t, 2):.2g}',
  ]
  assert rows['sgd-ede']['α'] == '0.3'
  assert [rows['sgd-ste'][name] for name in paired.COLUMNS] == [''] * 4
  assert "Student's" in note


def test_difference_uses_common_seeds_only(tmp_path):
  study = make_study()
  runs = write(tmp_path, study, sgd_ste=STE, sgd_ede=EDE[:2])
  rows, _ = rows_of(study, runs)
  assert [rows['sgd-ede'][name] for name in paired.COLUMNS] == [
    '+0.75',
    '',
    '',
    '',
  ]
  assert rows['sgd-ede']['mark'] == '2 of 5 trials'
  # The baseline may also have fewer seeds.
  runs = write(tmp_path / 'other', study, sgd_ste=STE[:2], sgd_ede=EDE)
  rows, _ = rows_of(study, runs)
  assert rows['sgd-ede']['difference'] == '+0.75'


def test_difference_from_a_baseline_without_run_is_empty(tmp_path):
  study = make_study()
  runs = write(tmp_path, study, adam_ste=STE, sgd_ede=EDE)
  rows, _ = rows_of(study, runs)
  assert rows['sgd-ede'][paired.COLUMNS[0]] == ''
  assert figures.write_all({'rules': study}, runs, tmp_path / 'out') == []


def test_difference_of_runs_of_other_lengths_is_empty(tmp_path):
  study = make_study()
  write(tmp_path, study, sgd_ste=STE)
  config = study.settings['sgd-ede'].to_dict() | {'epochs': 2}
  ledgers.write(tmp_path, 'long', config, [[80.0, 81.0]] * 3)
  study.settings['sgd-ede'].epochs = 2
  rows, _ = rows_of(study, ledger.read(tmp_path))
  assert rows['sgd-ede'][paired.COLUMNS[0]] == ''


def test_difference_of_runs_on_other_data_is_empty(tmp_path):
  study = make_study()
  for name, data in (('sgd-ste', 'a'), ('sgd-ede', 'b'), ('sgd-dsq', 'a')):
    config = study.settings[name].to_dict()
    trials = [[value] for value in STE]
    ledgers.write(tmp_path, name, config, trials, start={'data': data})
  rows, _ = rows_of(study, ledger.read(tmp_path))
  assert not rows['sgd-ede']['difference']
  assert rows['sgd-dsq']['difference'] == '+0.00'


def test_levels_are_those_of_holm():
  # 3 · 0.01, then 2 · 0.02 and 1 · 0.03, which may not be below the one before.
  adjusted = paired.holm({'b': 0.03, 'a': 0.01, 'c': 0.02})
  assert adjusted == pytest.approx({'a': 0.03, 'c': 0.04, 'b': 0.04})
  assert paired.holm({'a': 0.6, 'b': 0.7}) == {'a': 1.0, 'b': 1.0}
  assert paired.holm({}) == {}


def test_level_is_adjusted_for_the_differences_of_the_table(tmp_path):
  study = make_study()
  one = write(tmp_path / 'one', study, sgd_ste=STE, sgd_ede=EDE)
  noisy = [70.0, 95.0, 91.0]
  two = write(tmp_path / 'two', study, sgd_ste=STE, sgd_ede=EDE, sgd_dsq=noisy)
  alone, beside = (
    float(rows_of(study, runs)[0]['sgd-ede']['p']) for runs in (one, two)
  )
  assert beside == pytest.approx(2 * alone, rel=0.05)


def add_third_rule(study):
  study.settings['sgd-lab'] = spec.in_protocol(
    'fair', optimizer='sgd', estimator='reste', epochs=1, learning_rate=0.3
  )
  study.baselines['sgd-lab'] = 'sgd-ste'


def drawn(study, folder, **accuracies):
  runs = write(folder, study, **accuracies)
  group = [
    (name, config, cell)
    for name, config in study.settings.items()
    if (cell := paired.comparison.cell(config, runs))
  ]
  return paired.draw(group, study.baselines, 'Rules').axes[-1]


def test_figure_has_whole_names_that_do_not_begin_with_the_optimizer(tmp_path):
  study = make_study()
  names = {'sgd-ste': 'ste', 'sgd-ede': 'ede-1', 'sgd-dsq': 'grid-1'}
  settings = {new: study.settings[old] for old, new in names.items()}
  study = study._replace(
    settings=settings, baselines={'ede-1': 'ste', 'grid-1': 'ste'}
  )
  axis = drawn(
    study, tmp_path, **{'ste': STE, 'ede-1': EDE, 'grid-1': EDE[::-1]}
  )
  labels = {text.get_text() for text in axis.get_yticklabels()}
  assert labels == {'ede-1, 3 seeds', 'grid-1, 3 seeds'}


@pytest.mark.parametrize(('base', 'pairs'), [('same', True), ('other', False)])
def test_difference_compares_the_base_models_and_not_their_accuracies(
  tmp_path, base, pairs
):
  study = make_study()
  cells = []
  for name, start in (
    ('sgd-ste', {'base_accuracy': 96.72, 'base': 'same'}),
    ('sgd-ede', {'base_accuracy': 96.74 if pairs else 96.72, 'base': base}),
  ):
    config = study.settings[name]
    ledgers.write(
      tmp_path, name, config.to_dict(), [[v] for v in STE], start=start
    )
    cells.append(comparison.cell(config, ledger.read(tmp_path)))
  assert (paired.difference(*cells) is not None) == pairs


def test_figure_has_the_largest_difference_first(tmp_path):
  axis = drawn(
    make_study(), tmp_path, sgd_ste=STE, sgd_ede=[79, 82, 90.0], sgd_dsq=EDE
  )
  names = [text.get_text() for text in axis.get_yticklabels()]
  assert names == ['dsq, 3 seeds', 'ede, 3 seeds']
  assert axis.get_xlabel() == 'difference from ste, percentage points'


def test_markers_of_significant_differences_are_filled(tmp_path):
  far = [value + 5 + 0.01 * index for index, value in enumerate(STE)]
  axis = drawn(make_study(), tmp_path, sgd_ste=STE, sgd_ede=EDE, sgd_dsq=far)
  faces = [bar.lines[0].get_markerfacecolor() for bar in axis.containers]
  assert faces[0] != 'white'
  assert faces[1] == 'white'


def test_long_difference_does_not_hide_the_others(tmp_path):
  study = make_study()
  low = [value - 50 + index for index, value in enumerate(STE)]
  alone = drawn(study, tmp_path / 'a', sgd_ste=STE, sgd_ede=EDE, sgd_dsq=low)
  assert alone.get_xscale() == 'linear'
  # A third rule makes 4/3 the median, so that the axis is linear up to 16/3.
  add_third_rule(study)
  axis = drawn(
    study,
    tmp_path / 'b',
    sgd_ste=STE,
    sgd_ede=EDE,
    sgd_dsq=low,
    sgd_lab=[v + 0.1 for v in EDE],
  )
  assert axis.get_xscale() == 'symlog'
  assert axis.get_xlabel().endswith('(logarithmic beyond 5.7)')
  shown = [2, 5, 10, 20, 50]
  assert [*axis.get_xticks()] == [*(-t for t in shown[::-1]), 0, *shown]


def test_differences_of_zero_have_a_linear_axis(tmp_path):
  study = make_study()
  add_third_rule(study)
  none = [STE[0] + 1, STE[1] - 1, STE[2]]
  axis = drawn(
    study, tmp_path, sgd_ste=STE, sgd_ede=EDE, sgd_dsq=none, sgd_lab=none
  )
  assert axis.get_xscale() == 'linear'


def test_equal_differences_have_no_interval(tmp_path):
  study = make_study()
  # In binary, these differences of 0.2 differ by rounding errors.
  values = [90.1, 90.5, 90.9]
  ours = [90.3, 90.7, 91.1]
  assert len(set(np.subtract(ours, values))) > 1
  runs = write(tmp_path, study, sgd_ste=values, sgd_ede=ours)
  rows, _ = rows_of(study, runs)
  assert [rows['sgd-ede'][name] for name in paired.COLUMNS] == [
    '+0.20',
    '',
    '',
    '',
  ]


def test_figure_has_a_panel_per_optimizer_and_a_bar_per_rule(tmp_path):
  study = make_study()
  runs = write(
    tmp_path, study, sgd_ste=STE, sgd_ede=EDE, sgd_dsq=STE[::-1], adam_ste=STE
  )
  (png, _) = figures.write_all({'rules': study}, runs, tmp_path / 'out')
  assert png.name == 'rules-differences.png'
  group = [
    (name, config, cell)
    for name, config in study.settings.items()
    if (cell := paired.comparison.cell(config, runs))
  ]
  figure = paired.draw(group, study.baselines, 'Rules')
  (axis,) = figure.axes
  assert axis.get_title() == 'sgd'
  assert [text.get_text() for text in axis.get_yticklabels()] == [
    'ede, 3 seeds',
    'dsq, 3 seeds',
  ]
  means = [
    np.asarray(bar.lines[0].get_xdata(), np.float64).item()
    for bar in axis.containers
  ]
  assert means == pytest.approx([4 / 3, 0])
