"""A schedule of which some steps are taken, with stock schedulers: where it passes, and what it leaves behind."""

from __future__ import annotations

import inspect
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from torch import Tensor

from sparsedit.errors import SettingsError
from sparsedit.skipping import skipping, spread

COMMON = {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
SCHEDULERS: dict[str, Any] = {
    "euler": EulerDiscreteScheduler(**COMMON),
    "euler, karras": EulerDiscreteScheduler(**COMMON, use_karras_sigmas=True),
    "euler-a": EulerAncestralDiscreteScheduler(**COMMON),
    "ddim": DDIMScheduler(**COMMON, clip_sample=False),
    "dpm++": DPMSolverMultistepScheduler(**COMMON),
    "lcm": LCMScheduler(**COMMON),
}
STEPS, FIRST = 10, 2  # a divisor of 1000: DDIM's stock stride is rounded otherwise
EVERY = tuple(range(STEPS - FIRST))


def run(scheduler: Any, wanted: Tensor | None = None) -> tuple[list[float], list[Tensor]]:
    """Denoise as pipelines do from step `FIRST` on -> timesteps, and the latents before each and after the last.

    The model sees the picture `wanted` through any noise; without it, the prediction wavers.
    """
    scheduler.set_timesteps(STEPS)
    timesteps = scheduler.timesteps[FIRST:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(FIRST)
    noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    start = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    clean = torch.zeros_like(start) if wanted is None else wanted
    latents = [scheduler.add_noise(clean, start, timesteps[:1])]
    extra = {"generator": noise} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in timesteps:
        x = latents[-1]
        scheduler.scale_model_input(x, timestep)
        picture = (0.2 * x).sin() if wanted is None else wanted
        alpha = scheduler.alphas_cumprod[timestep.long()]
        if hasattr(scheduler, "sigmas"):
            sigma = scheduler.sigmas[FIRST + len(latents) - 1]
            alpha = 1 / (1 + sigma**2)
            if not isinstance(scheduler, DPMSolverMultistepScheduler):
                x = x * alpha.sqrt()
        output = (x - alpha.sqrt() * picture) / (1 - alpha).sqrt()
        latents.append(scheduler.step(output, timestep, latents[-1], **extra, return_dict=False)[0])
    return timesteps.tolist(), latents


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_steps_kept_is_the_stock_schedule(name: str) -> None:
    pipe = SimpleNamespace(scheduler=SCHEDULERS[name])
    stock = run(pipe.scheduler)
    with skipping(pipe, FIRST, EVERY):
        kept = run(pipe.scheduler)
    assert kept[0] == stock[0]
    assert all(torch.equal(*pair) for pair in zip(kept[1], stock[1], strict=True))


@pytest.mark.parametrize("kept", [(0, 4, 7), (0, 1, 6), (0, 3)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_with_a_steady_prediction_a_short_run_passes_where_the_full_one_does(name: str, kept: tuple[int, ...]) -> None:
    """Noise drawn on the way included: both runs are driven by the same."""
    wanted = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(5))
    pipe = SimpleNamespace(scheduler=SCHEDULERS[name])
    all_timesteps, full = run(pipe.scheduler, wanted)
    with skipping(pipe, FIRST, kept):
        timesteps, short = run(pipe.scheduler, wanted)
    assert timesteps == [all_timesteps[place] for place in kept]
    for place, latents in zip((*kept, len(EVERY)), short, strict=True):
        assert torch.allclose(latents, full[place], atol=2e-4), place


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm++"])
def test_every_other_step_is_the_stock_schedule_of_half_as_many(name: str) -> None:
    """Of a schedule whose timesteps are whole numbers either way."""
    pipe = SimpleNamespace(scheduler=SCHEDULERS[name])
    half = type(pipe.scheduler).from_config(pipe.scheduler.config)
    with skipping(pipe, 0, tuple(range(0, 10, 2))):
        pipe.scheduler.set_timesteps(10)
        half.set_timesteps(5)
        assert torch.equal(pipe.scheduler.timesteps, half.timesteps)
        short, stock = torch.ones(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
        for timestep in half.timesteps:
            short = pipe.scheduler.step((3 * short).sin(), timestep, short, return_dict=False)[0]
            stock = half.step((3 * stock).sin(), timestep, stock, return_dict=False)[0]
    assert torch.allclose(short, stock, atol=1e-6)


def test_the_pipelines_scheduler_is_left_as_it_was() -> None:
    scheduler = EulerDiscreteScheduler(**COMMON)
    pipe = SimpleNamespace(scheduler=scheduler)

    def interrupted() -> None:
        with skipping(pipe, FIRST, (0, 5)):
            assert pipe.scheduler is not scheduler
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert pipe.scheduler is scheduler
    assert not {"step", "set_timesteps"} & scheduler.__dict__.keys()


@pytest.mark.parametrize(
    "scheduler",
    [PNDMScheduler(), HeunDiscreteScheduler(), DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")],
)
def test_a_scheduler_whose_steps_hang_together_is_refused(scheduler: Any) -> None:
    with (
        pytest.raises(SettingsError, match="cannot take some of its steps only"),
        skipping(SimpleNamespace(scheduler=scheduler), 0, (0, 1)),
    ):
        pass


@pytest.mark.parametrize(("count", "total"), [(2, 2), (2, 14), (3, 14), (5, 14), (13, 14), (7, 35)])
def test_steps_are_spread_from_the_first_to_the_last(count: int, total: int) -> None:
    places = spread(count, total)
    assert (places[0], places[-1], len(set(places))) == (0, total - 1, count)
    gaps = [after - place for place, after in pairwise(places)]
    assert max(gaps) - min(gaps) <= 1
