"""Names and sizes of ImageNet, as ILSVRC 2012 published it."""

from typing import NamedTuple

TRAIN, VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
# Names of tensorflow-datasets' own set, so that its readers find this one.
SET, VERSION = 'imagenet2012', '5.1.0'


class Sizes(NamedTuple):
  """Numbers of classes, and of images of each split."""

  classes: int
  train: int
  validation: int


OFFICIAL = Sizes(1000, 1_281_167, 50_000)
