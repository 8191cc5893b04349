"""Where the steps of a recording lie: in the device's memory, in the computer's, or in files, in this order.

A step goes to the first tier that has room for it. From the lower ones the next step is brought while the present one
is computed with: files are read, and at their first use verified, by a thread; to a GPU steps travel on a stream of
their own. On a CPU a file's tensors are used where they are mapped, so there the system's page cache decides what of
them is in memory.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparsedit.cache.folder import RecordingFolder
from sparsedit.cache.steps import step_of, step_parts, text_parts, texts_of
from sparsedit.cache.tensors import TensorFile, open_tensors, write_tensors
from sparsedit.errors import CacheError, DamagedError
from sparsedit.sparse import ActivationCache
from sparsedit.sparse.cache import Step
from sparsedit.sparse.halo import KeptRows

AHEAD = 3
"""Steps on their way to a device or just used there: the two an interpolation reads, and the next."""


@dataclass
class Tier:
    """Room for steps in the memory of a device, in bytes; None is no limit. The caches of a recording share tiers."""

    device: torch.device
    room: int | None
    pinned: bool = False
    used: int = 0

    def take(self, nbytes: int) -> bool:
        """Whether there is room for so much more; it is then taken."""
        if self.room is not None and self.used + nbytes > self.room:
            return False
        self.used += nbytes
        return True


def tiers_of(device: torch.device, budget: int | None, *, on_disk: bool) -> list[Tier]:
    """The tiers in memory under a budget for all of them together.

    A GPU keeps half of its free memory for the calls. Without a budget what is also on the disk is left there on a CPU,
    whose page cache does the rest, and what is nowhere else is held whatever it takes.
    """
    if device.type != "cuda":
        return [Tier(device, 0 if budget is None and on_disk else budget)]
    free = torch.cuda.mem_get_info(device)[0] // 2
    own = free if budget is None else min(free, budget)
    rest = budget - own if budget is not None else 0 if on_disk else None
    return [Tier(device, own), Tier(torch.device("cpu"), rest, pinned=True)]


class TieredCache(ActivationCache):
    """A stage's recorded steps, made smaller by `compact` as they arrive, in `tiers` and, with a `folder`, in files.

    `steps` holds them all, those in files as mapped tensors, and blanks for the `broken` ones. `waited_s` adds up the
    seconds for which a caller had to wait for a step to be read, verified and brought.
    """

    def __init__(
        self,
        stage: str,
        device: torch.device,
        tiers: Sequence[Tier],
        compact: Callable[[Step], Step],
        folder: RecordingFolder | None,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.device = device
        self.tiers = tiers
        self.compact = compact
        self.folder = folder
        self.waited_s = 0.0
        self.broken: set[int] = set()
        self._files: dict[int, TensorFile] = {}
        self._taken: list[tuple[Tier, int]] = []
        self._verified: set[int] = set()
        self._kept: list[KeptRows] = []
        self._coming: OrderedDict[int, Future[Step]] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None

    def append(self, step: Step) -> None:
        """Remember one more call, on the disk first where there is a folder.

        Raises CacheError when there is no folder and no tier has room, or the file cannot be written.
        """
        number, step = len(self.steps), self.compact(step)
        if self.folder is not None:
            write_tensors(self.folder.step(self.stage, number), *step_parts(step))
        tier = next((tier for tier in self.tiers if tier.take(step.nbytes)), None)
        if tier is not None:
            self._taken.append((tier, step.nbytes))
            step = step.mapped(lambda tensor: _put(tensor, tier))
        elif self.folder is not None:
            step = self._map(number)
        else:
            raise CacheError(
                f"step {number + 1} of {self.stage} needs {step.nbytes} bytes more than the budget for the cache has"
            )
        super().append(step)

    def finish(self) -> None:
        """Write the prompts, after the last step."""
        if self.folder is not None:
            write_tensors(self.folder.texts(self.stage), *text_parts(self.texts))

    def load(self, count: int) -> None:
        """Take up the `count` steps in the folder. Files that cannot be mapped are `broken` steps.

        Raises DamagedError where the prompts are not as they were written.
        """
        assert self.folder is not None
        self.clear()
        self.texts = texts_of(_verified(open_tensors(self.folder.texts(self.stage))), self.device)
        for number in range(count):
            try:
                step = self._map(number)
            except DamagedError:
                self.broken.add(number)
                step = Step((0, 0), 0, torch.float32, self.device)
            super().append(step)

    def clear(self) -> None:
        """Forget everything in memory; files stay."""
        super().clear()
        for tier, nbytes in self._taken:
            tier.used -= nbytes
        for held in (self.broken, self._files, self._taken, self._verified, self._kept, self._coming):
            held.clear()

    def step(self, number: int) -> Step:
        """The n-th recorded call, where it can be computed with; reading the next one begins.

        Raises CacheError when there is none, DamagedError when its file is not what was written.
        """
        super().step(number)
        start = time.perf_counter()
        step = self._ask(number).result()
        if self._stream is not None:
            own = torch.cuda.current_stream(self.device)
            own.wait_stream(self._stream)
            step.mapped(lambda tensor: _used_on(tensor, own))
        self.waited_s += time.perf_counter() - start
        if number + 1 < len(self.steps):
            self._ask(number + 1)
        return step

    def mend(self, number: int, step: Step) -> None:
        """Write a step in the place of a damaged one's file. Raises CacheError when that cannot be written."""
        assert self.folder is not None
        write_tensors(self.folder.step(self.stage, number), *step_parts(self.compact(step)))
        self._coming.pop(number, None)
        self.broken.discard(number)
        self.steps[number] = self._map(number)

    def settle(self, tiers: Sequence[Tier]) -> None:
        """Bring all steps into the memory of `tiers`, those in files verified, to be changed there; files stay.

        Raises CacheError where there is no room, DamagedError as `step`.
        """
        for number, step in enumerate(self.steps):
            tier = next((tier for tier in tiers if tier.take(step.nbytes)), None)
            if tier is None:
                raise CacheError(f"step {number + 1} of {self.stage} needs {step.nbytes} bytes more than there are")
            if number in self._files:
                self.step(number)
                self.steps[number] = step.mapped(partial(_copy, tier=tier))
            self._taken.append((tier, step.nbytes))
        self._files.clear()
        self._coming.clear()

    def home(self, number: int) -> Step | None:
        if number in self._files:
            raise CacheError(
                f"step {number + 1} of {self.stage} lies in a file, which is never changed: settle() first"
            )
        self._coming.pop(number, None)  # a copy of what it was
        return super().home(number)

    def _ask(self, number: int) -> Future[Step]:
        """The step, here or on its way; of those that were brought the last used ones are kept."""
        if number not in self._coming:
            self._coming[number] = self._bring(number)
        self._coming.move_to_end(number)
        while len(self._coming) > AHEAD:
            self._coming.popitem(last=False)
        return self._coming[number]

    def _bring(self, number: int) -> Future[Step]:
        if number in self.broken:
            assert self.folder is not None
            never: Future[Step] = Future()
            never.set_exception(DamagedError(f"{self.folder.step(self.stage, number)} is missing or damaged"))
            return never
        if self.device.type != "cuda" and number not in self._files:
            here: Future[Step] = Future()
            here.set_result(self.steps[number])
            return here
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"steps of {self.stage}")
            self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        return self._thread.submit(self._read, number)

    def _read(self, number: int) -> Step:
        """Runs in the thread: a step verified at its first use, then read ahead, and brought to the device."""
        if file := self._files.get(number):
            if number in self._verified:
                file.touch()
            else:
                _verified(file)
                self._verified.add(number)
        with torch.cuda.stream(self._stream):
            return self.steps[number].mapped(lambda tensor: tensor.to(self.device, non_blocking=True))

    def _map(self, number: int) -> Step:
        assert self.folder is not None
        self._files[number] = open_tensors(self.folder.step(self.stage, number))
        return step_of(self._files[number], self.device, self._kept)


def _verified(file: TensorFile) -> TensorFile:
    file.verify()
    return file


def _used_on(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """Its memory, of another stream's, is not given away before `stream` has done what it was given so far."""
    tensor.record_stream(stream)
    return tensor


def _copy(tensor: Tensor, tier: Tier) -> Tensor:
    return _put(tensor.clone(), tier)


def _put(tensor: Tensor, tier: Tier) -> Tensor:
    moved = tensor.to(tier.device)
    return moved.pin_memory() if tier.pinned else moved
