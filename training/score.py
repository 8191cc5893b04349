"""Measure the embedded model, section by section, into training/log/score.json; `training.card` shows it.

    python -m training.score                                   all that has not been measured on these weights
    python -m training.score --sections time --again           one section, anew

Every section is written as soon as it is measured, with its settings, its machine and digests of the files it
depends on; one that is there with the same settings and files is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from sparsedit.environment import environment
from sparsedit.errors import InputError, SettingsError
from sparsedit.files import write_atomic
from sparsedit.models.loading import load_pipeline
from sparsedit.models.presets import get_preset
from sparsedit.suites.scenes.scene import BASE_WIDTH
from training import adherence, pace, reconstruction, sketches
from training.adherence import held_out_scenes, prompts_of, render_scenes, sample
from training.arguments import add_device, command, device_of
from training.grids import grid, write_png
from training.hashes import digest
from training.log import say
from training.pictures import Picture
from training.probe import PROBE_WEIGHTS, load_probe
from training.reconstruction import load_coders, reconstruct
from training.settings import (
    DEMO,
    DEMO_REFINER,
    DEMO_TINY,
    DEMO_TURBO,
    DOCS,
    LOG,
    ROOT,
    WORK,
    FewStepSettings,
    PaceSettings,
    ReconstructionSettings,
    RefinementSettings,
    SampleSettings,
    SketchSettings,
)
from training.sketches import image_to_image

SCORE = LOG / "score.json"
BEFORE = WORK / "model-before"
FEW_STEP, REFINER = DEMO_TURBO.name, DEMO_REFINER.name  # presets are called as their folders

SHOWN = 16  # pictures in a grid: the first, not chosen
SHOWN_IN_ROW = 6
_COLUMNS = 8


@dataclass(frozen=True)
class Subject:
    """What is measured: a pipeline's folder, perhaps another of before the decoder's finetune, and where."""

    model: Path
    before: Path | None
    device: torch.device
    pictures: Path  # the folder that grids are written to

    def pipeline(self, name: str = "") -> Any:
        """The pipeline of the model or of a preset, in float32."""
        return load_pipeline(name or str(self.model), dtype="float32", device=self.device.type)


@dataclass(frozen=True)
class Section:
    """One section: its settings, how it is measured, and the files its figures depend on."""

    settings: Any
    measure: Callable[[Subject, Any], dict[str, Any]]
    reads: tuple[Path, ...]

    def missing(self) -> Path | None:
        """The first file or folder that has to be made before."""
        return next((path for path in self.reads if not path.exists()), None)

    def stamp(self) -> dict[str, Any]:
        """By what a result is known to be of the same settings and files."""
        settings = json.loads(json.dumps(asdict(self.settings)))  # with lists for tuples, as it is read back
        return {"settings": settings, "files": {_shown(path): digest(path) for path in self.reads}}


def sections(model: Path, before: Path | None) -> dict[str, Section]:
    """Every section in the order of measuring: time first, while the machine is quiet."""
    tiny = (DEMO_TINY,) if DEMO_TINY.is_dir() else ()
    earlier = () if before is None else (before / "vae",)
    few_step = (model, DEMO_TURBO, PROBE_WEIGHTS)
    return {
        "time": Section(PaceSettings(), _time, (model,)),
        "reconstruction": Section(ReconstructionSettings(), _reconstruction, (model / "vae", *earlier, *tiny)),
        "text-to-image": Section(SampleSettings(), _text_to_image, (model, PROBE_WEIGHTS)),
        "few-step": Section(FewStepSettings(), _few_step, few_step),
        "sketches": Section(SketchSettings(), _sketches, (model, PROBE_WEIGHTS)),
        "refiner": Section(RefinementSettings(), _refiner, (model, DEMO_REFINER)),
    }


def _shown(path: Path) -> str:
    """A path as the repository's readers know it; of one elsewhere, its last two names."""
    whole, root = path.resolve(), ROOT.parent
    return (whole.relative_to(root) if whole.is_relative_to(root) else Path(*whole.parts[-2:])).as_posix()


def run(chosen: dict[str, Section], subject: Subject, output: Path, again: bool) -> None:
    """Measure the chosen sections that `output` does not have yet, and write each one at once."""
    for name, section in chosen.items():
        if missing := section.missing():
            say(f"{name}: not measured, for there is no {missing}")
            continue
        document = read_scores(output)
        stamp = section.stamp()
        if not again and name in document and document[name] == document[name] | stamp:
            say(f"{name}: kept, it was measured on these files with these settings")
            continue
        say(f"{name}: being measured")
        result = section.measure(subject, section.settings)
        document[name] = {**stamp, "machine": environment(), "result": result}
        write_atomic(output, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def read_scores(path: Path) -> dict[str, Any]:
    """The sections measured so far, by name; InputError when the file is not what this module writes."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: delete it to measure anew.") from error
    if not isinstance(document, dict) or not all(isinstance(part, dict) for part in document.values()):
        raise InputError(f"{path} holds no sections: delete it to measure anew.")
    return document


def _time(subject: Subject, settings: PaceSettings) -> dict[str, Any]:
    return pace.measure(subject.pipeline(), settings)


def _reconstruction(subject: Subject, settings: ReconstructionSettings) -> dict[str, Any]:
    tiny = DEMO_TINY if DEMO_TINY.is_dir() else None
    coders = load_coders(subject.model, subject.before, tiny)
    write_png(reconstruction.crops(coders), subject.pictures / "reconstruction.png")
    scenes = held_out_scenes(settings.pictures)
    true = render_scenes(scenes)
    return {coder.name: reconstruction.scores(reconstruct(coder, true), scenes, true) for coder in coders}


def _text_to_image(subject: Subject, settings: SampleSettings) -> dict[str, Any]:
    """The prompts' pictures; wide ones of the first are only shown."""
    pipe, scenes = subject.pipeline(), held_out_scenes(settings.prompts)
    pictures = sample(pipe, prompts_of(scenes), settings)
    write_png(grid(pictures[:SHOWN], _COLUMNS), subject.pictures / "text-to-image.png")
    wide = sample(pipe, prompts_of(scenes[:SHOWN_IN_ROW]), settings, width=2 * BASE_WIDTH)
    write_png(grid(wide, SHOWN_IN_ROW // 2), subject.pictures / "wide.png")
    return adherence.counts(load_probe(), pictures, scenes)


def _few_step(subject: Subject, settings: FewStepSettings) -> dict[str, Any]:
    """The same prompts and noise as for text-to-image, at each number of steps; the grid has a row for each."""
    pipe, guidance = subject.pipeline(FEW_STEP), float(get_preset(FEW_STEP).defaults["guidance"])
    scenes, rows, result = held_out_scenes(settings.prompts), [], {}
    for steps in settings.steps:
        sampled = SampleSettings(settings.prompts, steps, guidance, settings.batch)
        rows.append(sample(pipe, prompts_of(scenes), sampled))
        result[str(steps)] = adherence.counts(load_probe(), rows[-1], scenes)
    _write_rows(rows, subject.pictures / "few-step.png")
    return {"guidance": guidance, **result}


def _sketches(subject: Subject, settings: SketchSettings) -> dict[str, Any]:
    """Scores by strength; the grid has a row of sketches, one of results for each strength, one of scenes."""
    pipe, probe, scenes = subject.pipeline(), load_probe(), held_out_scenes(settings.sketches)
    drawn, prompts = sketches.draw_sketches(scenes), prompts_of(scenes)
    rows, result = [drawn], {}
    for strength in settings.strengths:
        rows.append(image_to_image(pipe, drawn, prompts, strength, settings))
        result[f"{strength:g}"] = sketches.scores(probe, rows[-1], scenes)
    rows.append(render_scenes(scenes))
    _write_rows(rows, subject.pictures / "sketches.png")
    return result


def _refiner(subject: Subject, settings: RefinementSettings) -> dict[str, Any]:
    """Rendered scenes, noised and denoised by the base and by the refiner, and decoded only: means against them."""
    scenes = held_out_scenes(settings.pictures)
    true, prompts = render_scenes(scenes), prompts_of(scenes)
    pipes = {"base": subject.pipeline(), "refiner": subject.pipeline(REFINER)}
    made = {name: image_to_image(pipe, true, prompts, settings.strength, settings) for name, pipe in pipes.items()}
    made["autoencoder alone"] = reconstruct(load_coders(subject.model, None, None)[0], true)
    _write_rows([true, made["base"], made["refiner"]], subject.pictures / "refiner.png")
    return {name: reconstruction.scores(pictures, scenes, true) for name, pictures in made.items()}


def _write_rows(rows: Sequence[Picture], path: Path) -> None:
    """The first pictures of each row, one row below the other."""
    columns = min(SHOWN_IN_ROW, len(rows[0]))
    write_png(grid([picture for row in rows for picture in row[:columns]], columns), path)


def _counted(section: Section, count: int | None) -> Section:
    """A section of `count` pictures instead of its own number."""
    if count is None:
        return section
    name = next(field.name for field in fields(section.settings))
    return replace(section, settings=replace(section.settings, **{name: count}))


@command
def main() -> None:
    known = list(sections(DEMO, None))
    parser = argparse.ArgumentParser(
        prog="python -m training.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sections", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--model", type=Path, default=DEMO, help="pipeline's folder (default: the embedded)")
    parser.add_argument(
        "--before",
        type=Path,
        default=BEFORE if BEFORE.is_dir() else None,
        help="pipeline's folder of before the decoder's finetune (default: work/model-before, where it is there)",
    )
    parser.add_argument("--count", type=int, help="pictures per section (default: 200, and 9 that are timed)")
    parser.add_argument("--output", type=Path, default=SCORE, help="JSON file of all sections")
    parser.add_argument("--pictures", type=Path, default=DOCS, help="folder to write grids to")
    add_device(parser)
    arguments = parser.parse_args()
    if arguments.count is not None and arguments.count < 1:
        raise SettingsError(f"--count {arguments.count}: there must be at least one picture.")
    subject = Subject(arguments.model, arguments.before, device_of(arguments), arguments.pictures)
    offered = sections(arguments.model, arguments.before)
    chosen = {name: _counted(offered[name], arguments.count) for name in known if name in arguments.sections}
    run(chosen, subject, arguments.output, arguments.again)


if __name__ == "__main__":
    main()
