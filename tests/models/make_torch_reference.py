"""Writes the logits of torchvision's networks with weights from a rule.

  python -m tests.models.make_torch_reference

Needs PyTorch and torchvision. The tests fill our networks with the same weights
and compare the logits, so that they need neither.
"""

import json
import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('torchvision_logits.json')
NETWORKS = ('resnet18', 'resnet50', 'mobilenet_v2')
SHAPES = ((2, 64, 64, 3), (2, 65, 97, 3))
CLASSES = 5
WIDTHS = (0.5, 1.4)


def tensor(name, shape):
  """Returns the tensor of a name: it depends on name and shape alone."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if len(shape) > 1:
    deviation = np.sqrt(2 / np.prod(shape[1:]))
    return rng.normal(0, deviation, shape).astype(np.float32)
  return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def images(shape):
  """Returns normalised images, `(batch, height, width, 3)`."""
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def main():
  """Writes the logits, and the numbers of parameters."""
  import torch
  import torchvision

  found = {'logits': {}, 'parameters': {}, 'tensors': {}}
  for name in NETWORKS:
    net = getattr(torchvision.models, name)(num_classes=CLASSES).eval()
    shapes = {
      key: list(value.shape)
      for key, value in net.state_dict().items()
      if not key.endswith('num_batches_tracked')
    }
    net.load_state_dict(
      {k: torch.from_numpy(tensor(k, shape)) for k, shape in shapes.items()},
      strict=False,
    )
    found['tensors'][name] = shapes
    with torch.no_grad():
      found['logits'][name] = [
        net(torch.from_numpy(images(shape).transpose(0, 3, 1, 2))).tolist()
        for shape in SHAPES
      ]
  for name in ('resnet18', 'resnet34', 'resnet50', 'mobilenet_v2'):
    net = getattr(torchvision.models, name)()
    found['parameters'][name] = sum(p.numel() for p in net.parameters())
  for width in WIDTHS:
    net = torchvision.models.mobilenet_v2(width_mult=width)
    found['parameters'][f'mobilenet_v2 {width}'] = sum(
      p.numel() for p in net.parameters()
    )
  PATH.write_text(json.dumps(found) + '\n')


if __name__ == '__main__':
  main()
