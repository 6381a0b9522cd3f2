"""Compares a step of training with that of PyTorch on the same cores.

  python -m benchmarks.pytorch [--quick] [--json FILE]

needs PyTorch (`pip install torch`). The programs train one ResNet20 by SGD: in
full precision, and by the straight-through rule. The last row shows what
`mq_jax.materialize` gains. The command fails if PyTorch's loss differs from
ours.
"""

import importlib.metadata
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
from safetensors.numpy import save_file

from benchmarks import cases, measure, table
from experiments.records import torch_weights
from mq_jax.models import batch_norm

QUICK = {'batch_size': 8, 'rounds': 2, 'steps': 1}
TOLERANCE = 1e-4  # of the first loss, in float32


def main() -> None:
  """Prints the table."""
  options = table.bare_parser(__doc__)
  options.add_argument('--batch_size', type=int, default=128)
  options.add_argument('--steps', type=int, default=3, help='steps per turn')
  options.set_defaults(network='resnet20', dtype='float32')
  args = table.parse(options, QUICK)
  torch = _torch()
  at = cases.problem('resnet20', args.batch_size, 'float32')
  model, params, model_state = _equal_networks(torch)
  at = at._replace(params=params, model_state=model_state)
  ours = float(jax.jit(at.loss_fn)(params, model_state, at.batch, None)[0])

  programs, losses = [], []
  for layout in ('channels last', 'channels first'):
    program, loss = _torch_program(torch, model, layout, at.batch, args.steps)
    programs.append(program)
    losses.append(loss)
  if any(abs(loss - ours) > TOLERANCE * abs(ours) for loss in losses):
    sys.exit(f'The losses of PyTorch are {losses}, but ours is {ours}.')
  full = cases.full_precision(at)
  for case in (full, cases.quantized(at, cases.STE, hidden=1)):
    programs.append(measure.compile_case(case, args.steps))
  jax.clear_caches()
  with mock.patch.object(batch_norm, 'materialize', _call):
    fused = full._replace(name='norms computed in every reader')
    programs.append(measure.compile_case(fused, args.steps))

  seconds = measure.interleaved(programs, args.rounds)
  table.show(
    'A step of ResNet20 here and in PyTorch: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    [
      {
        'step': program.name,
        'ms': measure.medians(seconds)[i],
        'time / PyTorch, channels last': measure.ratios(seconds, i, over=0),
        'time / full precision here': measure.ratios(seconds, i, over=2),
      }
      for i, program in enumerate(programs)
    ],
    args,
    f'PyTorch {importlib.metadata.version("torch")},'
    f' {torch.get_num_threads()} threads.',
  )


def _torch() -> Any:
  try:
    import torch
  except ImportError:
    sys.exit('This benchmark needs PyTorch: pip install torch.')
  return torch


def _equal_networks(torch: Any) -> tuple[Any, Any, Any]:
  """Returns PyTorch's network, and its weights as ours."""
  torch.manual_seed(0)
  model = _resnet20(torch)
  arrays = {
    name: np.ascontiguousarray(tensor.numpy())
    for name, tensor in model.state_dict().items()
  }
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'resnet20.safetensors')
    save_file(arrays, path)
    loaded = torch_weights.load_torch(path)
  return model, loaded.params, loaded.batch_stats


def _resnet20(torch: Any) -> Any:
  """Returns the network of `mq_jax.models.resnet20` in PyTorch.

  Its parts have the names that `experiments.import_torch` reads.
  """
  nn = torch.nn
  module: Any = nn.Module

  def convolution(inputs: int, outputs: int, size: int, stride: int) -> Any:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)

  class Block(module):
    def __init__(self, inputs: int, outputs: int, stride: int):
      super().__init__()
      self.conv1 = convolution(inputs, outputs, 3, stride)
      self.bn1 = nn.BatchNorm2d(outputs)
      self.conv2 = convolution(outputs, outputs, 3, 1)
      self.bn2 = nn.BatchNorm2d(outputs)
      self.downsample = nn.Identity()
      if stride != 1 or inputs != outputs:
        self.downsample = nn.Sequential(
          convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Any) -> Any:
      y = torch.relu_(self.bn1(self.conv1(x)))
      return torch.relu_(self.bn2(self.conv2(y)) + self.downsample(x))

  def stage(inputs: int, outputs: int, stride: int) -> Any:
    blocks = [Block(inputs, outputs, stride)]
    return nn.Sequential(*blocks, *(Block(outputs, outputs, 1) for _ in '12'))

  class ResNet20(module):
    def __init__(self) -> None:
      super().__init__()
      self.conv1 = convolution(3, 16, 3, 1)
      self.bn1 = nn.BatchNorm2d(16)
      self.layer1 = stage(16, 16, 1)
      self.layer2 = stage(16, 32, 2)
      self.layer3 = stage(32, 64, 2)
      self.fc = nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
      x = torch.relu_(self.bn1(self.conv1(x)))
      x = self.layer3(self.layer2(self.layer1(x)))
      return self.fc(x.mean((2, 3)))

  return ResNet20()


def _torch_program(
  torch: Any, model: Any, layout: str, batch: Any, steps: int
) -> tuple[measure.Program, float]:
  """Returns the program of one layout in memory, and its first loss."""
  memory_format = {
    'channels last': torch.channels_last,
    'channels first': torch.contiguous_format,
  }[layout]
  state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
  model = _resnet20(torch)
  model.load_state_dict(state)
  model = model.to(memory_format=memory_format).train()
  images = torch.tensor(np.asarray(batch['input']).transpose(0, 3, 1, 2))
  images = images.contiguous(memory_format=memory_format)
  labels = torch.tensor(np.asarray(batch['label'])).long()
  optimizer = torch.optim.SGD(model.parameters(), cases.RATE)

  def step() -> float:
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())

  def run() -> float:
    began = time.perf_counter()
    for _ in range(steps):
      step()
    return (time.perf_counter() - began) / steps

  first = step()
  run()
  return measure.Program(f'PyTorch, {layout}', run, 0, 0.0, 0.0), first


def _call(function: Callable[..., Any], *operands: Any, never: Any) -> Any:
  del never
  return function(*operands)


if __name__ == '__main__':
  main()
