"""Workers as Ray's actors, one to a GPU or to the cores that a worker's threads need, on one machine or on many.

The only module that imports Ray. Each actor loads a model once and is handed one case at a time, the next when it is
done. One that dies (killed, out of memory, its machine gone) is replaced, and its case goes to whoever is free next; a
case that has cost `MOST_TRIES` workers is a failed record. Actors write nothing: what they make goes to the driver.

Where no cluster is named, a Ray of its own runs for as long as the pool: on this machine's loopback address, under a
key that is made for it, without dashboard and statistics of use, its files in a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedit.bench.outcome import Outcome
from sparsedit.bench.plan import Task
from sparsedit.bench.pool import Crew, Made
from sparsedit.errors import EngineError

MOST_TRIES = 3
"""Workers that a case may cost, and times in a row that one may fail to start."""
START_SECONDS = 600.0
"""How long a pool waits for its first worker."""

KNOCK_SECONDS = 10.0

_FOLDERS = "/tmp"  # sockets need short paths
_STORE_BYTES = 256_000_000  # for what is on its way to the driver

LOST = f"every worker that ran it was lost, {MOST_TRIES} in all (killed, out of memory, or their machine gone)"


class Actor:
    """A worker in a process of its own.

    It works in the driver's `folder` where its machine has that, so that a relative path means the same to both.
    """

    def __init__(self, threads: int, pictures: bool, folder: Path) -> None:
        # Not at the top: they import torch, which whoever hands out the tasks may do without.
        import torch

        from sparsedit.bench.worker import Worker

        if folder.is_dir():
            os.chdir(folder)
        torch.set_num_threads(threads)
        self.worker = Worker(pictures=pictures)

    def process(self) -> int:
        """Its process id; the answer says that it is ready."""
        return os.getpid()

    def run(self, task: Task) -> list[Outcome]:
        return list(self.worker.run(task))


@dataclass(eq=False)
class Try:
    """A task, and how many workers it has cost."""

    task: Task
    cost: int = 0


@dataclass(eq=False)
class Seat:
    """A place for a worker: the actor on it, its process once that is known, what it runs, and how often in a row none
    could be started."""

    actor: Any = None
    process: int | None = None
    runs: Try | None = None
    failures: int = 0


class RayPool:
    """So many actors of the Ray that this process is connected to.

    `hire` makes one; `say` is told of those that are lost. `seats` are public for tests, which kill what sits there.
    """

    def __init__(self, crew: Crew, hire: Callable[[], Any], say: Callable[[str], None]) -> None:
        self.crew = crew
        self.hire = hire
        self.say = say
        self.seats: list[Seat] = []
        self._free: deque[Seat] = deque()
        self._again: deque[Try] = deque()
        self._running = 0
        self._answers: queue.SimpleQueue[tuple[Seat, Any]] = queue.SimpleQueue()

    def run(self, tasks: Iterator[Task]) -> Iterator[Sequence[Made]]:
        self.seats = [Seat() for _ in range(self.crew.workers)]
        for seat in self.seats:
            self._fill(seat)
        left = True
        while left or self._again or self._running:
            made = [each for seat, answer in self._answered() for each in self._settle(seat, answer)]
            left = self._hand_out(tasks)
            if made:
                yield made

    def close(self) -> None:
        """Let go of all workers, whatever they do."""
        import ray

        for seat in self.seats:
            ray.kill(seat.actor)
        self.seats.clear()

    def _hand_out(self, tasks: Iterator[Task]) -> bool:
        """Give every free worker something to do, and say whether there may be more."""
        while self._free:
            chosen = self._again.popleft() if self._again else next(map(Try, tasks), None)
            if chosen is None:
                return False
            seat = self._free.popleft()
            seat.runs = chosen
            self._running += 1
            self._await(seat, seat.actor.run.remote(chosen.task))
        return True

    def _answered(self) -> Iterator[tuple[Seat, Any]]:
        """Who has answered, at least one."""
        try:
            yield self._answers.get(timeout=None if any(seat.process for seat in self.seats) else START_SECONDS)
        except queue.Empty:
            raise EngineError(
                f"no worker of Ray has started in {START_SECONDS:g} s: its cluster has no free GPU or cores for one"
            ) from None
        while not self._answers.empty():
            yield self._answers.get()

    def _settle(self, seat: Seat, answer: Any) -> list[Made]:
        """What an answer brings: the outcomes of a task, or nothing."""
        from ray.exceptions import RayError, RayTaskError

        ran, seat.runs = seat.runs, None
        self._running -= ran is not None
        try:
            result = answer.result()
        except RayTaskError as error:  # raised by what it ran, as it would have been here
            raise (error.cause or error) from None
        except RayError as error:
            return self._replace(seat, ran, str(error))
        self._free.append(seat)
        if ran is None:
            seat.process, seat.failures = result, 0
            return []
        return [Made(ran.task, result)]

    def _replace(self, seat: Seat, ran: Try | None, reason: str) -> list[Made]:
        """Put another worker in the place of one that is lost."""
        import ray

        ray.kill(seat.actor)  # it may only be out of reach
        seat.process = None
        seat.failures += ran is None
        if seat.failures == MOST_TRIES:
            self.seats.remove(seat)
            if not self.seats:
                raise EngineError(f"no worker of Ray can be started ({reason.strip().splitlines()[-1].strip()})")
        else:
            self._fill(seat)
        if ran is None:
            return []
        ran.cost += 1
        if ran.cost == MOST_TRIES:
            return [Made(ran.task, [self._lost(ran.task, way) for way in ran.task.ways])]
        self.say(f"the worker that ran {ran.task.label} is lost; another one runs it again")
        self._again.append(ran)
        return []

    def _fill(self, seat: Seat) -> None:
        seat.actor = self.hire()
        self._await(seat, seat.actor.process.remote())

    def _await(self, seat: Seat, reference: Any) -> None:
        reference.future().add_done_callback(lambda answer: self._answers.put((seat, answer)))

    @staticmethod
    def _lost(task: Task, way: str) -> Outcome:
        # Not at the top: it imports torch.
        from sparsedit.bench.heads import failed

        return Outcome(failed(task, way, LOST))


@contextmanager
def ray_pool(
    address: str | None, *, threads: int, on_gpus: bool, most: int, pictures: bool, say: Callable[[str], None]
) -> Iterator[RayPool]:
    """Connect to the cluster at `address` (in Ray's notation), else to the one that RAY_ADDRESS names, else to a Ray of
    its own, and put at most `most` workers of so many `threads` there; with `on_gpus` on its GPUs, if it has any.

    Raises EngineError where there is none, or no room in it for a worker.
    """
    with ExitStack() as stack:
        stack.enter_context(connected(address or os.environ.get("RAY_ADDRESS")))
        hire, seats = places(Actor, (threads, pictures, Path.cwd()), threads=threads, on_gpus=on_gpus)
        pool = RayPool(Crew("ray", min(seats, most), threads), hire, say)
        stack.callback(pool.close)
        yield pool


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to a Ray: the one at `address`, or one of its own. Raises EngineError where there is none.

    Nothing is printed meanwhile: Ray tells of dead workers on stdout, which is the result's.
    """
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        own: dict[str, Any] = {}
        variables = {"RAY_USAGE_STATS_ENABLED": "0"}
        if address is None:
            # The first is Ray's switch for the loopback address; it is read when Ray is imported.
            variables |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
            variables |= {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
            folder = tempfile.TemporaryDirectory(prefix="sparsedit-ray-", dir=_FOLDERS, ignore_cleanup_errors=True)
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
            own |= {"_temp_dir": stack.enter_context(folder)}
        stack.enter_context(_variables(variables))
        import ray

        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            _knock(address)
            ray.init(address or "local", log_to_driver=False, configure_logging=False, **own)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            reason = said.splitlines()[0]
            raise EngineError(f"Ray at {address or 'this machine'} cannot be used ({reason})") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # or Ray would answer it, in its own way
        stack.callback(ray.shutdown)
        yield


def _knock(address: str | None) -> None:
    """Raise OSError where nobody answers at HOST:PORT; Ray would go on trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


def places(
    kind: type, arguments: tuple[Any, ...], *, threads: int, on_gpus: bool = False
) -> tuple[Callable[[], Any], int]:
    """What makes an actor `kind(*arguments)` of the cluster that this process is connected to, and how many find room.

    Raises EngineError where none does.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines) if on_gpus else 0
    seats = gpus or sum(int(machine.get("CPU", 0)) // threads for machine in machines)
    if not seats:
        raise EngineError(
            f"no machine of Ray's cluster has {threads} cores, as many as this process has threads: set OMP_NUM_THREADS"
        )
    actor: Any = ray.remote(kind).options(
        num_cpus=1 if gpus else threads, num_gpus=1 if gpus else 0, max_restarts=0, max_task_retries=0
    )
    return lambda: actor.remote(*arguments), seats


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
