"""`sparsedit profile`: what an edit costs stage by stage, dense and sparse, and what others publish of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.commands.options import Format

if TYPE_CHECKING:
    from rich.console import Console

    from sparsedit.profiling.subjects import Subject

_WHAT = "What is profiled"
_MEASURED = "How it is measured"
_EDIT_RATIO = 0.02
_STAGES = ("text", "encoder", "unet", "refiner", "decoder", "controlnet")

Size = Annotated[str | None, typer.Option("--size", metavar="WxH", help="Of a made-up picture.", rich_help_panel=_WHAT)]
EditRatio = Annotated[
    float | None,
    typer.Option(
        "--edit-ratio", metavar="R", help=f"Share of it that is edited; {_EDIT_RATIO}.", rich_help_panel=_WHAT
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option("--pattern", metavar="contiguous|scattered", help="One rectangle, or dabs.", rich_help_panel=_WHAT),
]
StageNames = Annotated[
    str | None,
    typer.Option(
        "--stages", metavar="unet,encoder,...", help=f"These alone: {', '.join(_STAGES)}.", rich_help_panel=_WHAT
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Of a UNet call; else what guidance makes.", rich_help_panel=_WHAT),
]
Published = Annotated[
    bool, typer.Option("--published", help="Published figures, and our counts beside them.", rich_help_panel=_WHAT)
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Rounds that count.", rich_help_panel=_MEASURED)]
Warmup = Annotated[int, typer.Option("--warmup", min=1, help="Rounds before them.", rich_help_panel=_MEASURED)]
RefreshCeilings = Annotated[
    bool, typer.Option("--refresh-ceilings", help="Measure the machine's limits again.", rich_help_panel=_MEASURED)
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Also write DIR/profile.json.", rich_help_panel="Results"),
]


def profile(
    call: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="A manifest (.yaml) or an original; else an edit is made up."),
    ] = None,
    edited: options.Edited = None,
    mask: options.Mask = None,
    prompt: options.Prompt = None,
    edit_prompt: options.EditPrompt = None,
    data: options.Data = None,
    allow_outside: options.AllowOutside = False,
    size: Size = None,
    edit_ratio: EditRatio = None,
    pattern: Pattern = None,
    stages: StageNames = None,
    batch: Batch = None,
    published: Published = False,
    samples: Samples = 5,
    warmup: Warmup = 1,
    refresh_ceilings: RefreshCeilings = False,
    task: options.Task = None,
    steps: options.Steps = None,
    strength: options.Strength = None,
    guidance: options.Guidance = None,
    negative_prompt: options.NegativePrompt = None,
    seed: options.Seed = None,
    norm: options.Norm = None,
    policy: options.Policy = None,
    threshold: options.Threshold = None,
    grow: options.Grow = None,
    level_dilation: options.LevelDilation = None,
    vae_margin: options.VaeMargin = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    lora: options.Lora = None,
    vae: options.Vae = None,
    scheduler: options.Scheduler = None,
    controlnet: options.ControlNet = None,
    control_scale: options.ControlScale = None,
    refiner: options.Refiner = None,
    refine_from: options.RefineFrom = None,
    config: options.Config = None,
    output: Output = None,
    overwrite: options.Overwrite = False,
    output_format: options.OutputFormat = Format.TABLE,
    json_line: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure what an edit costs, stage by stage, dense and sparse: multiply-adds, bytes, memory and seconds.

    sparsedit profile -m sdxl --weights random --size 1024x512

    sparsedit profile photo.png --edited painted.png
    """
    from sparsedit.commands.output import stderr
    from sparsedit.commands.published import compare_published

    file = _output_file(output, overwrite=overwrite)
    console = stderr(quiet=quiet)
    document = compare_published(call.params, console) if published else _profiles(call.params, console)
    if file:
        _write(file, document)
        console.print(f"written: {file}", soft_wrap=True)


def _profiles(asked: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Profile what is asked for and show it; the document."""
    from sparsedit.measure.warnings import load_average

    busy = load_average()  # before this program makes one of its own
    stages = _chosen(asked["stages"])
    model, subjects = _subjects(asked)

    from rich.console import Console

    from sparsedit.commands.output import print_result
    from sparsedit.engines.pipelines import empty_models, load_models
    from sparsedit.environment import environment
    from sparsedit.profiling.calls import Sampling
    from sparsedit.profiling.profile import Profiler
    from sparsedit.report.profile import profile_entry
    from sparsedit.report.profile_table import profile_csv, profile_markdown, profile_view

    settings = subjects[0].settings
    with console.status(f"loading model {model}") as status:
        load = empty_models if asked["dry_run"] else load_models
        pipe, refiner = load(model, settings)
        profiler = Profiler(
            pipe,
            model,
            refiner=refiner,
            stages=stages,
            batch=asked["batch"],
            sampling=None if asked["dry_run"] else Sampling(asked["samples"], asked["warmup"]),
            load=busy,
            refresh_ceilings=asked["refresh_ceilings"],
            tell=status.update,
        )
        profiles = [profiler.profile(subject) for subject in subjects]
    facts = environment()
    document = {"schema": 1, "profiles": [profile_entry(each) for each in profiles], "environment": facts}
    print_result(
        document,
        asked["output_format"],
        line=asked["json_line"],
        view=lambda: profile_view(profiles, facts, Console().width),
        csv=lambda: profile_csv(profiles),
        markdown=lambda: profile_markdown(profiles, facts),
    )
    return document


def _subjects(asked: Mapping[str, Any]) -> tuple[str, list[Subject]]:
    """The model, and the edits of INPUT or the one that is made up."""
    from sparsedit.commands.work import plan_settings, plan_work, refuse
    from sparsedit.errors import InputError, SettingsError, did_you_mean

    source = asked["source"]
    if source is not None:
        refuse(asked, ("size", "edit_ratio", "pattern"), f"{source} is what is edited")
        work = plan_work(source, asked)

        from sparsedit.profiling.subjects import subjects_of

        return work.model, list(subjects_of(work.jobs))
    refuse(asked, ("edited", "mask", "data", "allow_outside"), "there is no INPUT that it could belong to")
    model, settings = plan_settings(asked)
    width, height = _size(asked["size"], model)
    ratio = _EDIT_RATIO if asked["edit_ratio"] is None else asked["edit_ratio"]
    if not 0 < ratio <= 1:
        raise InputError(f"--edit-ratio must be more than 0 and at most 1, not {ratio:g}")

    from sparsedit.profiling.subjects import synthetic_subject
    from sparsedit.profiling.synthetic import PATTERNS

    pattern = asked["pattern"] or PATTERNS[0]
    if pattern not in PATTERNS:
        known = " or ".join(PATTERNS)
        raise SettingsError(f"--pattern must be {known}, not {pattern!r}{did_you_mean(pattern, PATTERNS)}")
    prompts = (asked["prompt"] or "", asked["edit_prompt"] or "")
    return model, [synthetic_subject(settings, (width, height), ratio, pattern, *prompts)]


def _size(text: str | None, model: str) -> tuple[int, int]:
    """Width and height in pixels; a preset's own size when none is given."""
    from sparsedit.errors import InputError
    from sparsedit.models.presets import preset_and_file

    if text is None:
        preset, _ = preset_and_file(model)
        if preset is None:
            raise InputError(f"{model} has no preset and so no size of its own: give --size WxH")
        return preset.native_size, preset.native_size
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text.strip().lower())
    if not match or "0" in match.groups():
        raise InputError(f"--size must be WIDTHxHEIGHT in pixels, such as 1024x512, not {text!r}")
    return int(match[1]), int(match[2])


def _chosen(text: str | None) -> list[str] | None:
    """The stages in a list with commas, in the order of a run; None where none is given."""
    from sparsedit.errors import InputError, did_you_mean

    if text is None:
        return None
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in _STAGES:
            raise InputError(f"--stages: no stage {name!r}; known: {', '.join(_STAGES)}{did_you_mean(name, _STAGES)}")
    return [name for name in _STAGES if name in chosen]


def _output_file(folder: Path | None, *, overwrite: bool) -> Path | None:
    """Where the document goes; refused while nothing has been run."""
    from sparsedit.errors import InputError

    file = folder / "profile.json" if folder else None
    if file and file.exists() and not overwrite:
        raise InputError(f"{file} exists; name another folder, or replace it with --overwrite")
    return file


def _write(file: Path, document: Mapping[str, Any]) -> None:
    import json

    from sparsedit.errors import InputError
    from sparsedit.files import write_atomic

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file.parent} cannot be made ({error.strerror}); name another folder") from error
    write_atomic(file, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
