"""Tests what a command prints about errors that a user can correct."""

import errno
import os

import pytest

from experiments.common import errors


@pytest.mark.parametrize(
  ('number', 'text'),
  [
    (errno.ENOSPC, 'No space left on device. Free space'),
    (errno.EACCES, 'Permission denied. Correct the permissions'),
    (errno.EROFS, 'Read-only file system. Correct the permissions'),
    (errno.ENOTDIR, 'Not a directory. Move that file or folder away'),
    (errno.EEXIST, 'File exists. Move that file or folder away'),
    (errno.EIO, 'Check the disk'),
  ],
)
def test_exit_on_user_error_file_system_exits_with_one_line(number, text):
  with pytest.raises(SystemExit) as error, errors.exit_on_user_error():
    raise OSError(number, os.strerror(number), '/runs/mine')
  message = str(error.value)
  assert message.startswith('/runs/mine: ')
  assert text in message
  assert '\n' not in message


def test_exit_on_user_error_defects_keep_their_traceback():
  for defect in (OSError(errno.EBADF, 'x'), FileNotFoundError('x'), OSError()):
    with pytest.raises(type(defect)), errors.exit_on_user_error():
      raise defect
