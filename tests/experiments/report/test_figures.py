"""Tests that figures show the numbers of the ledger."""

import itertools

import matplotlib.colors
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.build.estimators import ESTIMATORS
from experiments.records import ledger
from experiments.report import comparison, figures, minutes, plots
from experiments.study import spec
from tests.experiments import ledgers


@pytest.fixture
def measured(tmp_path):
  """Returns two trials of STE and one of FCGrad, under SGD and Adam."""
  settings_ = {}
  for optimizer in ('sgd', 'adam'):
    for estimator in ('ste', 'fc_grad'):
      name = f'resnet20-dorefa-{optimizer}-{estimator}'
      settings_[name] = spec.in_protocol(
        'fair', optimizer=optimizer, estimator=estimator
      )
      each = [[10.0, 20.0], [30.0, 60.0]][: 2 if estimator == 'ste' else 1]
      ledgers.write(tmp_path, name, settings_[name].to_dict(), each)
  runs = ledger.read(tmp_path)
  return [
    (name, config, comparison.cell(config, runs))
    for name, config in settings_.items()
  ]


def test_curves_draw_mean_and_band_over_trials(measured):
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
    assert matplotlib.colors.to_hex(ste.get_color()) == ESTIMATORS['ste'].colour
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10, 60)
    assert axis.get_xlabel() == 'epoch'
  assert figure.axes[0].get_ylabel() == 'test accuracy, %'


@pytest.mark.parametrize(
  ('of_paper', 'minimum'), [({'resnet20-dorefa': 'figure 3'}, 2), ({}, 3)]
)
def test_write_all_short_runs_have_no_curve(tmp_path, of_paper, minimum):
  config = spec.in_protocol('fair')
  study = spec.Study('S', {'a-b-c-ste': config}, paper_figures=of_paper)
  out = tmp_path / 'out'
  for epochs in range(1, minimum):
    ledgers.write(tmp_path, f'{epochs}', config.to_dict(), [10.0] * epochs)
    assert figures.write_all({'s': study}, ledger.read(tmp_path), out) == []
  ledgers.write(tmp_path, 'long', config.to_dict(), [10.0] * minimum)
  drawn = figures.write_all({'s': study}, ledger.read(tmp_path), out)
  assert len(drawn) == 8


def test_curves_held_out_accuracy_is_labelled(measured):
  (name, config, own), *_ = measured
  held_out = ConfigDict(config.to_dict() | {'holdout': 500})
  figure = plots.curves([(name, held_out, own)], 'accuracy', '')
  assert figure.axes[0].get_ylabel() == 'held-out accuracy, %'


def test_ends_show_final_accuracy_of_comparable_runs(tmp_path):
  study = {
    f'n-q-o-ste-{alpha}': spec.in_protocol(
      'fair', estimator='ste', learning_rate=alpha
    )
    for alpha in (1e-1, 1e-3)
  }
  for (name, config), accuracy in zip(study.items(), (70.0, 50.0), strict=True):
    each = [[1.0, accuracy], [1.0, accuracy + 2]]
    ledgers.write(tmp_path, name, config.to_dict(), each)
  for hidden, accuracies in {1: [80.0, 65.0], 2: [1.0] * 30}.items():
    name = f'n-q-o-fc-{hidden}'
    study[name] = spec.in_protocol('fair', estimator='fc_grad', hidden=hidden)
    ledgers.write(tmp_path, name, study[name].to_dict(), accuracies)
  runs = ledger.read(tmp_path)
  group = [(n, c, comparison.cell(c, runs)) for n, c in study.items()]
  alike = plots.comparable(group)
  assert [name for name, _, _ in alike] == list(study)[:3]
  figure = plots.ends(alike, 'Mine')
  (axis,) = figure.axes
  points = [c.lines[0].get_xydata().tolist() for c in axis.containers]
  assert points == [[[71, 0]], [[51, 1]], [[65, 2]]]
  (ends,) = axis.containers[0].lines[2][0].get_segments()
  np.testing.assert_array_equal(ends[:, 0], [70, 72])
  assert [label.get_text() for label in axis.get_yticklabels()] == [
    'ste-0.1, 2 trials',
    'ste-0.001, 2 trials',
    'fc-1',
  ]
  assert axis.get_lines()[-1].get_xdata() == [71, 71]  # the best baseline
  assert figure.get_suptitle() == 'Mine, 2 epochs'
  drawn = figures.write_all(
    {'t': spec.Study('T', study)}, runs, tmp_path / 'out'
  )
  assert 't-resnet20-dorefa-ends.png' in [path.name for path in drawn]
  apart = {'t': spec.Study('T', study, figures=False)}
  assert figures.write_all(apart, runs, tmp_path / 'none') == []


def test_curves_flips_are_mean_percentage_over_layers(measured):
  figure = plots.curves(measured, 'flips', '')
  assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [50.0, 50.0]


def test_figures_many_settings_are_split_and_shaded(measured):
  """Tests that twenty settings make parts of five curves with the baseline."""
  ste, fc = measured[0], measured[1]
  many = [(f'n-q-o-{i}', *fc[1:]) for i in range(20)]
  drawn = figures._figures(
    {'factor': 'figure 4'}, [*many[:3], ste, *many[3:]], []
  )
  assert drawn.pop('factor')
  assert len(drawn.pop('resnet20-dorefa-ends').axes[0].get_yticks()) == 21
  assert sorted(drawn) == sorted(
    f'resnet20-dorefa-{kind}-{part}'
    for kind in ('loss', 'accuracy', 'flips', 'weights')
    for part in (1, 2, 3, 4, 5)
  )
  for part in (1, 5):
    (axis,) = drawn[f'resnet20-dorefa-loss-{part}'].axes
    first, *lines = axis.get_lines()
    assert first.get_label() == 'ste, 2 trials'
    assert [line.get_label() for line in lines] == [
      f'{i}' for i in range(4 * part - 4, 4 * part)
    ]
    light = [lightness(line.get_color()) for line in lines]
    assert light == sorted(light)
    assert light[-1] < 85
    assert min(np.diff(light)) > 4


def lightness(colour):
  """Returns L* of CIELAB, 0 to 100."""
  rgb = np.array(matplotlib.colors.to_rgb(colour))
  linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
  y = linear @ [0.2126, 0.7152, 0.0722]
  return 116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y


def test_shade_lightness_stays_visible():
  for colour in (e.colour for e in ESTIMATORS.values()):
    for earlier in range(30):
      assert lightness(plots.shade(colour, earlier)) < 90


def test_curves_five_optimizers_fill_two_rows(measured):
  name, config, own = measured[0]
  many = [
    (name, ConfigDict(config.to_dict() | {'optimizer': optimizer}), own)
    for optimizer in ('sgd', 'momentum', 'adam', 'adamw', 'lion')
  ]
  figure = plots.curves(many, 'loss', '')
  assert figure.axes[0].get_gridspec().get_geometry() == (2, 3)
  assert [axis.axison for axis in figure.axes] == [True] * 5 + [False]


def test_factors_have_two_axes_and_band(tmp_path):
  entries = []
  for hidden, losses in {1: [(3, 2), (5, 2)], 100: [(4, 1)]}.items():
    config = spec.in_protocol('fair', estimator='fc_grad', hidden=hidden)
    trials = {
      seed: [ledgers.record(1, 1.0, loss) for loss in own]
      for seed, own in enumerate(losses)
    }
    cell = comparison.Cell(trials, [], 2, 0, None, None, [], set())
    entries.append((f'{hidden}', config, cell))
  left, right = plots.factors(entries, 'figure 4').axes
  assert [line.get_ydata().tolist() for line in left.get_lines()] == [
    [4, 2],
    [4, 1],
  ]
  band = left.collections[0].get_paths()[0].vertices[:, 1]
  assert (band.min(), band.max()) == (2, 5)
  assert right.get_lines()[0].get_ydata().tolist() == [0.5, 0.5]
  labels = [line.get_label() for line in left.get_lines()]
  assert labels == ['hidden 1, 2 trials', 'hidden 100']
  colours = [lightness(line.get_color()) for line in left.get_lines()]
  assert colours[0] < colours[1]  # of one hue, that of the method
  assert left.get_lines()[0].get_color() == plots.shade(
    ESTIMATORS['fc_grad'].colour, 0
  )
  assert 'loss' in left.get_ylabel()
  assert 'factor' in right.get_ylabel()


def test_histograms_show_shares_of_first_trial():
  config = spec.in_protocol('fair')
  records = [
    ledgers.record(1, 1.0, histogram=list(range(64))),
    ledgers.record(2, 1.0, histogram=[0] * 63 + [5]),
  ]
  cell = comparison.Cell({0: records, 1: []}, [], 2, 0, None, None, [], set())
  figure = plots.histograms([('n-q-o-fc', config, cell)])
  (image,) = figure.axes[0].get_images()
  shares = image.get_array()
  np.testing.assert_allclose(shares[:, 0], 100 * np.arange(64) / 2016)
  assert shares[:, 1].tolist() == [0.0] * 63 + [100.0]
  # The last bin contains the weights far above zero.
  assert image.origin == 'lower'
  assert figure.axes[0].get_ylim() == (-4, 4)


def test_colours_differ_for_colour_blind_readers():
  """Tests that markers differ, and colours too without one type of cone.

  Eight colours differ in this way; rules of one kind share a colour.
  """
  assert len({e.marker for e in ESTIMATORS.values()}) == len(ESTIMATORS)
  learned = [e.colour for e in ESTIMATORS.values() if e.learned]
  assert len(set(learned)) == len(learned)
  assert ESTIMATORS['ste'].colour not in learned
  rgb = np.array(
    [
      matplotlib.colors.to_rgb(c)
      for c in sorted({e.colour for e in ESTIMATORS.values()})
    ]
  )
  # Viénot, Brettel and Mollon 1999; blue is an average of the other two.
  linear = rgb**2.2
  no_red = linear @ np.array(
    [[0.11238, 0.11238, 0.00401], [0.88762, 0.88762, -0.00401], [0, 0, 1]]
  )
  no_green = linear @ np.array(
    [[0.29275, 0.29275, -0.02234], [0.70725, 0.70725, 0.02234], [0, 0, 1]]
  )
  for seen in (linear, no_red, no_green):
    seen = np.clip(seen, 0, 1) ** (1 / 2.2)
    distances = [
      np.linalg.norm(one - other)
      for one, other in itertools.combinations(seen, 2)
    ]
    assert min(distances) > 0.1


def test_write_all_draws_each_figure_once(tmp_path, measured):
  study = spec.Study(
    't',
    {name: config for name, config, _ in measured},
    published='tables_1_and_2',
    paper_figures={'resnet20-dorefa': 'figure 3'},
  )
  paths = figures.write_all(
    {'table1': study}, ledger.read(tmp_path), tmp_path / 'out'
  )
  assert sorted(p.name for p in paths if p.suffix == '.png') == [
    'table1-resnet20-dorefa-accuracy.png',
    'table1-resnet20-dorefa-ends.png',
    'table1-resnet20-dorefa-flips.png',
    'table1-resnet20-dorefa-loss.png',
    'table1-resnet20-dorefa-weights.png',
  ]
  for path in paths:
    assert path.stat().st_size > 1000
  before = {p: p.read_bytes() for p in paths}
  subset = spec.Study('s', dict(list(study.settings.items())[:2]))
  again = figures.write_all(
    {'ablations': subset, 'table1': study},
    ledger.read(tmp_path),
    tmp_path / 'out',
  )
  assert again == paths  # The other study has no new figure.
  assert {p: p.read_bytes() for p in paths} == before


def test_over_time_has_a_line_per_recipe_and_a_point_per_length(tmp_path):
  runs_of = {
    'slow-1': (1, 20.0),
    'slow-3': (3, 40.0),
    'quick-1': (1, 30.0),
    'quick-2': (2, 35.0),
    'single-1': (1, 85.0),
    # The ledger has no run of four epochs, so the cell is that of one epoch.
    'quick-4': (4, None),
    'slow-2': (2, None),
    'slow-5': (5, None),
  }
  settings_ = {
    name: spec.in_protocol(
      'fair',
      epochs=epochs,
      last_epochs=1,
      estimator={'slow': 'ste', 'quick': 'multi_fc'}.get(
        name.split('-')[0], 'fc_grad'
      ),
    )
    for name, (epochs, _) in runs_of.items()
  }
  for name, (epochs, accuracy) in runs_of.items():
    if accuracy:
      config = settings_[name].to_dict()
      for seed in (0, 1):
        values = [accuracy + 10 * seed] * epochs
        ledgers.write(
          tmp_path, f'{name}-{seed}', config | {'seed': seed}, values
        )
  # The machine was busy for an epoch of one trial.
  busy = tmp_path / 'slow-3-0.jsonl'
  busy.write_text(
    busy.read_text().replace('"seconds": 3.0', '"seconds": 300.0', 1)
  )
  # Two trials in one program, and another device, have other minutes.
  for name, values, more in (
    ('slow-2', [[50.0] * 2] * 2, {}),
    ('slow-5', [50.0] * 5, {'device': {'kind': 'gpu', 'count': 1}}),
  ):
    config = settings_[name].to_dict()
    ledgers.write(tmp_path, name, config, values, **more)
  study = spec.Study('Title', settings_, figures=False, over_time=True)
  (png, svg) = figures.write_all(
    {'s': study}, ledger.read(tmp_path), tmp_path / 'out'
  )
  assert (png.name, svg.name) == ('s-minutes.png', 's-minutes.svg')
  runs = ledger.read(tmp_path)
  measured = [
    (name, config, comparison.cell(config, runs))
    for name, config in settings_.items()
  ]
  device, timed = minutes.comparable(measured)
  assert device == 'cpu'
  assert [name for name, _, _ in timed] == [
    'slow-1',
    'slow-3',
    'quick-1',
    'quick-2',
  ]
  (axis,) = minutes.over_time(device, timed, 'Title').axes
  assert 'cpu' in axis.get_xlabel()
  slow, quick = (
    np.array(bars.lines[0].get_data(), np.float64) for bars in axis.containers
  )
  # An epoch of the ledger takes three seconds on a quiet machine.
  np.testing.assert_allclose(slow, [[0.05, 0.15], [25, 45]])
  np.testing.assert_allclose(quick, [[0.05, 0.1], [35, 40]])
  assert axis.get_legend_handles_labels()[1] == ['slow', 'quick']
