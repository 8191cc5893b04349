"""The models of an edit by stage, of a base and of its refiner, each with its twin that counts it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from sparsedit.editor import SparseEditor
from sparsedit.measure.twin import Twin
from sparsedit.plan import Request
from sparsedit.stages import Stages

TEXT = "text"
REFINER = "refiner"


@dataclass(frozen=True)
class StageModel:
    """What runs in a stage: the model itself, and the twin that counts it under `name`."""

    model: nn.Module
    twin: Twin
    name: str


class Models:
    """Every stage of the edits of one original: "text" for all text encoders, and one for each other model.

    `batch` is that of a UNet call, None for what guidance makes of one picture. Twins are taken from `twins` and left
    there, by pipeline, size and batch.
    """

    def __init__(
        self, editor: SparseEditor, request: Request, batch: int | None, twins: dict[tuple[object, ...], Twin]
    ) -> None:
        self.pipelines = pipelines_of(editor)
        self.request = request
        self.batch = batch
        self._twins = twins

    @property
    def guided_batch(self) -> int:
        """Rows of a call of the base's UNet."""
        return self._rows(self.pipelines[0])

    @cached_property
    def stages(self) -> dict[str, StageModel | None]:
        """By name, in the order of a run but for ControlNets; text, if the pipeline has any, is no single model."""
        base = self._twin(self.pipelines[0])
        texts = any(name.startswith("text_encoder") for name in base.calls)
        found: dict[str, StageModel | None] = {TEXT: None} if texts else {}
        for name in base.calls:
            if not name.startswith("text_encoder"):
                found[name] = StageModel(stage_model(self.pipelines[0], name), base, name)
            if name == "unet":
                found.update((REFINER, StageModel(each.unet, self._twin(each), name)) for each in self.pipelines[1:])
        return found

    def texts(self) -> list[tuple[Twin, int]]:
        """The twins that count text encoders, with how many texts each encodes for one prompt."""
        negative, schedule = self.request.negative, self.request.schedule
        return [(self._twin(each), each.texts_per_prompt(negative, schedule)) for each in self.pipelines]

    def _rows(self, stages: Stages) -> int:
        return 2 if stages.guided(self.request.schedule) else 1

    def _twin(self, stages: Stages) -> Twin:
        height, width = self.request.frame.padded
        batch = self.batch or self._rows(stages)
        key = (stages.pipe, height, width, batch)
        if key not in self._twins:
            self._twins[key] = Twin(stages, height, width, batch)
        return self._twins[key]


def pipelines_of(editor: SparseEditor) -> list[Stages]:
    """The editor's pipeline, and the one that finishes its pictures where there is one."""
    return [editor.stages] if editor.refiner is None else [editor.stages, editor.refiner]


def stage_model(stages: Stages, stage: str) -> nn.Module:
    """The model that runs in a stage of a pipeline, as `Twin` names them."""
    if stage in ("encoder", "decoder"):
        model: nn.Module = getattr(stages.vae, stage)
        return model
    if stage == "unet":
        return stages.unet
    control: Any = stages.pipe.controlnet
    nets: list[nn.Module] = list(getattr(control, "nets", [control]))
    return nets[int(stage.removeprefix("controlnet").removeprefix("_") or 1) - 1]
