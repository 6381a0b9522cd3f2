"""Seals JSON objects with a SHA-256 of their content.

A flipped bit in a digit leaves valid JSON with another number.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.errors import InvalidError

KEY = 'content_sha256'
_DAMAGED_LETTERS = 4  # Most wrong letters in a name that counts as KEY.


def seal(
  entry: Mapping[str, Any], rest: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
  """Returns a JSON object with a digest of itself, and of `rest`."""
  return {**entry, KEY: _digest(entry, rest)}


def unseal(
  path: pathlib.Path,
  entry: Mapping[str, Any],
  rest: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
  """Returns a JSON object without its digest.

  Args:
    path: Path of the file, for the message.
    entry: Result of `seal`, or an object of an earlier version, without digest.
    rest: The `rest` of `seal`.

  Raises:
    InvalidError: If the digest is that of another content.
  """
  content, digest = split(entry)
  if digest is not None and digest != _digest(content, rest):
    raise InvalidError(
      f'{path} is damaged: its {KEY} does not match its content. Restore the'
      f' file from a copy. If you edited it, delete its {KEY}.'
    )
  return content


def split(entry: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
  """Returns an object without its digest, and the digest; None if it has none.

  If the name of the digest is damaged, the digest is '', which no content has.
  """
  names = [key for key in entry if _is_digest(key)]
  content = {key: entry[key] for key in entry if key not in names}
  return content, (entry.get(KEY, '') if names else None)


def _is_digest(key: str) -> bool:
  wrong = sum(a != b for a, b in zip(key, KEY, strict=False))
  return len(key) == len(KEY) and wrong <= _DAMAGED_LETTERS


def _digest(entry: Mapping[str, Any], rest: Sequence[Mapping[str, Any]]) -> str:
  text = json.dumps([entry, *rest], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
