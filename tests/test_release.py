"""Tests what a release needs: one version, workflows, links of the README."""

import configparser
import pathlib
import re
import runpy

import markdown_it
import pytest
import yaml

import mq_jax

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / '.github' / 'workflows').glob('*.yml'))
SETUP = runpy.run_path(str(ROOT / 'setup.py'))
CHECK_TAG = runpy.run_path(str(ROOT / '.ci' / 'check_tag.py'))
PYTHONS = runpy.run_path(str(ROOT / '.ci' / 'pythons.py'))


def read(name):
  return (ROOT / name).read_text(encoding='utf-8')


def metadata():
  config = configparser.ConfigParser()
  config.read(ROOT / 'setup.cfg')
  return config['metadata']


def jobs():
  """Returns all jobs of the workflows, by workflow and name."""
  return {
    f'{path.stem}.{name}': job
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())['jobs'].items()
  }


def steps(key):
  found = [step for job in jobs().values() for step in job.get('steps', ())]
  return [step[key] for step in found if key in step]


def makefile_targets():
  return set(re.findall(r'^([a-z-]+):', read('Makefile'), re.MULTILINE))


# The version.


def test_version_is_that_of_the_package_everywhere():
  assert metadata()['version'] == 'attr: mq_jax.__version__'
  assert SETUP['version']() == mq_jax.__version__
  citation = yaml.safe_load(read('CITATION.cff'))
  assert citation['version'] == mq_jax.__version__
  entries = re.findall(r'^## \[(.*?)\]', read('CHANGELOG.md'), re.MULTILINE)
  assert entries[0] in ('Unreleased', mq_jax.__version__)


CHANGELOG = (
  '# Changelog\n\n## [1.2.0] - 2027-01-31\n\n## [1.1.0] - 2026-12-01\n'
)
CITATION = 'type: software\nversion: 1.2.0\ndate-released: 2027-01-31\n'


def test_check_tag_accepts_matching_tag():
  assert CHECK_TAG['problems']('v1.2.0', '1.2.0', CHANGELOG, CITATION) == []


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'tag': '1.2.0'}, "tag is '1.2.0'.*must be v1.2.0"),
    ({'tag': 'v1.2.1'}, "tag is 'v1.2.1'.*must be v1.2.0"),
    ({'tag': ''}, "tag is ''.*must be v1.2.0"),
    (
      {'changelog': CHANGELOG.replace('2027-01-31', 'unreleased')},
      r"'\[1.2.0\] - unreleased': it must be \[1.2.0\] - YYYY",
    ),
    (
      {'changelog': f'## [Unreleased]\n\n{CHANGELOG}'},
      r"CHANGELOG.md is '\[Unreleased\]'",
    ),
    ({'changelog': ''}, "CHANGELOG.md is ''"),
    (
      {'citation': CITATION.replace('version: 1.2', 'version: 1.1')},
      'CITATION.cff must have the line version: 1.2.0',
    ),
    (
      {'citation': CITATION.replace('-31', '-30')},
      'CITATION.cff must have the line date-released: 2027-01-31',
    ),
  ],
)
def test_check_tag_names_what_differs(changed, message):
  given = {
    'tag': 'v1.2.0',
    'version': '1.2.0',
    'changelog': CHANGELOG,
    'citation': CITATION,
  }
  (found,) = CHECK_TAG['problems'](**given | changed)
  assert re.search(message, found)


# The workflows.


def test_workflows_run_only_make_with_existing_targets():
  commands = [*steps('run')]
  hooks = yaml.safe_load(read('.pre-commit-config.yaml'))['repos'][0]['hooks']
  commands += [hook['entry'] for hook in hooks]
  assert len(commands) > 6
  for command in commands:
    match = re.fullmatch(r'make ([a-z-]+)( [A-Z]+=\w+)*', command)
    assert match, command
    assert match[1] in makefile_targets(), command


def test_workflows_name_the_commits_of_actions():
  # A tag can be moved to other code, a commit cannot.
  assert steps('uses')
  for action in steps('uses'):
    assert re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40}', action), action


def test_workflows_have_only_the_permissions_that_they_need():
  for path in WORKFLOWS:
    assert yaml.safe_load(path.read_text())['permissions'] == {
      'contents': 'read'
    }, path.name
  more = {
    name: set(job['permissions'])
    for name, job in jobs().items()
    if 'permissions' in job
  }
  assert more == {
    'docs.publish': {'pages', 'id-token'},
    'release.publish': {'id-token'},
  }


def test_workflows_publish_only_after_tests_and_check_of_tag():
  release = {
    name.removeprefix('release.'): job
    for name, job in jobs().items()
    if name.startswith('release.')
  }
  assert set(release['publish']['needs']) == {'tests', 'build'}
  assert release['tests']['uses'] == './.github/workflows/tests.yml'
  commands = [step.get('run') for step in release['build']['steps']]
  assert commands.index('make check-tag') < commands.index('make check-dist')


def test_workflows_install_on_all_declared_pythons():
  declared = PYTHONS['supported']()
  assert declared[0] == '3.11'
  assert metadata()['classifiers'].count('Python :: 3.') == len(declared)
  job = jobs()['tests.dist']
  setup = next(
    step
    for step in job['steps']
    if 'with' in step and 'python-version' in step['with']
  )
  assert setup['with']['python-version'].split() == declared
  assert job['env']['PYTHONS'].split() == [f'python{v}' for v in declared]
  matrix = jobs()['tests.test']['strategy']['matrix']['python']
  assert matrix == [declared[0], declared[-1]]


# The pages in the root folder.


@pytest.mark.parametrize(
  'name', ['CONTRIBUTING.md', 'CODE_OF_CONDUCT.md', 'SECURITY.md']
)
def test_page_names_existing_files(name):
  text = read(name)
  links = re.findall(r'\]\((?!https:)([^)#]+)', text)
  folders = 'mq_jax|experiments|benchmarks|tests|results|docs'
  links += re.findall(rf'`((?:{folders})/[^`\s]*)`', text)
  for link in links:
    # NAME and FILE are placeholders.
    existing = re.sub(r'[^/]*(NAME|FILE).*', '', link)
    assert (ROOT / existing).exists(), link


# README.md on the package index.


def test_long_description_has_only_absolute_links_to_the_tag():
  parsed = markdown_it.MarkdownIt().parse(SETUP['long_description']())
  tokens = [
    *parsed,
    *(child for token in parsed for child in token.children or ()),
  ]
  links = [
    token.attrs.get('href') or token.attrs['src']
    for token in tokens
    if token.type in ('link_open', 'image')
  ]
  html = [token.content for token in tokens if token.type.startswith('html')]
  links += re.findall(r'(?:href|src|srcset)\s*=\s*"?([^"\s]+)', ''.join(html))
  tag = f'{metadata()["url"]}/blob/v{mq_jax.__version__}/'
  assert any(link.startswith(tag) for link in links)
  for link in links:
    assert link.startswith('https://'), link


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('[a](docs/a.md)', '[a](R/blob/v1/docs/a.md)'),
    ('[a\nb](docs/a.md#b "c")', '[a\nb](R/blob/v1/docs/a.md#b "c")'),
    ('[a](#b)', '[a](R/blob/v1/README.md#b)'),
    ('[a]: docs/a.md', '[a]: R/blob/v1/docs/a.md'),
    ('![a](docs/a.png)', '![a](R/raw/v1/docs/a.png)'),
    ('[![a](b.svg)](c.md)', '[![a](R/raw/v1/b.svg)](R/blob/v1/c.md)'),
    ('<img src="a.png" width="9">', '<img src="R/raw/v1/a.png" width="9">'),
    ('<a href="LICENSE">', '<a href="R/blob/v1/LICENSE">'),
    ('[a](https://b.org/c)', '[a](https://b.org/c)'),
    ('[a](mailto:b@c.org)', '[a](mailto:b@c.org)'),
    ('```python\na[i](b)\n```\n', '```python\na[i](b)\n```\n'),
  ],
)
def test_absolute_links(text, expected):
  assert SETUP['absolute_links'](text, 'R', 'v1') == expected
