"""Compares time and memory of SLB's train step with straight-through.

  python -m benchmarks.slb [--quick] [--json FILE]

It is Table 1 of SLB's author response: VGG-Small at a batch of 100. SLB trains
2ᵇ numbers per weight. The straight-through rule is DoReFa at W/A 1/1.
"""

from benchmarks import cases, measure, methods, table
from experiments.configs.methods import load

QUICK = {'network': 'resnet8', 'batch_size': 16, 'rounds': 3}
# Ratios of the author response for CIFAR-10: GB of memory, and hours.
PUBLISHED = {
  '1/1': (3.1 / 3.1, 6.4 / 4.7),
  '2/2': (3.2 / 3.1, 7.5 / 4.7),
  '4/4': (4.0 / 3.1, 9.2 / 4.7),
}


def main() -> None:
  """Prints the table."""
  options = table.parser(__doc__)
  options.add_argument('--steps', type=int, default=2, help='steps per turn')
  options.set_defaults(network='vgg_small', batch_size=100)
  args = table.parse(options, QUICK)
  ste = load('dorefa_w2a2')
  ste.update(bits=1, activation_quantizer='sign')
  configs = {cases.STE: ste}
  for name in PUBLISHED:
    bits = int(name[0])
    config = load('slb_vgg')
    config.update(bits=bits)
    if bits > 1:
      config.update(activation_quantizer='dorefa', activation_bits=bits)
    configs[name] = config
  compared = [
    methods.make_case(n, config, args) for n, config in configs.items()
  ]
  programs, seconds = measure.timed(compared, args.steps, args.rounds)
  rows = [
    {
      'W/A': program.name,
      'ms': measure.medians(seconds)[i],
      'time / STE': measure.ratios(seconds, i, over=0),
      'published time / STE': PUBLISHED.get(program.name, (None, None))[1],
      'peak MiB': program.memory / measure.MIB,
      'memory / STE': program.memory / programs[0].memory,
      'published memory / STE': PUBLISHED.get(program.name, (None, None))[0],
    }
    for i, program in enumerate(programs)
  ]
  table.show(
    'One step of SLB: median (minimum-maximum) of'
    f' {args.rounds} interleaved rounds of {args.steps} steps',
    rows,
    args,
    'Every layer is quantized, under SGD. Published: on one V100, with the test'
    ' of State Batch Norm in the time.',
  )


if __name__ == '__main__':
  main()
