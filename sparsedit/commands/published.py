"""`sparsedit profile --published`: what published tables say, and our counts of the same beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def compare_published(asked: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Count what published tables count, in all models or the one asked for, and show both; the document."""
    from rich.console import Console

    from sparsedit.commands.output import print_result
    from sparsedit.commands.work import plan_work, refuse
    from sparsedit.errors import InputError
    from sparsedit.published import load_published
    from sparsedit.settings import POLICIES

    made_up = ("size", "edit_ratio", "pattern", "stages", "batch", "edited", "mask")
    refuse(asked, made_up, "--published counts the published cases as they were published")
    rows = [row for row in load_published() if asked["model"] in (None, row.preset)]
    if not rows:
        raise InputError(f"no published table has a row for model {asked['model']!r}; leave out --model to see all")
    policy = asked["policy"] or "published"
    if policy not in POLICIES:
        raise InputError(f"--policy must be {' or '.join(POLICIES)}, not {policy!r}")
    source = asked["source"] or (_published_cases() if asked["data"] else None)

    from sparsedit.profiling.published import case_masks, count_rows
    from sparsedit.profiling.subjects import subjects_of
    from sparsedit.report.published import published_csv, published_entries, published_markdown, published_view

    masks = {}
    if source:
        masks = case_masks(list(subjects_of(plan_work(source, asked).jobs)))
    with console.status("counting") as status:
        found = list(count_rows(rows, masks, POLICIES[policy], status.update))
    entries = published_entries(found)
    if not masks:
        need = "sparse rows need the published pictures: sparsedit profile --published --data DIR"
        console.print(need, soft_wrap=True)
    document = {"schema": 1, "policy": policy, "published": entries}
    print_result(
        document,
        asked["output_format"],
        line=asked["json_line"],
        view=lambda: published_view(entries, policy, Console().width),
        csv=lambda: published_csv(entries),
        markdown=lambda: published_markdown(entries, policy),
    )
    return document


def _published_cases() -> Path:
    """The manifest that says which pictures of --data are which published case."""
    from sparsedit.errors import InputError

    manifest = Path(__file__).parents[2] / "manifests" / "sige.yaml"
    if not manifest.is_file():
        raise InputError("name the manifest of the published cases: sparsedit profile sige.yaml --data DIR --published")
    return manifest
