"""The kinds of edits that `benchmarks.tasks` makes: by which editor of which model, and of what in the suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sparsedit.editor import SparseEditor
from sparsedit.moving import MovingEditor
from sparsedit.plan import Edit
from sparsedit.prompting import PromptEditor
from sparsedit.suites.demo import DemoItem

SIZE = (256, 256)
"""Of pictures made from noise, as the suite's are."""
PANS = ((32, 0), (0, -16), (20, 0), (-32, 0), (24, 8), (0, 24), (-13, 9), (64, 0))
"""By whole sites of every resolution, by whole latents, and by neither, in all directions."""
SMALL_PANS = ((16, 0), (0, -8), (-12, 4), (10, 0))
ANGLES = (5.0, -3.0, 10.0, -7.0, 2.0)


def _words(item: DemoItem, _index: int) -> Edit:
    return Edit(prompt=item.target_prompt)


def _lines(item: DemoItem, _index: int) -> Edit:
    return Edit(item.pictures().truth)


def _pan(_item: DemoItem, index: int) -> Edit:
    return Edit(by=PANS[index % len(PANS)])


def _turn(_item: DemoItem, index: int) -> Edit:
    return Edit(angle=ANGLES[index % len(ANGLES)])


def _small_pan(_item: DemoItem, index: int) -> Edit:
    return Edit(by=SMALL_PANS[index % len(SMALL_PANS)])


def _small_turn(_item: DemoItem, index: int) -> Edit:
    return Edit(angle=2.0 if index % 2 else -2.0)


@dataclass(frozen=True)
class Kind:
    """`model` is what is loaded, `options` what the editor is told, `settings` what a request says.

    `generated` originals are made from noise, others are the suite's pictures; `lines` are edited in scenes whose edit
    is small. An edit is made `chained` times, each time upon what came of it before.
    """

    editor: type[SparseEditor]
    edit: Callable[[DemoItem, int], Edit]
    settings: dict[str, Any]
    model: dict[str, Any] = field(default_factory=lambda: {"name": "demo"})
    options: dict[str, Any] = field(default_factory=dict)
    generated: bool = False
    lines: bool = False
    chained: int = 1


_PROMPT: dict[str, Any] = {"task": "prompt", "steps": 20, "strength": 1.0, "guidance": 4.0}
_CONTROL: dict[str, Any] = {"task": "control", "steps": 20, "strength": 1.0, "guidance": 4.0, "control_scale": 1.0}
_CANVAS: dict[str, Any] = {"steps": 20, "strength": 1.0, "guidance": 3.0}
_CANNY = {"name": "demo", "controlnet": "canny"}
_FEW = {"name": "demo-turbo", "controlnet": "canny"}

KINDS = {
    "prompt": Kind(PromptEditor, _words, _PROMPT, generated=True),
    "prompt-50": Kind(PromptEditor, _words, _PROMPT | {"steps": 50}, generated=True),
    "first": Kind(PromptEditor, _words, _PROMPT, options={"mask_from": "latents"}, generated=True),
    "words": Kind(PromptEditor, _words, _PROMPT, options={"mask_from": "attention"}, generated=True),
    "photo": Kind(PromptEditor, _words, _PROMPT | {"strength": 0.7}, {"name": "demo", "scheduler": "ddim"}),
    "control": Kind(SparseEditor, _lines, _CONTROL, _CANNY, lines=True),
    "control-4": Kind(SparseEditor, _lines, _CONTROL | {"steps": 4, "guidance": 0.0}, _FEW, lines=True),
    "control-1": Kind(SparseEditor, _lines, _CONTROL | {"steps": 1, "guidance": 0.0}, _FEW, lines=True),
    "pan": Kind(MovingEditor, _pan, _CANVAS | {"task": "pan"}),
    "rotate": Kind(MovingEditor, _turn, _CANVAS | {"task": "rotate"}),
    "chain": Kind(MovingEditor, _small_pan, _CANVAS | {"task": "pan"}, chained=4),
    "turning": Kind(MovingEditor, _small_turn, _CANVAS | {"task": "rotate"}, chained=4),
}
