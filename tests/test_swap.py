"""The contexts: what they refuse, and that they leave nothing behind however they are left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from sparsedit.errors import CacheError, EngineError
from sparsedit.sparse import ActivationCache, alongside, record, sparse
from sparsedit.sparse.rows import map_tensors
from tests.engine import (
    edited,
    model_of,
    outputs,
    recorded,
    relative_error,
    same_bits,
    sites_of,
    whole,
)
from tests.families import FAMILIES, Inputs, unet_inputs

SIZE = (9, 14)
LAYOUT = ["sdxl", "sd15", "controlnet", "unet+controlnet", "kl-encoder", "tiny-decoder", "custom"]
some_families = pytest.mark.parametrize("name", LAYOUT)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def state_of(model: nn.Module) -> list[Any]:
    """Everything of a model that a context could leave changed."""
    modules = dict(model.named_modules())
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules.values()]
    held = [{key: value for key, value in vars(m).items() if key == "forward"} for m in modules.values()]
    processors = [m.processor for m in modules.values() if isinstance(m, Attention)]
    tensors = {key: value.data_ptr() for key, value in model.state_dict(keep_vars=True).items()}
    return [list(modules), [type(m) for m in modules.values()], hooks, held, processors, tensors]


def no_grad(model: nn.Module) -> Any:
    return torch.no_grad()(model)


class BoomError(Exception):
    pass


def explode(*_: Any) -> None:
    raise BoomError


@some_families
@pytest.mark.parametrize("where", ["in the model", "in the block"])
def test_an_exception_leaves_the_model_as_it_was(name: str, where: str) -> None:
    model, inputs = FAMILIES[name].build(), FAMILIES[name].inputs(2, SIZE, 5)
    dense = model(**inputs)
    memory, _ = recorded(model, inputs)
    before = state_of(model)
    deep = [module for module in model.modules() if isinstance(module, nn.SiLU | nn.ReLU)][-1]
    for context in (record(model, ActivationCache()), sparse(model, memory, whole(SIZE))):
        fuse = deep.register_forward_hook(explode) if where == "in the model" else None
        with pytest.raises(BoomError), context:  # noqa: PT012
            model(**inputs)
            explode()
        if fuse is not None:
            fuse.remove()
        assert state_of(model) == before
        assert not any("forward" in vars(module) for module in model.modules())
        assert same_bits(model(**inputs), dense)
    assert same_bits(edited(model, memory, whole(SIZE), inputs), edited(model, memory, whole(SIZE), inputs))


def test_between_calls_and_after_a_failed_one_the_modules_run_by_themselves() -> None:
    model, inputs = FAMILIES["custom"].build(), FAMILIES["custom"].inputs(1, SIZE, 5)
    wide, alone = model.get_submodule("wide"), inputs["picture"]
    dense = wide(alone)
    memory, _ = recorded(model, inputs)
    fuse = model.get_submodule("act").register_forward_hook(explode)
    with sparse(model, memory, sites_of("block", SIZE)):
        assert same_bits(wide(alone), dense)
        with pytest.raises(BoomError):
            model(**inputs)
        assert same_bits(wide(alone), dense)
    fuse.remove()


def test_a_call_that_fails_while_recording_is_no_step() -> None:
    model, inputs = FAMILIES["custom"].build(), FAMILIES["custom"].inputs(1, SIZE, 5)
    memory = ActivationCache()
    fuse = model.get_submodule("act").register_forward_hook(explode)
    with record(model, memory):
        with pytest.raises(BoomError):
            model(**inputs)
        fuse.remove()
        model(**inputs)
    assert len(memory) == 1


def test_a_forward_and_hooks_of_the_users_own_keep_working_and_stay() -> None:
    """Accelerate puts a forward on the instance; what was there is used inside and given back after."""
    model, inputs = FAMILIES["sd15"].build(), FAMILIES["sd15"].inputs(1, SIZE, 5)
    dense, calls = model(**inputs), []
    conv = model.get_submodule("conv_in")
    own = conv.forward
    conv.forward = lambda x: calls.append("forward") or own(x)
    conv.register_forward_hook(lambda *_: calls.append("hook"))
    before = state_of(model)
    _, result = recorded(model, inputs)
    assert calls == ["forward", "hook"]
    assert same_bits(result, dense)
    assert state_of(model) == before


@pytest.mark.parametrize("outer", ["record", "sparse", "alongside"])
@pytest.mark.parametrize("part", ["whole", "part"])
def test_a_model_in_a_context_is_refused_by_another(outer: str, part: str) -> None:
    model = FAMILIES["sdxl"].build()
    sites = whole(SIZE)
    contexts: dict[str, Any] = {
        "record": lambda: record(model, ActivationCache()),
        "sparse": lambda: sparse(model, ActivationCache(), sites),
        "alongside": lambda: alongside(model, [sites]),
    }
    inner = model if part == "whole" else model.get_submodule("mid_block")
    with contexts[outer]():
        inside = state_of(model)
        with pytest.raises(EngineError, match="already inside record"), record(inner, ActivationCache()):
            pass
        assert state_of(model) == inside
    assert not any("forward" in vars(module) for module in model.modules())


def test_two_models_may_be_in_contexts_at_once() -> None:
    unet, control = model_of("sd15"), model_of("controlnet")
    inputs, controls = FAMILIES["sd15"].inputs(1, SIZE, 5), FAMILIES["controlnet"].inputs(1, SIZE, 5)

    def both() -> Any:
        down, mid = outputs(control(**controls))[:-1], outputs(control(**controls))[-1]
        return unet(**inputs, down_block_additional_residuals=down, mid_block_additional_residual=mid)

    dense = both()
    first, second = ActivationCache(), ActivationCache()
    with record(unet, first), record(control, second):
        both()
    with sparse(control, second, whole(SIZE)), sparse(unet, first, whole(SIZE)):
        assert relative_error(both(), dense) <= 1e-5


def test_another_threads_call_of_a_model_in_a_context_is_refused_and_taken_for_no_step() -> None:
    model, inputs, cache = model_of("sdxl"), FAMILIES["sdxl"].inputs(1, SIZE, 5), ActivationCache()
    with ThreadPoolExecutor(1) as other:
        with record(model, cache):
            model(**inputs)
            with pytest.raises(EngineError, match="inside a context of another thread"):
                other.submit(model, **inputs).result()
            model(**inputs)
        assert len(cache) == 2
        outside = other.submit(no_grad(model), **inputs).result()
    assert same_bits(outside, model(**inputs))


def test_of_threads_that_want_one_model_at_once_one_gets_it_and_the_rest_are_refused() -> None:
    model, inputs = model_of("sdxl"), FAMILIES["sdxl"].inputs(1, SIZE, 5)
    start, decided = Barrier(4), Barrier(4)

    def take(_: int) -> int:
        cache = ActivationCache()
        start.wait()
        try:
            with record(model, cache), torch.no_grad():
                decided.wait()
                model(**inputs)
        except EngineError:
            decided.wait()
        return len(cache)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            assert sorted(threads.map(take, range(4))) == [0, 0, 0, 1]
    assert not any("forward" in vars(module) for module in model.modules())


FITTING = unet_inputs(2, SIZE, 5)
MISFITS: dict[str, tuple[Inputs, str]] = {
    "size": (unet_inputs(2, (9, 16), 5), "a batch of 2 at 14x9, this one is a batch of 2 at 16x9; record"),
    "batch": (unet_inputs(1, SIZE, 5), "a batch of 2 at 14x9, this one is a batch of 1 at 14x9; record"),
    "timestep": (FITTING | {"timestep": 401}, "ran at timestep 801, this call at 401; use the same scheduler"),
    "precision": (
        map_tensors(FITTING, lambda t: t.double() if t.is_floating_point() else t),
        "was torch.float32 on cpu, this one is torch.float64 on cpu",
    ),
    "no map": (FITTING | {"sample": torch.zeros(2, 4, 9)}, r"first input .* must be a tensor \[B, C, H, W\]"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_call_that_does_not_fit_is_refused_and_uses_no_step_up(kind: str) -> None:
    model = model_of("sd15")
    wrong, sentence = MISFITS[kind]
    memory, dense = recorded(model, FITTING)
    with sparse(model, memory, whole(SIZE)):
        with pytest.raises(EngineError, match=sentence):
            model(**wrong)
        assert relative_error(model(**FITTING), dense) <= 1e-5


def test_the_same_timestep_may_be_written_in_other_ways() -> None:
    model = model_of("sd15")
    memory, dense = recorded(model, FITTING)
    for timestep in (801, 801.0, torch.tensor([801]), torch.tensor([801, 801]), torch.tensor(801.0)):
        thin = edited(model, memory, whole(SIZE), FITTING | {"timestep": timestep})
        assert relative_error(thin, dense) <= 1e-5


def test_a_timestep_that_is_counted_down_in_place_is_remembered_as_it_was() -> None:
    model, timestep = model_of("sd15"), torch.tensor(801)
    memory = ActivationCache()
    with record(model, memory):
        for _ in range(2):
            model(**FITTING | {"timestep": timestep})
            timestep -= 400
    assert [int(step.timestep) for step in memory if step.timestep is not None] == [801, 401]


def test_more_calls_than_steps_are_refused() -> None:
    model = model_of("sd15")
    memory, _ = recorded(model, FITTING)
    with sparse(model, memory, whole(SIZE)):
        model(**FITTING)
        with pytest.raises(CacheError, match="call 2 has no recorded step: the original was recorded over 1"):
            model(**FITTING)
    with (
        sparse(model, ActivationCache(), whole(SIZE)),
        pytest.raises(CacheError, match="nothing was recorded in this cache"),
    ):
        model(**FITTING)


def test_a_mask_of_a_size_the_model_never_has_is_refused() -> None:
    model = model_of("sd15")
    memory, _ = recorded(model, FITTING)
    with pytest.raises(EngineError, match="mask of 15x9 sites has no level of 14x9"):
        edited(model, memory, whole((9, 15)), FITTING)
