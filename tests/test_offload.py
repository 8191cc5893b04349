"""Models whose weights wait elsewhere: what `--offload` means, and thin calls that fetch what they read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from torch import nn

from sparsedit.errors import EngineError, SettingsError
from sparsedit.models import placement
from sparsedit.models.loading import load_pipeline
from sparsedit.models.placement import HEADROOM, check_offload, choose_offload
from tests.engine import edited, outputs, recorded, relative_error, same_bits, sites_of, size_of
from tests.families import FAMILIES
from tests.pipelines import tiny_sd15

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["sdxl", "sd15", "ddim", "kl-decoder", "kl-encoder"])
def test_layers_that_lie_elsewhere_are_fetched_for_thin_calls(name: str) -> None:
    size, sites = size_of(name, "even"), sites_of("block", size_of(name, "even"))
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    plain = FAMILIES[name].build()
    with torch.no_grad():
        wanted = edited(plain, recorded(plain, original)[0], sites, changed)
        model = cpu_offload(FAMILIES[name].build(), execution_device=CPU)
        assert all(weight.is_meta for weight in model.parameters())
        result = edited(model, recorded(model, original)[0], sites, changed)
        again = edited(model, recorded(model, original)[0], sites, changed)
    # Of a norm that lies elsewhere the statistics are taken by a pass of their own, which may differ in the last bit.
    assert relative_error(result, wanted) < 1e-6
    assert same_bits(again, result)
    assert all(weight.is_meta for weight in model.parameters())


def test_a_model_that_lies_elsewhere_whole() -> None:
    size, sites = size_of("sdxl", "even"), sites_of("block", size_of("sdxl", "even"))
    original, changed = (FAMILIES["sdxl"].inputs(2, size, seed) for seed in (5, 6))
    plain = FAMILIES["sdxl"].build()
    model, _ = cpu_offload_with_hook(FAMILIES["sdxl"].build(), CPU)
    with torch.no_grad():
        wanted = edited(plain, recorded(plain, original)[0], sites, changed)
        assert same_bits(edited(model, recorded(model, original)[0], sites, changed), wanted)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_needs_a_cuda_gpu(offload: str) -> None:
    with pytest.raises(SettingsError, match=f"offload '{offload}' lets models wait.*on cpu they lie there already"):
        load_pipeline("demo", device="cpu", offload=offload)


def test_auto_on_a_cpu_is_none() -> None:
    pipe: Any = load_pipeline("demo", device="cpu", offload="auto")
    assert not any(hasattr(part, "_hf_hook") for part in pipe.unet.modules())


def test_an_unknown_offload() -> None:
    with pytest.raises(
        SettingsError, match=r"unknown offload 'modle': use none, model, sequential, auto; did you mean"
    ):
        check_offload("modle", CPU)
    check_offload("model", torch.device("cuda", 0))


def test_auto_keeps_as_much_on_the_gpu_as_fits() -> None:
    pipe = tiny_sd15()
    sizes = [
        sum(w.nbytes for w in part.parameters()) for part in pipe.components.values() if isinstance(part, nn.Module)
    ]
    assert choose_offload(pipe, None) == "none"
    assert choose_offload(pipe, sum(sizes) + HEADROOM) == "none"
    assert choose_offload(pipe, sum(sizes) + HEADROOM - 1) == "model"
    assert choose_offload(pipe, max(sizes) + HEADROOM - 1) == "sequential"


@pytest.mark.parametrize(("offload", "called"), [("model", "enable_model_cpu_offload"), ("none", "to")])
def test_a_pipeline_is_placed_by_diffusers_own_means(
    offload: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, calls = tiny_sd15(), []
    monkeypatch.setattr(pipe, "to", lambda device: calls.append(("to", device)))
    monkeypatch.setattr(
        pipe, "enable_model_cpu_offload", lambda device: calls.append(("enable_model_cpu_offload", device))
    )
    placement.place(pipe, CPU, offload)
    assert calls == [(called, CPU)]


def test_attention_slicing_changes_nothing_and_other_processors_are_refused() -> None:
    """Thin attention has few queries and is never sliced; a dense pass is, as it was asked for."""
    name, size = "sdxl", size_of("sdxl", "even")
    sites = sites_of("block", size)
    original, changed = (FAMILIES[name].inputs(2, size, seed) for seed in (5, 6))
    model: Any = FAMILIES[name].build()
    with torch.no_grad():
        wanted = edited(model, recorded(model, original)[0], sites, changed)
        model.set_attention_slice("max")
        sliced = edited(model, recorded(model, original)[0], sites, changed)
        for new, old in zip(outputs(sliced), outputs(wanted), strict=True):
            assert torch.allclose(new, old, atol=1e-5)

        class Own:
            pass

        attention = model.mid_block.attentions[0].transformer_blocks[0].attn1
        attention.processor = Own()
        with pytest.raises(EngineError, match=r"mid_block.attentions.0.*\(Attention with Own\)"):
            recorded(model, original)
