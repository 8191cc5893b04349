"""Command-line options that several trainings share."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sparsedit.errors import SettingsError, SparseditError
from training.log import say
from training.loop import Run
from training.settings import Schedule


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, help="processes, one per core (default: all cores)")


def worker_count(arguments: argparse.Namespace) -> int:
    """The number of processes asked for; SettingsError when it is not positive."""
    count = arguments.workers
    if count is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 1:
        raise SettingsError(f"--workers {count}: there must be at least one.")
    return int(count)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: cuda when there is one)")


def device_of(arguments: argparse.Namespace) -> torch.device:
    """The device asked for; SettingsError when it is not there."""
    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise SettingsError(f"--device {name}: use auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingsError("--device cuda: torch sees no CUDA device; use --device cpu.")
    return torch.device(name)


def add_run(parser: argparse.ArgumentParser, schedule: Schedule) -> None:
    """Options of a training whose defaults are a schedule's."""
    parser.add_argument("--name", help="names checkpoint and log (default: as the command)")
    parser.add_argument("--minutes", type=float, default=schedule.minutes, help="length (default: %(default)g)")
    parser.add_argument("--batch", type=int, default=schedule.batch, help="per worker (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=schedule.rate, help="of Muon (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=schedule.seed)
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the run's last checkpoint, where there is one (the default)",
    )
    add_workers(parser)
    add_device(parser)


def run_of(arguments: argparse.Namespace, name: str, settings: Any) -> Run:
    """The run that the options describe, with the rest from `settings`."""
    for option in ("minutes", "batch", "rate"):
        if getattr(arguments, option) <= 0:
            raise SettingsError(f"--{option} {getattr(arguments, option):g}: it must be more than 0.")
    schedule = replace(
        settings.schedule,
        minutes=arguments.minutes,
        batch=arguments.batch,
        rate=arguments.rate,
        seed=arguments.seed,
    )
    return Run(arguments.name or name, replace(settings, schedule=schedule), arguments.resume)


def crew_size(arguments: argparse.Namespace, device: torch.device) -> int:
    """One worker per core, or one in all on a GPU."""
    if device.type == "cpu":
        return worker_count(arguments)
    if arguments.workers not in (None, 1):
        raise SettingsError(f"--workers {arguments.workers} with --device {device.type}: a GPU takes one worker.")
    return 1


def command(main: Callable[[], None]) -> Callable[[], None]:
    """A `main` that ends with a sentence and its exit code on an error of the user's."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except SparseditError as error:
            say(f"error: {error}")
            sys.exit(error.exit_code)

    return wrapped
