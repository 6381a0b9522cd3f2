"""Sphinx's configuration of the documentation: `make docs` builds the site.

The pages of docs/ are also read on GitHub. A build adds the pages of the API,
the notebooks, the changelog and the guide for contributors in docs/made/.
"""

import pathlib
import re
import shutil
import sys
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT))

import api_pages  # noqa: E402

import mq_jax  # noqa: E402

MADE = HERE / 'made'
TABLES = HERE / 'results'
# Pages outside docs/, and where the site has them.
COPIES = {
  ROOT / name: MADE / name.lower()
  for name in ('CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md')
} | {
  path: MADE / 'notebooks' / path.name
  for path in (ROOT / 'notebooks').glob('*.ipynb')
}
REPOSITORY = 'https://github.com/mq-jax/mq_jax'

project = 'mq_jax'
author = copyright = 'The mq_jax developers'
version = release = mq_jax.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx-mathjax-offline',
  'sphinx_copybutton',
  'sphinx_design',
]
exclude_patterns = ['_build', f'{TABLES.name}/*.md']
default_role = 'code'
smartquotes = False  # Options such as --out keep their dashes.
nitpicky = True
# Annotations name types of jax and of the standard library, which have no page
# here.
nitpick_ignore_regex = [('py:class', '.*')]
suppress_warnings = ['mystnb.unknown_mime_type']

myst_enable_extensions = ['colon_fence', 'dollarmath']
myst_heading_anchors = 4
# The notebooks have no outputs, so that these cannot go out of date. With
# `make docs EXECUTE=1` the build runs them.
nb_execution_mode = 'off'
nb_execution_timeout = 1200

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
napoleon_use_rtype = False
# The attributes of a NamedTuple are its arguments.
napoleon_custom_sections = [('Attributes', 'params_style')]

html_theme = 'sphinx_book_theme'
html_static_path = ['_static']
html_css_files = ['site.css']
html_title = f'mq_jax {version}'
html_theme_options = {
  'repository_url': REPOSITORY,
  'use_repository_button': True,
  'use_issues_button': True,
  'show_navbar_depth': 1,
}


def _make_pages(app: Any) -> None:
  """Writes the pages that come from other folders of the repository."""
  shutil.rmtree(MADE, ignore_errors=True)
  api_pages.write(MADE / 'api')
  (MADE / 'notebooks').mkdir()
  for original, copy in COPIES.items():
    shutil.copy(original, copy)


def _resolve_links(app: Any, docname: str, source: list[str]) -> None:
  """Makes links to files outside docs/ absolute, and links to copies local."""
  page = pathlib.Path(app.env.doc2path(docname))
  if page.suffix != '.md':
    return
  # A copied page has the links of its original, in the root folder.
  folder = ROOT if page.parent == MADE else page.parent

  def resolve(match: re.Match[str]) -> str:
    path, _, anchor = match[1].partition('#')
    target = (folder / path).resolve()
    if not path or not target.exists():
      return match[0]
    target = COPIES.get(target, target)
    anchor = f'#{anchor}' if anchor else ''
    # The site does not have the generated tables as pages.
    is_table = target == TABLES or (
      target.parent == TABLES and target.suffix == '.md'
    )
    if is_table or not target.is_relative_to(HERE):
      kind = 'tree' if target.is_dir() else 'blob'
      relative = target.relative_to(ROOT).as_posix()
      return f']({REPOSITORY}/{kind}/main/{relative}{anchor})'
    up = '../' if page.parent == MADE else ''
    return f']({up}{target.relative_to(HERE).as_posix()}{anchor})'

  source[0] = re.sub(r'\]\(([^)\s:]+)\)', resolve, source[0])


def setup(app: Any) -> None:
  """Connects the functions of this file."""
  app.connect('builder-inited', _make_pages)
  app.connect('source-read', _resolve_links)
  app.connect('autodoc-process-signature', api_pages.source_signature)
  # Before napoleon, which reads the sections of a docstring.
  app.connect(
    'autodoc-process-docstring', api_pages.to_restructured_text, priority=100
  )
