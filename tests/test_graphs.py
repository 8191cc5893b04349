"""Thin calls by graphs: what is answered is what a thin call answers, whatever was captured before and for whom.

There is no GPU here. A graph is replaced by a rehearsal, which runs the captured function again over the same tensors:
it proves that all a call depends on is brought to where the graph reads it, and nothing else. What CUDA itself forbids
in a capture is looked for on the meta device, where no value can be asked for and every foreign tensor is seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sparsedit.errors import EngineError
from sparsedit.sparse import ActivationCache, SitePyramid, ThinGraphs, alongside, record, sparse
from sparsedit.sparse.graphs import WARM_UPS
from sparsedit.sparse.rows import map_tensors, tensors_of
from tests.engine import (
    counted,
    edited,
    model_of,
    nothing,
    outputs,
    recorded,
    relative_error,
    same_bits,
    sites_of,
    size_of,
)
from tests.families import FAMILIES, TEXT, Inputs, noise

LIMIT = 1e-5
SIZE = (12, 16)


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


class Rehearsal:
    """Captures by keeping the function, and counts how often it is asked to."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        self.captures += 1
        results = function()

        def replay() -> None:
            for room, new in zip(outputs(results), outputs(function()), strict=True):
                room.copy_(new)

        return replay, results


class Tracing(Rehearsal):
    """Rehearses what torch.compile reads of the function, with nothing compiled, and counts how often it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.traces = 0

    def __call__(self, function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        function()
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=self._keep)
        for _ in range(WARM_UPS):
            compiled()
        return super().__call__(compiled, device)

    def _keep(self, traced: Any, inputs: Any) -> Any:
        self.traces += 1
        return traced


class Foreigners(TorchDispatchMode):
    """Notes every operator that touches a tensor of another device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        touched = tensors_of([list(args), list((kwargs or {}).values()), result])
        self.found[str(func)] += sum(tensor.device.type != self.device for tensor in touched)
        return result


def block(top: int, left: int, height: int = 5, width: int = 4, size: tuple[int, int] = SIZE) -> SitePyramid:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return SitePyramid.from_mask(mask)


def by_graph(model: nn.Module, memory: ActivationCache, sites: SitePyramid, inputs: Inputs, graphs: ThinGraphs) -> Any:
    with sparse(model, memory, sites, graphs=graphs):
        return model(**inputs)


def assert_answers(
    model: nn.Module, memory: ActivationCache, sites: SitePyramid, inputs: Inputs, graphs: ThinGraphs
) -> None:
    """A call by graph is the thin call: but for rounding where sites are active, bit for bit elsewhere."""
    expected, found = edited(model, memory, sites, inputs), by_graph(model, memory, sites, inputs, graphs)
    assert relative_error(found, expected) <= LIMIT
    for new, old in zip(outputs(found), outputs(expected), strict=True):
        outside = sites.level((new.shape[2], new.shape[3])).position < 0
        assert torch.equal(new.flatten(2)[..., outside], old.flatten(2)[..., outside])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_call_by_graph_is_the_thin_call(name: str) -> None:
    size, model = size_of(name, "odd"), model_of(name)
    memory, _ = recorded(model, FAMILIES[name].inputs(2, size, 5))
    capture = Rehearsal()
    graphs = ThinGraphs(capture)
    for seed in (6, 7):
        assert_answers(model, memory, sites_of("block", size), FAMILIES[name].inputs(2, size, seed), graphs)
    assert capture.captures == 1


@pytest.mark.parametrize("name", ["sdxl", "controlnet", "kl-decoder"])
def test_a_thin_pass_is_traced_whole_and_once(name: str) -> None:
    """What compiled graphs ask for: torch.compile sees one function of tensors, the same at every capture's run."""
    model, capture = model_of(name), Tracing()
    memory, _ = recorded(model, FAMILIES[name].inputs(2, SIZE, 5))
    graphs = ThinGraphs(capture)
    with sparse(model, memory, block(3, 4), graphs=graphs):
        found = model(**FAMILIES[name].inputs(2, SIZE, 6))
    assert relative_error(found, edited(model, memory, block(3, 4), FAMILIES[name].inputs(2, SIZE, 6))) <= LIMIT
    assert capture.traces == 1


def test_one_graph_serves_every_step() -> None:
    model, capture = model_of("sdxl"), Rehearsal()
    steps = [FAMILIES["sdxl"].inputs(2, SIZE, seed) | {"timestep": 1000 - 100 * seed} for seed in (1, 2, 3)]
    memory, _ = recorded(model, *steps)
    edits = [inputs | {"sample": noise(2, 4, *SIZE, seed=9)} for inputs in steps]
    with sparse(model, memory, block(3, 4)):
        expected = [model(**inputs) for inputs in edits]
    with sparse(model, memory, block(3, 4), graphs=ThinGraphs(capture)):
        found = [model(**inputs) for inputs in edits]
    assert all(relative_error(*pair) <= LIMIT for pair in zip(found, expected, strict=True))
    assert relative_error(found[0], found[1]) > 1e-3
    assert capture.captures == 1


def test_one_graph_serves_masks_of_about_one_size_and_others_get_their_own() -> None:
    model, capture = model_of("sd15"), Rehearsal()
    inputs = FAMILIES["sd15"].inputs(2, SIZE, 6)
    memory, _ = recorded(model, FAMILIES["sd15"].inputs(2, SIZE, 5))
    graphs = ThinGraphs(capture)
    for sites in (block(3, 4), block(5, 8), block(2, 3, 4, 5)):
        assert_answers(model, memory, sites, inputs, graphs)
    assert capture.captures == 1
    assert_answers(model, memory, block(1, 1, 10, 12), inputs, graphs)
    assert_answers(model, memory, block(3, 4), inputs, graphs)
    assert (capture.captures, len(graphs)) == (2, 2)


def test_one_graph_serves_every_prompt_and_each_is_projected_once() -> None:
    model, capture = FAMILIES["sdxl"].build(), Rehearsal()
    calls = counted(model)
    inputs = FAMILIES["sdxl"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs, inputs)
    graphs = ThinGraphs(capture)
    for seed in (100, 7, 8, 7):
        text = noise(2, 7, TEXT, seed=seed)
        assert_answers(model, memory, block(3, 4), inputs | {"encoder_hidden_states": text}, graphs)
    with sparse(model, memory, block(3, 4), graphs=graphs):
        before = calls.total()
        for _ in range(2):
            model(**inputs | {"encoder_hidden_states": text})
    assert calls.total() == before + len(calls)
    assert capture.captures == 1


def test_a_prompt_of_another_length_has_its_own_graph() -> None:
    model, capture = model_of("sd15"), Rehearsal()
    inputs = FAMILIES["sd15"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs)
    graphs = ThinGraphs(capture)
    for length in (7, 5, 7):
        text = noise(2, length, TEXT, seed=length)
        assert_answers(model, memory, block(3, 4), inputs | {"encoder_hidden_states": text}, graphs)
    assert capture.captures == 2


def test_a_timestep_may_be_written_in_other_ways() -> None:
    model, capture = model_of("sd15"), Rehearsal()
    inputs = FAMILIES["sd15"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs)
    graphs = ThinGraphs(capture)
    for timestep in (801, torch.tensor(801)):
        assert_answers(model, memory, block(3, 4), inputs | {"timestep": timestep}, graphs)
    assert capture.captures == 1


def test_other_originals_and_other_constants() -> None:
    """A graph reads any recording of its model and size, but a plain argument is part of it."""
    model, capture = model_of("controlnet"), Rehearsal()
    graphs = ThinGraphs(capture)
    for seed in (5, 6):
        inputs = FAMILIES["controlnet"].inputs(2, SIZE, seed)
        memory, _ = recorded(model, inputs)
        assert_answers(model, memory, block(3, 4), FAMILIES["controlnet"].inputs(2, SIZE, 8), graphs)
    assert capture.captures == 1
    scaled = FAMILIES["controlnet"].inputs(2, SIZE, 8) | {"conditioning_scale": 0.2}
    assert_answers(model, memory, block(3, 4), scaled, graphs)
    assert capture.captures == 2


@pytest.mark.parametrize("name", ["sdxl", "kl-decoder"])
def test_norms_that_follow_an_edit_count_every_site_once(name: str) -> None:
    model, capture = model_of(name), Rehearsal()
    inputs, memory = FAMILIES[name].inputs(2, SIZE, 5), ActivationCache()
    with record(model, memory, moments=True):
        model(**inputs)
    graphs = ThinGraphs(capture)
    for sites in (block(3, 4), block(5, 8), block(5, 8, 5, 3)):
        assert_answers(model, memory, sites, FAMILIES[name].inputs(2, SIZE, 6), graphs)
    plain, _ = recorded(model, inputs)
    assert_answers(model, plain, block(3, 4), FAMILIES[name].inputs(2, SIZE, 6), graphs)
    assert capture.captures >= 3


def test_variants_alongside_their_original() -> None:
    model, capture = model_of("sdxl"), Rehearsal()
    inputs, sites = FAMILIES["sdxl"].inputs(6, SIZE, 5), [block(3, 4), block(5, 8)]
    with alongside(model, sites):
        expected = [model(**inputs), model(**inputs | {"timestep": 401})]
    with alongside(model, sites, graphs=ThinGraphs(capture)):
        found = [model(**inputs), model(**inputs | {"timestep": 401})]
    assert all(relative_error(*pair) <= LIMIT for pair in zip(found, expected, strict=True))
    assert capture.captures == 1


def test_changed_weights_are_captured_anew() -> None:
    model, capture = FAMILIES["sd15"].build(), Rehearsal()
    inputs = FAMILIES["sd15"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs)
    graphs = ThinGraphs(capture)
    assert_answers(model, memory, block(3, 4), inputs, graphs)
    model.get_submodule("conv_in").weight.mul_(1.5)
    assert_answers(model, memory, block(3, 4), inputs, graphs)
    assert (capture.captures, len(graphs)) == (2, 1)


def test_several_models_share_one_object() -> None:
    capture = Rehearsal()
    graphs = ThinGraphs(capture)
    for name in ("sd15", "kl-decoder", "sd15", "kl-decoder"):
        memory, _ = recorded(model_of(name), FAMILIES[name].inputs(2, SIZE, 5))
        assert_answers(model_of(name), memory, block(3, 4), FAMILIES[name].inputs(2, SIZE, 6), graphs)
    assert (capture.captures, len(graphs)) == (2, 2)


def test_the_graph_used_longest_ago_goes_first() -> None:
    model, capture = model_of("custom"), Rehearsal()
    memory, _ = recorded(model, FAMILIES["custom"].inputs(2, SIZE, 5))
    graphs = ThinGraphs(capture, kept=2)
    small, middle, large = block(3, 4), block(1, 1, 8, 8), block(0, 0, *SIZE)
    for sites, captures in ((small, 1), (middle, 2), (small, 2), (large, 3), (small, 3), (middle, 4)):
        assert_answers(model, memory, sites, FAMILIES["custom"].inputs(2, SIZE, 6), graphs)
        assert capture.captures == captures
    assert len(graphs) == 2


def test_results_are_the_callers_own_and_the_cache_stays_as_it_was() -> None:
    model, inputs = model_of("sdxl"), FAMILIES["sdxl"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs, inputs)
    kept = [tensor for step in memory for leaf in step.leaves.values() for tensor in leaf.tensors]
    before = [tensor.clone() for tensor in kept]
    with sparse(model, memory, block(3, 4), graphs=ThinGraphs(Rehearsal())):
        first = model(**inputs | {"sample": noise(2, 4, *SIZE, seed=8)})
        held = map_tensors(first, Tensor.clone)
        model(**inputs)
    assert same_bits(first, held)
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))


def test_inference_mode_and_no_grad_share_a_graph() -> None:
    model, capture = model_of("sd15"), Rehearsal()
    inputs = FAMILIES["sd15"].inputs(2, SIZE, 5)
    graphs = ThinGraphs(capture)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            memory, _ = recorded(model, inputs)
            assert_answers(model, memory, block(3, 4), inputs, graphs)
    assert capture.captures == 1


def test_nothing_active_needs_no_graph() -> None:
    model, inputs = model_of("sd15"), FAMILIES["sd15"].inputs(2, SIZE, 5)
    memory, dense = recorded(model, inputs)
    graphs = ThinGraphs(Rehearsal())
    assert same_bits(by_graph(model, memory, nothing(SIZE), FAMILIES["sd15"].inputs(2, SIZE, 6), graphs), dense)
    assert len(graphs) == 0


def test_what_cannot_be_captured_is_said() -> None:
    model, inputs = model_of("sd15"), FAMILIES["sd15"].inputs(2, SIZE, 5)
    memory, _ = recorded(model, inputs)
    graphs = ThinGraphs()
    with pytest.raises(EngineError, match="need a CUDA GPU and this model is on cpu"):
        by_graph(model, memory, block(3, 4), inputs, graphs)
    assert len(graphs) == 0
    with torch.enable_grad(), pytest.raises(EngineError, match=r"no gradients; call the model inside torch.no_grad"):
        by_graph(model, memory, block(3, 4), inputs, ThinGraphs(Rehearsal()))


@pytest.mark.parametrize("name", ["sdxl", "controlnet", "kl-decoder", "custom"])
def test_a_captured_pass_asks_for_no_value_and_touches_no_other_device(name: str) -> None:
    """Both would make the processor wait for the GPU, and neither is allowed in a capture."""
    model = FAMILIES[name].build().to("meta")
    inputs = map_tensors(FAMILIES[name].inputs(2, SIZE, 5), lambda tensor: tensor.to("meta"))
    foreigners = Foreigners("meta")

    def watched(function: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        function()
        with foreigners:
            return (lambda: None), function()

    memory, _ = recorded(model, inputs)
    by_graph(model, memory, block(3, 4), inputs, ThinGraphs(watched))
    assert foreigners.found
    assert not +foreigners.found
