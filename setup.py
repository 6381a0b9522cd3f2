"""Gives setuptools the long description. Everything else is in setup.cfg.

The package index shows README.md without the files that its links name. Each
relative link therefore becomes a link into the repository, at the tag of the
version.
"""

import configparser
import pathlib
import re

_ROOT = pathlib.Path(__file__).resolve().parent
_CODE = re.compile(r'(^```.*?^```$)', re.MULTILINE | re.DOTALL)
# The target of a link in Markdown or HTML, unless it starts with a scheme.
_RELATIVE = re.compile(
  r'(\]\(|^\[[^\]]+\]: |\b(?:href|src|srcset)=")(?!\w+:)([^\s)"]+)',
  re.MULTILINE,
)
_IMAGES = ('.gif', '.jpg', '.png', '.svg', '.webp')


def absolute_links(text: str, repository: str, tag: str) -> str:
  """Returns the text of README.md with absolute links.

  Args:
    text: README.md; its blocks of code do not change.
    repository: the address of the repository on GitHub.
    tag: the tag of the version.
  """

  def absolute(match: re.Match[str]) -> str:
    before, link = match.groups()
    if link.startswith('#'):
      link = f'README.md{link}'
    kind = 'raw' if link.endswith(_IMAGES) else 'blob'
    return f'{before}{repository}/{kind}/{tag}/{link}'

  parts = _CODE.split(text)
  # Parts with odd indices are blocks of code.
  parts[::2] = [_RELATIVE.sub(absolute, part) for part in parts[::2]]
  return ''.join(parts)


def version() -> str:
  """Returns the version of mq_jax, without importing jax."""
  code = (_ROOT / 'mq_jax' / '__init__.py').read_text(encoding='utf-8')
  found = re.search(r"^__version__ = '(.+)'$", code, re.MULTILINE)
  if not found:
    raise ValueError("mq_jax/__init__.py needs a line __version__ = '...'")
  return found[1]


def long_description() -> str:
  """Returns README.md as the package index needs it."""
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  readme = (_ROOT / 'README.md').read_text(encoding='utf-8')
  return absolute_links(readme, config['metadata']['url'], f'v{version()}')


if __name__ == '__main__':
  import setuptools  # Environments that only run the tests may lack it.

  setuptools.setup(long_description=long_description())
