"""Small photographs, in folders and archives as users have them."""

import io
import tarfile

import numpy as np
from PIL import Image

from experiments.build.schema import default_config

WNIDS = ('n01440764', 'n02102040', 'n02979186')


def picture(seed, width=48, height=36):
  """Returns smooth random pixels, which JPEG keeps almost unchanged."""
  rng = np.random.default_rng(seed)
  small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
  image = Image.fromarray(small)
  return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels, form='JPEG', **options):
  file = io.BytesIO()
  if form == 'JPEG':
    options = {'quality': 95} | options
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  image.save(file, form, **options)
  return file.getvalue()


def jpeg(seed, *size):
  return encoded(picture(seed, *size))


def write_class(folder, count, seed, suffix='.jpg'):
  folder.mkdir(parents=True)
  for i in range(count):
    # Photographs of several shapes.
    size = ((48, 36), (30, 40), (64, 20))[i % 3]
    (folder / f'{folder.name}_{i}{suffix}').write_bytes(jpeg(seed + i, *size))


def write_folder(root, classes=('cat', 'dog'), train=7, val=3, suffix='.jpg'):
  """Writes train/CLASS/* and, unless `val` is 0, val/CLASS/*."""
  for k, name in enumerate(classes):
    write_class(root / 'train' / name, train, 100 * k, suffix)
    if val:
      write_class(root / 'val' / name, val, 100 * k + 50, suffix)
  return root


def config(root, dataset='folder', **changes):
  result = default_config()
  result.update(
    dataset=dataset, data_dir=str(root), batch_size=4, image_size=16, resize=20
  )
  result.update(changes)
  return result


def write_tar(path, files):
  with tarfile.open(path, 'w') as tar:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return path


def write_archives(root, folder):
  """Writes a folder of photographs as ImageNet's archives, with a list."""
  root.mkdir()
  classes = {}
  for path in sorted((folder / 'train').iterdir(), reverse=True):
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    inner = write_tar(root / 'inner.tar', files)
    classes[f'{path.name}.tar'] = inner.read_bytes()
    inner.unlink()
  write_tar(root / 'ILSVRC2012_img_train.tar', classes)
  files, lines = {}, ['ImageId,PredictionString']
  for i, file in enumerate(sorted((folder / 'val').glob('*/*'))):
    name = f'ILSVRC2012_val_{i + 1:08d}'
    files[f'{name}.JPEG'] = file.read_bytes()
    lines.append(f'{name},{file.parent.name} 1 2 3 4 {WNIDS[0]} 5 6 7 8 ')
  write_tar(root / 'ILSVRC2012_img_val.tar', files)
  (root / 'LOC_val_solution.csv').write_text('\n'.join(lines) + '\n')
  return root
