"""Tests the figure of bits per symbol over steps."""

import math
import pathlib

import numpy as np

from experiments.configs import gpt
from experiments.records import ledger
from experiments.report import comparison, figures, steps, tuned
from experiments.studies import language, language_curves
from experiments.study import spec
from tests.experiments import ledgers

RESULTS = pathlib.Path(__file__).parents[3] / ledger.RESULTS


def measured(folder, names):
  settings = {
    name: gpt.get_config(
      epochs=3,
      estimator='dsq' if 'dsq' in name else 'ste',
      quantizer='none' if name == 'full' else 'bwn',
    )
    for name in names
  }
  for index, (name, config) in enumerate(settings.items()):
    for seed in range(2):
      ledgers.write(
        folder,
        f'{name}-{seed}',
        config.to_dict() | {'seed': seed},
        [50.0] * 3,
        test_loss=(1.0 + index + seed) * math.log(2),
      )
  study = spec.Study('Title', settings, figures=False, over_steps=True)
  runs = ledger.read(folder)
  cells = {n: comparison.cell(c, runs) for n, c in settings.items()}
  return study, runs, [(n, settings[n], cell) for n, cell in cells.items()]


def test_each_quantizer_has_a_panel_with_its_rules_and_full_precision(tmp_path):
  _, _, group = measured(tmp_path, ['full', '1bit-ste', '1bit-dsq', '2bit-ste'])
  figure = steps.over_steps(group, 'Title')
  one, two = figure.axes
  assert [one.get_title(), two.get_title()] == ['1bit', '2bit']
  assert one.get_ylabel() == 'test loss, bits per byte'
  assert [line.get_label() for line in one.lines] == [
    'full precision, 2 trials',
    'ste, 2 trials',
    'dsq, 2 trials',
  ]
  for line, mean in zip(one.lines, [1.5, 2.5, 3.5], strict=True):
    np.testing.assert_allclose(line.get_ydata(), mean)
    assert [*line.get_xdata()] == [390, 780, 1170]
  assert len(two.lines) == 2
  (legend,) = figure.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ['full precision', 'ste', 'dsq']


def test_legend_has_the_rules_of_all_panels(tmp_path):
  _, _, group = measured(tmp_path, ['1bit-ste', '2bit-ste', '2bit-dsq'])
  (legend,) = steps.over_steps(group, 'Title').legends
  assert [text.get_text() for text in legend.get_texts()] == ['ste', 'dsq']


def test_full_precision_alone_is_no_figure(tmp_path):
  study, runs, group = measured(tmp_path / 'runs', ['full'])
  assert steps.over_steps(group, 'Title') is None
  assert figures.write_all({'a': study}, runs, tmp_path / 'out') == []


def test_curves_have_the_best_step_sizes_of_the_search():
  runs = ledger.read(RESULTS, 'language-*')
  curves = language_curves.get_study().settings
  best = tuned.best(language.get_study(), runs)
  assert len(best) >= 17
  for row in best:
    name = f'{row.forward}-{row.backward}'.rstrip('-')
    assert curves[name].learning_rate == row.rate, name


def test_best_step_sizes_of_language_models_are_between_two_others():
  study = language.get_study()
  best = tuned.best(study, ledger.read(RESULTS, 'language-*'))
  # Full precision, and each rule.
  assert len(best) == 1 + len(language.rules())
  for row in best:
    group = f'{row.forward}-{row.backward}'.rstrip('-')
    rates = [
      config.learning_rate
      for name, config in study.settings.items()
      if name == f'{group}-{config.learning_rate:g}'
    ]
    assert min(rates) < row.rate < max(rates), group
    assert row.rates == len(rates), group


def test_curves_are_as_long_as_the_search():
  config = language_curves.get_study().settings['full']
  record = ledger.read(RESULTS, 'language-full-*')[0].records[-1]
  assert config.epochs * config.epoch_steps == record['step']
