"""Tests of the pages: their code blocks run, and their links lead to files."""

import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
# The build of the site makes the pages that its first page links.
PAGES = [
  ROOT / 'README.md',
  *sorted(p for p in (ROOT / 'docs').glob('*.md') if p.stem != 'index'),
]


def python_blocks(page):
  text = page.read_text(encoding='utf-8')
  return re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def output_of(code, folder):
  """Runs code in a new process and returns what the code prints."""
  result = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=False,
    cwd=folder,
  )
  assert result.returncode == 0, result.stderr[-2000:]
  return result.stdout


@pytest.mark.slow
def test_readme_example_runs_and_learns(tmp_path):
  code = python_blocks(ROOT / 'README.md')[0]
  assert len([line for line in code.splitlines() if line.strip()]) <= 25
  output = output_of(code, tmp_path)
  accuracy = float(re.search(r"'accuracy': ([0-9.]+)", output)[1])
  # The two classes are about equally frequent.
  assert accuracy > 0.9
  levels = re.search(r'\[(-?[0-9.]+)\s+([0-9.]+)\]', output)
  assert float(levels[1]) == -float(levels[2]) != 0


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_page_links_name_existing_files(page):
  links = re.findall(r'\]\(([^)#]+)', page.read_text(encoding='utf-8'))
  for link in links:
    if '://' not in link:
      assert (page.parent / link).exists(), link


@pytest.mark.slow
def test_your_project_blocks_run_in_order(tmp_path):
  code = '\n'.join(python_blocks(ROOT / 'docs' / 'your_project.md'))
  assert 'Dense_1/kernel' in output_of(code, tmp_path)


@pytest.mark.slow
def test_language_model_block_quantizes_the_projections(tmp_path):
  (code,) = python_blocks(ROOT / 'docs' / 'language_models.md')
  output = output_of(code, tmp_path)
  assert re.search(r'blocks/mlp/up/kernel/value.*absmean', output), output
  assert not re.search(r'head/kernel/value.*absmean', output)


@pytest.mark.slow
def test_deploy_blocks_run_and_serve_trained_network(tmp_path):
  code = '\n'.join(python_blocks(ROOT / 'docs' / 'deploy.md'))
  output = output_of(code, tmp_path)
  size = (tmp_path / 'small.safetensors').stat().st_size
  before, after = re.search(
    r'^([\d,]+) bytes before, ([\d,]+) packed', output, re.MULTILINE
  ).groups()
  assert int(after.replace(',', '')) < size < int(before.replace(',', ''))
  differences = re.findall(r'^largest difference (.*)$', output, re.M)
  assert len(differences) == 3
  assert max(map(float, differences)) < 1e-6
  program = jax.export.deserialize(
    bytearray((tmp_path / 'small.stablehlo').read_bytes())
  )
  assert program.call(np.ones((3, 8), np.float32)).shape == (3, 2)


@pytest.mark.slow
def test_devices_blocks_run_and_two_processes_agree(tmp_path):
  *blocks, processes = python_blocks(ROOT / 'docs' / 'devices.md')
  # The tests set the number of devices, see conftest.py.
  devices = jax.device_count()
  output = output_of('\n'.join(blocks), tmp_path)
  assert output == f'float32[8,16] on {devices} devices\n'
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = f'localhost:{free.getsockname()[1]}'
  assert 'localhost:12355' in processes
  (tmp_path / 'processes.py').write_text(
    processes.replace('localhost:12355', port), encoding='utf-8'
  )
  running = [
    subprocess.Popen(
      [sys.executable, 'processes.py', number],
      cwd=tmp_path,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in '01'
  ]
  printed = []
  for process in running:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]
    printed.append(re.search('^finite True .*', output, re.M | re.DOTALL)[0])
  assert printed[0] == printed[1]
  assert (tmp_path / 'network.safetensors').exists()


def lines(block):
  return [line for line in block.splitlines() if line.strip()]


USE_OF_DATA_SET = """
from experiments.build.schema import default_config
from experiments.training.train import make_pipeline
config = default_config()
config.update(dataset='stripes', batch_size=128, holdout=0)
pipeline = make_pipeline(config)
shape = pipeline.train(0, 0)['input'].shape
print(*pipeline.classes, pipeline.steps_per_epoch, shape)
"""


@pytest.mark.slow
def test_extending_methods_are_short_and_train(tmp_path):
  blocks = python_blocks(ROOT / 'docs' / 'extending.md')
  for name in ('mq_jax.Quantizer(', 'mq_jax.GradientEstimator('):
    (block,) = [block for block in blocks if name in block]
    assert len(lines(block)) < 30, name
  # The block of the data set needs the folder experiments/.
  library = [block for block in blocks if 'experiments' not in block]
  output = output_of('\n'.join(library), tmp_path)
  number = r'([-+.e0-9]+)'
  start, end = re.search(
    rf'^loss {number} to {number}$', output, re.MULTILINE
  ).groups()
  assert float(end) < 0.3 * float(start)
  layers = re.findall(
    rf'^(.*): levels \[(.*)\], mean\|W\| {number},'
    rf' delta {number} to {number}, gain {number}$',
    output,
    re.MULTILINE,
  )
  assert [layer[0] for layer in layers] == ['in/kernel', 'out/kernel']
  for _, levels, size, first, delta, gain in layers:
    # Doubling is exact, so the levels are ±2Δ to the last bit.
    assert [float(level) for level in levels.split(',')] == [
      *(-2 * float(delta), 0, 2 * float(delta)),
    ]
    # The threshold has changed a lot, and now follows the weights closely.
    assert abs(float(delta) / float(first) - 1) > 0.2
    assert abs(float(delta) / (0.7 * float(size)) - 1) < 0.1
    assert abs(float(gain) - 1) > 0.1
  assert output.endswith('own tests passed\n')


def test_extending_data_set_makes_batches():
  blocks = python_blocks(ROOT / 'docs' / 'extending.md')
  (block,) = [block for block in blocks if 'DATASETS' in block]
  output = output_of(f'import numpy as np\n{block}{USE_OF_DATA_SET}', ROOT)
  assert output == 'columns rows 4 (128, 32, 32, 3)\n'
