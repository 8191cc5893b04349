"""What it costs in fidelity that activations move with their canvas: python -m benchmarks.moving [STEPS]

Pans and turns of the demo manifest's pictures against the dense edits, whose activations are computed where they are;
rows of sites that come to lie between others interpolated (as the engine does for turns) or taken from the nearest
site (as it does for pans).
Prints a table of PSNR inside the area that was made. No times.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sparsedit.images import load_image
from sparsedit.metrics.quality import Judge
from sparsedit.models.loading import load_pipeline
from sparsedit.moving import MovingEditor
from sparsedit.plan import Edit
from sparsedit.results import Result
from sparsedit.sparse import Motion

PICTURES = Path(__file__).parents[1] / "manifests" / "demo"
CASES = {
    "meadow": "a pink house in a green meadow under snowy mountains by day",
    "night": "a white house near a lake in the snow under snowy mountains at night",
}
EDITS = {
    "pan 32": Edit(by=(32, 0)),
    "pan 24": Edit(by=(24, 0)),
    "pan 20": Edit(by=(20, 0)),
    "turn 5": Edit(angle=5.0),
}
"""Whole sites at every resolution; whole ones of the latents alone; whole ones of none but the picture; of none."""


def main(steps: int) -> None:
    editor = MovingEditor(load_pipeline("demo"))
    judge = Judge(editor.stages.device)
    print("| picture | edit | interpolated | nearest |\n|---|---|---|---|")
    for name, prompt in CASES.items():
        for edit, scores in rows(editor, judge, name, prompt, steps):
            print(f"| {name} | {edit} | " + " | ".join(f"{score:.1f}" for score in scores) + " |", flush=True)


def rows(
    editor: MovingEditor, judge: Judge, name: str, prompt: str, steps: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Every edit of one picture, with its PSNR in dB for both kinds of rows."""
    photo = load_image(PICTURES / f"{name}.png")
    settings: dict[str, Any] = {"prompt": prompt, "steps": steps, "strength": 1.0, "guidance": 3.0}
    requests = {task: editor.request(photo, task=task, **settings) for task in ("pan", "rotate")}
    editor.record_request(requests["pan"])
    for label, edit in EDITS.items():
        request = requests["rotate" if edit.angle else "pan"]
        assert editor.recorded is not None
        editor.recorded.request = request
        dense = editor.dense(request, edit)
        thin = [apply_with(editor, edit, nearest=nearest) for nearest in (False, True)]
        region = {"inside": dense.plan.changed.numpy()}
        between, nearest = (judge.fidelity(each.image, dense.image, region)["inside"]["psnr"] for each in thin)
        yield label, (between, nearest)


def apply_with(editor: MovingEditor, edit: Edit, *, nearest: bool) -> Result:
    """The edit with every remembered row from the nearest site, or none."""
    stock = Motion.__init__

    def init(motion: Motion, *args: Any, **options: Any) -> None:
        stock(motion, *args, **options | {"nearest": nearest})

    with patch.object(Motion, "__init__", init):
        return editor.apply(edit)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
