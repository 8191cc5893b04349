"""What an edit costs in multiply-adds, without running it: the pipeline's models once more, on the meta device.

A twin has a model's shapes and none of its numbers, so a full-size UNet is counted in seconds and no memory, dense
and thin by the same operators that really run; after a few masks the counts on others follow. Counted are the parts of
the pipeline that the engine knows (text encoders, UNet, ControlNets, the VAE's encoder and decoder), not the
schedulers' arithmetic or the VAE's 1x1 quantisers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsedit.errors import ModelError
from sparsedit.measure.affine import Affine
from sparsedit.measure.macs import count_macs
from sparsedit.measure.outlines import Outlines
from sparsedit.models.silence import silence
from sparsedit.sparse import ActivationCache, SitePyramid, record, sparse
from sparsedit.sparse.sites import Size
from sparsedit.stages import Stages

META = torch.device("meta")

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model on the meta device, and the arguments of one call of it."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds: `macs` of convolutions and linears, `attention_macs` of attention's products.

    `uncounted` names the operators met that multiply matrices, as far as one can tell, and have no formula.
    """

    macs: int = 0
    attention_macs: int = 0
    uncounted: frozenset[str] = frozenset()

    def __add__(self, other: Cost) -> Cost:
        uncounted = self.uncounted | other.uncounted
        return Cost(self.macs + other.macs, self.attention_macs + other.attention_macs, uncounted)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.macs * times, self.attention_macs * times, self.uncounted)


class DenseCosts:
    """Dense calls of one stage on maps of any size, most of them without a count.

    A convolution's rows are the places of one of the stage's maps, attention's the places and their pairs, so
    multiply-adds are affine in the areas of the maps and their squares, and a few counts tell those of other sizes.
    """

    def __init__(self) -> None:
        self.known = Affine()
        self.uncounted: frozenset[str] = frozenset()

    def of(self, areas: Sequence[int], count: Callable[[], Cost]) -> Cost:
        """The cost where maps have these areas, by `count` where it does not follow from those before."""
        numbers = [*areas, *(area * area for area in areas)]
        sums = self.known.values(numbers, 2)
        if sums is not None:
            return Cost(sums[0], sums[1], self.uncounted)
        cost = count()
        self.known.learn(numbers, (cost.macs, cost.attention_macs))
        self.uncounted |= cost.uncounted
        return cost


class ThinCosts:
    """Thin calls of one stage on any sites, most of them without a count.

    Every product of a thin call has the active sites of one map as its rows, so multiply-adds are affine in the numbers
    of active sites of the stage's maps, and a few counts tell those of all other sites.
    """

    def __init__(self) -> None:
        self.maps: list[Size] | None = None
        self.known = Affine()
        self.uncounted: frozenset[str] = frozenset()

    def of(self, sites: SitePyramid, count: Callable[[SitePyramid], Cost]) -> Cost:
        """The cost on `sites`, by `count` where it does not follow from those before."""
        if type(sites) is not SitePyramid or sites.empty:
            return count(sites)  # joined and padded ones have rows of other kinds, empty ones a ghost
        if self.maps is None:
            fresh = SitePyramid(sites.mask, sites.level_dilation)
            cost = count(fresh)
            self.maps = fresh.maps
        else:
            sums = self.known.values(self._counts(sites), 2)
            if sums is not None:
                return Cost(sums[0], sums[1], self.uncounted)
            cost = count(sites)
        self.known.learn(self._counts(sites), (cost.macs, cost.attention_macs))
        self.uncounted |= cost.uncounted
        return cost

    def _counts(self, sites: SitePyramid) -> list[int]:
        return [sites.level(size).count for size in self.maps or ()]


class Shapes:
    """A pipeline's models on the meta device, and what is known of their dense calls, at every size that was asked."""

    def __init__(self, stages: Stages) -> None:
        self.texts = _text_calls(stages)
        self.vae = None if stages.vae is None else _twin_of(stages.vae)
        self.unet = _twin_of(stages.unet)
        self.nets = [_twin_of(net) for net in _control_nets(stages)]
        self.dense_costs: dict[tuple[str, tuple[int, int, int]], Cost] = {}
        self.laws: dict[tuple[str, int], DenseCosts] = defaultdict(DenseCosts)


class Twin:
    """Counts the calls of one pipeline for pictures of one size; dense counts are made once.

    Stages: "text_encoder" and "text_encoder_2" (one prompt) and "text" for all there are, "encoder" and "decoder" (one
    picture), "unet" and, where the pipeline has any, "controlnet", "controlnet_2", ... (one call for `batch` latents).
    Twins of other sizes may share their `shapes`.
    """

    def __init__(self, stages: Stages, height: int, width: int, batch: int, shapes: Shapes | None = None) -> None:
        self.shapes = shapes = shapes or Shapes(stages)
        self.size = (height, width, batch)
        self.scale = stages.scale
        latent_size = stages.latent_size(height, width)
        conditions = unet_conditions(stages, batch)
        self.calls: dict[str, Call] = dict(shapes.texts)
        if shapes.vae is not None:
            self.calls["encoder"] = (shapes.vae.encoder, (_empty(1, 3, height, width),), {})
        self.calls["unet"] = (shapes.unet, (_empty(batch, stages.channels, *latent_size), 1), conditions)
        if shapes.vae is not None:
            latents = _empty(1, shapes.vae.config.latent_channels, *latent_size)
            self.calls["decoder"] = (shapes.vae.decoder, (latents,), {})
        for number, net in enumerate(shapes.nets, 1):
            picture = _empty(batch, net.config.conditioning_channels, height, width)
            shared = {name: value for name, value in conditions.items() if name != "timestep_cond"}
            self.calls["controlnet" if number == 1 else f"controlnet_{number}"] = (
                net,
                (_empty(batch, net.config.in_channels, *latent_size), 1),
                shared | {"controlnet_cond": picture},
            )
        self.caches: dict[str, ActivationCache] = {}
        self.thin_costs: dict[tuple[str, bool], ThinCosts] = {}

    def dense(self, stage: str) -> Cost:
        """One dense call of `stage`; for "text" one of every text encoder."""
        if stage == "text":
            return sum((self.dense(name) for name in self.calls if name.startswith("text_encoder")), Cost())
        # Texts are as long whatever the picture's size.
        key = (stage, (0, 0, 1) if stage in self.shapes.texts else self.size)
        costs = self.shapes.dense_costs
        if key not in costs:
            model, args, kwargs = self._call(stage)
            areas = self._areas(stage, model)
            if areas is None:
                costs[key] = _count(model, args, kwargs)
            else:
                law = self.shapes.laws[stage, self.size[2]]
                costs[key] = law.of(areas, lambda: _count(model, args, kwargs))
        return costs[key]

    def _areas(self, stage: str, model: nn.Module) -> list[int] | None:
        """Of the maps of a stage, from which those of its other maps follow; None for texts, and where nothing does."""
        height, width, _ = self.size
        if stage in self.shapes.texts or (height % self.scale, width % self.scale) != (0, 0):
            return None
        # A VAE's maps are whole multiples of its latents, a UNet's are halved time and again, and rounded up.
        levels = 1 if stage in ("encoder", "decoder") else len(cast(Any, model.config).block_out_channels)
        sides = [(-(-height // (self.scale << level)), -(-width // (self.scale << level))) for level in range(levels)]
        return [rows * columns for rows, columns in sides]

    def thin(self, stage: str, sites: SitePyramid, *, new_prompt: bool = False) -> Cost:
        """One thin call of `stage` on these sites; texts have none.

        With `new_prompt` the call projects its prompt to keys and values, as the first one of an edit does whose
        prompt is not the recorded one.
        """
        known = self.thin_costs.setdefault((stage, new_prompt), ThinCosts())
        return known.of(sites, lambda asked: self._count_thin(stage, asked, new_prompt=new_prompt))

    def recorded(self, stage: str) -> ActivationCache:
        """What a dense call of `stage` remembers, recorded once."""
        if stage not in self.caches:
            model, args, kwargs = self._call(stage)
            cache = ActivationCache()
            with torch.no_grad(), Outlines(), record(model, cache):
                model(*args, **kwargs)
            self.caches[stage] = cache
        return self.caches[stage]

    def schedule(self, stage: str, calls: int, sites: SitePyramid | None = None, *, new_prompt: bool = False) -> Cost:
        """All `calls` of a stage in one run: dense, or thin on `sites`, where a new prompt is projected once."""
        if sites is None:
            return self.dense(stage) * calls
        thin = self.thin(stage, sites)
        first = self.thin(stage, sites, new_prompt=True) if new_prompt else thin
        return first + thin * (calls - 1)

    def _count_thin(self, stage: str, sites: SitePyramid, *, new_prompt: bool) -> Cost:
        model, args, kwargs = self._call(stage)
        cache = self.recorded(stage)
        if new_prompt and "encoder_hidden_states" in kwargs:
            kwargs = kwargs | {"encoder_hidden_states": torch.empty_like(kwargs["encoder_hidden_states"])}
        with sparse(model, cache, sites):
            return _count(model, args, kwargs)

    def _call(self, stage: str) -> Call:
        if stage not in self.calls:
            raise ModelError(f"this pipeline has no stage {stage!r} to count; it has {', '.join(self.calls)}")
        return self.calls[stage]


def unet_conditions(stages: Stages, batch: int) -> dict[str, Any]:
    """The keyword arguments a pipeline gives its UNet, as empty meta tensors."""
    config: Any = stages.unet.config
    if "cross_attention_dim" not in config:
        return {}
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


def _text_calls(stages: Stages) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for part in ("", "_2"):
        encoder = getattr(stages.pipe, f"text_encoder{part}", None)
        if encoder is not None:
            with META:
                twin = type(encoder)(encoder.config)
            length = getattr(stages.pipe, f"tokenizer{part}").model_max_length
            calls[f"text_encoder{part}"] = (twin, (torch.zeros(1, length, dtype=torch.long, device=META),), {})
    return calls


def _control_nets(stages: Stages) -> list[Any]:
    """The pipeline's ControlNets: none, one, or several that are used together."""
    controlnet = getattr(stages.pipe, "controlnet", None)
    return [] if controlnet is None else list(getattr(controlnet, "nets", [controlnet]))


def _twin_of(model: Any) -> Any:
    with META, silence():  # models keep what they never read, and are told so
        return type(model).from_config(model.config)


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device=META)


def _count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost:
    with torch.no_grad(), Outlines(), count_macs() as count:
        model(*args, **kwargs)
    return Cost(count.macs, count.attention_macs, frozenset(count.uncounted))
