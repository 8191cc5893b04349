"""`sparsedit compare`: pictures against pictures under a protocol, or a run against another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsedit.commands import options
from sparsedit.errors import InputError, SettingsError

if TYPE_CHECKING:
    from sparsedit.metrics.comparison import Comparison
    from sparsedit.metrics.scorer import Scorer


class Format(StrEnum):
    """How a comparison is written to stdout."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    LATEX = "latex"


_WHAT = "What is compared"
_HOW = "How it is scored"


def compare(
    a: Annotated[
        Path | None, typer.Argument(metavar="A", help="What is scored against: a picture, folder or run.")
    ] = None,
    b: Annotated[Path | None, typer.Argument(metavar="B", help="What is scored: the same kind of thing.")] = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="IMG", help="What was edited; a folder for folders.", rich_help_panel=_WHAT),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="T", help="What B should show, for CLIP.", rich_help_panel=_WHAT)
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="RUN", help="The run that run A is compared with.", rich_help_panel=_WHAT),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="whole-v1|pnp-v1|sparse-vs-dense",
            help="The rules; pnp-v1 where there are masks, else whole-v1.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="ssim,psnr,…", help="These alone.", rich_help_panel=_HOW)
    ] = None,
    lpips_net: Annotated[
        str | None, typer.Option("--lpips-net", metavar="squeeze|alex|vgg", help="Under LPIPS.", rich_help_panel=_HOW)
    ] = None,
    backbones: Annotated[
        Path | None,
        typer.Option(
            "--backbones", metavar="DIR", help="Where weights of LPIPS, CLIP and DINO are.", rich_help_panel=_HOW
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if", metavar="'psnr<30'", help="Leave with 3 when the mean is there.", rich_help_panel=_HOW
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the protocol's rules, score nothing.", rich_help_panel=_HOW)
    ] = False,
    device: options.Device = None,
    output_format: Annotated[
        Format, typer.Option("--output-format", help="Of the result on stdout.", rich_help_panel="Results")
    ] = Format.TABLE,
    json_line: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Score pictures against others, or a run against another.

    sparsedit compare before.png after.png --mask edited.png --fail-if 'psnr<30'

    sparsedit compare PIE_BENCH_FOLDER RESULTS --protocol pnp-v1

    sparsedit compare RUN --baseline EARLIER_RUN
    """
    from sparsedit.commands.output import print_text
    from sparsedit.metrics.comparison import check_thresholds, judge
    from sparsedit.metrics.protocol import explain as explained
    from sparsedit.metrics.protocol import get_protocol
    from sparsedit.metrics.threshold import parse_threshold

    thresholds = [parse_threshold(text) for text in fail_if or ()]
    if explain:
        print_text(explained(get_protocol(protocol or "whole-v1").with_lpips(lpips_net or "squeeze")))
        return
    first, second = _two(a, b, baseline)
    if _are_runs(first, second):
        given = {
            "--mask": mask,
            "--prompt": prompt,
            "--protocol": protocol,
            "--metrics": metrics,
            "--lpips-net": lpips_net,
        }
        _refuse([name for name, value in given.items() if value is not None])
        comparison = _compare_runs(first, second)
        check_thresholds(thresholds, comparison.columns, {})
    else:
        from sparsedit.metrics.folders import is_pie, match
        from sparsedit.metrics.scorer import Scorer
        from sparsedit.metrics.scoring import compare_pictures
        from sparsedit.models.placement import resolve_device

        rules = get_protocol(protocol or ("pnp-v1" if mask or is_pie(first) else "whole-v1"))
        scorer = Scorer(
            rules.with_lpips(lpips_net or rules.lpips),
            [name.strip() for name in metrics.split(",")] if metrics else (),
            backbones=backbones,
            device=resolve_device(device or "auto"),
        )
        check_thresholds(thresholds, scorer.columns, scorer.missing)
        _say_unused(scorer, mask, prompt)
        comparison = compare_pictures(match(first, second, mask, prompt), scorer)
    _show(comparison, output_format, line=json_line)
    judge(comparison, thresholds)
    if comparison.failed:
        raise typer.Exit(1)


def _two(a: Path | None, b: Path | None, baseline: Path | None) -> tuple[Path, Path]:
    """What is scored against, and what is scored."""
    if a is None or (b is None) == (baseline is None):
        raise SettingsError("compare needs two things: A and B, or a run and --baseline RUN")
    first, second = (a, b) if b is not None else (baseline, a)
    assert first is not None
    assert second is not None
    for place in (first, second):
        if not place.exists():
            raise InputError(f"{place} does not exist")
    if baseline and not _are_runs(first, second):
        raise InputError(f"--baseline compares runs; {first} and {second} are not both a run's folder")
    return first, second


def _are_runs(*places: Path) -> bool:
    return all((place / "records.jsonl").is_file() for place in places)


def _refuse(names: list[str]) -> None:
    if names:
        raise SettingsError(f"{names[0]} is for pictures; runs are compared by what their records hold")


def _say_unused(scorer: Scorer, mask: Path | None, prompt: str | None) -> None:
    from sparsedit.commands.output import stderr

    rules = scorer.protocol
    given = {
        "--mask": mask and rules.scored == "whole" and "seam" not in scorer.metrics,
        "--prompt": prompt and not rules.clip,
    }
    for name in (name for name, unused in given.items() if unused):
        stderr().print(f"warning: {name} changes nothing: protocol {rules.name} does not look at it", soft_wrap=True)


def _compare_runs(first: Path, second: Path) -> Comparison:
    from sparsedit.record_form import read_run
    from sparsedit.report.difference import compare_runs
    from sparsedit.runs import RunFolder

    return compare_runs(*(read_run(RunFolder.open(place).records) for place in (first, second)))


def _show(comparison: Comparison, form: Format, *, line: bool) -> None:
    from rich.console import Console

    from sparsedit.commands.output import print_json, print_text, print_view
    from sparsedit.report.comparison import comparison_csv, comparison_latex, comparison_markdown, comparison_view

    match form:
        case Format.TABLE:
            print_view(comparison_view(comparison, Console().width))
        case Format.CSV:
            print_text(comparison_csv(comparison))
        case Format.MD:
            print_text(comparison_markdown(comparison))
        case Format.LATEX:
            print_text(comparison_latex(comparison))
        case Format.JSON if not line:
            print_json(comparison.document(), indent=1)
    if line:
        print_json(comparison.document())
