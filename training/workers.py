"""Several processes that train one model, one per core, and average it every so many steps.

Two processes of one thread each scale better than two threads, as small tensors leave threads waiting. Between
meetings every worker takes its own steps (local SGD; Stich, "Local SGD Converges Fast and Communicates Little",
2019); at a meeting each leaves with the same parameters and the same state of the optimizer. The leader is the
process that was started: it alone validates, saves and writes. Workers talk over pipes, so when one side dies,
by a kill too, the other notices at the next meeting and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor


@dataclass(frozen=True)
class Note:
    """What the leader tells the others at a meeting: its seconds of training, and whether they are over."""

    seconds: float
    over: bool


class WorkerLostError(RuntimeError):
    """Another worker ended before the training did."""


class Crew:
    """One worker's view of all: `rank` 0 leads, `pipes` go to the others, or to the leader."""

    def __init__(self, rank: int = 0, size: int = 1, pipes: Sequence[Connection] = ()) -> None:
        self.rank, self.size = rank, size
        self._pipes = list(pipes)
        self._shared: Tensor | None = None  # a row for each follower, and one for the mean

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @torch.no_grad()
    def meet(self, tensors: Sequence[Tensor], note: Note) -> Note:
        """Average fp32 `tensors` over all workers, in place, and return the leader's note.

        Blocks until all have come. Raises WorkerLostError when one never will.
        """
        if self.size == 1:
            return note
        try:
            return self._lead(tensors, note) if self.leads else self._follow(tensors)
        except (EOFError, ConnectionError) as error:
            raise WorkerLostError("Another worker of this training has ended; resume it.") from error

    def _lead(self, tensors: Sequence[Tensor], note: Note) -> Note:
        if self._shared is None:
            self._shared = torch.empty(self.size, sum(tensor.numel() for tensor in tensors)).share_memory_()
            for pipe in self._pipes:
                pipe.send(self._shared)
        for pipe in self._pipes:
            pipe.recv()  # its row is written
        mean = self._shared[0]
        _gather(tensors, mean)
        mean += self._shared[1:].sum(0)
        mean /= self.size
        for pipe in self._pipes:
            pipe.send(note)
        _scatter(mean, tensors)
        return note

    def _follow(self, tensors: Sequence[Tensor]) -> Note:
        (pipe,) = self._pipes
        if self._shared is None:
            self._shared = pipe.recv()
        _gather(tensors, self._shared[self.rank])
        pipe.send(None)
        note: Note = pipe.recv()
        _scatter(self._shared[0], tensors)
        return note


def run_crew(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(crew, *arguments)` in this process, which leads, and in `size - 1` others beside it.

    `work` and its arguments are pickled. Several workers use one thread each.
    """
    if size == 1:
        work(Crew(), *arguments)
        return
    torch.set_num_threads(1)
    context = torch.multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for rank in range(1, size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work_beside, args=(rank, size, theirs, work, arguments), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    work(Crew(0, size, pipes), *arguments)
    for process in processes:
        process.join()


def _work_beside(rank: int, size: int, pipe: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with suppress(WorkerLostError, KeyboardInterrupt):  # the leader ended, and has said why
        work(Crew(rank, size, [pipe]), *arguments)


def _gather(tensors: Sequence[Tensor], row: Tensor) -> None:
    """Write tensors one after the other into a row."""
    start = 0
    for tensor in tensors:
        row[start : start + tensor.numel()].copy_(tensor.reshape(-1))
        start += tensor.numel()


def _scatter(row: Tensor, tensors: Sequence[Tensor]) -> None:
    start = 0
    for tensor in tensors:
        tensor.copy_(row[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
