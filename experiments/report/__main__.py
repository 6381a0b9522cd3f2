r"""Makes all tables and figures from the ledger.

  python -m experiments.report [--results DIR] [--out docs/results] \
    [--only table1] [--study FILE]

Prints the table of every study with runs in the ledger, and writes it into
--out as Markdown, CSV and LaTeX, with figures as PNG and SVG. With the ledger
of this checkout the command also fills README.md and docs/*.md: a table begins
after the comment `<!-- table: NAME -->` and ends at `<!-- end -->`. --only
selects tables by a regular expression, which must match the whole name, and
fills no page. --study makes the tables and figures of the study in a file, such
as one of your own, instead of those of this project.
"""

import pathlib

from absl import app, flags

from experiments.common import markdown
from experiments.common.errors import MissingError, exit_on_user_error
from experiments.records import cards, ledger
from experiments.report import write
from experiments.study import spec


@exit_on_user_error()
def main(_: list[str]) -> None:
  """Writes all tables and figures, and fills the pages of this project."""
  arguments = flags.FLAGS
  runs = ledger.read(arguments.results)
  deployed = cards.read_cards(arguments.results)
  if not runs and not deployed:
    raise MissingError(
      f'--results={arguments.results} contains no run: check the path, or wait'
      ' until the study has finished a run.'
    )
  if arguments.study:
    studies = {pathlib.Path(arguments.study).stem: spec.load(arguments.study)}
    made = write.study_tables(runs, studies)
  else:
    studies = spec.load_all()
    made = write.make_tables(runs, studies, deployed)
  if arguments.only:
    made = write.select(made, arguments.only)
    names = {table.name for table in made}
    studies = {name: study for name, study in studies.items() if name in names}
  beside = pathlib.Path(arguments.results).absolute().parent / 'report'
  out = pathlib.Path(
    arguments.out or (beside if arguments.study else write.OUT)
  )
  paths = write.write_all(made, runs, studies, out, print)
  is_own = (
    pathlib.Path(arguments.results).resolve() == write.ROOT / ledger.RESULTS
  )
  if is_own and not (arguments.only or arguments.study):
    paths += markdown.fill_files(
      [write.ROOT / 'README.md', *(write.ROOT / 'docs').glob('*.md')],
      'table',
      write.texts(made),
    )
  for path in paths:
    print(f'wrote {path}')
  empty = [table.name for table in made if not write.is_measured(table)]
  if empty:
    print(f'No run of {", ".join(empty)} is in {arguments.results}.')
  if not (paths or arguments.study):
    print('For a study of your own, give its file: --study=FILE.')


if __name__ == '__main__':
  flags.DEFINE_string('results', ledger.RESULTS, 'Folder of the ledger.')
  flags.DEFINE_string(
    'only', '', 'Regular expression of the tables, such as table1.'
  )
  flags.DEFINE_string('study', '', 'File of a study, to report this study.')
  flags.DEFINE_string(
    'out',
    '',
    f'Folder for tables and figures; by default {write.OUT}, with --study'
    ' the folder report beside --results.',
  )
  app.run(main)
