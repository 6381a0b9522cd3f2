"""Tests ImageNet: lists of labels, archives, class folders, array_record."""

import gzip
import io
import re
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import scipy.io

from experiments import prepare_data
from experiments.common.errors import InvalidError, MissingError
from experiments.data import (
  imagenet_labels,
  imagenet_layout,
  photo_records,
  prepare_photos,
)
from experiments.data.archives import SourceError
from experiments.training.train import make_pipeline
from tests.experiments.data.photo_files import (
  WNIDS,
  config,
  jpeg,
  write_archives,
  write_folder,
  write_tar,
)

SIZES = imagenet_layout.Sizes(3, 12, 6)
NAMES = [f'ILSVRC2012_val_{i:08d}' for i in (1, 2, 3)]
TRUTH = 'ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt'
META = 'ILSVRC2012_devkit_t12/data/meta.mat'


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Returns a folder of three classes, which count as ImageNet."""
  monkeypatch.setattr(imagenet_layout, 'OFFICIAL', SIZES)
  return write_folder(tmp_path / 'folder', WNIDS, 4, 2, '.JPEG')


def devkit():
  """Returns the files of a development kit; its order is that of no name."""
  synsets = np.zeros(4, [('ILSVRC2012_ID', 'O'), ('WNID', 'O')])
  for i, wnid in enumerate([WNIDS[2], WNIDS[0], WNIDS[1], 'n00000001']):
    synsets[i] = i + 1, wnid
  file = io.BytesIO()
  scipy.io.savemat(file, {'synsets': synsets.reshape(-1, 1)})
  return {TRUTH: b'1\n3\n2\n', META: file.getvalue()}


def write_devkit_archive(folder):
  path = write_tar(folder / 'kit.tar', devkit())
  archive = folder / 'ILSVRC2012_devkit_t12.tar.gz'
  archive.write_bytes(gzip.compress(path.read_bytes()))


def write_devkit_folder(folder):
  for name, content in devkit().items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def write_text(name, text):
  return lambda folder: (folder / name).write_text(text)


LISTS = {
  'Kaggle': write_text(
    'LOC_val_solution.csv',
    'ImageId,PredictionString\n'
    + f'{NAMES[2]},{WNIDS[0]} 1 2 3 4 \n'
    + f'{NAMES[0]},{WNIDS[2]} 1 2 3 4 {WNIDS[2]} 5 6 7 8 \n'
    + f'{NAMES[1]},{WNIDS[1]} 1 2 3 4 \n',
  ),
  'numbers': write_text(
    'val.txt', f'{NAMES[0]}.JPEG 2\n{NAMES[1]}.JPEG 1\n{NAMES[2]}.JPEG 0\n'
  ),
  'WNIDs': write_text(
    'val.txt',
    ''.join(f'{n} {w}\n' for n, w in zip(NAMES, WNIDS[::-1], strict=True)),
  ),
  'ordered': write_text(
    'imagenet_2012_validation_synset_labels.txt', '\n'.join(WNIDS[::-1])
  ),
  'devkit archive': write_devkit_archive,
  'devkit folder': write_devkit_folder,
}


@pytest.mark.parametrize('name', LISTS)
def test_find_labels_list_gives_classes(tmp_path, name):
  LISTS[name](tmp_path)
  found = imagenet_labels.find_labels([tmp_path / 'val', tmp_path], WNIDS)
  assert {key.removesuffix('.JPEG'): i for key, i in found.items()} == dict(
    zip(NAMES, (2, 1, 0), strict=True)
  )


@pytest.mark.parametrize(
  ('write', 'error', 'message'),
  [
    (lambda folder: None, MissingError, r'neither class folders nor a list'),
    (
      write_text('ILSVRC2012_validation_ground_truth.txt', '1\n'),
      MissingError,
      r'alone does not suffice, because meta\.mat',
    ),
    (
      write_text('val.txt', 'a 3\n'),
      InvalidError,
      "the class '3', which is not",
    ),
    (write_text('val.txt', 'a\n'), InvalidError, "has the line 'a'"),
    (
      write_text('LOC_val_solution.csv', 'x,y\na;n1\n'),
      InvalidError,
      "has the line 'a;n1'",
    ),
    (
      lambda folder: write_tar(
        folder / 'ILSVRC2012_devkit_t12.tar.gz', {TRUTH: b'1'}
      ),
      InvalidError,
      r'lacks meta\.mat',
    ),
    (
      lambda folder: write_tar(
        folder / 'ILSVRC2012_devkit_t12.tar.gz', {TRUTH: b'9', META: b'x'}
      ),
      InvalidError,
      'is damaged',
    ),
  ],
)
def test_find_labels_wrong_list_raises(tmp_path, write, error, message):
  write(tmp_path)
  with pytest.raises(error, match=message):
    imagenet_labels.find_labels([tmp_path], WNIDS)


def bits(batch):
  return {name: np.asarray(array).tobytes() for name, array in batch.items()}


def assert_equal_batches(*configs):
  pipelines = [make_pipeline(c) for c in configs]
  assert len({p.classes for p in pipelines}) == 1
  # A run of ImageNet resumes on its other form.
  for dataset in {c.dataset for c in configs}:
    same = [
      p.digest
      for p, c in zip(pipelines, configs, strict=True)
      if c.dataset == dataset
    ]
    assert len(set(same)) == 1
  for number in (0, 1, 7):
    first, *others = (bits(p.train(0, number)) for p in pipelines)
    assert all(other == first for other in others)
  first, *others = (bits(p.evaluate.batch(0, 6)) for p in pipelines)
  assert all(other == first for other in others)


def test_archives_give_batches_of_class_folders(folder, tmp_path):
  archives = write_archives(tmp_path / 'tars', folder)
  sets = tmp_path / 'sets'
  prepared = prepare_photos.prepare('imagenet', archives, sets, sizes=SIZES)
  assert prepared.data_dir == sets
  assert prepared.lines == [
    'train: 12 photographs',
    'validation: 6 photographs',
  ]
  assert [p.name for p in sets.iterdir()] == ['imagenet2012']
  # A flat folder of the same test images, with a list.
  flat = tmp_path / 'flat'
  (flat / 'val').mkdir(parents=True)
  (flat / 'train').symlink_to(folder / 'train')
  (flat / 'LOC_val_solution.csv').symlink_to(archives / 'LOC_val_solution.csv')
  with tarfile.open(archives / 'ILSVRC2012_img_val.tar') as tar:
    tar.extractall(flat / 'val', filter='data')
  assert_equal_batches(
    config(folder, 'folder'),
    config(folder, 'imagenet'),
    config(flat, 'imagenet'),
    config(sets, 'imagenet'),
  )
  with pytest.raises(FileExistsError, match='To inspect the set'):
    prepare_photos.prepare('imagenet', archives, sets, sizes=SIZES)
  # The photographs are stored as they were.
  rows = photo_records._open(sets / 'imagenet2012' / '5.1.0')['train'].rows
  stored = {rows[i]['file_name'].decode(): rows[i]['image'] for i in range(12)}
  expected = {p.name: p.read_bytes() for p in (folder / 'train').glob('*/*')}
  assert stored == expected

  # A set without its index, or with a damaged one, names the command.
  index = sets / 'imagenet2012' / '5.1.0' / photo_records.NAME
  content = index.read_bytes()
  for damage in (index.unlink, lambda: index.write_bytes(content[:-50])):
    damage()
    with pytest.raises(MissingError, match='are not inspected yet'):
      make_pipeline(config(sets, 'imagenet'))
  prepare_photos.prepare('imagenet', sets)
  assert_equal_batches(config(folder), config(sets, 'imagenet'))


def test_prepare_archives_damaged_photograph_leaves_nothing(folder, tmp_path):
  file = folder / 'train' / WNIDS[1] / f'{WNIDS[1]}_2.JPEG'
  file.write_bytes(file.read_bytes()[:-300])
  archives = write_archives(tmp_path / 'tars', folder)
  sets = tmp_path / 'sets'
  with pytest.raises(InvalidError, match=f'{file.name}: .*truncated') as error:
    prepare_photos.prepare('imagenet', archives, sets, sizes=SIZES)
  command = f'--source {archives} --data_dir {sets} --skip_damaged'
  assert command in str(error.value)
  assert list(sets.iterdir()) == []
  prepared = prepare_photos.prepare(
    'imagenet', archives, sets, sizes=SIZES, skip_damaged=True
  )
  assert prepared.lines[0] == 'train: 11 photographs'
  prepare_photos.prepare('folder', folder, skip_damaged=True)
  assert_equal_batches(config(folder), config(sets, 'imagenet'))


def cut(path, size):
  path.write_bytes(path.read_bytes()[:size])


def members(path, edit):
  with tarfile.open(path) as tar:
    files = {m.name: tar.extractfile(m).read() for m in tar}
  write_tar(path, edit(files))


TRAIN, VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda root: (root / VAL).unlink(), f'{VAL} is missing'),
    (lambda root: cut(root / VAL, 3000), 'not a complete tar|ends within'),
    (lambda root: cut(root / TRAIN, 5000), 'not a complete tar|ends within'),
    (lambda root: cut(root / TRAIN, 100), 'not a complete tar'),
    (
      lambda root: members(root / TRAIN, lambda f: f | {'x.tar': b''}),
      "contains 'x.tar' instead of archives such as",
    ),
    (
      lambda root: members(root / TRAIN, lambda f: dict(list(f.items())[1:])),
      'has 2 classes instead of 3',
    ),
    (
      lambda root: members(root / VAL, lambda f: dict(list(f.items())[1:])),
      'has 5 images instead of 6',
    ),
    (
      lambda root: members(root / VAL, lambda f: f | {'a.JPEG': jpeg(0)}),
      'The list of classes has none for a.JPEG',
    ),
  ],
)
def test_prepare_archives_damaged_archive_leaves_nothing(
  folder, tmp_path, damage, message
):
  archives = write_archives(tmp_path / 'tars', folder)
  damage(archives)
  with pytest.raises((SourceError, InvalidError, MissingError), match=message):
    prepare_photos.prepare('imagenet', archives, tmp_path / 'sets', sizes=SIZES)
  sets = tmp_path / 'sets'
  assert not sets.exists() or list(sets.iterdir()) == []


def test_read_imagenet_wrong_folder_raises(folder, tmp_path, monkeypatch):
  with pytest.raises(MissingError, match=r'imagenet is not in .*archives of'):
    make_pipeline(config(tmp_path, 'imagenet'))
  monkeypatch.undo()
  with pytest.raises(InvalidError, match=r"3 class folders.*dataset='folder'"):
    make_pipeline(config(folder, 'imagenet'))


# The command.


@pytest.fixture
def command(monkeypatch):
  """Returns the command; restores the handler of the signal."""
  before = signal.getsignal(signal.SIGTERM)
  yield lambda *options: prepare_data.main([*map(str, options)])
  signal.signal(signal.SIGTERM, before)


def test_command_folder_prints_counts_and_command(tmp_path, command, capsys):
  root = write_folder(tmp_path / 'my photos')
  (root / 'train' / 'cat' / 'empty.jpg').touch()
  (root / 'train' / 'cat' / 'list.txt').touch()
  options = ('--dataset', 'folder', '--source', root)
  with pytest.raises(SystemExit, match=r'1 file is not complete|empty\.jpg'):
    command(*options)
  capsys.readouterr()
  command(*options, '--skip_damaged')
  printed = capsys.readouterr().out
  assert 'train: 14 photographs, 1 left out' in printed
  assert 'test: 6 photographs' in printed
  assert 'not read: 1 .txt' in printed
  assert f"--config.dataset=folder --config.data_dir='{root}'" in printed


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (('--dataset', 'folder', '--source', 'absent'), 'absent is not a folder'),
    (
      ('--dataset', 'imagenet', '--source', '.'),
      'has no folder train, no ILSVRC2012_img_train.tar',
    ),
    (
      ('--dataset', 'folder', '--source', '.', '--data_dir', 'x'),
      '--data_dir=x has no effect',
    ),
  ],
)
def test_command_wrong_options_exit_with_message(
  tmp_path, monkeypatch, command, options, message
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=re.escape(message)):
    command(*options)


def test_command_skip_damaged_without_dataset_exits_with_usage(command, capsys):
  with pytest.raises(SystemExit):
    command('--source', '.', '--skip_damaged')
  assert 'give --dataset' in capsys.readouterr().err


SLOW = """
import os, sys, time
from experiments.data import imagenet_layout, prepare_photos

def report(text, total):
  def advance(n):
    if text.startswith(stage):
      os.write(1, b'reached\\n')
      time.sleep(60)
  return advance

source, root, stage = sys.argv[1:]
prepare_photos.prepare('imagenet', source, root, report=report,
                       sizes=imagenet_layout.Sizes(3, 12, 6))
"""


@pytest.mark.slow
@pytest.mark.parametrize('stage', ['writing', 'inspecting'])
def test_prepare_archives_killed_leaves_no_set(folder, tmp_path, stage):
  archives, sets = write_archives(tmp_path / 'tars', folder), tmp_path / 'sets'
  with subprocess.Popen(
    [sys.executable, '-c', SLOW, archives, sets, stage],
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    while 'reached' not in (line := process.stdout.readline()):
      assert line
    process.kill()
  assert not (sets / 'imagenet2012').exists()
  with pytest.raises(MissingError, match='imagenet is not in'):
    make_pipeline(config(sets, 'imagenet'))
  prepare_photos.prepare('imagenet', archives, sets, sizes=SIZES)
  make_pipeline(config(sets, 'imagenet'))
