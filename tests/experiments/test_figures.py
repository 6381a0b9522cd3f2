"""Figures: what is drawn is what the ledger holds."""

import matplotlib.colors
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import comparison, figures, ledger, plots, settings
from tests.experiments import ledgers


@pytest.fixture
def measured(tmp_path):
  """Two trials of STE, one of FCGrad, under SGD and Adam."""
  settings_ = {}
  for optimizer in ('sgd', 'adam'):
    for estimator in ('ste', 'fc_grad'):
      name = f'resnet20-dorefa-{optimizer}-{estimator}'
      settings_[name] = settings.in_protocol(
        'fair', optimizer=optimizer, estimator=estimator
      )
      each = [[10.0, 20.0], [30.0, 60.0]][: 2 if estimator == 'ste' else 1]
      ledgers.write(tmp_path, name, settings_[name].to_dict(), each)
  runs = ledger.read(tmp_path)
  return [
    (name, config, comparison.cell(config, runs))
    for name, config in settings_.items()
  ]


def test_lines_are_means_and_bands_reach_from_least_to_largest(measured):
  figure = plots.curves(measured, 'accuracy', 'a title')
  assert [axis.get_title() for axis in figure.axes] == ['sgd', 'adam']
  for axis in figure.axes:
    ste, fc = axis.get_lines()
    np.testing.assert_array_equal(ste.get_xdata(), [1, 2])
    np.testing.assert_array_equal(ste.get_ydata(), [20, 40])
    np.testing.assert_array_equal(fc.get_ydata(), [10, 20])
    assert [line.get_label() for line in (ste, fc)] == [
      'ste, 2 trials',
      'fc_grad',
    ]
    assert matplotlib.colors.to_hex(ste.get_color()) == plots.COLOURS['ste']
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10, 60)
    assert axis.get_xlabel() == 'epoch'
  assert figure.axes[0].get_ylabel() == 'test accuracy, %'


def test_runs_of_one_epoch_have_no_curve(tmp_path):
  study = settings.Study('Mine', {'a-b-c-ste': settings.in_protocol('fair')})
  (config,) = study.settings.values()
  ledgers.write(tmp_path, 'short', config.to_dict(), [10.0])
  out = tmp_path / 'out'
  assert figures.write_all({'mine': study}, ledger.read(tmp_path), out) == []
  ledgers.write(tmp_path, 'long', config.to_dict(), [10.0, 20.0])
  assert figures.write_all({'mine': study}, ledger.read(tmp_path), out)


def test_accuracy_says_which_images_it_was(measured):
  (name, config, own), *_ = measured
  held_out = ConfigDict(config.to_dict() | {'holdout': 500})
  figure = plots.curves([(name, held_out, own)], 'accuracy', '')
  assert figure.axes[0].get_ylabel() == 'held-out accuracy, %'


def test_step_sizes_beside_what_learns_its_own(tmp_path):
  study = {
    f'n-q-o-ste-{alpha}': settings.in_protocol(
      'fair', estimator='ste', learning_rate=alpha
    )
    for alpha in (1e-1, 1e-3, 1e-2)
  }
  for (name, config), accuracy in zip(
    study.items(), (70.0, 50.0, 90.0), strict=True
  ):
    each = [[1.0, accuracy], [1.0, accuracy + 2]]
    ledgers.write(tmp_path, name, config.to_dict(), each)
  for hidden, accuracies in {1: [80.0, 85.0], 2: [1.0] * 30}.items():
    name = f'n-q-o-fc-{hidden}'
    study[name] = settings.in_protocol(
      'fair', estimator='fc_grad', hidden=hidden
    )
    ledgers.write(tmp_path, name, study[name].to_dict(), accuracies)
  runs = ledger.read(tmp_path)
  group = [(n, c, comparison.cell(c, runs)) for n, c in study.items()]
  assert [name for name, _, _ in plots.swept(group)] == list(study)[:4]
  (axis,) = plots.rates(plots.swept(group), '').axes
  lines = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
  np.testing.assert_array_equal(
    lines['ste'], [[1e-3, 51], [1e-2, 91], [1e-1, 71]]
  )
  bars = {c.get_label(): c for c in axis.containers}
  ((alpha, accuracy),) = bars['fc-1'].lines[0].get_xydata()
  assert accuracy == 85
  assert 1e-3 < alpha < 1.2e-3  # beside the other points at that step size
  (ends,) = axis.containers[0].lines[2][0].get_segments()
  np.testing.assert_array_equal(ends[:, 1], [70, 72])
  assert plots.swept(group[1:]) == []
  drawn = figures.write_all(
    {'t': settings.Study('T', study)}, runs, tmp_path / 'out'
  )
  assert 't-resnet20-dorefa-rates.png' in [path.name for path in drawn]


def test_flips_are_the_mean_over_layers_in_percent(measured):
  figure = plots.curves(measured, 'flips', '')
  assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [50.0, 50.0]


def test_settings_of_one_method_are_told_apart(measured):
  """Twenty settings of one method: parts of eight, paler and paler."""
  many = [(f'{i}', measured[0][1], measured[0][2]) for i in range(20)]
  drawn = figures._figures('ablations', many, [])
  assert sorted(drawn) == sorted(
    f'resnet20-dorefa-{kind}-{part}'
    for kind in ('loss', 'accuracy', 'flips', 'weights')
    for part in (1, 2, 3)
  )
  (axis,) = drawn['resnet20-dorefa-loss-1'].axes
  colours = [line.get_color() for line in axis.get_lines()]
  assert len(set(colours)) == 8
  assert colours == sorted(colours)  # from black on


def test_figure_4_has_two_axes(measured):
  fc = [entry for entry in measured if entry[1].estimator == 'fc_grad'][:1]
  left, right = plots.factors(fc).axes
  assert left.get_lines()[0].get_ydata().tolist() == [1.0, 1.0]
  assert right.get_lines()[0].get_ydata().tolist() == [0.5, 1.0]
  assert 'loss' in left.get_ylabel()
  assert 'factor' in right.get_ylabel()


def test_histograms_show_shares_of_the_first_trial(measured):
  figure = plots.histograms(measured)
  image = figure.axes[0].get_images()[0].get_array()
  assert image.shape == (64, 2)
  np.testing.assert_allclose(image, 100 / 64)


def test_colours_can_be_told_apart_without_their_hue():
  """By lightness, in pairs that share a figure, or by their markers."""
  assert plots.COLOURS.keys() == plots.MARKERS.keys()
  assert len(set(plots.MARKERS.values())) == len(plots.MARKERS)
  rgb = [matplotlib.colors.to_rgb(c) for c in plots.COLOURS.values()]
  assert len(set(rgb)) == len(rgb)


def test_files_of_a_study(tmp_path, measured):
  study = settings.Study('t', {name: config for name, config, _ in measured})
  paths = figures.write_all(
    {'table1': study}, ledger.read(tmp_path), tmp_path / 'out'
  )
  assert sorted(p.name for p in paths if p.suffix == '.png') == [
    'table1-resnet20-dorefa-accuracy.png',
    'table1-resnet20-dorefa-flips.png',
    'table1-resnet20-dorefa-loss.png',
    'table1-resnet20-dorefa-weights.png',
  ]
  for path in paths:
    assert path.stat().st_size > 1000
  before = {p: p.read_bytes() for p in paths}
  some = settings.Study('s', dict(list(study.settings.items())[:2]))
  again = figures.write_all(
    {'ablations': some, 'table1': study},
    ledger.read(tmp_path),
    tmp_path / 'out',
  )
  assert again == paths  # nothing of the other study is new
  assert {p: p.read_bytes() for p in paths} == before
