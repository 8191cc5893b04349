"""Which engine runs a bench, as typed: `local`, `ray`, or `ray://HOST:PORT`. Imports no torch and no Ray."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sparsedit.bench.plan import Task
from sparsedit.bench.pool import LocalPool, Pool
from sparsedit.errors import SettingsError

LOCAL, RAY = "local", "ray"


def check_engine(said: str) -> str:
    """The engine as typed. Raises SettingsError for one that there is not, or that is not installed."""
    if said == LOCAL:
        return said
    if said != RAY and not re.fullmatch(r"ray://[^\s/]+:\d{1,5}", said):
        raise SettingsError(f"unknown engine {said!r}: use local, ray, or ray://HOST:PORT")
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(f"engine {said} needs Ray, which is not installed: pip install 'sparsedit[ray]'")
    return said


@contextmanager
def open_pool(engine: str, tasks: Sequence[Task], *, pictures: bool, say: Callable[[str], None]) -> Iterator[Pool]:
    """The workers of `engine`, each with as many of torch's threads as this process has, until the block ends.

    `say` is told of workers that are lost. Raises EngineError where they cannot be had.
    """
    # Not at the top: what is only planned does without torch.
    import torch

    from sparsedit.bench.worker import Worker

    threads = torch.get_num_threads()
    if engine == LOCAL or not tasks:
        yield LocalPool(Worker(pictures=pictures), threads)
        return
    from sparsedit.bench.ray_pool import ray_pool

    address = None if engine == RAY else engine
    on_gpus = any(task.cell.settings.device != "cpu" for task in tasks)
    with ray_pool(address, threads=threads, on_gpus=on_gpus, most=len(tasks), pictures=pictures, say=say) as pool:
        yield pool
