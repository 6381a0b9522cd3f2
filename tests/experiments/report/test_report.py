"""Tests the ledger, and the tables that are made from it."""

import functools
import json
import math
import pathlib
import types

import pytest

from experiments.build.schema import KEYS
from experiments.common import markdown
from experiments.common.errors import InvalidError
from experiments.configs import gpt, methods, resnet20
from experiments.records import cards, ledger
from experiments.report import __main__ as command
from experiments.report import comparison, method_table, study_table, write
from experiments.report.first_epoch import first_epoch_table
from experiments.study import spec
from tests.experiments import ledgers

ROOT = pathlib.Path(__file__).parents[3]


def write_run(workdir, epochs=1, done=1, **config):
  header = {
    'date': 'today',
    'config': resnet20.get_config().to_dict()
    | {
      'network': 'resnet20',
      'dataset': 'cifar10',
      'data_dir': '/home/me/data',
      'pretrained': '/home/me/nets/base.pth',
      'quantizer': 'dorefa',
      'bits': 2,
      'estimator': 'multi_fc',
      'layers': 3,
      'init': 'identity',
      'optimizer': 'adam',
      'seed': 4,
      'batch_size': 128,
      'learning_rate': 1e-3,
      'meta_learning_rate': 1e-3,
      'epochs': epochs,
    }
    | config,
    'device': {'kind': 'cpu'},
    'versions': {'jax': '0.10.2'},
    'start': {'base_accuracy': 91.5, 's': 0.0, 'offset': 1.0},
  }
  records = [
    {
      'epoch': epoch,
      'step': 390 * epoch,
      'train_loss': 0.5,
      'test_loss': 0.6,
      'test_accuracy': 80.25,
      'seconds': 3.0,
      's': 0.25,
      'offset': 1.5,
    }
    for epoch in range(1, done + 1)
  ]
  workdir.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps(line) for line in (header, *records)]
  (workdir / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  return workdir


def test_add_removes_folders_from_config(tmp_path):
  workdir = write_run(tmp_path / 'run')
  path = ledger.add(workdir, tmp_path / 'results', 'mine')
  assert path == tmp_path / 'results' / 'mine.jsonl'
  assert '/home/me' not in path.read_text()
  (run,) = ledger.read(tmp_path / 'results')
  assert run.name == 'mine'
  assert run.header['config']['pretrained'] == 'base.pth'
  assert run.records[0]['test_accuracy'] == 80.25


def test_add_unfinished_run_raises(tmp_path):
  workdir = write_run(tmp_path / 'run', epochs=3, done=2)
  with pytest.raises(ValueError, match='2 of 3 epochs'):
    ledger.add(workdir, tmp_path / 'results', 'mine')
  assert not (tmp_path / 'results').exists()


def test_first_epoch_row_contains_run_and_numbers(tmp_path):
  ledger.add(write_run(tmp_path / 'run'), tmp_path / 'results', 'mine')
  other = write_run(tmp_path / 'long', epochs=2, done=2)
  ledger.add(other, tmp_path / 'results', 'long')
  page = 'a\n<!-- table: first-epoch -->\nold\n<!-- end -->\nz\n'
  runs = ledger.read(tmp_path / 'results')
  texts = write.texts(write.make_tables(runs, {}, ()))
  filled = markdown.fill(page, 'table', texts)
  rows = [line for line in filled.splitlines() if line.startswith('| dorefa')]
  assert rows == [
    '| dorefa(2) | multi_fc, 3 layers, init=identity | adam | 0.001 | 4 |'
    ' +0.00, offset 1.00 | +0.25, offset 1.50 | 0.500 | 80.25 % | `mine` |'
  ]
  assert 'old' not in filled
  assert filled.startswith('a\n')
  assert filled.endswith('<!-- end -->\nz\n')
  assert markdown.fill(filled, 'table', texts) == filled


def test_fill_unknown_table_raises():
  with pytest.raises(ValueError, match="'tabel1'"):
    markdown.fill('<!-- table: tabel1 -->\n<!-- end -->\n', 'table', {})


all_studies = functools.cache(spec.load_all)


@functools.cache
def committed_tables():
  """Returns all tables of the ledger of this checkout."""
  runs = ledger.read(ROOT / ledger.RESULTS)
  deployed = cards.read_cards(ROOT / ledger.RESULTS)
  assert runs
  assert deployed
  return write.make_tables(runs, all_studies(), deployed)


def test_pages_match_ledger():
  texts = write.texts(committed_tables())
  for path in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')):
    page = path.read_text(encoding='utf-8')
    assert markdown.fill(page, 'table', texts) == page, (
      f'{path} is stale: python -m experiments.report'
    )


def test_ledger_entries_are_clean_and_contain_no_folder():
  paths = [name for name, key in KEYS.items() if key.file or key.folder]
  assert paths
  for run in ledger.read(ROOT / ledger.RESULTS):
    assert run.header['dirty'] is False, run.name
    for key in paths:
      assert '/' not in run.header['config'].get(key, ''), run.name
  for card in cards.read_cards(ROOT / ledger.RESULTS):
    for header in (card['run'], card['made']):
      assert header['dirty'] is False, card['name']
      for key in paths:
        assert '/' not in header['config'].get(key, ''), card['name']


def test_files_of_report_match_ledger(tmp_path):
  runs, shown = ledger.read(ROOT / ledger.RESULTS), []
  paths = write.write_all(
    committed_tables(), runs, all_studies(), tmp_path, shown.append
  )
  names = {path.name for path in paths}
  assert names == {path.name for path in (ROOT / write.OUT).iterdir()}, (
    f'{write.OUT} is stale: delete it, then python -m experiments.report'
  )
  for table in ('table1', 'table5', 'first-epoch'):
    assert {f'{table}.{suffix}' for suffix in ('md', 'csv', 'tex')} <= names
  assert len(shown) == sum(name.endswith('.csv') for name in names)
  for path in paths:
    if path.suffix in ('.md', '.csv', '.tex'):
      committed = ROOT / write.OUT / path.name
      assert committed.read_text(encoding='utf-8') == path.read_text(
        encoding='utf-8'
      ), f'{committed} is stale: python -m experiments.report'


def table_rows(tmp_path):
  study = all_studies()['table1']
  table = study_table.study_table('table1', study, ledger.read(tmp_path))
  return {
    row[0].strip('`'): dict(zip(table.columns, row, strict=True))
    for row in table.rows
  }


def test_study_row_with_published_number(tmp_path):
  name = 'resnet20-bwn-sgd-fc_grad'
  config = all_studies()['table1'].settings[name].to_dict()
  each = [[80.0, 84.0], [81.0, 85.0], [82.0, 86.0]]
  ledgers.write(tmp_path, 'a', config | {'seed': 3}, each)
  row = table_rows(tmp_path)[name]
  # The paper prints 88.949; the logs give 89.028.
  low, high = comparison.interval([84.0, 85.0, 86.0])
  assert (row['accuracy %'], row['std']) == ('85.00', '1.00')
  assert (row['trials'], row['epochs']) == ('3', '2')
  assert (row['paper %'], row['its logs %']) == ('88.95', '89.03')
  assert (row['their trials'], row['base %']) == ('3', '91.50')
  assert row['ours - paper'] == '-3.95'
  assert row['95 % from'] == f'{low - 88.949:.2f}'
  assert row['to'] == f'{high - 88.949:.2f}'
  assert row['mark'] == '2 of 100 epochs, 3 of 5 trials'


def test_study_table_counts_settings_without_run(tmp_path):
  study = all_studies()['table1']
  table = study_table.study_table('table1', study, ledger.read(tmp_path))
  assert table.rows == []
  assert markdown.markdown(table).startswith('Test accuracy')
  assert table.note.endswith('48 of 48 settings have no run yet.')
  assert not write.is_measured(table)


def test_study_row_remarks_errors_of_paper(tmp_path):
  names = (
    'resnet20-dorefa-adam-ste-paper',
    'resnet44-bwn-sgd-lstm_fc',
    'resnet44-bwn-adam-ste-paper',
    'resnet20-dorefa-adam-ste-fair',
  )
  for name in names:
    config = all_studies()['table1'].settings[name].to_dict()
    ledgers.write(tmp_path, name, config, [[80.0] * 100] * 5)
  rows = table_rows(tmp_path)
  assert set(rows) == set(names)
  assert rows['resnet20-dorefa-adam-ste-paper']['paper %'] == '89.78'
  assert rows['resnet20-dorefa-adam-ste-paper']['its logs %'] == ''
  swapped = rows['resnet44-bwn-sgd-lstm_fc']
  assert swapped['mark'] == 'paper: label swapped'
  low = rows['resnet44-bwn-adam-ste-paper']
  assert low['mark'] == 'paper: 1.00 below 3 of its 5 logs'
  assert (low['its base %'], swapped['its base %']) == ('93.56', '93.56')
  # The paper has no baselines in the protocol `fair`.
  assert rows['resnet20-dorefa-adam-ste-fair']['paper %'] == ''


def test_study_table_unpublished_has_no_paper_columns(tmp_path):
  study = spec.Study('Mine', {'a': spec.in_protocol('fair')})
  ledgers.write(tmp_path, 'a', study.settings['a'].to_dict(), [50.0])
  table = study_table.study_table('mine', study, ledger.read(tmp_path))
  assert list(table.columns) == [
    'setting',
    'accuracy %',
    'std',
    'trials',
    'epochs',
    'base %',
    'mark',
  ]
  assert table.rows == [
    ['`a`', '50.00', '', '1', '1', '91.50', '1 of 100 epochs, 1 of 5 trials']
  ]
  assert 'printed' not in table.note


@pytest.mark.parametrize(
  ('holdouts', 'start'),
  [
    ([0], 'Test accuracy is the mean'),
    ([5_000], 'Accuracy on 5,000 training images held out is the mean'),
    (
      [0, 500],
      'Test accuracy or accuracy on 500 training images held out is the mean',
    ),
  ],
)
def test_study_table_note_names_test_images(tmp_path, holdouts, start):
  study = spec.Study(
    'Mine', {f'{n}': spec.in_protocol('fair', holdout=n) for n in holdouts}
  )
  for name, config in study.settings.items():
    ledgers.write(tmp_path, name, config.to_dict(), [50.0])
  table = study_table.study_table('mine', study, ledger.read(tmp_path))
  assert table.note.startswith(start)


def test_study_row_single_trial_has_no_interval(tmp_path):
  name = 'resnet20-bwn-sgd-fc_grad'
  config = all_studies()['table1'].settings[name].to_dict()
  config['epochs'] = 1
  ledgers.write(tmp_path, 'a', config, [80.0])
  ledgers.write(tmp_path, 'b', config | {'seed': 1}, [], diverged='step 2')
  row = table_rows(tmp_path)[name]
  assert row['accuracy %'] == '80.00'
  assert (row['ours - paper'], row['to'], row['std']) == ('-8.95', '', '')
  assert row['mark'] == '1 diverged, 1 of 100 epochs, 1 of 5 trials'


def test_study_row_all_trials_diverged(tmp_path):
  name = 'resnet20-bwn-sgd-fc_grad'
  config = all_studies()['table1'].settings[name].to_dict()
  ledgers.write(tmp_path, 'b', config, [], diverged='step 2')
  row = table_rows(tmp_path)[name]
  assert (row['accuracy %'], row['trials']) == ('diverged', '0')


def test_add_name_of_another_run_raises(tmp_path):
  ledger.add(write_run(tmp_path / 'run'), tmp_path / 'results', 'mine')
  ledger.add(tmp_path / 'run', tmp_path / 'results', 'mine')
  other = write_run(tmp_path / 'other', seed=9)
  with pytest.raises(ValueError, match=r'mine\.jsonl is the entry of another'):
    ledger.add(other, tmp_path / 'results', 'mine')
  assert len(ledger.read(tmp_path / 'results')) == 1


def test_add_diverged_run_is_marked(tmp_path):
  workdir = write_run(tmp_path / 'run', epochs=3, done=1)
  path = ledger.add(workdir, tmp_path / 'results', 'mine', diverged='at 9')
  (run,) = ledger.read(path.parent)
  assert run.header['diverged'] == 'at 9'
  assert len(run.records) == 1


def test_add_folder_without_run_raises(tmp_path):
  with pytest.raises(FileNotFoundError, match='Give the folder of a run'):
    ledger.add(tmp_path, tmp_path / 'results', 'mine')


def test_study_row_unpublished_is_marked(tmp_path):
  name = 'resnet20-dorefa-adam-ste-fair'
  config = all_studies()['table1'].settings[name].to_dict()
  ledgers.write(tmp_path, 'a', config, [80.0, 82.0])
  row = table_rows(tmp_path)[name]
  assert (row['accuracy %'], row['paper %']) == ('82.00', '')
  assert row['mark'] == '2 of 100 epochs, 1 of 5 trials'


def test_first_epoch_table_excludes_other_runs(tmp_path):
  ledgers.write(tmp_path, 'ours', {}, [80.0])
  ledgers.write(tmp_path, 'held', {'holdout': 100}, [80.0])
  ledgers.write(tmp_path, 'two', {}, [[80.0], [81.0]])
  ledgers.write(tmp_path, 'digits', {'dataset': 'digits'}, [80.0])
  ledgers.write(tmp_path, 'bad', {'epochs': 1}, [], diverged='at step 2')
  for key, value in (
    ('slim', True),
    ('estimator_activation', 'tanh'),
    ('network', 'resnet110'),
    ('phi_cotangent', 'estimator'),
    ('weight_decay', 5e-4),
  ):
    ledgers.write(tmp_path, key, {key: value}, [80.0])
  rows = first_epoch_table(ledger.read(tmp_path)).rows
  assert [row[-1] for row in rows] == ['`ours`']


def test_add_taken_name_suggests_digest(tmp_path):
  ledger.add(write_run(tmp_path / 'run'), tmp_path / 'results', 'mine')
  other = write_run(tmp_path / 'other', seed=9)
  with pytest.raises(ledger.TakenError) as error:
    ledger.add(other, tmp_path / 'results', 'mine')
  name = f'mine-{error.value.digest}'
  assert ledger.add(other, tmp_path / 'results', name).exists()
  assert {
    ledger.seeds(run)[0] for run in ledger.read(tmp_path / 'results')
  } == {4, 9}


def test_study_table_shows_measured_and_published_drops(tmp_path):
  study = spec.Study(
    'Drops',
    {
      'a': spec.in_protocol('fair', epochs=1),
      'b': spec.in_protocol('fair', estimator='ste'),
    },
    drops={'a': spec.Drop(0.7, 'Table 4')},
  )
  ledgers.write(tmp_path, 'a', study.settings['a'].to_dict(), [90.0])
  table = study_table.study_table('mine', study, ledger.read(tmp_path))
  kept = ('accuracy %', 'base %', 'drop', 'published drop', 'of')
  rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
  assert [[row[key] for key in kept] for row in rows] == [
    ['90.00', '91.50', '1.50', '0.70', 'Table 4'],
  ]


def test_method_table_shows_costs_and_accuracy(tmp_path):
  study = all_studies()['methods']
  assert set(study.settings) == set(methods.NAMES)
  for name, more in (('psgd', {'relaxed_accuracy': 88.0}), ('slb', {})):
    config = study.settings[name].to_dict()
    ledgers.write(tmp_path, name, config, [80.0])
    path = tmp_path / f'{name}.jsonl'
    first, last = map(json.loads, path.read_text().splitlines())
    if name == 'slb':
      first['start'] = {}
    path.write_text(json.dumps(first) + '\n' + json.dumps(last | more))
  twn = study.settings['twn'].to_dict()
  ledgers.write(tmp_path, 'twn', twn, [[60.0], [80.0]])
  costs = {
    'psgd': {'time / STE': [1.25, 1.0, 2.0], 'numbers kept per weight': 0.5}
  }
  table = method_table.method_table(study, ledger.read(tmp_path), costs)
  rows = {
    row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows
  }
  psgd = rows['`psgd`']
  assert psgd['measured'] == '88.00 → 80.00'
  assert (psgd['step / STE'], psgd['numbers kept per weight']) == (
    '1.25',
    '0.50',
  )
  assert rows['`slb`']['measured'] == '80.00, from random weights'
  assert rows['`twn`']['measured'] == '70.00, 2 trials'
  assert rows['`ttq`']['measured'] == 'no run'
  assert method_table.read_costs(tmp_path) == {}


def test_command_damaged_ledger_exits_with_message(tmp_path, monkeypatch):
  (tmp_path / 'cut.jsonl').write_text('{"config"')
  arguments = types.SimpleNamespace(
    results=tmp_path, out=tmp_path / 'out', only='', study=''
  )
  monkeypatch.setattr(command.flags, 'FLAGS', arguments)
  with pytest.raises(SystemExit, match=r'cut\.jsonl'):
    command.main(['report'])


def test_command_reports_a_study_of_the_user(tmp_path, monkeypatch, capsys):
  results = tmp_path / 'results'
  path = tmp_path / 'mine.py'
  path.write_text(
    'from experiments.study import Study, in_protocol\n'
    'def get_study():\n'
    "  return Study('Mine', {'a': in_protocol('fair', estimator='fc_grad',"
    ' meta_learning_rate=0.7, epochs=2)})\n'
  )
  config = spec.load(path).settings['a'].to_dict()
  ledgers.write(results, 'any', config, [1.0, 2.0])
  options = types.SimpleNamespace(
    results=results, out='', only='', study=str(path)
  )
  monkeypatch.setattr(command, 'flags', types.SimpleNamespace(FLAGS=options))
  command.main(['report'])
  assert '| `a` |' in capsys.readouterr().out
  assert (tmp_path / 'report' / 'mine.csv').is_file()
  # No study of this project has this run.
  options.study, options.out = '', tmp_path / 'none'
  command.main(['report'])
  assert 'give its file: --study=FILE' in capsys.readouterr().out


def test_select_chooses_whole_names_and_refuses_others():
  made = [markdown.Table(name, '', (), ()) for name in ('table1', 'table10')]
  assert [table.name for table in write.select(made, 'table1')] == ['table1']
  with pytest.raises(InvalidError, match=r"'x' matches no table.*table10"):
    write.select(made, 'x')
  with pytest.raises(InvalidError, match='not a regular expression'):
    write.select(made, '(')


@pytest.mark.parametrize('name', ['missing', ''])
def test_report_folder_without_runs_is_one_line_and_writes_nothing(
  tmp_path, monkeypatch, capsys, name
):
  out = tmp_path / 'out'
  options = types.SimpleNamespace(
    results=tmp_path / name, out=out, only='', study=''
  )
  monkeypatch.setattr(command, 'flags', types.SimpleNamespace(FLAGS=options))
  with pytest.raises(SystemExit) as exit_:
    command.main(['report'])
  assert exit_.value.code
  assert f'--results={tmp_path / name} contains no run' in str(
    exit_.value.code
  ) + ''.join(capsys.readouterr())
  assert not out.exists()


def test_study_row_of_text_has_bits_per_byte(tmp_path):
  config = gpt.get_config(epochs=1)
  study = spec.Study('Text', {'a': config}, trials=2)
  ledgers.write(tmp_path, 'a', config.to_dict(), [[50.0], [60.0]])
  table = study_table.study_table('text', study, ledger.read(tmp_path))
  row = dict(zip(table.columns, table.rows[0], strict=True))
  # The loss of the ledger is 0.6 nats.
  assert row['bits per byte'] == f'{0.6 / math.log(2):.4f}'
  assert row['std of bits'] == '0.0000'
