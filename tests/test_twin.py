"""A twin counts every stage of a pipeline without running it, as the pipeline's own models count when they run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from PIL import Image
from torch import nn

from sparsedit.editor import SparseEditor
from sparsedit.engines.costs import MAX_TWINS, Counter
from sparsedit.errors import ModelError
from sparsedit.measure import twin as counting
from sparsedit.measure.macs import count_macs
from sparsedit.measure.twin import Cost, Shapes, Twin
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from sparsedit.sparse.rows import map_tensors
from sparsedit.stages import Stages
from tests.pipelines import tiny_sd15, tiny_sdxl

HEIGHT, WIDTH, BATCH = 64, 96, 2
MASK = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
MASK[20:30, 41:50] = True
SITES = SitePyramid.from_mask(MASK)


def controlled() -> StableDiffusionXLControlNetPipeline:
    """The tiny SDXL pipeline with two ControlNets, one for colour pictures and one for grey ones."""
    pipe = tiny_sdxl()
    nets = [ControlNetModel.from_unet(pipe.unet, conditioning_channels=channels) for channels in (3, 1)]
    return StableDiffusionXLControlNetPipeline(**pipe.components, controlnet=nets)


def models_of(pipe: Any) -> dict[str, nn.Module]:
    """The pipeline's models by the twin's names for their stages."""
    models = {name: part for name, part in pipe.components.items() if name.startswith("text_encoder")}
    models |= {"encoder": pipe.vae.encoder, "unet": pipe.unet, "decoder": pipe.vae.decoder}
    nets = getattr(getattr(pipe, "controlnet", None), "nets", [])
    return {**models, **dict(zip(("controlnet", "controlnet_2"), nets, strict=False))}


def counted(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost:
    with torch.no_grad(), count_macs() as count:
        model(*args, **kwargs)
    return Cost(count.macs, count.attention_macs)


@pytest.mark.parametrize(
    "build",
    [tiny_sdxl, lambda: tiny_sdxl(tiny_vae=True), tiny_sd15, lambda: tiny_sd15(9), controlled],
    ids=["sdxl", "tiny VAE", "one text encoder", "inpainting", "two ControlNets"],
)
def test_a_stage_costs_what_its_model_costs(build: Any) -> None:
    pipe = build()
    twin, models = Twin(Stages(pipe), HEIGHT, WIDTH, BATCH), models_of(pipe)
    assert set(twin.calls) == set(models)
    for stage, model in models.items():
        args, kwargs = map_tensors(twin.calls[stage][1:], lambda tensor: torch.ones(tensor.shape).to(tensor.dtype))
        assert twin.dense(stage) == counted(model, args, kwargs)
        if not stage.startswith("text"):
            cache = ActivationCache()
            with record(model, cache), torch.no_grad():
                model(*args, **kwargs)
            with sparse(model, cache, SITES):
                assert twin.thin(stage, SITES) == counted(model, args, kwargs)


def test_text_is_all_text_encoders() -> None:
    twin = Twin(Stages(tiny_sdxl()), HEIGHT, WIDTH, BATCH)
    assert twin.dense("text") == twin.dense("text_encoder") + twin.dense("text_encoder_2")
    twin = Twin(Stages(tiny_sd15()), HEIGHT, WIDTH, BATCH)
    assert twin.dense("text") == twin.dense("text_encoder") != Cost()


def test_a_new_prompt_is_projected_once_in_a_schedule() -> None:
    pipe = tiny_sdxl()
    twin = Twin(Stages(pipe), HEIGHT, WIDTH, BATCH)
    projections = [part for name, part in pipe.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    weights = sum(part.in_features * part.out_features for part in projections)
    once = Cost(BATCH * pipe.tokenizer.model_max_length * weights)
    thin = twin.thin("unet", SITES)
    assert twin.thin("unet", SITES, new_prompt=True) == thin + once
    assert twin.schedule("unet", 7, SITES) == thin * 7
    assert twin.schedule("unet", 7, SITES, new_prompt=True) == thin * 7 + once
    assert twin.schedule("unet", 7) == twin.dense("unet") * 7
    assert twin.schedule("decoder", 1, SITES, new_prompt=True) == twin.thin("decoder", SITES)


def test_a_stage_that_the_pipeline_lacks() -> None:
    twin = Twin(Stages(tiny_sd15()), HEIGHT, WIDTH, BATCH)
    with pytest.raises(ModelError, match="no stage 'controlnet' to count; it has text_encoder, encoder, unet, decoder"):
        twin.dense("controlnet")
    with pytest.raises(ModelError, match="no stage 'text_encoder_2'"):
        twin.thin("text_encoder_2", SITES)


def test_twins_of_several_sizes_share_their_models_and_count_as_they_do_alone() -> None:
    stages = Stages(tiny_sdxl())
    shapes = Shapes(stages)
    large, small = Twin(stages, HEIGHT, WIDTH, 2, shapes), Twin(stages, 32, 64, 2, shapes)
    alone = Twin(stages, 32, 64, 2)
    for stage in ("text", "encoder", "unet", "decoder"):
        large.dense(stage)  # the other size first, so that nothing of it may be taken for this one
        assert small.dense(stage) == alone.dense(stage)
    sites = SitePyramid.from_mask(MASK[:32, :64])
    large.thin("unet", SITES)
    assert small.thin("unet", sites) == alone.thin("unet", sites)
    assert Twin(stages, HEIGHT, WIDTH, 1, shapes).dense("unet") != large.dense("unet")


def test_a_counter_counts_every_size_once_and_keeps_what_thin_ones_taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole picture and crops of it take turns, as in a bench; the crops come in more sizes than twins are kept."""
    counts: list[nn.Module] = []
    count = counting._count
    monkeypatch.setattr(counting, "_count", lambda *call: counts.append(call[0]) or count(*call))
    editor, counter = SparseEditor(tiny_sdxl()), Counter()
    settings: dict[str, Any] = {"prompt": "a hill", "steps": 4, "strength": 0.8, "guidance": 3.0}

    def ask(width: int, sites: SitePyramid | None = None) -> Cost:
        stages = counter.stages(editor, editor.request(Image.new("RGB", (width, HEIGHT)), **settings))
        return sum((cost.cost(None if stage == "text" else sites) for stage, cost in stages.items()), Cost())

    thin, crops = ask(WIDTH, SITES), [ask(8 * columns) for columns in range(1, 2 * MAX_TWINS)]
    assert len(counter.twins) == MAX_TWINS
    for columns, crop in enumerate(crops, 1):
        ask(WIDTH, SITES)
        before = len(counts)
        assert (ask(WIDTH, SITES), ask(8 * columns)) == (thin, crop)
        assert len(counts) == before
