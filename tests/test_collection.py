"""Tests that pytest finds all tests."""

import fnmatch
import pathlib

TESTS = pathlib.Path(__file__).parent


def test_pytest_enters_every_folder_with_tests(pytestconfig):
  folders = {
    folder
    for path in TESTS.rglob('test_*.py')
    for folder in path.relative_to(TESTS).parent.parts
  }
  assert {'estimators', 'build'} <= folders
  skipped = pytestconfig.getini('norecursedirs')
  assert not [f for f in folders for p in skipped if fnmatch.fnmatch(f, p)]
