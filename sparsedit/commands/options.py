"""The options that commands share, each described once. Ranges and choices are checked with the settings."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How a result is written to stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


def words(text: str | None) -> str | None:
    """A prompt as it was typed; BadParameter for bytes that are no UTF-8, which no text encoder takes."""
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise typer.BadParameter("these bytes are no UTF-8; save or type the prompt in UTF-8") from None
    return text


_PICTURES = "The edit"
_HOW = "How it is made"
_MASK = "What counts as edited"
_WHERE = "Model and machine"
_CACHE = "What is remembered (way warm)"
_OUT = "Results"

Edited = Annotated[
    list[Path] | None,
    typer.Option(
        "--edited", metavar="IMG", help="An edited copy of INPUT; may be repeated.", rich_help_panel=_PICTURES
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option("--mask", metavar="IMG", help="What is edited, white on black (or .npy).", rich_help_panel=_PICTURES),
]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="T", help="What INPUT shows.", rich_help_panel=_PICTURES, callback=words),
]
EditPrompt = Annotated[
    str | None,
    typer.Option(
        "--edit-prompt",
        metavar="T",
        help="What the edit shows, if not the same.",
        rich_help_panel=_PICTURES,
        callback=words,
    ),
]
Series = Annotated[
    bool,
    typer.Option(
        "--series", help="Make each edit upon the result of the one before (--edited …).", rich_help_panel=_PICTURES
    ),
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="DX,DY", help="Pan by pixels to the right and down.", rich_help_panel=_PICTURES),
]
Angle = Annotated[
    float | None,
    typer.Option("--angle", help="Rotate by degrees, counterclockwise.", rich_help_panel=_PICTURES),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="Of an original that is made (prompt).", rich_help_panel=_PICTURES),
]
ControlFrom = Annotated[
    str | None,
    typer.Option(
        "--control-from",
        metavar="photo|map",
        help="Whether pictures are photos or what a ControlNet is shown (control).",
        rich_help_panel=_PICTURES,
    ),
]
CaptureSteps = Annotated[
    int | None,
    typer.Option("--capture-steps", metavar="K", help="Dense steps that find the mask (prompt).", rich_help_panel=_HOW),
]
MaskFrom = Annotated[
    str | None,
    typer.Option(
        "--mask-from",
        metavar="spread|latents|attention",
        help="What says where new words take effect (prompt).",
        rich_help_panel=_MASK,
    ),
]
LastDense = Annotated[
    int | None,
    typer.Option("--last-dense", metavar="M", help="Dense steps at the end (prompt).", rich_help_panel=_HOW),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Where a manifest's pictures are.", rich_help_panel=_PICTURES),
]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="Take pictures from outside that folder too.", rich_help_panel=_PICTURES),
]

Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="sdedit|inpaint|prompt|control|rotate|pan",
        help="The kind of edit.",
        rich_help_panel=_HOW,
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the schedule.", rich_help_panel=_HOW)]
Strength = Annotated[
    float | None, typer.Option("--strength", help="Share of the schedule that is run.", rich_help_panel=_HOW)
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", help="Scale of classifier-free guidance.", rich_help_panel=_HOW)
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        "--negative-prompt",
        metavar="T",
        help="What the edit must not show.",
        rich_help_panel=_HOW,
        callback=words,
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the noise.", rich_help_panel=_HOW)]
Way = Annotated[
    str | None,
    typer.Option(
        "--way",
        metavar="alongside|warm|cold",
        help="Edits in one batch with their original, after it was recorded, or without it.",
        rich_help_panel=_HOW,
    ),
]
Coarse = Annotated[
    str | None,
    typer.Option("--coarse", metavar="K|auto", help="Dense steps of a cold edit.", rich_help_panel=_HOW),
]
RecordSteps = Annotated[
    int | None,
    typer.Option("--record-steps", metavar="K", help="Steps recorded of an original (way warm).", rich_help_panel=_HOW),
]
Fidelity = Annotated[
    float | None,
    typer.Option("--fidelity", metavar="DB", help="Choose K by a PSNR to the dense edit.", rich_help_panel=_HOW),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="original|self",
        help="Run the original under its own prompt or the edit's.",
        rich_help_panel=_HOW,
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(
        "--norm",
        metavar="original|updated",
        help="Group norms with the original's statistics, or following the edit's (inpaint, series, wide unless told).",
        rich_help_panel=_HOW,
    ),
]
Dense = Annotated[
    bool | None,
    typer.Option("--dense/--no-dense", help="Also run the dense edit, to compare with.", rich_help_panel=_HOW),
]

Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="tight|close|wide|published",
        help="Named values of those below, from the fastest to the truest; published is SIGE's.",
        rich_help_panel=_MASK,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Smallest difference that counts, of a range of 2.", rich_help_panel=_MASK),
]
Grow = Annotated[int | None, typer.Option("--grow", help="Pixels by which the mask is grown.", rich_help_panel=_MASK)]
LevelDilation = Annotated[
    int | None,
    typer.Option("--level-dilation", help="The same at every resolution in the model.", rich_help_panel=_MASK),
]
Feather = Annotated[
    int | None,
    typer.Option(
        "--feather",
        help="Width in pixels of the blend at its border; else that of --grow, at most 8; none in a drawn mask.",
        rich_help_panel=_MASK,
    ),
]
VaeMargin = Annotated[
    int | None,
    typer.Option("--vae-margin", help="Pixels encoder and decoder reach beyond the UNet.", rich_help_panel=_MASK),
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="A preset, hub id, diffusers folder or file.", rich_help_panel=_WHERE
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="auto|cpu|cuda[:N]|mps", help="What computes.", rich_help_panel=_WHERE)
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="auto|float32|bfloat16|float16", help="Precision.", rich_help_panel=_WHERE),
]
Offload = Annotated[
    str | None,
    typer.Option(
        "--offload",
        metavar="none|model|sequential|auto",
        help="What waits in the machine's memory until a GPU calls it.",
        rich_help_panel=_WHERE,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option("--weights", metavar="real|random", help="Random ones need no download.", rich_help_panel=_WHERE),
]
Lora = Annotated[
    str | None,
    typer.Option("--lora", metavar="PLACE", help="A LoRA: file, folder or hub id.", rich_help_panel=_WHERE),
]
Vae = Annotated[
    str | None,
    typer.Option("--vae", metavar="NAME", help="tiny, fp16-fix, a folder or a hub id.", rich_help_panel=_WHERE),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="NAME",
        help="euler, euler-a, dpm++-2m, ddim or lcm; else the model's own.",
        rich_help_panel=_HOW,
    ),
]
ControlNet = Annotated[
    str | None,
    typer.Option(
        "--controlnet",
        metavar="NAME",
        help="canny, canny-small, ..., a folder or a hub id; it is shown the picture's edges.",
        rich_help_panel=_WHERE,
    ),
]
ControlScale = Annotated[
    float | None, typer.Option("--control-scale", help="How much a ControlNet counts.", rich_help_panel=_HOW)
]
Refiner = Annotated[
    str | None,
    typer.Option(
        "--refiner", metavar="NAME", help="A second model that finishes: sdxl-refiner, ...", rich_help_panel=_WHERE
    ),
]
RefineFrom = Annotated[
    float | None,
    typer.Option("--refine-from", help="Share of the way after which it takes over.", rich_help_panel=_HOW),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML with these options as keys.", rich_help_panel=_WHERE),
]

Cache = Annotated[
    str | None,
    typer.Option("--cache", metavar="DIR", help="Keep recordings here, for other runs too.", rich_help_panel=_CACHE),
]
CacheBudget = Annotated[
    str | None,
    typer.Option("--cache-budget", metavar="8GB", help="Memory for recorded steps.", rich_help_panel=_CACHE),
]
CachePrecision = Annotated[
    str | None,
    typer.Option(
        "--cache-precision", metavar="native|int8", help="How keys and values are kept.", rich_help_panel=_CACHE
    ),
]
CacheRows = Annotated[
    str | None,
    typer.Option(
        "--cache-rows", metavar="all|halo", help="Keep whole maps, or what these edits read.", rich_help_panel=_CACHE
    ),
]

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The run's folder; else runs/NAME-TIME.", rich_help_panel=_OUT),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run there.", rich_help_panel=_OUT)]
OutputFormat = Annotated[
    Format, typer.Option("--output-format", help="Of the summary on stdout.", rich_help_panel=_OUT)
]
Json = Annotated[bool, typer.Option("--json", help="End stdout with one line of JSON.", rich_help_panel=_OUT)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, show the plan, run nothing.", rich_help_panel=_OUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing on stderr but errors.", rich_help_panel=_OUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Errors with their traceback.", rich_help_panel=_OUT)]
