"""Runs programs in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios


def in_terminal(program, width, **env):
  """Returns what a Python program writes into a terminal of this width."""
  outer, inner = pty.openpty()
  fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack('HHHH', 24, width, 0, 0))
  inherited = {k: v for k, v in os.environ.items() if k != 'COLUMNS'}
  child = subprocess.Popen(
    [sys.executable, '-c', program],
    stdin=inner,
    stdout=inner,
    stderr=inner,
    env={**inherited, 'TERM': 'xterm-256color', **env},
  )
  os.close(inner)
  written = b''
  while True:
    try:
      chunk = os.read(outer, 65536)
    except OSError:  # On Linux: the child closed its side.
      break
    if not chunk:
      break
    written += chunk
  os.close(outer)
  assert child.wait() == 0, written.decode()
  return written.decode()


def frames(written):
  """Returns every text that a line of the terminal showed, in order."""
  plain = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', written)
  return [text for text in re.split(r'[\r\n]+', plain) if text.strip()]
