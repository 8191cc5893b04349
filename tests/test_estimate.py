"""The memory a model needs is known before it is loaded, to the byte of its tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparsedit.measure.estimate import estimate_memory, peak_of_call
from sparsedit.models.presets import PRESETS
from sparsedit.models.random import random_pipeline
from sparsedit.sparse import ActivationCache, record


def meta(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return random_pipeline(PRESETS[name], dtype, device="meta")


def test_a_chain_holds_two_maps_at_a_time() -> None:
    chain = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)])
    one = 4 * 32 * 32 * 4
    assert peak_of_call(chain, (torch.zeros(1, 4, 32, 32),), {}) == 2 * one


def test_what_is_given_is_not_counted_and_views_are_no_copies() -> None:
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.view(-1)[:10] + 1).unsqueeze(0)

    assert peak_of_call(Views(), (torch.zeros(8, 8),), {}) == 40


@pytest.mark.parametrize("stage", ["encoder", "decoder"])
def test_the_estimate_is_what_a_real_call_holds(stage: str) -> None:
    pipe: Any = random_pipeline(PRESETS["demo"])
    model = getattr(pipe.vae, stage).requires_grad_(False)
    given = torch.randn(1, 3, 128, 128) if stage == "encoder" else torch.randn(1, 4, 16, 16)
    need = estimate_memory(meta("demo"), 128, 128, guided=False)
    cache = ActivationCache()
    with record(model, cache):
        model(given)
    assert need.calls[stage] == peak_of_call(model, (given,), {})
    assert need.cache[stage] == cache.nbytes


def test_weights_are_those_of_the_published_model() -> None:
    need = estimate_memory(meta("sd15", torch.bfloat16), 512, 512, guided=True)
    assert need.weights == {"vae": 167_307_726, "text_encoder": 246_120_960, "unet": 1_719_041_928}
    assert need.peak == sum(need.weights.values()) + max(need.calls.values())


def test_a_guided_call_has_two_rows_and_a_recording_one_cache_a_step() -> None:
    one, two = (estimate_memory(meta("demo"), 64, 64, guided=guided) for guided in (False, True))
    assert two.calls["unet"] == pytest.approx(2 * one.calls["unet"], rel=0.05)
    assert two.cache["unet"] == pytest.approx(2 * one.cache["unet"], rel=0.05)
    once = one.cache["encoder"] + one.cache["decoder"]
    assert one.recording(10) == 10 * one.cache["unet"] + once


def test_a_model_on_pixels_has_weights_alone() -> None:
    need = estimate_memory(meta("ddim-church"), 256, 256, guided=False)
    assert (need.peak, need.calls) == (4 * 113_673_219, {})


def test_a_size_that_is_padded_needs_what_the_padded_one_does() -> None:
    odd, padded = (estimate_memory(meta("demo"), height, 64, guided=False) for height in (60, 64))
    assert odd == padded
