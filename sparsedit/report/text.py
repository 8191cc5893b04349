"""Tables as text: what is safe to print, CSV for spreadsheets, Markdown and LaTeX for documents.

Prompts, reasons and names come from files that others wrote, so nothing of them may act: not on a terminal, not as
a formula in a spreadsheet, not as markup.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence

from sparsedit.records import STAGES, Record
from sparsedit.report.numbers import arrow, figure, giga, percent, times
from sparsedit.report.summary import Row, StageRow, Summary, stage_macs, stage_seconds, summarise

Cell = str | int | float | bool | None

HEADINGS = (
    "case/variant", "edit type", "edited", "way", "UNet GMACs", "ratio", "seconds",
    "n-th edit", "1st edit", "PSNR in", "PSNR all",
)  # fmt: skip
TEXT_COLUMNS = (0, 1, 3)
"""Those of words, which are sorted as such."""
STAGE_HEADINGS = ("stage", "median seconds", "speed-up", "fewer MACs")

# Spreadsheets take a cell for a formula by its first character, the wide forms of East Asian keyboards included.
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$])")
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "×": r"$\times$", "→": r"$\to$", "–": "--",
}  # fmt: skip
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def printable(text: str) -> str:
    """The text on one line, with control, format and unpaired characters as escapes that a reader can see."""
    return "".join(_visible(character) for character in text)


def row_cells(row: Row) -> list[str]:
    """A row under `HEADINGS`, as it is read."""
    return [
        row.name + (" *" if row.prompt_changed else ""),
        row.edit_type or "",
        percent(row.edit_ratio),
        "failed" if row.failed else row.way or "",
        arrow(giga(row.dense_macs), giga(row.sparse_macs)),
        times(row.macs_ratio),
        arrow(figure(row.dense_s), figure(row.sparse_s)),
        times(row.speedup),
        times(row.first_speedup),
        *("equal" if psnr is None and row.identical else figure(psnr) for psnr in (row.inside_psnr, row.whole_psnr)),
    ]


def stage_cells(stage: StageRow) -> list[str]:
    """A stage under `STAGE_HEADINGS`."""
    seconds = arrow(figure(stage.dense_s), figure(stage.sparse_s))
    return [stage.stage, seconds, times(stage.speedup), times(stage.macs_ratio)]


def to_csv(entries: Sequence[Mapping[str, Cell]]) -> str:
    """A table of equally keyed rows; numbers raw, nothing for None, and no cell that a spreadsheet would run."""
    stream = io.StringIO()
    if entries:
        writer = csv.DictWriter(stream, list(entries[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _csv_cell(value) for key, value in entry.items()} for entry in entries)
    return stream.getvalue()


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table; every cell is text."""
    lines = [header, ["---"] * len(header), *([markdown_text(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """The text so that Markdown shows it as it is."""
    return _MARKUP.sub(r"\\\1", printable(text)).translate(_ENTITIES)


def to_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `tabular` with the rules of booktabs; every cell is text."""
    columns = "l" + "r" * (len(header) - 1)
    lines = [" & ".join(map(latex_text, line)) + r" \\" for line in (header, *rows)]
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def latex_text(text: str) -> str:
    """The text so that LaTeX sets it as it is."""
    return "".join(_LATEX.get(character, character) for character in printable(text))


def records_csv(records: Sequence[Record]) -> str:
    """One line per record: what it was, and its numbers unrounded."""
    rows = summarise(records).rows
    return to_csv([_flat(record, row) for record, row in zip(records, rows, strict=True)])


def summary_markdown(summary: Summary) -> str:
    """The summary's tables and notes."""
    parts = [
        markdown_text(summary.title) + "\n",
        to_markdown(HEADINGS, [row_cells(row) for row in (*summary.rows, *summary.means)]),
        to_markdown(STAGE_HEADINGS, [stage_cells(stage) for stage in summary.stages]) if summary.stages else "",
        "".join(f"- {markdown_text(note)}\n" for note in summary.notes),
        markdown_text(summary.machine) + "\n" if summary.machine else "",
    ]
    return "\n".join(part for part in parts if part)


def summary_latex(summary: Summary) -> str:
    """The summary's table of edits."""
    return to_latex(HEADINGS, [row_cells(row) for row in (*summary.rows, *summary.means)])


def _flat(record: Record, row: Row) -> dict[str, Cell]:
    width, height = record.get("size") or (None, None)
    scores = record.get("fidelity") or {}
    said = ("id", "suite", "case", "variant", "edit_type", "model", "task", "way", "policy", "status", "reason")
    flat: dict[str, Cell] = {key: record.get(key) for key in said}
    flat |= {key: record.get(key) for key in ("original_prompt", "edit_prompt", "prompt_changed", "device", "dtype")}
    flat |= {"width": width, "height": height, "edit_ratio": row.edit_ratio, "steps_run": record.get("steps_run")}
    flat |= {"dense_s": row.dense_s, "record_s": row.record_s, "sparse_s": row.sparse_s}
    flat |= {"speedup_nth": row.speedup, "speedup_first": row.first_speedup}
    for stage in STAGES:
        for kind in ("dense", "sparse"):
            flat[f"{stage}_{kind}_macs"] = stage_macs(record, stage, kind)
            flat[f"{stage}_{kind}_s"] = stage_seconds(record, stage, kind)
    for region in ("inside", "mask", "whole"):
        flat |= {f"{region}_{name}": (scores.get(region) or {}).get(name) for name in ("psnr", "ssim", "lpips")}
    return flat


def _csv_cell(value: Cell) -> Cell:
    if not isinstance(value, str):
        return value
    return ("'" if value.lstrip().startswith(_FORMULA) else "") + printable(value)


def _visible(character: str) -> str:
    # Cc controls, Cf formats (which turn text round), Cs surrogates, Zl and Zp line breaks of their own.
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
