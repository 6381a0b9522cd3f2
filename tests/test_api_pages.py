"""Tests the pages of the API reference."""

import importlib.util
import pathlib

import pytest

import mq_jax

PAGES = pathlib.Path(__file__).parents[1] / 'docs' / 'api_pages.py'


@pytest.fixture(scope='module')
def api_pages():
  spec = importlib.util.spec_from_file_location('api_pages', PAGES)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def converted(api_pages, text):
  lines = text.split('\n')
  api_pages.to_restructured_text(None, '', '', None, None, lines)
  return lines


def test_every_exported_name_is_on_one_page(api_pages):
  names = [n for p in api_pages.PACKAGES for n in api_pages.public_names(p)]
  assert len(names) == len(set(names))
  exported = {n for n, v in vars(mq_jax).items() if callable(v) and n[0] != '_'}
  assert {f'mq_jax.{name}' for name in exported} <= set(names)
  methods = {n for n, v in vars(mq_jax.methods).items() if callable(v)}
  methods = {n for n in methods if not n.startswith('_')}
  assert {f'mq_jax.methods.{name}' for name in methods} <= set(names)


def test_signature_has_the_annotations_of_the_source(api_pages):
  signature, result = api_pages.source_signature(
    None, 'function', '', mq_jax.quantize, None, '', ''
  )
  assert signature == '(quantizer: Quantizer, w: Array, variables: Variables)'
  assert result == 'Array'


def test_page_explains_the_types_of_its_signatures(api_pages, tmp_path):
  api_pages.write(tmp_path / 'api')
  page = (tmp_path / 'api' / 'mq_jax.rst').read_text(encoding='utf-8')
  types = page.partition('Types in these signatures')[2].split()
  assert '``Rules``' in types
  # The loss function, and what its own type consists of.
  assert {'``LossFn``', '``Batch``', '``Metrics``'} <= set(types)
  assert '``Array``' not in types
  activations = tmp_path / 'api' / 'activations.rst'
  assert 'Types in' not in activations.read_text(encoding='utf-8')


def test_indented_equations_become_literal_and_sections_stay(api_pages):
  text = 'Solves |x| in `|y|`.\n\n  |a| = b\n\nArgs:\n  x: A |number|.'
  assert converted(api_pages, text) == [
    r'Solves \|x\| in `|y|`.',
    '',
    '::',
    '',
    '  |a| = b',
    '',
    'Args:',
    r'  x: A \|number\|.',
  ]


def test_public_names_in_code_become_links(api_pages):
  (line,) = converted(api_pages, 'Use `ste()` and `lsq`, not `PackedArray`s.')
  assert line == (
    'Use :py:obj:`ste() <mq_jax.ste>` and :py:obj:`lsq <mq_jax.methods.lsq>`,'
    r' not :py:obj:`PackedArray <mq_jax.PackedArray>`\ s.'
  )
