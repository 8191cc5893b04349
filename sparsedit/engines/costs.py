"""The multiply-adds of an edit's stages, counted on twins of the models that really ran."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsedit.editor import SparseEditor
from sparsedit.inversion import unguided
from sparsedit.measure.twin import Cost, Shapes, Twin
from sparsedit.plan import Request
from sparsedit.sparse import SitePyramid
from sparsedit.stages import Stages
from sparsedit.tasks.refine import parts


@dataclass(frozen=True)
class StageCost:
    """A stage of one pass: calls of one model, or of several that share a name (the text encoders of two pipelines)."""

    models: tuple[tuple[Twin, str, int], ...]

    @property
    def calls(self) -> int:
        return sum(calls for _, _, calls in self.models)

    def over(self, calls: int) -> StageCost:
        """The same stage with another number of calls."""
        return StageCost(tuple((twin, name, calls) for twin, name, _ in self.models))

    def cost(self, sites: SitePyramid | None = None, *, new_prompt: bool = False, dense_calls: int = 0) -> Cost:
        """All calls together: dense, or thin on `sites` but for `dense_calls`; a new prompt is projected once."""
        new = new_prompt and not dense_calls  # a dense call projects it anyway
        each = (twin.schedule(name, calls - dense_calls, sites, new_prompt=new) for twin, name, calls in self.models)
        densely = (twin.dense(name) * dense_calls for twin, name, _ in self.models)
        return sum((*each, *densely), Cost())


MAX_TWINS = 8
"""Sizes of pictures whose thin counts are kept; crops come in many sizes, and need dense ones alone."""


class Counter:
    """Counts the stages of edits. Dense counts are kept for every size of picture and batch, thin ones for the sizes
    that were asked for last."""

    def __init__(self) -> None:
        self.shapes: dict[Stages, Shapes] = {}
        self.twins: dict[tuple[Stages, int, int, int], Twin] = {}

    def stages(self, editor: SparseEditor, request: Request) -> dict[str, StageCost]:
        """Every stage of a pass of the request's task, in the order in which they run."""
        stages, refiner, schedule = editor.stages, editor.refiner, request.schedule
        texts, second = [self._texts(stages, request)], None
        if refiner is not None and request.refine_from is not None:
            schedule, second = parts(stages, refiner, request.refine_from, schedule)
            texts.append(self._texts(refiner, request))
        twin, calls = self._twin(stages, request), stages.calls(schedule)
        if stages.vae is None:
            return {"unet": StageCost(((twin, "unet", calls),))}
        found = {"text": StageCost(tuple(texts)), "encoder": StageCost(((twin, "encoder", 1),))}
        if request.task == "prompt" and not request.generated:
            alone = replace(unguided(request.schedule), kept=None)  # it takes every step
            twin_alone = self._twin(stages, replace(request, schedule=alone))
            found["inversion"] = StageCost(((twin_alone, "unet", stages.calls(alone)),))
        if stages.controlnet is not None:
            found["controlnet"] = StageCost(((twin, "controlnet", calls),))
        found["unet"] = StageCost(((twin, "unet", calls),))
        if refiner is not None and second is not None:
            found["refiner"] = StageCost(((self._twin(refiner, request), "unet", refiner.calls(second)),))
        return found | {"decoder": StageCost(((twin, "decoder", 1),))}

    def _texts(self, stages: Stages, request: Request) -> tuple[Twin, str, int]:
        return self._twin(stages, request), "text", stages.texts_per_prompt(request.negative, request.schedule)

    def _twin(self, stages: Stages, request: Request) -> Twin:
        height, width = request.frame.padded
        batch = 2 if stages.guided(request.schedule) else 1
        key = (stages, height, width, batch)
        twin = self.twins.pop(key, None)
        if twin is None:
            if stages not in self.shapes:
                self.shapes[stages] = Shapes(stages)
            twin = Twin(*key, self.shapes[stages])
        self.twins[key] = twin  # behind all others
        if len(self.twins) > MAX_TWINS:
            del self.twins[next(iter(self.twins))]
        return twin
