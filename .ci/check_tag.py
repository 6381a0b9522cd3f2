"""Checks that the tag of a release fits the files that name the version.

Usage: check_tag.py TAG
"""

import pathlib
import re
import runpy
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def problems(
  tag: str, version: str, changelog: str, citation: str
) -> list[str]:
  """Returns what must change before a release, in sentences.

  Args:
    tag: the tag of the release, such as v0.1.0.
    version: the version in mq_jax/__init__.py.
    changelog: the text of CHANGELOG.md.
    citation: the text of CITATION.cff.
  """
  found = []
  if tag != f'v{version}':
    found.append(
      f'The tag is {tag!r}, but mq_jax/__init__.py has version {version}:'
      f' the tag must be v{version}.'
    )
  entry = re.search(r'^## (.*)$', changelog, re.MULTILINE)
  heading = entry[1] if entry else ''
  dated = re.fullmatch(
    rf'\[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)', heading
  )
  if not dated:
    found.append(
      f'The first entry of CHANGELOG.md is {heading!r}: it must be'
      f' [{version}] - YYYY-MM-DD.'
    )
  lines = [f'version: {version}']
  if dated:
    lines.append(f'date-released: {dated[1]}')
  for line in lines:
    if line not in citation.replace("'", '').replace('"', '').splitlines():
      found.append(f'CITATION.cff must have the line {line}')
  return found


if __name__ == '__main__':
  sys.exit(
    '\n'.join(
      problems(
        sys.argv[1],
        runpy.run_path(str(_ROOT / 'setup.py'))['version'](),
        (_ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'),
        (_ROOT / 'CITATION.cff').read_text(encoding='utf-8'),
      )
    )
  )
