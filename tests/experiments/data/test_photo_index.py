"""Tests the index: what it keeps, what is inspected again, what is refused."""

import os

import numpy as np
import pytest
from PIL import Image

from experiments.common.errors import InvalidError, MissingError
from experiments.data import index_file, photo_index, photo_sets
from experiments.data.photo_folders import list_folder
from experiments.data.photo_index import NAME, index_folder, read_index
from experiments.data.photographs import BadImageError
from tests.experiments.data import photo_files
from tests.experiments.data.photo_files import encoded, jpeg, picture
from tests.experiments.data.photo_files import write_folder as write

COMMAND = 'PREPARE'


@pytest.fixture
def inspected(monkeypatch):
  """Returns the paths that were inspected."""
  paths = []
  inspect_file = photo_index._inspect_file

  def record(path):
    paths.append(path.name)
    return inspect_file(path)

  monkeypatch.setattr(photo_index, '_inspect_file', record)
  return paths


def index(root, **options):
  return index_folder(list_folder(root), COMMAND, **options)


def paths(indexed):
  return [file.path for file in indexed.folder.train]


def test_index_folder_second_call_inspects_nothing(tmp_path, inspected):
  first = index(write(tmp_path))
  assert len(inspected) == 2 * 7 + 2 * 3
  inspected.clear()
  assert index(tmp_path) == first
  assert inspected == []


def test_folder_digest_is_that_of_the_photographs_without_inspection(
  tmp_path, inspected
):
  keys = photo_files.config(write(tmp_path / 'photos'))
  digest = photo_sets.folder_digest(keys)
  assert inspected == []
  assert digest == photo_sets.read_folder(keys).digest
  # What the index leaves out has no part in it.
  damaged = tmp_path / 'photos' / 'train' / 'cat' / 'cat_3.jpg'
  damaged.write_bytes(b'no image')
  assert photo_sets.folder_digest(keys) != digest
  index(tmp_path / 'photos', skip_damaged=True)
  without = photo_sets.folder_digest(keys)
  assert without == photo_sets.read_folder(keys).digest
  damaged.unlink()
  assert photo_sets.folder_digest(keys) == without
  # The class of a photograph has a part in it, and the place of the folder not.
  (tmp_path / 'photos').rename(tmp_path / 'moved')
  keys.data_dir = str(tmp_path / 'moved')
  assert photo_sets.folder_digest(keys) == without
  dogs = tmp_path / 'moved' / 'train' / 'dog'
  (tmp_path / 'moved' / 'train' / 'cat' / 'cat_0.jpg').rename(dogs / 'a.jpg')
  assert photo_sets.folder_digest(keys) != without


def test_folder_digest_of_files_of_one_size_differs_by_their_names(tmp_path):
  digests = set()
  for first in (0, 9):
    root = tmp_path / str(first)
    for name in ('train/cat', 'train/dog', 'val/cat', 'val/dog'):
      (root / name).mkdir(parents=True)
      (root / name / f'{first}.bmp').write_bytes(encoded(picture(first), 'BMP'))
    digests.add(photo_sets.folder_digest(photo_files.config(root)))
  assert len(digests) == 2


def test_index_folder_inspects_what_changed(tmp_path, inspected):
  index(write(tmp_path))
  inspected.clear()
  cats = tmp_path / 'train' / 'cat'
  (cats / 'new.jpg').write_bytes(jpeg(77))
  (cats / 'cat_0.jpg').unlink()
  (cats / 'cat_1.jpg').write_bytes(jpeg(78))
  os.utime(cats / 'cat_2.jpg', ns=(1, 1))
  found = index(tmp_path)
  assert sorted(inspected) == ['cat_1.jpg', 'cat_2.jpg', 'new.jpg']
  assert len(found.folder.train) == 14
  assert read_index(tmp_path / NAME) == found.entries
  assert 'train/cat/cat_0.jpg' not in found.entries


def test_index_folder_damaged_names_files_and_remedies(tmp_path, inspected):
  write(tmp_path)
  cats = tmp_path / 'train' / 'cat'
  (cats / 'empty.jpg').touch()
  (cats / 'text.jpg').write_text('no image')
  cut = (cats / 'cat_0.jpg').read_bytes()[:-300]
  (cats / 'cut.jpg').write_bytes(cut)
  for _ in range(2):
    with pytest.raises(InvalidError) as error:
      index(tmp_path)
    message = str(error.value)
    assert '3 files are not complete images:' in message
    assert f'{cats}/empty.jpg: the file is empty' in message
    assert f'{cats}/text.jpg: it is not an image' in message
    assert f'{cats}/cut.jpg: ' in message
    assert f'{COMMAND} --skip_damaged' in message
  # The second call inspected the damaged files alone.
  assert len(inspected) == 23 + 3
  found = index(tmp_path, skip_damaged=True)
  assert len(found.folder.train) == 14
  assert paths(index(tmp_path)) == paths(found)
  # A repaired file counts again.
  (cats / 'text.jpg').write_bytes(jpeg(5))
  assert 'train/cat/text.jpg' in paths(index(tmp_path))


def test_index_folder_many_damaged_shows_ten(tmp_path):
  write(tmp_path)
  for i in range(12):
    (tmp_path / 'train' / 'cat' / f'empty_{i:02}.jpg').touch()
  with pytest.raises(InvalidError, match=r'12 files are not complete') as error:
    index(tmp_path)
  assert 'empty_09.jpg' in str(error.value)
  assert 'empty_10.jpg' not in str(error.value)
  assert 'and 2 more' in str(error.value)


def test_index_folder_above_most_raises_command(tmp_path):
  write(tmp_path)
  with pytest.raises(
    MissingError, match=r'20 photographs .* are not inspected'
  ):
    index(tmp_path, most=19)
  assert not (tmp_path / NAME).exists()
  index(tmp_path)
  for i in range(3):
    (tmp_path / 'train' / 'cat' / f'{i}.jpg').write_bytes(jpeg(i))
  with pytest.raises(
    MissingError, match=r'3 photographs .* are new or changed'
  ):
    index(tmp_path, most=2)


def test_index_folder_keeps_orientation_and_counts_kinds(tmp_path):
  write(tmp_path)
  cats = tmp_path / 'train' / 'cat'
  grey = picture(0)[..., 0]
  (cats / 'grey.png').write_bytes(encoded(grey, 'PNG'))
  turned = Image.fromarray(grey)
  turned.getexif()[0x0112] = 6
  (cats / 'turned.jpg').write_bytes(encoded(turned, exif=turned.getexif()))
  for found in (index(tmp_path), index(tmp_path)):
    assert found.entries['train/cat/turned.jpg'].orientation == 6
    assert found.entries['train/cat/grey.png'].orientation == 1
    assert photo_index.count_kinds(found) == {'grey': 2, 'turned': 1}


def test_index_folder_unusual_file_names_are_kept(tmp_path):
  write(tmp_path)
  for name in ('a b.jpg', 'ä.jpg', 'a\nb.jpg', os.fsdecode(b'\xff.jpg')):
    (tmp_path / 'train' / 'cat' / name).write_bytes(jpeg(1))
  assert read_index(tmp_path / NAME) == {}
  assert read_index(tmp_path / NAME) != index(tmp_path).entries
  assert read_index(tmp_path / NAME) == index(tmp_path).entries


@pytest.mark.parametrize('how', ['cut', 'digit', 'text'])
def test_index_folder_damaged_index_is_made_again(tmp_path, how, caplog):
  first = index(write(tmp_path))
  path = tmp_path / NAME
  content = path.read_bytes()
  if how == 'cut':
    path.write_bytes(content[:-100])
  elif how == 'text':
    path.write_text('no archive')
  else:
    with np.load(path) as arrays:
      changed = dict(arrays)
    changed['orientation'] = changed['orientation'] + 1
    np.savez(path, **changed)
  assert index(tmp_path) == first
  assert 'is not used, since it is damaged' in caplog.text
  assert read_index(path) == first.entries


def test_index_folder_read_only_warns_and_continues(
  tmp_path, monkeypatch, caplog
):
  def refuse(path):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr(index_file, 'open_atomic', refuse)
  found = index(write(tmp_path))
  assert len(found.folder.train) == 14
  assert not (tmp_path / NAME).exists()
  assert 'cannot be written' in caplog.text


@pytest.mark.parametrize('cause', [PermissionError, FileNotFoundError])
def test_index_folder_never_leaves_out_what_cannot_be_read(
  tmp_path, monkeypatch, cause
):
  """The file can be complete, once it can be read."""
  write(tmp_path)
  (tmp_path / 'train' / 'dog' / 'dog_0.jpg').write_bytes(b'')
  complete = photo_index.inspect

  def refuse(content):
    if content == jpeg(2, 64, 20):
      raise cause(2, 'the cause')
    return complete(content)

  monkeypatch.setattr(photo_index, 'inspect', refuse)
  for skip in (True, False):
    with pytest.raises(InvalidError, match=r'(?s)1 file cannot.*cat_2.*cause'):
      index(tmp_path, skip_damaged=skip)
  monkeypatch.undo()
  assert len(index(tmp_path).folder.train) == 13


def test_index_folder_inspects_again_what_it_left_out(tmp_path, monkeypatch):
  write(tmp_path)
  complete = photo_index.inspect

  def refuse(content):
    if content == jpeg(2, 64, 20):
      raise BadImageError('another Pillow is needed')
    return complete(content)

  monkeypatch.setattr(photo_index, 'inspect', refuse)
  assert len(index(tmp_path, skip_damaged=True).folder.train) == 13
  monkeypatch.undo()
  assert len(index(tmp_path).folder.train) == 13
  assert len(index(tmp_path, skip_damaged=True).folder.train) == 14
  assert len(index(tmp_path).folder.train) == 14


def test_index_folder_flat_test_may_lack_a_class_from_the_start(tmp_path):
  write(tmp_path, val=0)
  (tmp_path / 'val').mkdir()
  for i in range(3):
    (tmp_path / 'val' / f'{i}.jpg').write_bytes(jpeg(i))
  (tmp_path / 'val' / '2.jpg').write_bytes(b'no image')
  labels = {f'{i}.jpg': 0 for i in range(3)}
  listed = list_folder(tmp_path, lambda folder, classes: labels)
  found = index_folder(listed, COMMAND, skip_damaged=True)
  assert len(found.folder.test) == 2


def test_index_folder_stopped_again_keeps_what_it_left_out(
  tmp_path, monkeypatch
):
  write(tmp_path)
  (tmp_path / 'train' / 'dog' / 'dog_0.jpg').write_bytes(b'no image')
  index(tmp_path, skip_damaged=True)

  def stop(path):
    raise KeyboardInterrupt

  monkeypatch.setattr(photo_index, '_inspect_file', stop)
  with pytest.raises(KeyboardInterrupt):
    index(tmp_path, skip_damaged=True)
  monkeypatch.undo()
  assert len(index(tmp_path).folder.train) == 13


@pytest.mark.parametrize('split', ['train', 'val'])
def test_index_folder_leaving_out_a_whole_class_raises(tmp_path, split):
  write(tmp_path)
  for path in (tmp_path / split / 'dog').iterdir():
    path.write_bytes(b'no image')
  message = f'{split} has no photographs of dog. Replace the damaged ones'
  with pytest.raises(MissingError, match=message):
    index(tmp_path, skip_damaged=True)
  with pytest.raises(MissingError, match=message):
    index(tmp_path)


def test_index_folder_all_photographs_damaged_later_raises(tmp_path):
  index(write(tmp_path))
  for path in tmp_path.glob('*/*/*.jpg'):
    path.write_bytes(b'')
  for _ in range(2):
    with pytest.raises(InvalidError, match='20 files are not complete images'):
      index(tmp_path)
  assert read_index(tmp_path / NAME) == {}
