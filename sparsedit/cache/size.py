"""What a recording will take, to the byte of its tensors, before anything is run: recorded on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sparsedit.cache.compaction import Compaction
from sparsedit.cache.models import Recordable
from sparsedit.measure.estimate import in_dtype
from sparsedit.measure.twin import Twin
from sparsedit.sparse import ActivationCache, record
from sparsedit.sparse.cache import Step
from sparsedit.stages import Stages
from sparsedit.ways import DENOISING


@dataclass(frozen=True)
class StageSize:
    """Bytes of one recorded step, how many there are, and bytes of the prompts."""

    step: int
    steps: int
    texts: int

    @property
    def total(self) -> int:
        return self.step * self.steps + self.texts


@dataclass(frozen=True)
class RecordingSize:
    """Bytes by stage; `picture` is the original's own."""

    stages: Mapping[str, StageSize]
    picture: int

    @property
    def total(self) -> int:
        return sum(stage.total for stage in self.stages.values()) + self.picture

    def of_steps(self, count: int) -> int:
        """What it would take with `count` of the denoising steps."""
        steps = sum((each.steps - count) * each.step for name, each in self.stages.items() if name in DENOISING)
        return self.total - steps

    @property
    def largest_step(self) -> int:
        return max(stage.step for stage in self.stages.values())


class SizeEstimate:
    """Steps of every stage on the meta device, to be made smaller and counted in as many ways as one likes."""

    def __init__(self, recordable: Mapping[str, Recordable], height: int, width: int, moments: bool) -> None:
        self.recordable = recordable
        self.picture = 3 * height * width * torch.float32.itemsize
        self.steps: dict[str, tuple[Step, int]] = {}
        twins: dict[Stages, Twin] = {}
        for stage, (model, stages, part, batch, _) in recordable.items():
            if stages not in twins:
                twins[stages] = Twin(stages, height, width, batch)
            example = next(model.parameters())
            twin, args, kwargs = in_dtype(twins[stages].calls[part], example.dtype)
            cache = ActivationCache()
            with torch.no_grad(), record(twin, cache, moments=moments):
                twin(*args, **kwargs)
            self.steps[stage] = cache.step(0), cache.texts.nbytes

    def size(self, compaction: Compaction) -> RecordingSize:
        """What it takes in this form."""
        stages = {}
        for stage, (step, texts) in self.steps.items():
            each = self.recordable[stage]
            smaller = compaction.of_stage(stage, each.model)(step)
            stages[stage] = StageSize(smaller.nbytes, each.calls, texts)
        return RecordingSize(stages, self.picture)
