"""Rules that assign quantizers to the leaves of a parameter pytree.

The library handles pytrees, never modules. The name of a leaf is its path, such
as `stage1/conv1/kernel`. Quantized leaves are passed as a dict by path.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from mq_jax.printing import describe
from mq_jax.quantizers import Quantizer, quantize

Array = jax.Array
Params = Any
Rules = Quantizer | Sequence[tuple[str, Quantizer | None]]
T = TypeVar('T')

# Last name of the path of a leaf that a bare quantizer applies to.
KERNEL_NAMES = ('kernel', 'weight', 'w')
# flax.nnx.State and flax.linen.Partitioned append this name to each path.
_BOX = '/value'
_EMBEDDING = re.compile('.*embed.*|wte|wpe', re.IGNORECASE)


def named_leaves(
  params: Params, is_leaf: Callable[[Any], bool] | None = None
) -> dict[str, Array]:
  """Returns all leaves of `params` by path, in the order of the pytree.

  Args:
    params: Pytree of arrays.
    is_leaf: Predicate that is true for nodes that count as leaves.

  Raises:
    ValueError: If two leaves have the same path.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf)
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in flat
  }
  if len(leaves) < len(flat):
    raise ValueError(
      'Two leaves have the same path because a key contains "/": rename the'
      f' key. The paths are: {_listing(leaves)}.'
    )
  return leaves


def select(params: Params, rules: Rules) -> dict[str, Quantizer]:
  """Selects the quantizer of each leaf that is to be quantized.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mq_jax import selection
    >>> params = {'stem': {'kernel': jnp.ones((3, 4))},
    ...           'head': {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}}
    >>> rules = [('stem/.*', None), ('.*/kernel', mq_jax.bwn())]
    >>> list(selection.select(params, rules))
    ['head/kernel']

  Args:
    params: Pytree of arrays, or of anything with a dtype and a shape.
    rules: Sequence of `(regex, Quantizer or None)`. The regex must match the
      full path, with or without a last `/value`, and the first match wins. None
      keeps full precision, and so does a leaf that no rule matches. A bare
      `Quantizer` applies to every `is_kernel`.

  Returns:
    Path to quantizer, in the order of the pytree.

  Raises:
    TypeError: If `rules` has another type, or a selected leaf is not floating
      point.
    ValueError: If a rule applies to no leaf, if `rules` is a bare quantizer and
      no leaf is a kernel, or if `params` is None.
  """
  check_rules(rules)
  if params is None:
    raise ValueError(
      'A transformation of the leaves that rules select needs the parameters:'
      ' update(updates, state, params).'
    )
  leaves = named_leaves(params)
  if isinstance(rules, Quantizer):
    selected = {p: rules for p, leaf in leaves.items() if is_kernel(p, leaf)}
    if not selected:
      raise ValueError(
        'No leaf would be quantized. A bare quantizer applies to leaves of'
        f' two or more dimensions named {" or ".join(KERNEL_NAMES)}, except'
        f' embeddings. Pass rules. The paths are: {_listing(leaves)}.'
      )
  else:
    selected = _first_match(leaves, rules)
  for path in selected:
    if not jnp.issubdtype(jnp.result_type(leaves[path]), jnp.floating):
      raise TypeError(
        f'{path} has dtype {jnp.result_type(leaves[path])}, but only floating'
        f' point leaves can be quantized: add a rule ({path!r}, None).'
      )
  return selected


def check_not_empty(path: str, leaf: Any) -> None:
  """Raises `ValueError` if a leaf that is to be quantized has no weights."""
  if not jnp.size(leaf):
    raise ValueError(f'{path} is empty: add a rule ({path!r}, None).')


def is_kernel(path: str, leaf: Any) -> bool:
  """Returns True for the weight of a dense layer, convolution or the like.

  Args:
    path: Path of a leaf. Its last name must be kernel, weight or w, and no
      other name may be that of an embedding.
    leaf: Array of two or more dimensions.
  """
  *folders, name = path.removesuffix(_BOX).split('/')
  return (
    jnp.ndim(leaf) >= 2
    and name in KERNEL_NAMES
    and not any(_EMBEDDING.fullmatch(folder) for folder in folders)
  )


def check_rules(rules: Any) -> None:
  """Checks that `rules` is a quantizer or pairs of a regex and a quantizer.

  Raises:
    TypeError: If `rules` has another type.
    ValueError: If a regex is invalid, or if there is no rule.
  """
  if isinstance(rules, Quantizer):
    return
  hint = 'quantizer must be a Quantizer or a sequence of (regex, Quantizer)'
  if isinstance(rules, str) or not isinstance(rules, Sequence):
    raise TypeError(f'{hint} pairs, not {describe(rules)}.')
  if not rules:
    raise ValueError(
      f'{hint} pairs, but there is no pair, so no leaf would be quantized. For'
      " full precision, pass [('.*', None)]."
    )
  for rule in rules:
    if not (isinstance(rule, tuple | list) and len(rule) == 2):
      raise TypeError(f'{hint} pairs, but one rule is {rule!r}.')
    if not (rule[1] is None or isinstance(rule[1], Quantizer)):
      raise TypeError(
        f'{hint} pairs, but the rule {rule[0]!r} has {describe(rule[1])}.'
      )
    try:
      re.compile(rule[0])
    except re.error as error:
      raise ValueError(
        f'The rule {rule[0]!r} is not a valid regular expression: {error}.'
      ) from error


def fixed_rules(rules: Rules) -> Rules:
  """Returns checked rules that do not change with the caller's list.

  Raises:
    ValueError, TypeError: As `check_rules`.
  """
  check_rules(rules)
  return rules if isinstance(rules, Quantizer) else tuple(rules)


def _first_match(
  leaves: Mapping[str, Any], rules: Sequence[tuple[str, Quantizer | None]]
) -> dict[str, Quantizer]:
  decided: dict[str, Quantizer | None] = {}
  for pattern, quantizer in rules:
    regex = re.compile(pattern)
    matched = [
      p
      for p in leaves
      if regex.fullmatch(p) or regex.fullmatch(p.removesuffix(_BOX))
    ]
    fresh = [p for p in matched if p not in decided]
    if not fresh:
      reason = f'matches no leaf. The paths are: {_listing(leaves)}'
      if matched:
        reason = f'matches only leaves of earlier rules: {_listing(matched)}'
      elif parts := [p for p in leaves if regex.search(p)]:
        kernels = [p for p in parts if is_kernel(p, leaves[p])]
        reason = (
          f'matches only a part of {_listing(parts)}, but a rule must match'
          f' the whole path, such as {(kernels or parts)[0]!r}'
        )
      raise ValueError(f'The rule {pattern!r} {reason}.')
    decided.update(dict.fromkeys(fresh, quantizer))
  return {p: q for p in leaves if (q := decided.get(p)) is not None}


def _listing(paths: Any) -> str:
  return ', '.join(paths) or '(none)'


def only(paths: Iterable[str], tree: Any) -> dict[str, Array]:
  """Returns the leaves of `tree` at these paths."""
  leaves = named_leaves(tree)
  return {path: leaves[path] for path in paths}


def replace(params: Params, leaves: Mapping[str, Array]) -> Params:
  """Returns `params` with the leaves at these paths replaced by `leaves`."""
  replaced = {**named_leaves(params), **leaves}
  return jax.tree.unflatten(jax.tree.structure(params), replaced.values())


def quantized(
  params: Params, rules: Rules, variables: Mapping[str, Any]
) -> Params:
  """Returns `params` with Ŵ = Q(A(W)) on the leaves that the rules quantize.

  Args:
    params: The trained parameters.
    rules: Rules, as in `select`.
    variables: Path to the quantizer's variables, `State.variables`.
  """
  w_hat = map_selected(
    quantize, select(params, rules), named_leaves(params), variables
  )
  return replace(params, w_hat)


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns nested dicts of leaves with paths such as `stem/kernel`.

  Raises:
    ValueError: If one path is a prefix of another path.
  """
  root: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *folders, last = name.split('/')
    tree = root
    for folder in folders:
      tree = tree.setdefault(folder, {})
      if not isinstance(tree, dict):
        raise ValueError(f'{name!r} continues another path: rename one leaf.')
    if last in tree:
      raise ValueError(
        f'{name!r} is a prefix of another path: rename one leaf.'
      )
    tree[last] = leaf
  return root


def map_selected(
  function: Callable[..., T],
  selected: Mapping[str, Quantizer],
  *trees: Mapping[str, Any],
) -> dict[str, T]:
  """Returns `{path: function(quantizer, tree[path], ...)}` for `selected`.

  Raises:
    ValueError: If the function raises it; the message then starts with the
      path of the leaf.
  """
  result = {}
  for path, quantizer in selected.items():
    try:
      result[path] = function(quantizer, *(tree[path] for tree in trees))
    except ValueError as error:
      raise ValueError(f'{path}: {error}') from error
  return result


def initial_variables(params: Params, rules: Rules) -> dict[str, Any]:
  """Returns the first variables of the quantizer of each leaf by path."""
  return map_selected(
    lambda q, w: q.init(w), select(params, rules), named_leaves(params)
  )


class Selection(NamedTuple):
  """The leaves of a network and their quantizers; `str` returns a table.

  Attributes:
    shapes: Path to the shape of every leaf.
    selected: Path to the quantizer of each quantized leaf.
  """

  shapes: dict[str, tuple[int, ...]]
  selected: dict[str, Quantizer]

  def __str__(self) -> str:
    """Returns a table of path, shape and quantizer, one leaf per line."""
    rows = [
      (path, str(shape), str(self.selected.get(path, 'full precision')))
      for path, shape in self.shapes.items()
    ]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
      f'{path:{wide[0]}}  {shape:{wide[1]}}  {quantizer}'
      for path, shape, quantizer in rows
    )

  def __repr__(self) -> str:
    """Returns the table, for the last line of a notebook's cell."""
    return str(self)


def selection(params: Params, rules: Rules) -> Selection:
  """Returns which leaves the rules quantize, and by which quantizer.

  Raises:
    ValueError, TypeError: As `select`.
  """
  shapes = {
    path: jnp.shape(leaf) for path, leaf in named_leaves(params).items()
  }
  return Selection(shapes, select(params, rules))


def transform(
  function: Callable[..., Array],
  rules: Rules,
  params: Params,
  updates: Params,
  *trees: Mapping[str, Any],
) -> Params:
  """Transforms the updates of the quantized leaves, for optax transformations.

  The update of a quantized leaf becomes `function(quantizer, w, update,
  tree[path], ...)`. Leaves without a quantizer keep their updates.
  """
  transformed = map_selected(
    function,
    select(params, rules),
    named_leaves(params),
    named_leaves(updates),
    *trees,
  )
  return replace(updates, transformed)
