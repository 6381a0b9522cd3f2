"""A batch that threads make row by row, and that then goes to the devices."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.data.pipeline import Batch

_CHUNK = 4  # Rows per task.


def start_batch(
  pool: Executor,
  mesh: Mesh,
  image_size: int,
  pixels: Callable[[int], np.ndarray | None],
  columns: dict[str, np.ndarray],
) -> Future[Batch]:
  """Starts to decode a batch, which then goes to the devices.

  Args:
    pool: Threads.
    mesh: Devices. They share a batch evenly or, if they cannot, all get it.
    image_size: Side of the images in pixels.
    pixels: `(row) -> pixels` of a row of the batch; None leaves it black.
    columns: Other arrays of the batch, with a leading axis of rows.

  Returns:
    The batch, its 'input' uint8. It has the error of the first row that failed.
  """
  count = len(columns['label'])
  is_even = count % mesh.size == 0
  sharding = NamedSharding(mesh, PartitionSpec('data' if is_even else None))
  # Other processes decode the rows of their own devices.
  owned = sharding.addressable_devices_indices_map((count,)).values()
  rows = np.unique(np.concatenate([np.arange(count)[i] for i in owned]))
  images = np.zeros((len(rows), image_size, image_size, 3), np.uint8)
  place_of = np.zeros(count, int)
  place_of[rows] = np.arange(len(rows))

  def to_devices() -> Batch:
    def to_device(shape: tuple[int, ...], part: Callable[..., Any]) -> Any:
      return jax.make_array_from_callback(shape, sharding, part)

    def image(index: tuple[slice, ...]) -> np.ndarray:
      return images[place_of[index[0]]]

    made = {
      name: to_device(column.shape, column.__getitem__)
      for name, column in columns.items()
    }
    shape = (count, *images.shape[1:])
    return made | {'input': to_device(shape, image)}

  future: Future[Batch] = Future()
  chunks = [range(len(rows))[i:][:_CHUNK] for i in range(0, len(rows), _CHUNK)]
  lock, left = threading.Lock(), [len(chunks)]

  def end(error: BaseException | None) -> None:
    """Ends the work of a chunk; the last chunk or an error ends the batch."""
    with lock:
      if not left[0]:
        return  # Another chunk has failed.
      left[0] = 0 if error else left[0] - 1
      is_end = not left[0]
    if is_end and future.set_running_or_notify_cancel():
      try:
        if error is not None:
          raise error
        future.set_result(to_devices())
      except BaseException as error_of_batch:
        future.set_exception(error_of_batch)

  def decode(chunk: range) -> None:
    try:
      for place in chunk:
        if future.done():  # Cancelled, or another chunk has failed.
          return
        if (found := pixels(int(rows[place]))) is not None:
          images[place] = found
    except BaseException as error:
      end(error)
    else:
      end(None)

  for chunk in chunks:
    pool.submit(decode, chunk)
  return future
