"""What an edit costs in multiply-adds, without running it: the pipeline's models once more, on the meta device.

A twin has a model's shapes and none of its numbers, so a full-size UNet is counted in seconds and no memory, dense
and thin by the same operators that really run. Text keys and values are computed once per prompt and therefore not
part of a thin call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsedit.measure.macs import count_macs
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from sparsedit.stages import Stages

META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one call: `macs` of convolutions and linears, `attention_macs` of attention's products."""

    macs: int
    attention_macs: int


class Twin:
    """Counts the calls of one pipeline for pictures of one size; dense counts are made once."""

    def __init__(self, stages: Stages, height: int, width: int, batch: int) -> None:
        original: Any = stages.unet
        with META:
            unet = type(original).from_config(original.config)
            vae = type(stages.vae).from_config(stages.vae.config)
        latents = torch.empty(batch, stages.channels, *stages.latent_size(height, width), device=META)
        latent_channels = stages.vae.config.latent_channels
        self.calls: dict[str, tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = {
            "encoder": (vae.encoder, (torch.empty(1, 3, height, width, device=META),), {}),
            "unet": (unet, (latents, 1), unet_conditions(stages, batch)),
            "decoder": (vae.decoder, (torch.empty(1, latent_channels, *latents.shape[2:], device=META),), {}),
        }
        self.caches: dict[str, ActivationCache] = {}
        self.dense_costs: dict[str, Cost] = {"text": text_cost(stages)}

    def dense(self, stage: str) -> Cost:
        """One dense call of `stage`: "text" (one prompt), "encoder", "unet" or "decoder"."""
        if stage not in self.dense_costs:
            model, args, kwargs = self.calls[stage]
            self.dense_costs[stage] = _count(model, args, kwargs)
        return self.dense_costs[stage]

    def thin(self, stage: str, sites: SitePyramid) -> Cost:
        """One thin call of `stage` on these sites; text has none."""
        model, args, kwargs = self.calls[stage]
        if stage not in self.caches:
            self.caches[stage] = ActivationCache()
            with torch.no_grad(), record(model, self.caches[stage]):
                model(*args, **kwargs)
        with sparse(model, self.caches[stage], sites):
            return _count(model, args, kwargs)


def text_cost(stages: Stages) -> Cost:
    """Multiply-adds of encoding one text with all text encoders of the pipeline."""
    macs = attention_macs = 0
    for part in ("", "_2"):
        encoder, tokenizer = (
            getattr(stages.pipe, f"text_encoder{part}", None),
            getattr(stages.pipe, f"tokenizer{part}", None),
        )
        if encoder is None or tokenizer is None:
            continue
        with META:
            twin = type(encoder)(encoder.config)
        tokens = torch.zeros(1, tokenizer.model_max_length, dtype=torch.long, device=META)
        cost = _count(twin, (tokens,), {})
        macs, attention_macs = macs + cost.macs, attention_macs + cost.attention_macs
    return Cost(macs, attention_macs)


def unet_conditions(stages: Stages, batch: int) -> dict[str, Any]:
    """The keyword arguments a pipeline gives its UNet, as empty meta tensors."""
    config: Any = stages.unet.config
    tokens = stages.pipe.tokenizer or stages.pipe.tokenizer_2
    conditions: dict[str, Any] = {
        "encoder_hidden_states": _empty(batch, tokens.model_max_length, config.cross_attention_dim)
    }
    if config.addition_embed_type == "text_time":
        pooled = stages.pipe.text_encoder_2.config.projection_dim
        ids = (config.projection_class_embeddings_input_dim - pooled) // config.addition_time_embed_dim
        conditions["added_cond_kwargs"] = {
            "text_embeds": _empty(batch, pooled),
            "time_ids": _empty(batch, ids),
        }
    if config.time_cond_proj_dim is not None:
        conditions["timestep_cond"] = _empty(batch, config.time_cond_proj_dim)
    return conditions


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device=META)


def _count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost:
    with torch.no_grad(), count_macs() as count:
        model(*args, **kwargs)
    return Cost(count.macs, count.attention_macs)
