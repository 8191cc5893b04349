"""Which published model runs in which task and way, by running it: writes docs/compatibility.md
and the short table of the README.

    python -m benchmarks.compatibility [--data DIR] [--output FILE] [--readme FILE]

Every preset's layout is saved with narrow layers and random weights, as a diffusers folder and where its authors
publish one as a single file, and loaded by the code users run. A cell says whether an edit of everything, after
recording another picture, is the dense edit; a moved canvas, which is never new everywhere, only has to run.
Multiply-adds are those of the full-size model on the meta device. No weights are downloaded, nothing is timed.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.shrunk import save_shrunk
from sparsedit.editor import SparseEditor
from sparsedit.errors import SparseditError
from sparsedit.files import write_atomic
from sparsedit.images import load_image, to_tensor
from sparsedit.masks import difference
from sparsedit.measure.twin import Twin
from sparsedit.models.loading import empty_pipeline, load_pipeline
from sparsedit.models.presets import PRESETS, Preset
from sparsedit.moving import MovingEditor
from sparsedit.pixels import stages_of
from sparsedit.plan import Edit
from sparsedit.prompting import PromptEditor
from sparsedit.report.text import to_markdown
from sparsedit.results import Result
from sparsedit.settings import POLICIES
from sparsedit.sparse import SitePyramid, dilate
from tests.original import original_layout

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 512, 1024
SIDE = 64
WAYS = ("warm", "alongside", "cold")
SINGLE_FILES = ("sdxl", "sdxl-refiner", "sdxl-turbo", "sdxl-inpaint", "sd15", "sd21")
LIMIT = 1e-4
BEGIN, END = "<!-- compatibility: python -m benchmarks.compatibility -->", "<!-- end -->"
TASKS_SHOWN = ("sdedit", "inpaint", "prompt", "rotate", "pan")
HEADINGS = ("model", "task", "loads", *WAYS, "sites", "UNet", "VAE")


@dataclass
class Row:
    """One model and task; `ways` hold the largest error of a picture in [-1, 1] (NaN: not compared), or why there is
    none."""

    model: str
    task: str
    loads: str
    ways: dict[str, float | str] = field(default_factory=dict)
    sites: float | None = None
    unet: float | None = None
    vae: float | None = None

    def cells(self) -> list[str]:
        ways = [_cell(self.ways.get(way, "–")) for way in WAYS]
        return [self.model, self.task, self.loads, *ways, *map(_percent, (self.sites, self.unet, self.vae))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "cases" / "sige")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "compatibility.md")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="where the short table goes")
    options = parser.parse_args()
    mask, source = edit_mask(options.data)
    sites = SitePyramid.from_mask(dilate(mask, POLICIES["tight"].grow))
    diffusers.utils.logging.disable_progress_bar()
    rows = [row for preset in PRESETS.values() for row in rows_of(preset, sites)]
    controls = [row for preset in PRESETS.values() for row in control_rows(preset, sites)]
    write_atomic(options.output, page(rows, controls, source).encode())
    readme = options.readme.read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{options.readme} lacks the place of its table: {BEGIN} and {END}")
    write_atomic(options.readme, f"{before}{BEGIN}\n{summary(rows)}\n{END}{after}".encode())


def edit_mask(data: Path) -> tuple[torch.Tensor, str]:
    """The pixels of SDEdit 0, bool [H, W], and what they are; a rectangle of as many where its pictures are missing."""
    pictures = [data / f"sdedit0_{which}.png" for which in ("original", "edited")]
    if all(picture.is_file() for picture in pictures):
        original, edited = (to_tensor(load_image(picture)) for picture in pictures)
        return difference(original, edited, POLICIES["tight"].threshold), "SIGE's case SDEdit 0 (1.72 % of the pixels)"
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[200:294, 400:496] = True
    return mask, "a rectangle of 1.72 % of the pixels"


def rows_of(preset: Preset, sites: SitePyramid) -> Iterator[Row]:
    """The preset in each of its tasks. A preset that is not installed gives none."""
    try:
        shares = full_size_shares(empty_pipeline(preset.name), sites)
    except SparseditError:
        return
    with tempfile.TemporaryDirectory() as folder:
        pipe, loads = loaded(preset, Path(folder))
    for task in preset.tasks:
        row = Row(preset.name, task, loads, checked(pipe, preset, task))
        print(f"{row.model}, {task}: {loads}; {row.ways}", file=sys.stderr)
        row.sites, row.unet, row.vae = shares
        yield row


def loaded(preset: Preset, folder: Path) -> tuple[Any, str]:
    """The narrow model through the real loaders, and which layouts it came in."""
    model = save_shrunk(preset, folder)
    pipe: Any = load_pipeline(str(model), dtype="float32", device="cpu")
    if preset.name not in SINGLE_FILES:
        return pipe, "folder"
    file = model / "model.safetensors"
    save_file({name: weight.contiguous() for name, weight in original_layout(pipe).items()}, file)
    again: Any = load_pipeline(str(file), dtype="float32", device="cpu")
    same = all(torch.equal(weight, again.unet.state_dict()[key]) for key, weight in pipe.unet.state_dict().items())
    return pipe, "folder, file" if same else "folder; its file gives other weights"


def checked(pipe: Any, preset: Preset, task: str) -> dict[str, float | str]:
    """Each way's largest difference to the dense edit, with every pixel edited and norms that follow."""
    generator = torch.Generator().manual_seed(0)
    photo, edited = (torch.rand(1, 3, SIDE, SIDE, generator=generator) * 2 - 1 for _ in range(2))
    original: Tensor | None = photo
    everything = torch.ones(SIDE, SIDE, dtype=torch.bool)
    few = float(preset.defaults["steps"]) < 4
    settings: dict[str, Any] = {"steps": 1, "strength": 1.0} if few else {"steps": 4, "strength": 0.75}
    settings |= {"prompt": "a house", "task": task, "seed": 1, "guidance": preset.defaults["guidance"]}
    match task:
        case "prompt":
            editor: SparseEditor = PromptEditor(pipe, break_even=1.0, norm="updated")
            edit = Edit(mask=everything, prompt="a tree")
            original, settings = None, settings | {"size": (SIDE, SIDE), "strength": 1.0}
        case "pan" | "rotate":
            editor = MovingEditor(pipe, break_even=1.0)
            edit = Edit(by=(SIDE // 2, 0)) if task == "pan" else Edit(angle=20.0)
        case _:
            editor = SparseEditor(pipe, break_even=1.0, norm="updated")
            edit = Edit(edited, everything)
    errors: dict[str, float | str] = {}
    ways = {"prompt": ("warm", "cold"), "pan": ("warm",), "rotate": ("warm",)}
    for way in ways.get(task, WAYS):
        try:
            request = editor.request(original, **settings)
            dense = editor.dense(request, edit)
            result = edited_by(editor, way, request, edit)
        except SparseditError as error:
            errors[way] = str(error)
            continue
        if result.way != way:
            errors[way] = result.reason or f"ran {result.way}"
        else:
            errors[way] = math.nan if task in ("pan", "rotate") else float((result.picture - dense.picture).abs().max())
    return errors


def edited_by(editor: SparseEditor, way: str, request: Any, edit: Edit) -> Result:
    """The edit in one way, its original recorded anew."""
    if way == "cold":
        return editor.cold(request, edit, 2)[1]
    if way == "alongside":
        return editor.alongside(request, [edit])[1][0]
    editor.record_request(request)
    return editor.apply(edit)


def full_size_shares(pipe: Any, sites: SitePyramid) -> tuple[float, float, float | None]:
    """Active sites of the UNet, and thin over dense multiply-adds of the UNet and of the VAE, all as shares."""
    stages = stages_of(pipe)
    twin = Twin(stages, HEIGHT, WIDTH, 1)
    vae = [stage for stage in ("encoder", "decoder") if stage in twin.calls]
    active = sites.fraction(stages.latent_size(HEIGHT, WIDTH))
    return active, _share(twin, ["unet"], sites), _share(twin, vae, sites) if vae else None


def control_rows(preset: Preset, sites: SitePyramid) -> Iterator[Row]:
    """The preset's ControlNets, counted at full size; how they run is the tests' (tests/test_control.py)."""
    if preset.embedded or preset.scheduler or preset.name not in ("sdxl", "sdxs-512"):
        return
    for name in preset.controlnets:
        twin = Twin(stages_of(empty_pipeline(preset.name, controlnet=name)), HEIGHT, WIDTH, 1)
        yield Row(f"{preset.name}, {name}", "", "", unet=_share(twin, ["controlnet"], sites))


def page(rows: list[Row], controls: list[Row], source: str) -> str:
    """The page, in Markdown."""
    exact = to_markdown(HEADINGS, [row.cells() for row in rows])
    nets = to_markdown(("ControlNet", "multiply-adds"), [[row.model, _percent(row.unet)] for row in controls])
    notes = sorted({f"* {row.model}, {way}: {why}" for row in rows for way, why in row.ways.items() if _is_text(why)})
    unable = "\n\nWhat did not run, and why:\n\n" + "\n".join(notes) if notes else ""
    return (
        "# Compatibility\n"
        "Made by `python -m benchmarks.compatibility`; do not edit.\n\n"
        f"Every preset's own layout with narrow layers and random weights (float32, {SIDE}x{SIDE}), saved, loaded by "
        "the real loaders as a folder and, where its authors publish one, as a single file, and edited everywhere. A "
        f"tick: every pixel is within {LIMIT:g} (of a range of 2) of the dense edit, group norms following the edit; a "
        "canvas that moved keeps most of what it shows, so there is no edit of everything to compare: it `runs`. "
        f"The last three columns are the full-size model at {WIDTH}x{HEIGHT} with {source}, policy `tight`: active "
        "sites of the UNet, and thin multiply-adds (convolutions and linears) as a share of the dense ones.\n\n"
        f"{exact}{unable}\n\n## ControlNets\nThin multiply-adds of a call as a share of the dense ones, same edit; "
        f"`tests/test_control.py` holds their edits to diffusers' own pipelines.\n\n{nets}\n"
    )


def summary(rows: Sequence[Row]) -> str:
    """One line a model, in Markdown: in which ways each task is exact, or runs."""
    lines = []
    for model in dict.fromkeys(row.model for row in rows):
        own = {row.task: row for row in rows if row.model == model}
        ways = {task: _ways(row) for task, row in own.items()}
        row = next(iter(own.values()))
        lines.append([model, row.loads, *(ways.get(task, "–") for task in TASKS_SHOWN), _percent(row.unet)])
    return to_markdown(("model", "loads", *TASKS_SHOWN, "UNet"), lines)


def _ways(row: Row) -> str:
    """What runs, a tick where it is exact."""
    good = {way: _cell(outcome) for way, outcome in row.ways.items() if not _is_text(outcome)}
    if len(good) == len(WAYS) and set(good.values()) == {"✓"}:
        return "✓"
    return ", ".join(f"{way} {cell}" for way, cell in good.items()) or "–"


def _share(twin: Twin, stages: Sequence[str], sites: SitePyramid) -> float:
    thin = sum(twin.thin(stage, sites).macs for stage in stages)
    return thin / sum(twin.dense(stage).macs for stage in stages)


def _cell(outcome: float | str) -> str:
    if isinstance(outcome, str):
        return "–"
    if math.isnan(outcome):
        return "runs"
    return "✓" if outcome <= LIMIT else f"off by {outcome:.2g}"


def _is_text(outcome: float | str) -> bool:
    return isinstance(outcome, str)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
