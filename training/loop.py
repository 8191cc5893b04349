"""The one training loop: steps, meetings of the workers, averages, validation, checkpoints, log.

What is trained is a `Task`; the UNet, the autoencoder, its decoder and the probe are one each. A run is a
function of its settings and of time alone: randomness is counted, not kept, so a resumed run draws what it
would have drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sparsedit.environment import environment
from sparsedit.errors import SettingsError
from training import checkpoint
from training.average import Average
from training.log import Log, say
from training.muon import Muon
from training.settings import LOG, WORK, Schedule
from training.workers import Crew, Note


class Chance:
    """The random numbers of one step of one worker, for numpy and for torch."""

    def __init__(self, *numbers: int) -> None:
        self.numpy = np.random.default_rng(numbers)
        self.torch = torch.Generator().manual_seed(int(self.numpy.integers(1 << 62)))


class Task(Protocol):
    """A model to train, with its data and its loss."""

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What the loop's optimizer trains."""

    def more_state(self) -> list[Tensor]:
        """Tensors beside the parameters that belong to the training's state, such as a discriminator's."""

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        """The loss of one batch, and how many samples that was."""

    def validate(self) -> dict[str, float]:
        """Scores of the present weights, by name."""


class Clock:
    """Seconds of training, those of the runs before a resume included."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._zero = now()

    def seconds(self) -> float:
        return self._now() - self._zero

    def set(self, seconds: float) -> None:
        self._zero = self._now() - seconds


@dataclass(frozen=True)
class Run:
    """A run's name, its settings, whether to go on from its checkpoint, and where its files lie.

    `settled` says that the task's first weights are trained ones.
    """

    name: str
    settings: Any  # a dataclass with a `schedule`
    resume: bool = True
    settled: bool = False
    work: Path = WORK
    log: Path = LOG

    @property
    def schedule(self) -> Schedule:
        schedule: Schedule = self.settings.schedule
        return schedule

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.pt"


def rate_factor(step: int, progress: float, schedule: Schedule) -> float:
    """What to multiply the rates with at a step when `progress` of the time in [0, 1] has passed."""
    rising = min(1.0, (step + 1) / schedule.warm_up)
    return rising * min(1.0, max(0.0, 1 - progress) / schedule.fall)


class Loop:
    """A task with its optimizer, its average and its place in time."""

    def __init__(self, task: Task, run: Run, crew: Crew, clock: Clock) -> None:
        self.task, self.run, self.crew, self.clock = task, run, crew, clock
        self.schedule = run.schedule
        named = task.named_parameters()
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = Muon(named)
        self.average = Average(self.parameters, self.schedule.average_decay, run.settled)
        self.step = 0
        self.samples = 0
        self._last_step = 0  # of the meeting before
        self._validated = self._saved = 0.0
        self._log = Log(run.log / f"{run.name}.jsonl")

    def train(self) -> None:
        """Train until the schedule's time is over; validates and saves at the end, too."""
        self._begin()
        over = self.clock.seconds() >= self._total_seconds
        if over and self.crew.leads:
            say(f"{self.run.name}: its time is over; a longer --minutes goes on, --no-resume starts anew")
        while not over:
            losses, began = [], time.monotonic()
            for _ in range(self.schedule.meet_every):
                losses.append(self._one_step())
                if self.clock.seconds() >= self._total_seconds:
                    break
            over = self._meet()
            if self.crew.leads:
                self._tell(float(torch.stack(losses).mean()), time.monotonic() - began, over)

    @property
    def _total_seconds(self) -> float:
        return self.schedule.minutes * 60

    def _one_step(self) -> Tensor:
        factor = rate_factor(self.step, self.clock.seconds() / self._total_seconds, self.schedule)
        loss, samples = self.task.loss(self.step, Chance(self.schedule.seed, self.crew.rank, self.step))
        loss.backward()
        self.optimizer.step(self.schedule.rate * factor, self.schedule.adam_rate * factor)
        self.step += 1
        self.samples += samples
        return loss.detach()

    def _meet(self) -> bool:
        """Agree on one model and one time; whether the training is over."""
        seconds = self.clock.seconds()
        state = [*self.parameters, *self.optimizer.state(), *self.task.more_state()]
        note = self.crew.meet(state, Note(seconds, seconds >= self._total_seconds))
        if not self.crew.leads:
            self.clock.set(note.seconds)
        return note.over

    def _tell(self, loss: float, seconds: float, over: bool) -> None:
        """What the leader alone does after a meeting: average, log, validate and save."""
        steps = self.step - self._last_step
        self.average.update(self.step, steps)
        now = self.clock.seconds()
        row: dict[str, Any] = {
            "step": self.step,
            "minutes": round(now / 60, 3),
            "samples": self.samples * self.crew.size,
            "loss": round(loss, 5),
            "rate": round(self.schedule.rate * rate_factor(self.step, now / self._total_seconds, self.schedule), 6),
        }
        speed = self.samples * self.crew.size * steps / self.step / seconds
        row["samples_per_second"] = round(speed, 2)
        self._last_step = self.step
        if over or now - self._validated >= self.schedule.validate_seconds:
            row["validation"] = self._validate()
            self._validated = now
        self._log.add(row)
        say(_line(self.run, row))
        if over or now - self._saved >= self.schedule.save_seconds:
            self.save()
            self._saved = now

    def _validate(self) -> dict[str, float]:
        with torch.no_grad(), self.average.applied():
            return {name: round(value, 5) for name, value in self.task.validate().items()}

    def _begin(self) -> None:
        """Go on from the checkpoint where there is one, else from the task's first weights."""
        if self.run.resume and self.run.checkpoint.is_file():
            self._restore(checkpoint.load(self.run.checkpoint))
            if self.crew.leads:
                self._log.resume(self.step)
                done = self.clock.seconds() / 60
                say(f"{self.run.name}: resumed at step {self.step}, {done:.1f} of {self.schedule.minutes:g} min")
            return
        if self.crew.leads:
            machine = environment()
            header = {"name": self.run.name, "workers": self.crew.size, "settings": asdict(self.run.settings)}
            first = self._validate()
            self._log.begin({**header, "machine": machine, "validation": first})
            say(f"{self.run.name}: starts at {_words(first)}")
        self.clock.set(0)

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "settings": asdict(self.run.settings),
            "step": self.step,
            "samples": self.samples,
            "seconds": self.clock.seconds(),
            "parameters": dict(zip(self.names, self.parameters, strict=True)),
            "average": dict(zip(self.names, self.average.values, strict=True)),
            "optimizer": self.optimizer.state(),
            "more": self.task.more_state(),
        }
        checkpoint.save(self.run.checkpoint, state)

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        _check_settings(self.run, state["settings"])
        self.step, self.samples = state["step"], state["samples"]
        self._last_step = self.step
        for name, parameter, value in zip(self.names, self.parameters, self.average.values, strict=True):
            parameter.copy_(state["parameters"][name])
            value.copy_(state["average"][name])
        for tensor, kept in zip(self.optimizer.state(), state["optimizer"], strict=True):
            tensor.copy_(kept)
        for tensor, kept in zip(self.task.more_state(), state["more"], strict=True):
            tensor.copy_(kept)
        self._validated = self._saved = state["seconds"]
        self.clock.set(state["seconds"])


def _check_settings(run: Run, kept: dict[str, Any]) -> None:
    """A run goes on only with its own settings; how long it is and when it saves may change."""
    free = ("minutes", "validate_seconds", "save_seconds")
    before, now = _flat(kept), _flat(asdict(run.settings))
    changed = sorted(
        name
        for name in before.keys() | now.keys()
        if before.get(name) != now.get(name) and name.rpartition(".")[2] not in free
    )
    if changed:
        raise SettingsError(
            f"{run.checkpoint} was begun with another {', '.join(changed)}: use the same settings to resume, "
            "or --no-resume to start anew."
        )


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value})
    return flat


def _line(run: Run, row: dict[str, Any]) -> str:
    text = (
        f"{run.name}: {row['minutes']:.1f} of {run.schedule.minutes:g} min, step {row['step']}, "
        f"{row['samples_per_second']:.1f} samples/s, loss {row['loss']:.4f}"
    )
    return f"{text}, validation {_words(row['validation'])}" if "validation" in row else text


def _words(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
