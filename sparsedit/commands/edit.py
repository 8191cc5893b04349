"""`sparsedit edit`: run the edits of a manifest, or of one picture, and show what they saved."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.commands.options import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from sparsedit.commands.work import Work
    from sparsedit.runs import RunFolder


def edit(
    call: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="A manifest (.yaml) or an original; task prompt can make one itself."),
    ] = None,
    edited: options.Edited = None,
    mask: options.Mask = None,
    prompt: options.Prompt = None,
    edit_prompt: options.EditPrompt = None,
    series: options.Series = False,
    by: options.By = None,
    angle: options.Angle = None,
    size: options.Size = None,
    control_from: options.ControlFrom = None,
    data: options.Data = None,
    allow_outside: options.AllowOutside = False,
    task: options.Task = None,
    steps: options.Steps = None,
    strength: options.Strength = None,
    guidance: options.Guidance = None,
    negative_prompt: options.NegativePrompt = None,
    seed: options.Seed = None,
    way: options.Way = None,
    coarse: options.Coarse = None,
    record_steps: options.RecordSteps = None,
    fidelity: options.Fidelity = None,
    capture_steps: options.CaptureSteps = None,
    last_dense: options.LastDense = None,
    mask_from: options.MaskFrom = None,
    context: options.Context = None,
    norm: options.Norm = None,
    dense: options.Dense = None,
    policy: options.Policy = None,
    threshold: options.Threshold = None,
    grow: options.Grow = None,
    level_dilation: options.LevelDilation = None,
    feather: options.Feather = None,
    vae_margin: options.VaeMargin = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    offload: options.Offload = None,
    weights: options.Weights = None,
    lora: options.Lora = None,
    vae: options.Vae = None,
    scheduler: options.Scheduler = None,
    controlnet: options.ControlNet = None,
    control_scale: options.ControlScale = None,
    refiner: options.Refiner = None,
    refine_from: options.RefineFrom = None,
    cache: options.Cache = None,
    cache_budget: options.CacheBudget = None,
    cache_precision: options.CachePrecision = None,
    cache_rows: options.CacheRows = None,
    config: options.Config = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    output_format: options.OutputFormat = Format.TABLE,
    json_line: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Edit pictures, computing only what changes, and compare with the dense edit.

    sparsedit edit manifests/demo.yaml

    sparsedit edit photo.png --edited painted.png --prompt "a meadow"

    sparsedit edit --task prompt --prompt "a meadow" --edit-prompt "a meadow with a red house"
    """
    from sparsedit.commands.output import stderr
    from sparsedit.commands.work import plan_work
    from sparsedit.runs import RunFolder

    work = plan_work(source, call.params)
    folder = RunFolder(output or work.folder(datetime.now()))
    folder.check_free(overwrite=overwrite)
    console = stderr(quiet=quiet)
    _announce(work, console)
    if dry_run:
        _show_plan(work, console, output_format, line=json_line)
    elif not _run(work, folder, console, call.params):
        raise typer.Exit(1)


def _announce(work: Work, console: Console) -> None:
    """The resolved configuration, compact, and the steps that really run."""
    from sparsedit.report.plan import schedule
    from sparsedit.report.text import printable

    configuration = work.configuration()
    said = {key: value for key, value in configuration["settings"].items() if value is not None}
    shared = " ".join(f"{key}={_said(value)}" for key, value in said.items())
    console.print(
        printable(f"{work.source or 'from noise'}: {_edits(work.edits)} with model {work.model}"), soft_wrap=True
    )
    console.print(printable(shared), style="dim")
    counts: dict[str, int] = {}
    for job in work.jobs:
        words = f"{job.settings.task}: {schedule(job.settings)}"
        counts[words] = counts.get(words, 0) + len(job.variants)
    for words, count in counts.items():
        console.print(f"{words} ({_edits(count)})")


def _edits(count: int) -> str:
    return f"{count} edit" if count == 1 else f"{count} edits"


def _said(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value) if value == "" else str(value)


def _show_plan(work: Work, console: Console, form: Format, *, line: bool) -> None:
    from sparsedit.commands.need import memory_need, said
    from sparsedit.commands.output import print_json, print_text, print_view
    from sparsedit.engines.local import check_inputs
    from sparsedit.report.plan import HEADINGS, plan_entries, plan_rows, plan_table
    from sparsedit.report.text import printable, to_csv, to_markdown

    check_inputs(work.jobs)
    entries = plan_entries(work.jobs)
    need = memory_need(work, entries)
    console.print(printable(said(need, work)), soft_wrap=True)
    document = work.configuration() | {"plan": entries, "memory": need}
    match form:
        case Format.TABLE:
            print_view(plan_table(entries))
        case Format.CSV:
            print_text(to_csv(entries))
        case Format.MD:
            print_text(to_markdown(HEADINGS, plan_rows(entries)))
        case Format.JSON if not line:
            print_json(document, indent=1)
    if line:
        print_json(document)


def _run(work: Work, folder: RunFolder, console: Console, asked: Mapping[str, Any]) -> bool:
    """Run the work and show it; whether all edits were done."""
    from sparsedit.commands.output import print_records
    from sparsedit.commands.unscored import say_unscored
    from sparsedit.engines.local import check_inputs, check_sizes, run_jobs
    from sparsedit.engines.steps import total_steps
    from sparsedit.environment import environment
    from sparsedit.errors import InputError
    from sparsedit.measure.memory import undisturbed
    from sparsedit.models.loading import load_pipeline, load_refiner
    from sparsedit.pixels import stages_of
    from sparsedit.progress import Progress
    from sparsedit.report.page import write_page
    from sparsedit.report.text import printable
    from sparsedit.runs import RunFolder

    check_inputs(work.jobs)
    say_unscored(console)
    settings = work.settings
    with console.status(f"loading model {work.model}"):
        pipe: Any = load_pipeline(
            work.model,
            weights=settings.weights,
            dtype=settings.dtype,
            device=settings.device,
            offload=settings.offload,
            lora=settings.lora,
            vae=settings.vae,
            controlnet=settings.controlnet,
            scheduler=settings.scheduler,
        )
        refiner = None
        if settings.refiner:
            how: dict[str, Any] = {"weights": settings.weights, "offload": settings.offload}
            refiner = load_refiner(settings.refiner, work.model, pipe, **how)
    console.print(_placement(work, pipe), style="dim", soft_wrap=True)
    for sentence in check_sizes(work.jobs, stages_of(pipe)):
        console.print(printable(sentence), soft_wrap=True)
    machine = environment() | _run_facts(work, pipe)
    with RunFolder.begun(folder.path, overwrite=asked["overwrite"]) as folder:
        folder.write_config(work.configuration())
        folder.write_environment(machine)
        try:
            with undisturbed(), Progress(console, work.edits, total_steps(work.jobs)) as progress:
                records = list(run_jobs(work.jobs, pipe, work.model, folder, progress, work.name, refiner))
        except (KeyboardInterrupt, InputError):  # whatever cannot be written is an InputError
            done = f"{progress.done_edits} of {_edits(work.edits)}"
            console.print(f"interrupted: {done} are kept; sparsedit report {folder.path} shows them", soft_wrap=True)
            raise
        page = write_page(folder.path, records, machine)
    print_records(records, machine, folder.path, asked["output_format"], line=asked["json_line"])
    console.print(f"pictures: {folder.path / 'images'}\nreport:   {page}", soft_wrap=True)
    return all(record["status"] == "ok" for record in records)


def _placement(work: Work, pipe: Any) -> str:
    """Where the model lies and in which number format, and why in that one."""
    from sparsedit.models.placement import dtype_reason
    from sparsedit.models.presets import preset_and_file

    device = pipe._execution_device
    preset, _ = preset_and_file(work.model)
    reason = dtype_reason(work.settings.dtype, device, preset)
    waiting = "" if pipe.device == device else ", its models fetched from the machine's memory when they are called"
    return f"{str(pipe.dtype).removeprefix('torch.')} on {device}{waiting} ({reason})"


def _run_facts(work: Work, pipe: Any) -> dict[str, Any]:
    """What belongs to this run rather than to the machine."""
    source = Path(str(pipe.config.get("_name_or_path") or ""))
    return {
        "model": work.model,
        # A snapshot's folder in the hub's cache is named by its commit.
        "model_revision": source.name if source.parent.name == "snapshots" else None,
        "manifest_sha256": work.sha256,
        "device": str(pipe._execution_device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
    }
