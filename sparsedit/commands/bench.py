"""`sparsedit bench`: a whole suite in several ways, to the end or on from where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsedit.commands import options
from sparsedit.commands.report import Format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from sparsedit.bench.limits import Limits
    from sparsedit.bench.plan import Task
    from sparsedit.commands.bench_work import BenchWork
    from sparsedit.records import Record

_SUITE = "The suite"
_BENCH = "The bench"


def bench(
    call: typer.Context,
    suite: Annotated[
        str,
        typer.Option(
            "--suite", metavar="NAME", help="demo, sige, pie, pie-pp, folder, or a manifest.", rich_help_panel=_SUITE
        ),
    ],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Where its pictures are.", rich_help_panel=_SUITE)
    ] = None,
    allow_outside: options.AllowOutside = False,
    types: Annotated[
        str | None,
        typer.Option(
            "--types", metavar="T,...", help="Edits of these types, by name or number.", rich_help_panel=_SUITE
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="ID,...", help="These cases or edits.", rich_help_panel=_SUITE)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="N of them, of every type its share.", rich_help_panel=_SUITE),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            "--track", metavar="mask-given|mask-derived", help="Whether edits are told where.", rich_help_panel=_SUITE
        ),
    ] = None,
    ways: Annotated[
        str | None,
        typer.Option(
            "--ways",
            metavar="WAY,...",
            help="dense, alongside, warm, cold, step-skip, crop; default dense,warm,cold.",
            rich_help_panel=_BENCH,
        ),
    ] = None,
    skip_steps: Annotated[
        int | None,
        typer.Option(
            "--skip-steps",
            metavar="K",
            help="Dense steps of step-skip; else a cold edit's cost.",
            rich_help_panel=_BENCH,
        ),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option("--grid", metavar="FILE", help="YAML with models and settings.", rich_help_panel=_BENCH),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Part I of N; else SLURM's array or RANK says.", rich_help_panel=_BENCH
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray[://ADDRESS]",
            help="One worker here, or Ray's: one to a GPU, or to the cores of OMP_NUM_THREADS.",
            rich_help_panel=_BENCH,
        ),
    ] = "local",
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with the run that is there.", rich_help_panel=_BENCH)
    ] = True,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="RUN", help="Paired differences to another run.", rich_help_panel=_BENCH),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(
            "--limits", metavar="FILE", help="YAML with least values; else exit code 3.", rich_help_panel=_BENCH
        ),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Keep every edit's pictures.", rich_help_panel=_BENCH)
    ] = True,
    task: options.Task = None,
    steps: options.Steps = None,
    strength: options.Strength = None,
    guidance: options.Guidance = None,
    negative_prompt: options.NegativePrompt = None,
    seed: options.Seed = None,
    coarse: options.Coarse = None,
    record_steps: options.RecordSteps = None,
    fidelity: options.Fidelity = None,
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
    cache_precision: options.CachePrecision = None,
    cache_rows: options.CacheRows = None,
    config: options.Config = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    output_format: Annotated[
        Format, typer.Option("--output-format", help="Of the tables on stdout.", rich_help_panel="Results")
    ] = Format.TABLE,
    json_line: options.Json = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run a whole suite of edits in several ways, and compare each with the dense edit.

    What is done is kept: the same command goes on where it stopped.

    sparsedit bench --suite demo --limit 20 --ways dense,warm,cold

    sparsedit bench --suite pie --data PIE-Bench_v1 --model sdxl --track mask-given
    """
    from sparsedit.bench.engine import check_engine
    from sparsedit.bench.ledger import look_into
    from sparsedit.bench.limits import load_limits
    from sparsedit.commands.bench_work import plan_bench
    from sparsedit.commands.output import stderr
    from sparsedit.record_form import read_run
    from sparsedit.runs import RunFolder

    check_engine(engine)
    required = None if limits is None else load_limits(limits)
    before = None if baseline is None else read_run(RunFolder.open(baseline).records)
    work = plan_bench(call.params)
    found = look_into(work.path, work.config, resume=resume, overwrite=overwrite)
    console = stderr(quiet=quiet)
    _announce(work, work.missing(found.done), console)
    if dry_run:
        _show_plan(work, found.records, console, output_format, line=json_line)
        return
    _run(work, work.missing(found.done), console, call.params)
    _conclude(work, before, required, console, call.params)


def _announce(work: BenchWork, missing: Sequence[Task], console: Console) -> None:
    from sparsedit.bench.plan import edits_of

    edits, left = edits_of(work.tasks), edits_of(missing)
    part = f", part {work.shard}" if work.shard.count > 1 else ""
    console.print(
        f"suite {work.suite.name}{part}: {len(work.tasks)} cases, {edits} edits, in {work.path}", soft_wrap=True
    )
    for cell in work.cells:
        said = {key: value for key, value in cell.settings.model_dump().items() if value is not None}
        shared = " ".join(f"{key}={value}" for key, value in said.items() if value != "" and key != "way")
        console.print(f"{cell.configuration[:8]} model={cell.model} {shared}", style="dim", soft_wrap=True)
    if left < edits:
        console.print(f"{edits - left} of them are done already")


def _show_plan(work: BenchWork, done: Sequence[Record], console: Console, form: Format, *, line: bool) -> None:
    from sparsedit.bench.forecast import HEADINGS, forecast, forecast_csv, forecast_rows, notes
    from sparsedit.commands.output import print_json, print_text, print_view
    from sparsedit.report.table import cells, grid
    from sparsedit.report.text import to_latex, to_markdown

    plan = forecast(work.missing({record["id"] for record in done}), done)
    document = work.config | {"plan": plan}
    match form:
        case Format.TABLE:
            table = grid((heading, "right" if place > 1 else "left") for place, heading in enumerate(HEADINGS))
            for row in forecast_rows(plan):
                table.add_row(*cells(row))
            print_view(table)
        case Format.CSV:
            print_text(forecast_csv(plan))
        case Format.MD:
            print_text(to_markdown(HEADINGS, forecast_rows(plan)))
        case Format.LATEX:
            print_text(to_latex(HEADINGS, forecast_rows(plan)))
        case Format.JSON if not line:
            print_json(document, indent=1)
    for note in notes(plan):
        console.print(note, soft_wrap=True)
    if line:
        print_json(document)


def _run(work: BenchWork, expected: Sequence[Task], console: Console, asked: Mapping[str, Any]) -> None:
    """Run what is missing, `expected` before the run's folder is opened; interrupted, say what is kept."""
    from functools import partial

    from sparsedit.bench.driver import drive
    from sparsedit.bench.engine import open_pool
    from sparsedit.bench.ledger import open_ledger
    from sparsedit.bench.progress import Progress
    from sparsedit.commands.unscored import say_unscored

    if expected:
        say_unscored(console)
    say = partial(console.print, style="yellow", soft_wrap=True)
    pool = open_pool(asked["engine"], expected, pictures=asked["pictures"], say=say)
    how = {key: asked[key] for key in ("resume", "overwrite")}
    with pool as workers, open_ledger(work.path, work.config, **how) as ledger:
        if ledger.mended:
            console.print("the last record was half written when its run ended, and is made again")
        missing = work.missing(ledger.done)
        for note in work.describe(ledger.folder):
            say(note)
        progress = Progress(console, missing)
        try:
            with progress:
                drive(missing, workers, ledger.folder, progress)
        except KeyboardInterrupt:
            done = len(ledger.records) + progress.done_edits
            console.print(f"interrupted; edits that are kept: {done}. The same command goes on.", soft_wrap=True)
            raise


def _conclude(
    work: BenchWork,
    before: Sequence[Record] | None,
    required: Limits | None,
    console: Console,
    asked: Mapping[str, Any],
) -> None:
    """Show the tables of everything there is, and judge them."""
    from sparsedit.bench.limits import check_limits
    from sparsedit.bench.sessions import describe, read_sessions
    from sparsedit.commands.bench_output import show_bench
    from sparsedit.record_form import read_environment, read_run
    from sparsedit.report.bench import tables
    from sparsedit.runs import RunFolder

    folder = RunFolder(work.path)
    records = read_run(folder.records)
    shown = tables(records, before, describe(read_sessions([folder])))
    machine = read_environment(work.path)
    page = show_bench([work.path], records, shown, machine, asked["output_format"], line=asked["json_line"])
    console.print(f"report: {page}", soft_wrap=True)
    if required is not None:
        check_limits(shown, required)
    if any(record["status"] != "ok" for record in records):
        raise typer.Exit(1)
