"""Writes one page of the reference per public package of mq_jax."""

import ast
import functools
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import mq_jax

# The title of each page. A name that mq_jax itself exports has this short name
# on the page of its package.
PACKAGES = {
  'mq_jax': 'Train step',
  'mq_jax.quantizers': 'Quantizers',
  'mq_jax.estimators': 'Gradient estimators',
  'mq_jax.methods': 'Methods of other papers',
  'mq_jax.activations': 'Activations',
  'mq_jax.models': 'Networks',
  'mq_jax.packing': 'Packing',
  'mq_jax.selection': 'Rules and leaves',
}

_SECTION = re.compile('[A-Z][a-z]+:')


def write(folder: pathlib.Path) -> None:
  """Writes the pages and their index to `folder`."""
  folder.mkdir(parents=True)
  pages = [name.rpartition('.')[2] for name in PACKAGES]
  index = [
    'API reference',
    '=============',
    '',
    'Every public name, by package.',
    '',
    '.. toctree::',
    '   :maxdepth: 1',
    '',
    *(f'   {page}' for page in pages),
  ]
  _write_lines(folder / 'index.rst', index)
  for name, title in PACKAGES.items():
    # What mq_jax itself exports comes first, and types come last.
    names = dict(
      sorted(
        public_names(name).items(),
        key=lambda entry: (inspect.isclass(entry[1]), entry[0].count('.')),
      )
    )
    lines = [title, '=' * len(title), '', f'``{name}``', '']
    lines += _summary(importlib.import_module(name))
    for full, value in names.items():
      directive = 'autoclass' if inspect.isclass(value) else 'autofunction'
      lines += [f'.. {directive}:: {full}', '']
    lines += _types(names.values())
    _write_lines(folder / f'{name.rpartition(".")[2]}.rst', lines)


def _write_lines(path: pathlib.Path, lines: list[str]) -> None:
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _summary(module: ModuleType) -> list[str]:
  """Returns the text of a module's docstring after its first line."""
  first, _, rest = inspect.cleandoc(module.__doc__ or '').partition('\n\n')
  # Tables of docstrings are written for readers of the code.
  paragraphs = [p for p in rest.split('\n\n') if not p.startswith('|')]
  prose = [p for p in paragraphs if not p.startswith(('References', '  '))]
  return [first, '', *(line for p in prose for line in (p, ''))]


def public_names(package: str) -> dict[str, Any]:
  """Returns the functions and classes that a package defines, by full name."""
  module = importlib.import_module(package)
  found = {}
  for name, value in vars(module).items():
    home = getattr(value, '__module__', None) or ''
    is_public = callable(value) and not name.startswith('_')
    if is_public and _package(home) == package:
      short = getattr(mq_jax, name, None) is value
      found[f'mq_jax.{name}' if short else f'{package}.{name}'] = value
  return found


def _types(values: Iterable[Any]) -> list[str]:
  """Returns the short names of types in the signatures of some functions."""
  names: set[str] = set()
  for value in values:
    if not inspect.isclass(value) and (function := _source(value)):
      for part in filter(None, (function.args, function.returns)):
        names |= _names(part)
  found: dict[str, str] = {}
  # A type may consist of other types with short names.
  while known := (names & _aliases().keys()) - found.keys():
    for name in known:
      # A name with two meanings would need a page of its own for each of them.
      (found[name],) = _aliases()[name]
      names |= _names(ast.parse(found[name]))
  rows = [
    line
    for name in sorted(found)
    for line in (f'``{name}``', f'    {_meaning(found[name])}', '')
  ]
  title = 'Types in these signatures'
  return [title, '-' * len(title), '', *rows] if rows else []


def _meaning(alias: str) -> str:
  return 'any pytree' if alias == 'Any' else f'``{alias}``'


def _names(tree: ast.AST) -> set[str]:
  return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@functools.cache
def _aliases() -> dict[str, set[str]]:
  """Returns the types to which the modules of mq_jax give a short name."""
  found: dict[str, set[str]] = {}
  for path in pathlib.Path(mq_jax.__file__).parent.rglob('*.py'):
    for line in ast.parse(path.read_text('utf-8')).body:
      match line:
        case ast.Assign(targets=[ast.Name(id=name)]) if (
          name[0].isupper() and not name.isupper()
        ):
          found.setdefault(name, set()).add(ast.unparse(line.value))
  del found['Array']  # Every reader knows jax.Array.
  return found


def _source(value: Any) -> ast.FunctionDef | None:
  """Returns the syntax tree of a function; None for other values."""
  try:
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    (function,) = ast.parse(source).body
  except (OSError, TypeError, SyntaxError, ValueError):
    return None
  return function if isinstance(function, ast.FunctionDef) else None


def _package(module: str) -> str:
  """Returns the longest name in PACKAGES that a module belongs to."""
  return max(
    (p for p in PACKAGES if f'{module}.'.startswith(f'{p}.')),
    key=len,
    default='',
  )


def source_signature(
  app: Any,
  what: str,
  name: str,
  value: Any,
  options: Any,
  signature: str | None,
  returned: str | None,
) -> tuple[str, str | None] | None:
  """Returns a signature with the annotations as the source has them."""
  if inspect.isclass(value):
    # The docstring lists the attributes with their types and shapes.
    return '', None
  if (function := _source(value)) is None:
    return None
  result = ast.unparse(function.returns) if function.returns else None
  return f'({ast.unparse(function.args)})', result


def to_restructured_text(
  app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
  """Marks indented equations as literal, and escapes |x| elsewhere."""
  result: list[str] = []
  literal = in_section = False
  for line in lines:
    indented = line.startswith(' ')
    # A section, such as `Args:`, has no empty line after its title.
    starts = indented and result and not result[-1] and not in_section
    if starts and not literal:
      result += ['::', '']
      literal = True
    elif line and not indented:
      literal = False
      in_section = bool(_SECTION.fullmatch(line))
    result.append(line if literal else _inline(line))
  lines[:] = result


def _inline(line: str) -> str:
  """Escapes bars outside of code, and makes public names in code links."""
  # Text and code take turns.
  first, *rest = re.split('(`[^`]*`)', line)
  result = _escape_bars(first)
  for code, text in zip(rest[::2], rest[1::2], strict=True):
    # Markup must not end within a word, such as a plural.
    end = r'\ ' if text[:1].isalnum() else ''
    result += _link(code) + end + _escape_bars(text)
  return result


def _escape_bars(text: str) -> str:
  return text.replace('|', r'\|')


def _link(code: str) -> str:
  full = _targets().get(code.strip('`').removesuffix('()'))
  return f':py:obj:`{code.strip("`")} <{full}>`' if full else code


@functools.cache
def _targets() -> dict[str, str]:
  """Returns the full name of each name that a docstring may use for it."""
  full_names = [full for package in PACKAGES for full in public_names(package)]
  short = {full.rpartition('.')[2]: full for full in full_names}
  return short | {full.removeprefix('mq_jax.'): full for full in full_names}
