r"""The first epochs of the authors' logs: ResNet20, in their released order.

  python -m experiments.study --study=experiments/studies/as_released.py \
    --workdir=runs/as_released --pretrained=FOLDER

`FOLDER` holds MetaQuant-ResNet20-CIFAR10.safetensors. The logs have the loss of
each epoch, which varies little between trials; `experiments.report` prints ours
beside it. The released code applies each update of a learned rule twice in the
forward pass, so the learned rules have `reapply=True` here. Their other options
follow the logs: MultiFC has three layers, LSTMFC carries no memory, γ is
constant.
"""

from experiments.study import Study, in_protocol

# Rules that the authors published logs of, by quantizer and optimizer.
LOGGED = {
  ('dorefa', 'sgd'): ('ste', 'multi_fc'),
  ('dorefa', 'adam'): ('multi_fc',),
  ('bwn', 'sgd'): ('ste', 'lstm_fc', 'fc_grad'),
  ('bwn', 'adam'): ('ste', 'lstm_fc', 'fc_grad'),
}


def get_study() -> Study:
  """Returns the nine settings whose losses per epoch were logged."""
  return Study(
    "The first epochs of the authors' logs",
    {
      f'{quantizer}-{optimizer}-{estimator}': in_protocol(
        'paper',
        quantizer=quantizer,
        optimizer=optimizer,
        estimator=estimator,
        reapply=estimator != 'ste',
        epochs=5,
      )
      for (quantizer, optimizer), estimators in LOGGED.items()
      for estimator in estimators
    },
    trials=2,
    figures=False,
  )
