"""Single leaves, leaves used twice, and what a survey of modules cannot see."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from sparsedit.errors import EngineError
from sparsedit.sparse import sparse
from tests.engine import edited, model_of, recorded, relative_error, same_bits, sites_of, whole
from tests.families import FAMILIES, noise
from tests.reference import Reference

LIMIT = 1e-5
SIZE = (9, 11)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


LEAVES = {
    "conv": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "strided conv": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1),
    "conv of one pixel": lambda: nn.Conv2d(8, 8, 1, bias=False),
    "norm": lambda: nn.GroupNorm(2, 8),
    "plain norm": lambda: nn.GroupNorm(2, 8, affine=False),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "nearest by four": lambda: nn.Upsample(scale_factor=4.0),
    "nearest to a size": lambda: nn.Upsample(size=(17, 21)),
    "up": lambda: Upsample2D(8, use_conv=True),
    "up without conv": lambda: Upsample2D(8),
    "down": lambda: Downsample2D(8, use_conv=True),
    "asymmetric down": lambda: Downsample2D(8, use_conv=True, padding=0),
    "attention": lambda: Attention(8, heads=2, dim_head=4, norm_num_groups=2, residual_connection=True),
    "scaled attention": lambda: Attention(8, heads=2, dim_head=4, bias=True, rescale_output_factor=2.0),
    "old name": lambda: Downsample2D(8, use_conv=True, name="Conv2d_0"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_model_may_be_a_single_leaf(name: str) -> None:
    torch.manual_seed(0)
    model = LEAVES[name]()
    original, changed = (noise(2, 8, *SIZE, seed=seed) for seed in (5, 6))
    entry = "input" if type(model).__module__.startswith("torch.") else "hidden_states"
    memory, dense = recorded(model, {entry: original})
    with sparse(model, memory, whole(SIZE)):
        assert relative_error(model(original), dense) <= LIMIT
    sites = sites_of("block", SIZE)
    after = edited(model, memory, sites, {entry: changed})
    inside = (sites.level((dense.shape[2], dense.shape[3])).position >= 0).view(dense.shape[2:])
    assert torch.equal(torch.where(inside, dense, after), dense)
    assert not torch.equal(after, dense)


class Twice(nn.Module):
    """One block run twice in a call, or two blocks that happen to have the same weights."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.second = self.first if shared else copy.deepcopy(self.first)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(2 * self.first(x) + x)
        return out


def test_a_module_used_twice_in_one_call_remembers_both() -> None:
    original, changed = ({"x": noise(2, 4, *SIZE, seed=seed)} for seed in (5, 6))
    sites = sites_of("block", SIZE)
    shared, separate = (Twice(kind).eval() for kind in (True, False))
    results = [edited(model, recorded(model, original)[0], sites, changed) for model in (shared, separate)]
    assert same_bits(*results)


class Tampering(nn.Module):
    """Between two convolutions, something that no survey of modules can see."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.how(self.first(x), self.second)


def test_masked_tokens_of_a_prompt_are_not_attended_to() -> None:
    model, family = model_of("sd15"), FAMILIES["sd15"]
    original, changed = (family.inputs(2, SIZE, seed) for seed in (5, 6))
    kept = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]])
    for inputs in (original, changed):
        inputs["encoder_attention_mask"] = kept
    memory, dense = recorded(model, original)
    assert relative_error(edited(model, memory, whole(SIZE), original), dense) <= LIMIT
    assert relative_error(model(**original | {"encoder_attention_mask": None}), dense) > 1e-3
    for kind in ("block", "scattered"):
        thin = edited(model, memory, sites_of(kind, SIZE), changed)
        assert relative_error(thin, Reference(model, original).edit(changed, sites_of(kind, SIZE))) <= LIMIT


RESIZING = {
    "crop": lambda x, conv: conv(x[:, :, :4]),
    "pad": lambda x, conv: conv(nn.functional.pad(x, (0, 0, 2, 2))),
    "repeat": lambda x, conv: conv(x.repeat_interleave(2, 2)),
}


@pytest.mark.parametrize("how", RESIZING)
def test_pixels_moved_between_modules_are_noticed(how: str) -> None:
    model = Tampering(RESIZING[how])
    memory, _ = recorded(model, {"x": noise(1, 3, 8, 8, seed=1)})
    with pytest.raises(EngineError, match=r"moves or resizes pixels outside|has no level"):
        edited(model, memory, sites_of("block", (8, 8)), {"x": noise(1, 3, 8, 8, seed=2)})


def test_outputs_that_are_no_maps_are_refused() -> None:
    model = Tampering(lambda x, conv: conv(x).mean((2, 3)))
    with pytest.raises(EngineError, match=r"Tampering returns a tensor \[1, 4\]; the engine knows maps"):
        recorded(model, {"x": noise(1, 3, 8, 8, seed=1)})


NESTS = {
    "tensor": lambda x, conv: conv(x),
    "tuple": lambda x, conv: (conv(x), x),
    "dict": lambda x, conv: {"a": conv(x), "b": [x, None]},
}


@pytest.mark.parametrize("nest", NESTS)
def test_outputs_come_back_in_the_nest_they_came_in(nest: str) -> None:
    model = Tampering(NESTS[nest])
    inputs = {"x": noise(1, 3, 8, 8, seed=1)}
    memory, dense = recorded(model, inputs)
    thin = edited(model, memory, whole((8, 8)), inputs)
    assert relative_error(thin, dense) <= LIMIT
    assert type(thin) is type(dense)
    if nest == "dict":
        assert list(thin) == ["a", "b"]
        assert thin["b"][1] is None


def test_an_attention_over_other_tokens_than_the_maps_is_refused() -> None:
    attention = Attention(4, heads=1, dim_head=4)
    model = Attending(attention)
    with pytest.raises(EngineError, match=r"attention.to_k attends over 32 tokens, which is not the 8x8 map"):
        recorded(model, {"x": noise(1, 4, 8, 8, seed=1)})


@pytest.mark.parametrize(
    ("width", "given"), [(4, "made for cross-attention and is given no prompt"), (None, "a prompt")]
)
def test_an_attention_used_for_what_it_was_not_made_for_is_refused(width: int | None, given: str) -> None:
    model = Attention(4, cross_attention_dim=width, heads=1, dim_head=4)
    inputs = {"hidden_states": noise(1, 4, 2, 2, seed=1)}
    if width is None:
        inputs["encoder_hidden_states"] = noise(1, 4, 4, seed=2)
    with pytest.raises(EngineError, match=given):
        recorded(model, inputs)


class Attending(nn.Module):
    """Attention within the upper half of the map."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(4, 4, 1), attention

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x)[:, :, :4].flatten(2).transpose(1, 2)
        out: Tensor = self.attention(tokens).transpose(1, 2).unflatten(2, (4, -1))
        return out
