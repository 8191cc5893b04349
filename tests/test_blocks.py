"""Blocks that run as one: every bit that of their modules, and only where a module is nothing but what was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from sparsedit.sparse import ActivationCache, blocks, record, renewing, sparse, surface
from sparsedit.sparse.blocks import Residual, Transformer, find_blocks, mirrored
from sparsedit.sparse.survey import find_leaves
from tests.engine import edited, model_of, recorded, same_bits, sites_of, size_of
from tests.families import FAMILIES, Family

PARTS = (ResnetBlock2D, BasicTransformerBlock, Transformer2DModel)
KINDS = ["scattered", "corner", "full"]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@contextmanager
def module_by_module() -> Iterator[None]:
    """Contexts that are entered within know no blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surface, "find_blocks", lambda model, leaves: [])
        yield


def blocks_of(model: nn.Module) -> list[Any]:
    return find_blocks(model, find_leaves(model))


def parts_of(model: nn.Module) -> int:
    return sum(type(module) in PARTS for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moments", [False, True], ids=["original", "updated"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_bit_is_that_of_the_modules(name: str, moments: bool, kind: str) -> None:
    model, size = model_of(name), size_of(name, "odd")
    then, now = (FAMILIES[name].inputs(2, size, seed) for seed in (1, 2))
    memory, sites = ActivationCache(), sites_of(kind, size)
    with record(model, memory, moments=moments):
        model(**then)
    found = edited(model, memory, sites, now)
    with module_by_module():
        assert same_bits(found, edited(model, memory, sites, now))


@pytest.mark.parametrize("name", ["sdxl", "sd15", "controlnet", "kl-decoder"])
def test_what_a_renewal_holds_is_the_same(name: str) -> None:
    model, size = model_of(name), size_of(name, "even")
    then, now = (FAMILIES[name].inputs(1, size, seed) for seed in (1, 2))
    memory, _ = recorded(model, then)

    def fresh() -> dict[str, tuple[torch.Tensor, ...]]:
        with renewing(model, memory, sites_of("corner", size)) as renewal:
            model(**now)
        return renewal.calls[0].leaves

    found = fresh()
    with module_by_module():
        expected = fresh()
    assert found.keys() == expected.keys()
    assert all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_that_was_read_is_found(name: str) -> None:
    found = blocks_of(model_of(name))
    assert sum(parts_of(block.module) for block in found) == parts_of(model_of(name))
    assert {type(block) for block in found} <= {Residual, Transformer}


def unets() -> Family:
    return FAMILIES["sdxl"]


def test_a_hook_is_called_and_its_module_asked() -> None:
    model, size = unets().build(), size_of("sdxl", "even")
    memory, _ = recorded(model, unets().inputs(1, size, 1))
    called: list[str] = []
    layer: Any = model.get_submodule("mid_block.attentions.0.transformer_blocks.0.ff")
    layer.register_forward_hook(lambda *_: called.append("ff"))
    whole = len(blocks_of(model_of("sdxl")))
    assert len(blocks_of(model)) == whole  # the layers beside it still run as one, the transformer does not
    edited(model, memory, sites_of("corner", size), unets().inputs(1, size, 2))
    assert called == ["ff"]


@pytest.mark.parametrize("change", ["activation", "chunks", "dropout", "forward", "norm", "subclass"])
def test_a_module_that_is_more_than_a_block_is_asked(change: str) -> None:
    model: Any = unets().build()
    resnet, layer = model.mid_block.resnets[0], model.mid_block.attentions[0].transformer_blocks[0]
    if change == "activation":
        resnet.nonlinearity = nn.GELU()
    elif change == "chunks":
        layer.set_chunk_feed_forward(2)
    elif change == "dropout":
        resnet.dropout.train()
    elif change == "forward":
        resnet.dropout.forward = lambda x: 2 * x
    elif change == "norm":
        layer.norm2 = nn.Identity()
    else:
        layer.ff.__class__ = type("Other", (type(layer.ff),), {})
    owner = layer if change in ("chunks", "norm", "subclass") else resnet
    found = [block.module for block in blocks_of(model)]
    assert not any(owner in set(module.modules()) for module in found)
    assert parts_of(model) - sum(parts_of(module) for module in found) == (2 if owner is layer else 1)


def test_arguments_that_a_block_does_not_know_reach_the_module() -> None:
    model: Any = unets().build()
    size = size_of("sdxl", "even")
    memory, _ = recorded(model, unets().inputs(1, size, 1))
    resnet = model.mid_block.resnets[0]
    with sparse(model, memory, sites_of("corner", size)), pytest.raises(TypeError, match="temb"):
        resnet(torch.zeros(1, 32, 4, 4))


def test_with_other_code_in_diffusers_every_module_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "DIGEST", "0" * 64)
    mirrored.cache_clear()
    try:
        assert not blocks_of(model_of("sdxl"))
    finally:
        monkeypatch.undo()
        mirrored.cache_clear()
    assert mirrored(), "diffusers has changed: read MIRRORED again, then take over the new digest"
