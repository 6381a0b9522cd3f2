"""MetaQuant's Table 3 and figure 15: ResNet18 on ImageNet at 1 bit.

  python -m experiments.study --study=experiments/studies/table3.py \
    --workdir=runs/table3 --data_dir=IMAGENET --pretrained=FOLDER

`FOLDER` holds `resnet18-imagenet.safetensors`, the weights of torchvision.
FCGrad has one layer and MultiFC two. The paper names no weight decay.
"""

from experiments.configs import resnet18
from experiments.study import Study

# Quantizer and estimator of each row, and the layers of the estimator.
ROWS = {
  ('dorefa', 'ste'): 2,
  ('dorefa', 'multi_fc'): 2,
  ('dorefa', 'fc_grad'): 1,
  ('bwn', 'ste'): 2,
  ('bwn', 'fc_grad'): 1,
}


def get_study() -> Study:
  """Returns the rows of the table, under Adam."""
  return Study(
    'Table 3: ImageNet, ResNet18, 1 bit in all layers',
    {
      f'resnet18-{quantizer}-adam-{estimator}': resnet18.get_config(
        quantizer=quantizer, estimator=estimator, layers=layers
      )
      for (quantizer, estimator), layers in ROWS.items()
    },
    published='table_3',
    paper_mean='The paper takes the mean over the last five epochs.',
    paper_figures={'resnet18-dorefa': 'figure 15'},
  )
