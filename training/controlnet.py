"""Train a Canny ControlNet for the frozen UNet.

    python -m training.edges
    python -m training.controlnet

Like the small ones published for SDXL it has the UNet's residual blocks and no transformers: what a picture is of
it leaves to the UNet, which reads the caption. It starts from the UNet's weights and adds nothing at first
(Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from sparsedit.suites.scenes.scene import sample_scene
from training.arguments import add_run, command, crew_size, device_of, run_of
from training.captions import full_caption, tokenize, training_caption
from training.diffusion import Diffusion, Draw, Unet, even_levels, stratified_levels
from training.edges import PackedEdges, control_images, read_edges
from training.export import export_model
from training.fused import fuse
from training.latents import read_latents
from training.loop import Chance, Clock, Loop, Run
from training.models import denoiser_hash, load_denoiser, load_tokenizers
from training.settings import DEMO, DEMO_CANNY, EDGED, HELD_OUT, SQUARE, ControlNetSettings
from training.unet import scene_batch
from training.workers import Crew, run_crew

_VALIDATION_BATCH = 32


def new_controlnet(unet: Any, settings: ControlNetSettings) -> Any:
    """A ControlNet that adds nothing yet, its residual blocks and embeddings those of a UNet."""
    config = unet.config
    controlnet: Any = ControlNetModel(
        down_block_types=("DownBlock2D",) * len(config.block_out_channels),
        mid_block_type="UNetMidBlock2D",
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=config.cross_attention_dim,
        addition_embed_type=config.addition_embed_type,
        addition_time_embed_dim=config.addition_time_embed_dim,
        projection_class_embeddings_input_dim=config.projection_class_embeddings_input_dim,
        conditioning_embedding_out_channels=settings.edge_channels,
    )
    first = controlnet.state_dict()
    controlnet.load_state_dict(first | {name: value for name, value in unet.state_dict().items() if name in first})
    _let_edges_through(controlnet.controlnet_cond_embedding)
    return controlnet


@torch.no_grad()
def _let_edges_through(embedding: Any) -> None:
    """First weights with which edges arrive about as strong as noisy latents do.

    diffusers' last layer here is zero, and torch's first weights with SiLU, whose slope is 1/2 at 0, shrink what
    edges say to a third per layer: a short training would never see them. That nothing is added at first is left
    to the zero convolutions at the end.
    """
    for name, parameter in embedding.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            gain = 0.5 if name.startswith("conv_out") else 2.0
            parameter.normal_(0, gain * parameter[0].numel() ** -0.5)


class ControlNetTask:
    """Latents, edges and captions of random scenes."""

    def __init__(self, settings: ControlNetSettings, base: Path, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.models = load_denoiser(base)
        self.tokenizers = load_tokenizers(base)
        self.controlnet = new_controlnet(self.models.unet, settings).to(device)
        for model in self.models.parts().values():
            model.to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            fuse(self.models.unet)
            fuse(self.controlnet)
        self.latents, self.edges = read_latents(SQUARE, base), read_edges(EDGED)
        self.held_out, self.held_out_edges = read_latents(HELD_OUT, base), read_edges(HELD_OUT)
        self.diffusion = Diffusion(self.models, settings.snr_ceiling, device)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.controlnet.named_parameters())

    def more_state(self) -> list[Tensor]:
        return []

    def loss(self, step: int, chance: Chance) -> tuple[Tensor, int]:
        settings, count = self.settings, self.settings.schedule.batch
        chosen = chance.numpy.integers(len(self.edges), size=count)
        scenes = [sample_scene(int(seed)) for seed in self.latents.seeds[chosen]]
        captions = [training_caption(scene, chance.numpy, settings.captions) for scene in scenes]
        tokens = tokenize(captions, self.tokenizers)
        batch = scene_batch(self.latents.values[chosen], scenes, tokens, settings.weights)
        draw = Draw(
            noise=torch.randn(batch.latents.shape, generator=chance.torch),
            levels=stratified_levels(count, chance.torch),
            given=(torch.rand(count, generator=chance.torch) >= settings.unconditional).float(),
        )
        return self.diffusion.loss(batch, draw, self._shown(self.edges[chosen])), count

    def _shown(self, edges: PackedEdges) -> Unet:
        """The UNet with the ControlNet beside it, which sees the edges."""
        images = control_images(edges).to(self.device)

        def unet(noisy: Tensor, levels: Tensor, context: Tensor, added_cond_kwargs: dict[str, Tensor]) -> Any:
            inputs, added = (noisy, levels, context), {"added_cond_kwargs": added_cond_kwargs}
            control = self.controlnet(*inputs, images, **added)
            return self.models.unet(
                *inputs,
                **added,
                down_block_additional_residuals=control.down_block_res_samples,
                mid_block_additional_residual=control.mid_block_res_sample,
            )

        return unet

    def validate(self) -> dict[str, float]:
        """Errors of v on held-out scenes, at evenly spread levels with one noise, by what is given."""
        with_edges = {
            "edges and caption": self._error(captions=True, edges=True),
            "edges": self._error(captions=False, edges=True),
        }
        return with_edges | self._without_edges

    @cached_property
    def _without_edges(self) -> dict[str, float]:
        """The same of the UNet alone, which does not change."""
        return {
            "caption": self._error(captions=True, edges=False),
            "nothing": self._error(captions=False, edges=False),
        }

    def _error(self, *, captions: bool, edges: bool) -> float:
        latents, count = self.held_out.values, len(self.held_out.seeds)
        scenes = [sample_scene(int(seed)) for seed in self.held_out.seeds]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        levels, given = even_levels(count), torch.full((count,), float(captions))
        errors = []
        for start in range(0, count, _VALIDATION_BATCH):
            part = slice(start, start + _VALIDATION_BATCH)
            tokens = tokenize([full_caption(scene, scene.seed) for scene in scenes[part]], self.tokenizers)
            batch = scene_batch(latents[part], scenes[part], tokens, self.settings.weights)
            draw = Draw(noise[part], levels[part], given[part])
            unet = self._shown(self.held_out_edges[part]) if edges else None
            errors.append(self.diffusion.squared_errors(batch, draw, unet).cpu())
        return torch.cat(errors).mean().item()


def train(crew: Crew, run: Run, base: Path, device: torch.device) -> None:
    """One worker's part of a run."""
    torch.manual_seed(run.schedule.seed)
    Loop(ControlNetTask(run.settings, base, device), run, crew, Clock()).train()


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.controlnet", description=__doc__)
    parser.add_argument("--base", type=Path, default=DEMO, help="pipeline whose UNet to control")
    parser.add_argument("--to", type=Path, default=DEMO_CANNY, help="folder to write (default: the embedded model's)")
    add_run(parser, ControlNetSettings().schedule)
    arguments = parser.parse_args()
    device = device_of(arguments)
    settings = replace(ControlNetSettings(), base=denoiser_hash(arguments.base))
    run = run_of(arguments, "controlnet", settings)
    run_crew(crew_size(arguments, device), train, run, arguments.base, device)
    unet = load_denoiser(arguments.base).unet
    export_model(new_controlnet(unet, run.settings), run.checkpoint, arguments.to)


if __name__ == "__main__":
    main()
