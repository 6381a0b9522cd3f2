"""The ledger and the tables made of it."""

import json
import pathlib

import pytest

from experiments import ledger, report

ROOT = pathlib.Path(__file__).parents[2]


def write_run(workdir, epochs=1, done=1, **config):
  header = {
    'config': {
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
    'start': {'full_precision_accuracy': 91.5, 's': 0.0, 'offset': 1.0},
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


def test_a_run_goes_into_the_ledger_without_its_folders(tmp_path):
  workdir = write_run(tmp_path / 'run')
  path = ledger.add(workdir, tmp_path / 'results', 'mine')
  assert path == tmp_path / 'results' / 'mine.jsonl'
  assert '/home/me' not in path.read_text()
  (run,) = ledger.read(tmp_path / 'results')
  assert run.name == 'mine'
  assert run.header['config']['pretrained'] == 'base.pth'
  assert run.records[0]['test_accuracy'] == 80.25


def test_an_unfinished_run_stays_out(tmp_path):
  workdir = write_run(tmp_path / 'run', epochs=3, done=2)
  with pytest.raises(ValueError, match='2 of 3 epochs'):
    ledger.add(workdir, tmp_path / 'results', 'mine')
  assert not (tmp_path / 'results').exists()


def test_a_row_says_what_was_run(tmp_path):
  ledger.add(write_run(tmp_path / 'run'), tmp_path / 'results', 'mine')
  other = write_run(tmp_path / 'long', epochs=2, done=2)
  ledger.add(other, tmp_path / 'results', 'long')
  page = 'a\n<!-- table: first-epoch -->\nold\n<!-- end -->\nz\n'
  filled = report.fill(page, ledger.read(tmp_path / 'results'))
  rows = [line for line in filled.splitlines() if line.startswith('| dorefa')]
  assert rows == [
    '| dorefa(2) | multi_fc, 3 layers, init=identity | adam | 0.001 | 4 |'
    ' +0.00, offset 1.00 | +0.25, offset 1.50 | 0.500 | 80.25 % | `mine` |'
  ]
  assert 'old' not in filled
  assert filled.startswith('a\n')
  assert filled.endswith('<!-- end -->\nz\n')
  assert report.fill(filled, ledger.read(tmp_path / 'results')) == filled


def test_an_unknown_table_is_named():
  with pytest.raises(ValueError, match="'tabel1'"):
    report.fill('<!-- table: tabel1 -->\n<!-- end -->\n', [])


def test_the_pages_show_what_the_ledger_holds():
  runs = ledger.read(ROOT / ledger.RESULTS)
  assert runs
  for path in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')):
    page = path.read_text(encoding='utf-8')
    assert report.fill(page, runs) == page, (
      f'{path} is stale: python -m experiments.report'
    )


def test_no_entry_of_the_ledger_is_of_changed_code_or_names_a_folder():
  for run in ledger.read(ROOT / ledger.RESULTS):
    assert run.header['dirty'] is False, run.name
    for key in ledger.PATHS:
      assert '/' not in run.header['config'][key], run.name
