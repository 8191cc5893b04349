"""Train a refiner from the demo model's UNet: the last noise levels alone, as SDXL's own.

    python -m training.refiner

It reads the second text encoder only, and an aesthetic score in place of the target size. So that it is no larger
than it has to be, its lowest resolution has one transformer layer instead of two.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from torch import Tensor, nn

from training.arguments import add_run, command, crew_size, device_of, run_of
from training.captions import Tokens
from training.diffusion import Conditions, Diffusion
from training.export import assign_average, replacing
from training.fused import fuse
from training.loop import Clock, Loop, Run
from training.models import Denoiser, denoiser_hash, load_autoencoder, load_denoiser, load_tokenizers, new_scheduler
from training.pictures import LATENT_PIXELS
from training.settings import DEMO, DEMO_REFINER, RefinerSettings
from training.unet import UnetTask
from training.workers import Crew, run_crew

# Of the base's time ids a refiner has the original size and the crop; a score follows.
_KEPT_IDS = 4
_BASES_OWN = ("text_encoder_2", "tokenizer_2", "vae")


def new_refiner(base: Denoiser) -> Any:
    """A refiner's UNet with the base's weights, cut where it has less.

    With one transformer layer in the base, too, it would say what the base says of square pictures when that reads
    zeros off its first text encoder: the score does nothing yet, and what the base makes of the target size is kept.
    """
    unet, text = base.unet, base.text_encoder_2.config
    width = unet.config.addition_time_embed_dim
    kept = text.projection_dim + _KEPT_IDS * width
    changed = {
        "cross_attention_dim": text.hidden_size,
        "projection_class_embeddings_input_dim": kept + width,
        "transformer_layers_per_block": 1,
    }
    refiner: Any = UNet2DConditionModel.from_config({**unet.config, **changed})
    weights = {name: value for name, value in unet.state_dict().items() if name in refiner.state_dict()}
    for name, value in weights.items():
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weights[name] = value[:, -text.hidden_size :]
    first = weights["add_embedding.linear_1.weight"]
    side = unet.config.sample_size * LATENT_PIXELS
    target = unet.add_time_proj(torch.tensor([side, side], dtype=torch.float32)).flatten()
    weights["add_embedding.linear_1.bias"] = weights["add_embedding.linear_1.bias"] + first[:, kept:] @ target
    weights["add_embedding.linear_1.weight"] = torch.cat([first[:, :kept], torch.zeros(len(first), width)], 1)
    refiner.load_state_dict(weights)
    return refiner


class RefinerDiffusion(Diffusion):
    """A refiner's loss: captions without score are those it is guided away from, and have none."""

    def __init__(self, models: Denoiser, settings: RefinerSettings, device: torch.device) -> None:
        super().__init__(models, settings.snr_ceiling, device)
        self.settings = settings

    def conditions(self, tokens: Tokens, given: Tensor) -> Conditions:
        """Captions as the refiner takes them: the states of the second text encoder."""
        given = given.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            second = self.models.text_encoder_2(tokens.second.to(self.device), output_hidden_states=True)
        return Conditions(second.hidden_states[-2] * given[:, None, None], second.text_embeds * given[:, None], given)

    def _time_ids(self, noisy: Tensor, given: Tensor) -> Tensor:
        """The refiner's micro-conditioning [N, 5]: original size, crop, aesthetic score."""
        scores = self.settings.no_score + given * (self.settings.score - self.settings.no_score)
        return torch.cat([super()._time_ids(noisy, given)[:, :_KEPT_IDS], scores[:, None]], 1)


class RefinerTask(UnetTask):
    """The UNet's task on the last levels; the text encoder stays as it is."""

    def __init__(self, settings: RefinerSettings, base: Path, device: torch.device) -> None:
        models = load_denoiser(base)
        for text_encoder in (models.text_encoder, models.text_encoder_2):
            text_encoder.requires_grad_(False)
        self.models_of_base = models
        models = replace(models, unet=new_refiner(models))
        super().__init__(settings, models, base, device)
        self.levels = settings.levels
        self.diffusion = RefinerDiffusion(models, settings, device)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.models.unet.named_parameters())

    def validate(self) -> dict[str, float]:
        """The UNet's scores at the refiner's levels, and the base's there."""
        return super().validate() | self._bases_scores

    @cached_property
    def _bases_scores(self) -> dict[str, float]:
        models = self.models_of_base
        models.unet.to(self.diffusion.device)
        if self.diffusion.device.type == "cpu":
            fuse(models.unet)
        diffusion = Diffusion(models, self.settings.snr_ceiling, self.diffusion.device)
        return {f"base {name}": value for name, value in self.held_out_errors(diffusion).items()}


def write(run: Run, base: Path, target: Path) -> None:
    """Write the averaged refiner of a run's checkpoint to a pipeline's folder that leaves out what is the base's."""
    models, tokenizers = load_denoiser(base), load_tokenizers(base)
    unet = new_refiner(models)
    assign_average(dict(unet.named_parameters()), run.checkpoint)
    pipe: Any = StableDiffusionXLImg2ImgPipeline(
        vae=load_autoencoder(base),
        text_encoder=None,
        text_encoder_2=models.text_encoder_2,
        tokenizer=None,
        tokenizer_2=tokenizers[1],
        unet=unet.half(),
        scheduler=new_scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    with replacing(target) as beside:
        pipe.save_pretrained(beside, safe_serialization=True)
        for name in _BASES_OWN:
            shutil.rmtree(beside / name)


def train(crew: Crew, run: Run, base: Path, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    Loop(RefinerTask(run.settings, base, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.refiner", description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline to refine the latents of")
    parser.add_argument("--to", type=Path, default=DEMO_REFINER, help="folder to write the refiner to")
    add_run(parser, RefinerSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    settings = replace(RefinerSettings(), base=denoiser_hash(arguments.base))
    run = replace(run_of(arguments, "refiner", settings), settled=True)
    run_crew(crew_size(arguments, device), train, run, arguments.base, device)
    write(run, arguments.base, arguments.to)


if __name__ == "__main__":
    main()
