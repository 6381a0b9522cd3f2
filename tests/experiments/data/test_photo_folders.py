"""Tests which files of a folder are photographs, and of which class."""

import os

import pytest

from experiments.common.errors import InvalidError, MissingError
from experiments.data.photo_folders import list_folder
from tests.experiments.data.photo_files import write_folder


def write(root, *paths):
  for path in paths:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b'1234')
  return root


def test_list_folder_sorts_classes_and_files(tmp_path):
  folder = list_folder(
    write(
      tmp_path,
      *(
        'train/b/2.PNG',
        'train/b/1.jpg',
        'train/a/deep/3.JPEG',
        'test/a/4.gif',
      ),
      *('train/b/.DS_Store', 'train/.cache/x.jpg', 'train/b/Thumbs.db'),
      *('test/b/5.webp', 'train/a/read.txt', 'train/a/more.txt', 'other/x.jpg'),
    )
  )
  assert folder.classes == ('a', 'b')
  assert [(f.path, f.label, f.size) for f in folder.train] == [
    ('train/a/deep/3.JPEG', 0, 4),
    ('train/b/1.jpg', 1, 4),
    ('train/b/2.PNG', 1, 4),
  ]
  assert [(f.path, f.label) for f in folder.test] == [
    ('test/a/4.gif', 0),
    ('test/b/5.webp', 1),
  ]
  assert folder.ignored == {'.txt': 2}


def test_list_folder_val_comes_before_test(tmp_path):
  root = write_folder(tmp_path, train=1, val=1)
  write(root, 'test/x/1.jpg')
  assert {f.path.split('/')[0] for f in list_folder(root).test} == {'val'}


def test_list_folder_links_to_class_folders_are_read(tmp_path):
  write_folder(tmp_path / 'a', train=2, val=0)
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'train').symlink_to(tmp_path / 'a' / 'train')
  # A link back must not be followed for ever.
  (tmp_path / 'a' / 'train' / 'cat' / 'up').symlink_to(tmp_path / 'a')
  folder = list_folder(tmp_path / 'b')
  assert len(folder.train) == 4
  assert folder.test == ()


@pytest.mark.parametrize(
  ('paths', 'error', 'message'),
  [
    ((), MissingError, 'contains no folder train'),
    (('train/1.jpg',), InvalidError, '0 class folders. It must have at least'),
    (('train/a/1.jpg',), InvalidError, '1 class folder. It must have at least'),
    (
      ('train/a/1.jpg', 'train/b/1.txt'),
      MissingError,
      'has no photographs of b. Add some',
    ),
    (
      ('train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.jpg', 'val/c/1.jpg'),
      InvalidError,
      'but it lacks b and also has c. Rename',
    ),
    (
      ('train/a/1.jpg', 'train/b/1.jpg', 'val/1.jpg'),
      InvalidError,
      r'but it lacks a, b\. Rename.*config.holdout',
    ),
    (
      ('train/a/1.jpg', 'train/b/1.jpg', 'val/a/1.txt', 'val/b/1.txt'),
      MissingError,
      'val has no photographs. Add some, or remove it and set config.holdout',
    ),
  ],
)
def test_list_folder_wrong_layout_raises(tmp_path, paths, error, message):
  with pytest.raises(error, match=message):
    list_folder(write(tmp_path, *paths))


def test_list_folder_flat_test_has_labels_of_list(tmp_path):
  root = write(
    tmp_path, 'train/a/1.jpg', 'train/b/1.jpg', 'val/x.jpg', 'val/y.jpg'
  )
  folder = list_folder(root, lambda val, classes: {'x': 1, 'y.jpg': 0})
  assert [(f.path, f.label) for f in folder.test] == [
    ('val/y.jpg', 0),
    ('val/x.jpg', 1),
  ]
  with pytest.raises(InvalidError, match=r'no class for .*val/x\.jpg'):
    list_folder(root, lambda val, classes: {'y': 0})


def test_list_folder_counts_links_that_lead_to_no_photograph(tmp_path):
  write_folder(tmp_path, train=2, val=2)
  (tmp_path / 'train' / 'cat' / 'more').symlink_to(tmp_path / 'val' / 'cat')
  (tmp_path / 'val' / 'dog' / 'gone.jpg').symlink_to('/gone/dog.jpg')
  for place in (('val', 'dog', 'own.jpg'), ('train', 'own')):
    path = tmp_path.joinpath(*place)
    path.symlink_to(path)
  assert list_folder(tmp_path).ignored == {'links': 3}


def test_list_folder_test_without_photographs_of_a_class_raises(tmp_path):
  write_folder(tmp_path, train=2, val=2)
  for path in (tmp_path / 'val' / 'dog').iterdir():
    path.unlink()
    path.symlink_to(f'/gone/{path.name}')
  with pytest.raises(MissingError, match='val has no photographs of dog'):
    list_folder(tmp_path)


def test_list_folder_class_that_is_not_utf8_raises(tmp_path):
  write_folder(tmp_path, ('cat', os.fsdecode(b'caf\xe9')), train=2, val=0)
  with pytest.raises(InvalidError, match=r"'caf\\udce9' .* is not UTF-8"):
    list_folder(tmp_path)
