"""Tests the measurements of a setting and the statistics of its trials."""

import json

import numpy as np
import pytest

from experiments.records import ledger, model_file
from experiments.report import comparison
from experiments.study import spec
from tests.experiments import ledgers


def test_cell_repeated_seed_counts_once(tmp_path):
  config = spec.in_protocol('fair', estimator='fc_grad')
  changed = config.to_dict() | {'epochs': 2}
  ledgers.write(tmp_path, 'a', changed | {'seed': 1}, [10.0, 20.0])
  ledgers.write(tmp_path, 'again', changed | {'seed': 1}, [10.0, 20.0])
  ledgers.write(
    tmp_path, 'b', changed | {'seed': 2}, [[30.0, 50.0], [1.0, 3.0]]
  )
  ledgers.write(tmp_path, 'other', changed | {'hidden': 7}, [90.0, 90.0])
  ledgers.write(tmp_path, 'short', changed | {'epochs': 1, 'seed': 9}, [80.0])
  ledgers.write(
    tmp_path, 'bad', changed | {'seed': 5}, [5.0], diverged='at step 9'
  )
  measured = comparison.cell(config, ledger.read(tmp_path))
  assert list(measured.records) == [1, 2, 3]
  assert comparison.accuracies(measured) == [20.0, 50.0, 3.0]
  assert measured.diverged == [5]
  assert measured.epochs == 2
  assert measured.base_accuracy == 91.5
  assert 'other' not in measured.names
  assert 'short' not in measured.names
  assert comparison.cell(config, []) is None


def test_cell_pools_older_runs_that_have_no_digest_of_their_data(tmp_path):
  config = spec.in_protocol('fair', estimator='fc_grad', epochs=1)
  values = config.to_dict()
  for seed, start in enumerate(({}, {'data': 'a'}, {'data': 'a'})):
    ledgers.write(
      tmp_path, f'{seed}', values | {'seed': seed}, [1.0], start=start
    )
  measured = comparison.cell(config, ledger.read(tmp_path))
  assert list(measured.records) == [0, 1, 2]
  assert measured.data == 'a'
  # With two digests, nothing says which data the older run had.
  for seed in (3, 4, 5):
    ledgers.write(
      tmp_path, f'{seed}', values | {'seed': seed}, [1.0], start={'data': 'b'}
    )
  measured = comparison.cell(config, ledger.read(tmp_path))
  assert list(measured.records) == [3, 4, 5]
  assert measured.data == 'b'


@pytest.mark.parametrize(
  ('epochs', 'mean'), [(100, 94.5), (20, 18.5), (19, 18.0), (1, 0.0)]
)
def test_accuracies_average_last_tenth_of_epochs(tmp_path, epochs, mean):
  config = spec.in_protocol('fair')
  ledgers.write(
    tmp_path, 'a', config.to_dict(), [float(i) for i in range(epochs)]
  )
  measured = comparison.cell(config, ledger.read(tmp_path))
  assert comparison.accuracies(measured) == [mean]


def test_cell_prefers_runs_of_protocol_length(tmp_path):
  config = spec.in_protocol('fair', epochs=3)

  def shown():
    return comparison.cell(config, ledger.read(tmp_path)).names

  # The mean over the last epochs of a longer run is not that of the setting.
  ledgers.write(tmp_path, 'long', config.to_dict(), [1.0] * 5)
  assert comparison.cell(config, ledger.read(tmp_path)) is None
  for name, epochs in (('short', 1), ('nearer', 2), ('own', 3)):
    ledgers.write(tmp_path, name, config.to_dict(), [1.0] * epochs)
    assert shown() == [name]
  ledgers.write(tmp_path, 'last', config.to_dict(), [1.0] * 4)
  assert shown() == ['own']


@pytest.mark.parametrize('keys', [{'schedule': 'cosine'}, {'estimator': 'ede'}])
def test_cell_of_schedule_over_the_run_has_no_shorter_run(tmp_path, keys):
  config = spec.in_protocol('fair', epochs=3, **keys)
  ledgers.write(tmp_path, 'short', config.to_dict(), [1.0] * 2)
  assert comparison.cell(config, ledger.read(tmp_path)) is None
  ledgers.write(tmp_path, 'own', config.to_dict(), [1.0] * 3)
  assert comparison.cell(config, ledger.read(tmp_path)).names == ['own']


def test_cell_does_not_pool_base_models(tmp_path):
  config = spec.in_protocol('fair')
  for seed, base in enumerate((91.5, 60.0, 91.5)):
    ledgers.write(
      tmp_path,
      f'{seed}',
      config.to_dict() | {'seed': seed},
      [50.0],
      start={'base_accuracy': base},
    )
  measured = comparison.cell(config, ledger.read(tmp_path))
  assert (list(measured.records), measured.base_accuracy) == ([0, 2], 91.5)


def test_cell_pools_one_base_model_whose_accuracy_differs(tmp_path):
  """Two devices give one network different accuracies."""
  config = spec.in_protocol('fair')
  starts = [
    {'base_accuracy': 96.72, 'base': 'same'},
    {'base_accuracy': 96.74, 'base': 'same'},
    {'base_accuracy': 96.74},  # An older log.
    {'base_accuracy': 96.74, 'base': 'other'},
  ]
  for seed, start in enumerate(starts):
    values = config.to_dict() | {'seed': seed}
    ledgers.write(tmp_path, f'{seed}', values, [50.0], start=start)
  runs = ledger.read(tmp_path)
  assert list(comparison.cell(config, runs[:3]).records) == [0, 1, 2]
  assert comparison.cell(config, runs[:3]).base == 'same'
  # With two base models of one accuracy, the older log has neither.
  assert list(comparison.cell(config, runs).records) == [0, 1]


def test_cell_separates_random_weights_from_base_model(tmp_path):
  config = spec.in_protocol('fair')
  from_base = config.to_dict() | {'pretrained': 'base.pth'}
  ledgers.write(tmp_path, 'base', from_base, [80.0])
  ledgers.write(tmp_path, 'more', from_base | {'seed': 1}, [80.0])
  scratch = config.copy_and_resolve_references()
  scratch.pretrain_epochs = 0
  ledgers.write(tmp_path, 'scratch', scratch.to_dict(), [30.0])
  runs = ledger.read(tmp_path)
  assert comparison.cell(config, runs).names == ['base', 'more']
  assert comparison.cell(scratch, runs).names == ['scratch']


def test_cell_of_setting_with_own_base_model_has_runs_from_its_file(tmp_path):
  settings = {}
  for place, accuracy in (('good', 88.0), ('bad', 60.0)):
    path = tmp_path / f'{place}.pth'
    path.write_text(place)
    settings[place] = spec.in_protocol('fair', epochs=1, pretrained=str(path))
    for seed, start in enumerate(({'base': model_file.digest(path)}, {})):
      values = settings[place].to_dict() | {
        'pretrained': path.name,
        'seed': seed,
      }
      ledgers.write(tmp_path, f'{place}{seed}', values, [accuracy], start=start)
  runs = ledger.read(tmp_path)

  def names(place):
    return comparison.cell(settings[place], runs).names

  for place in settings:
    assert names(place) == [f'{place}0', f'{place}1']
  # Runs from another file of this name do not count, if their digest says so.
  (tmp_path / 'bad.pth').write_text('changed')
  assert names('bad') == ['bad1']
  # On another machine, the file may be missing.
  (tmp_path / 'good.pth').unlink()
  assert names('good') == ['good0', 'good1']


def test_interval_is_students():
  # Three values: the 97.5 % quantile of t with two degrees of freedom is
  # 4.302653, from tables.
  values = [1.0, 2.0, 4.0]
  half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
  np.testing.assert_allclose(
    comparison.interval(values), [7 / 3 - half, 7 / 3 + half], rtol=1e-6
  )
  assert comparison.interval(values[:2]) is None
  assert comparison.interval([0.1 + 0.2, 0.3, 0.3]) is None
  # Differences of equal numbers near 0.3.
  rounding = [0.1 + 0.2 - 0.3, 0.0, 0.0]
  assert comparison.interval(rounding, scale=0.3) is None
  assert comparison.interval(rounding) is not None


@pytest.mark.parametrize(
  (
    'table',
    'cells',
    'paper',
    'ranked',
    'raw',
    'raw_ranked',
    'trials',
    'remarks',
  ),
  [
    ('tables_1_and_2', 70, 5493.007, 189127.508, 5049.374, 179269.418, 304, 11),
    ('table_5', 6, 530.430, 1324.890, 0.000, 0.000, 0, 0),
    ('table_6', 6, 542.280, 1357.080, 0.000, 0.000, 0, 0),
  ],
)
def test_published_file_sums_equal_checked_values(
  table, cells, paper, ranked, raw, raw_ranked, trials, remarks
):
  """Compares sums, also weighted by rank, with those of a checked list."""
  keys = ('network', 'dataset', 'quantizer', 'estimator', 'optimizer')
  keys += ('slim', 'hidden', 'estimator_activation')
  entries = sorted(
    json.loads(comparison.PUBLISHED.read_text())[table],
    key=lambda entry: [str(entry.get(key)) for key in keys],
  )
  assert len(entries) == cells
  for name, total, by_rank in (
    ('paper', paper, ranked),
    ('raw', raw, raw_ranked),
  ):
    values = [entry.get(name) or 0.0 for entry in entries]
    assert sum(values) == pytest.approx(total, abs=1e-6)
    assert sum(i * value for i, value in enumerate(values)) == pytest.approx(
      by_rank, abs=1e-6
    )
  assert sum(entry.get('raw_trials') or 0 for entry in entries) == trials
  assert sum('remark' in entry for entry in entries) == remarks


def test_published_returns_number_of_paper_or_none():
  studies = spec.load_all()
  table1 = studies['table1'].settings

  def published(study, config):
    return comparison.published(studies[study].published, config)

  ste = published('table1', table1['resnet44-bwn-adam-ste-paper'])
  assert (ste.paper, ste.raw) == (91.121, 92.095)
  without_logs = published('table1', table1['resnet20-dorefa-adam-lstm_fc'])
  assert (without_logs.paper, without_logs.raw) == (89.979, None)
  slim = published(
    'table5', studies['table5'].settings['resnet20-dorefa-sgd-multi_fc-slim']
  )
  assert slim.paper == 88.7
  assert published('ablations', table1['resnet20-bwn-sgd-ste']) is None
