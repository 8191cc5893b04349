"""The model's card, docs/demo-model.md: a pure function of training/log, of the pictures beside it and of the package.

    python -m training.card

What was not measured is said to be so; nothing is filled in. The words are in `card.md.j2`, the tables in
`figures.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jinja2

from sparsedit.files import write_atomic
from sparsedit.report.numbers import size_of
from training import figures, settings
from training.adherence import held_out_scenes, prompts_of
from training.arguments import command
from training.hashes import DEMO_BYTES, EMBEDDED_BYTES, digest, embedded_folders, folder_bytes
from training.log import read_log, say
from training.score import SCORE, SHOWN, SHOWN_IN_ROW, read_scores
from training.settings import DEMO, DOCS, LOG, ROOT

CARD = DOCS.with_suffix(".md")
EDGES = LOG / "agreement.json"

_SHOWN_SCORES = 4  # in a row of the table of runs
_RUNS = ("vae", "unet", "decoder", "few_step", "refiner", "controlnet", "tiny", "probe")
_PARTS = {
    "demo": "UNet, two text encoders, autoencoder",
    "demo-turbo": "LoRA for 1 to 4 steps without guidance",
    "demo-refiner": "UNet for the last noise levels, with one text encoder",
    "demo-canny": "ControlNet for Canny edges",
    "demo-tiny": "tiny autoencoder",
}


def write_card(path: Path, log: Path = LOG, pictures: Path = DOCS, scores: Path = SCORE) -> None:
    """Write the card to `path`; links to pictures are relative to it."""
    sections = read_scores(scores)
    curves = {file.stem.removeprefix("curve-"): file for file in sorted(pictures.glob("curve-*.png"))}
    template = _environment(path, log, pictures).get_template("card.md.j2")
    weights = folder_bytes(DEMO, "*.safetensors")
    text = template.render(
        sizes=sizes(),
        total=size_of(sum(map(folder_bytes, embedded_folders()))),
        limit=size_of(EMBEDDED_BYTES),
        demo_weights=size_of(weights),
        demo_limit=size_of(DEMO_BYTES),
        square=settings.SQUARE,
        wide=settings.WIDE,
        pictures=settings.PICTURES,
        probe=settings.PROBE,
        held_out=settings.FIRST_PROMPT_SEED,
        shown=SHOWN,
        in_row=SHOWN_IN_ROW,
        runs=runs(log),
        machines=machines(log),
        curves={name: _link(file, path) for name, file in curves.items()},
        prompts=prompts_of(held_out_scenes(SHOWN)),
        stale=stale(sections),
        edges=json.loads((log / EDGES.name).read_text()) if (log / EDGES.name).is_file() else None,
        **{_variable(name): section for name, section in sections.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())


def _environment(card: Path, log: Path, pictures: Path) -> jinja2.Environment:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT), keep_trailing_newline=True)
    environment.filters["thousands"] = lambda count: f"{count:,}"
    environment.globals.update(
        figures=figures,
        machine=machine,
        picture=lambda name, words: picture(pictures / name, words, card),
        validation=lambda name: validation(name, read_log(log / f"{name}.jsonl")),
    )
    return environment


def _variable(section: str) -> str:
    return {"text-to-image": "adherence"}.get(section, section.replace("-", "_"))


def sizes() -> str:
    """Every embedded part, and how large its weights and all its files are."""
    there = {folder.name: folder for folder in embedded_folders()}
    rows = [
        (
            f"`{name}`",
            words,
            size_of(folder_bytes(there[name], "*.safetensors")) if name in there else "not made",
            size_of(folder_bytes(there[name])) if name in there else "–",
        )
        for name, words in _PARTS.items()
    ]
    return figures.table(("folder", "what it is", "weights", "all files"), rows)


def runs(log: Path) -> str:
    """What each training was and how far it went, from its log."""
    headings = ("run", "minutes", "batch x workers", "rate", "samples", "samples/s", "validation, first → last")
    return figures.table(headings, [_run(name, read_log(log / f"{name}.jsonl")) for name in run_names(log)])


def run_names(log: Path) -> list[str]:
    """Every training, each after the earlier runs of it that were kept as NAME-1.jsonl, NAME-2.jsonl, ..."""
    return [each for name in _RUNS for each in (*sorted(file.stem for file in log.glob(f"{name}-*.jsonl")), name)]


def _run(name: str, rows: Sequence[dict[str, Any]]) -> Sequence[str]:
    steps = [row for row in rows if "loss" in row]
    if not steps:
        return (f"`{name}`", "no log", *("–",) * 5)
    schedule, last, ends = rows[0]["settings"]["schedule"], steps[-1], _ends(rows)
    scores = "; ".join(f"{score} {first:.3f} → {last:.3f}" for score, first, last in ends)
    return (
        f"`{name}`",
        f"{last['minutes']:.0f} of {schedule['minutes']:g}",
        f"{schedule['batch']} x {rows[0]['workers']}",
        f"{schedule['rate']:g}",
        f"{last['samples']:,}",
        f"{median(row['samples_per_second'] for row in steps):.1f}",
        scores if len(ends) <= _SHOWN_SCORES else "below",
    )


def validation(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """The first and last validation of a run as a table."""
    ends = _ends(rows)
    if not ends:
        return f"Validation of `{name}`: there is no log of it.\n"
    body = [(score, f"{first:.4f}", f"{last:.4f}") for score, first, last in ends]
    return figures.table((f"validation of `{name}`", "at its start", "at its end"), body) + "\n"


def _ends(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    found = [row["validation"] for row in rows if "validation" in row]
    return [(score, found[0][score], found[-1][score]) for score in found[0]] if found else []


def machines(log: Path) -> str:
    """The different machines that the logs name."""
    logs = (read_log(log / f"{name}.jsonl") for name in run_names(log))
    named = dict.fromkeys(machine(rows[0]["machine"]) for rows in logs if rows)
    return "; ".join(named) or "no log names one"


def machine(of: dict[str, Any]) -> str:
    """Processor, GPUs and torch of an environment, in a few words."""
    processor = f"{of['processor']['cores']} cores of {of['processor']['name']}"
    gpus = [gpu["name"] for gpu in of["gpus"]]
    return ", ".join((processor, *gpus, f"torch {of['packages']['torch']}"))


def picture(file: Path, words: str, card: Path) -> str:
    """A picture with its caption, or that it has not been made."""
    if not file.is_file():
        return f"{file.name}: not made."
    return f"![{file.stem}]({_link(file, card)})\n\n{words}"


def _link(file: Path, card: Path) -> str:
    return Path(os.path.relpath(file, card.parent)).as_posix()


def stale(sections: dict[str, Any]) -> list[str]:
    """The sections whose figures are of other embedded files than those there are now."""
    package = DEMO.parent.relative_to(ROOT.parent).as_posix()
    return [
        name
        for name, section in sections.items()
        if any(
            path.startswith(package) and (not (ROOT.parent / path).exists() or digest(ROOT.parent / path) != known)
            for path, known in section["files"].items()
        )
    ]


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.card", description="Write the model's card.")
    parser.add_argument("--output", type=Path, default=CARD)
    output = parser.parse_args().output
    write_card(output)
    say(str(output))


if __name__ == "__main__":
    main()
