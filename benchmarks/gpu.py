"""One call of the full-size SDXL UNet and VAE on a CUDA GPU: dense, dense compiled, thin, thin by CUDA graphs.

    python benchmarks/gpu.py [--data DIR] [--output FILE] [--minutes 7.5] [--samples 5]
    python benchmarks/gpu.py --device cpu --tiny

Runs from a checkout, without the package installed. Random weights, bf16, batch 2 (classifier-free guidance), pictures
of 512x1024 and 1024x1024 with the same edited pixels: those of the published cases in DIR (see manifests/sige.yaml), or
masks drawn with their outlines. First come the engine's invariants on a small model, then rounds of the eager ways and
of CUDA graphs, profiles, and, as far as time allows, rounds with compiled ways. The result file is written after each
part, and a part that is skipped or fails says why. The table comes last on stdout; 1 is returned when something failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the folder of this one holds names that shadow other libraries'
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.gpu_parts import edits, timing
from benchmarks.gpu_parts.budget import Budget, SkippedError, at_most
from benchmarks.gpu_parts.document import Document, table
from benchmarks.gpu_parts.exactness import check_all
from benchmarks.gpu_parts.kernels import profiled
from benchmarks.gpu_parts.subject import BATCH, FULL, TINY, Subject, build, same_weights, unet_subject, vae_subjects
from benchmarks.gpu_parts.timing import COMPILED, COMPILED_GRAPHS, DENSE, GRAPHS, THIN, Edit
from benchmarks.machine import machine_slug
from sparsedit.environment import environment
from sparsedit.measure.ceilings import measure_ceilings
from sparsedit.models.placement import resolve_device
from sparsedit.sparse import ThinGraphs, sparse
from sparsedit.sparse.graphs import CudaCapture

COMPILE_SECONDS = 150
"""What torch.compile may take for one model at one size."""
ROUNDS_SECONDS = 20
"""About what the rounds after it take."""
NO_GPU = "CUDA graphs and torch.compile with them are measured on a CUDA GPU, and this is a {}"

Size = tuple[int, int]
Part = Callable[[], dict[str, Any]]


class Bench:
    """The parts of a run, and what one leaves to the next: models, recordings, and the ways that are ready."""

    def __init__(self, device: torch.device, tiny: bool, data: Path | None, samples: int, budget: Budget) -> None:
        self.device, self.tiny, self.samples, self.budget = device, tiny, samples, budget
        self.scale = TINY if tiny else FULL
        self.masks = edits.published_edits(data) if data else edits.drawn_edits()
        self.graphs = ThinGraphs()
        self.compiled_graphs = ThinGraphs(CudaCapture(compiled=True))
        self.subjects: dict[str, Subject] = {}
        self.edits: dict[str, dict[str, Edit]] = {}
        self.dense: dict[str, dict[str, Callable[..., Any]]] = {}
        self.thin: dict[str, dict[str, tuple[Edit, ThinGraphs | None]]] = {}

    @cached_property
    def unet(self) -> Any:
        return build(self.scale.preset, "unet", self.scale.dtype, self.device)

    @cached_property
    def vae(self) -> Any:
        return build(self.scale.preset, "vae", self.scale.dtype, self.device)

    def parts(self) -> dict[str, Part]:
        """Every part by its name, what matters most first."""
        parts: dict[str, Part] = {"exactness": self.exactness}
        for model in ("unet", "encoder", "decoder"):
            for size in self.scale.sizes:
                name = f"{model} {size[0]}x{size[1]}"
                parts[f"recording {name}"] = partial(self.recording, name, size)
                parts[f"graphs {name}"] = partial(self.capture, name)
                parts[name] = partial(self.rounds, name)
        unets = [f"unet {height}x{width}" for height, width in self.scale.sizes]
        parts |= {f"profile {name}": partial(self.profile, name) for name in unets}
        parts |= {f"multiply-adds {name}": partial(self.macs, name) for name in unets}
        parts["ceilings"] = self.ceilings
        parts |= {f"{name}, dense compiled": partial(self.compile_dense, name) for name in unets}
        parts |= {f"{name}, thin compiled": partial(self.compile_thin, name) for name in unets}
        return parts

    def exactness(self) -> dict[str, Any]:
        return {"checks": check_all(self.device, self.tiny)}

    def recording(self, name: str, size: Size) -> dict[str, Any]:
        """Run the original of a subject; its dense and thin eager ways are ready then."""
        self.budget.needs(ROUNDS_SECONDS, "a recording and its rounds")
        model = name.split()[0]
        if model == "unet":
            subject = unet_subject(self.unet, *size, self.device, self.scale.dtype)
        else:
            subject = vae_subjects(self.vae, *size, self.device, self.scale.dtype)[model]
        sites = edits.unet_sites if model == "unet" else edits.vae_sites
        made = {edit: Edit(edits.on_canvas(mask, *size), sites) for edit, mask in self.masks.items()}
        subject.record()
        self.subjects[name], self.edits[name] = subject, made
        self.dense[name] = {DENSE: subject.model}
        self.thin[name] = {f"{edit}/{THIN}": (mask, None) for edit, mask in made.items()}
        latent = (size[0] // 8, size[1] // 8)
        return {
            "edit_ratio": {edit: float(one.mask.float().mean()) for edit, one in made.items()},
            "active_share": {edit: one.sites(one.mask).fraction(latent) for edit, one in made.items()},
        }

    def capture(self, name: str) -> dict[str, Any]:
        """Capture a graph for each edit; thin graphs is a way from then on."""
        self._only_on_cuda()
        subject, result = self._subject(name), {}
        held = torch.cuda.memory_allocated(self.device)
        for edit, one in self.edits[name].items():
            first = timing.first_calls(subject, one, self.graphs, 1, self.device)
            apart = timing.difference(subject, one.sites(one.mask), self.graphs)
            result[edit] = {"capture_s": first["call"][0], "against_thin_eager": apart}
        self.thin[name] |= {f"{edit}/{GRAPHS}": (one, self.graphs) for edit, one in self.edits[name].items()}
        return {"edits": result, "held_bytes": torch.cuda.memory_allocated(self.device) - held}

    def rounds(self, name: str) -> dict[str, Any]:
        """Every way that is ready, in turns."""
        subject, thin = self._subject(name), self.thin[name]
        result = timing.measure(subject, self.dense[name], thin, self.samples, self.device)
        firsts = {way: timing.first_calls(subject, *how, self.samples, self.device) for way, how in thin.items()}
        return result | {"first_call_s": firsts}

    def profile(self, name: str) -> dict[str, Any]:
        """What one call of the small edit makes the device do, in every way that is ready."""
        subject = self._subject(name)
        inputs = subject.schedule[1]
        with torch.inference_mode():
            result = {way: profiled(partial(call, **inputs), self.device) for way, call in self.dense[name].items()}
            for way, (edit, graphs) in self.thin[name].items():
                if way.startswith("sdedit0/"):
                    with sparse(subject.model, subject.cache, edit.sites(edit.mask), graphs=graphs):
                        subject.model(**subject.schedule[0])
                        result[way] = profiled(partial(subject.model, **inputs), self.device)
        return {"calls": result}

    def macs(self, name: str) -> dict[str, Any]:
        """Multiply-adds of a call, attention's included, counted on a model without numbers."""
        self._subject(name)
        meta, dtype = torch.device("meta"), self.scale.dtype
        height, width = (int(side) for side in name.split()[1].split("x"))
        twin = unet_subject(build(self.scale.preset, "unet", dtype, meta), height, width, meta, dtype)
        twin.record()
        return {"multiply_adds": twin.macs({edit: one.sites(one.mask) for edit, one in self.edits[name].items()})}

    def ceilings(self) -> dict[str, Any]:
        """The device's rates at best, to hold the times against."""
        if self.tiny:
            raise SkippedError("a tiny model is nowhere near a machine's limits")
        found = measure_ceilings(self.device, self.scale.dtype)
        return {"macs_per_second": found.macs_per_second, "bytes_per_second": found.bytes_per_second}

    def compile_dense(self, name: str) -> dict[str, Any]:
        """torch.compile with CUDA graphs of the dense call, and rounds of everything that is ready then."""
        self._only_on_cuda()
        subject = self._subject(name)
        call = timing.compiled_dense(same_weights(subject.model))
        seconds = self._compiled(lambda: [call(**subject.schedule[0]) for _ in range(3)])
        self.dense[name][COMPILED] = call
        return self.rounds(name) | {"compile_s": seconds}

    def compile_thin(self, name: str) -> dict[str, Any]:
        """The same for the thin call of the small edit, captured after compiling."""
        self._only_on_cuda()
        subject, edit = self._subject(name), self.edits[name]["sdedit0"]
        apart = partial(timing.difference, subject, edit.sites(edit.mask), self.compiled_graphs)
        seconds = self._compiled(apart)
        self.thin[name][f"sdedit0/{COMPILED_GRAPHS}"] = (edit, self.compiled_graphs)
        return self.rounds(name) | {"compile_s": seconds, "against_thin_eager": apart()}

    def _compiled(self, work: Callable[[], object]) -> float:
        """Seconds of compiling, which is given what is left of the budget and no more than `COMPILE_SECONDS`."""
        self.budget.needs(COMPILE_SECONDS / 2 + ROUNDS_SECONDS, "compiling")
        start = time.perf_counter()
        try:
            with at_most(min(COMPILE_SECONDS, self.budget.left() - ROUNDS_SECONDS), "compiling"):
                work()
        except BaseException:
            torch._dynamo.reset()
            raise
        return time.perf_counter() - start

    def _subject(self, name: str) -> Subject:
        if name not in self.subjects:
            raise SkippedError(f"the original of {name} was not recorded")
        return self.subjects[name]

    def _only_on_cuda(self) -> None:
        if self.device.type != "cuda":
            raise SkippedError(NO_GPU.format(self.device.type))


def run(bench: Bench, document: Document) -> None:
    """Every part, its outcome written before the next begins."""
    for name, part in bench.parts().items():
        print(f"{name} ({bench.budget.left():.0f} s left)", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            bench.budget.needs(1, name)
            outcome = {"status": "ok", "result": part()}
        except SkippedError as reason:
            outcome = {"status": "skipped", "reason": str(reason)}
        except Exception as error:  # whatever one part dies of, the others' results are still wanted
            traceback.print_exc()
            outcome = {"status": "failed", "reason": f"{type(error).__name__}: {str(error).strip()[:500]}"}
        document.add(name, outcome | {"took_s": time.monotonic() - start})


def main(arguments: list[str] | None = None) -> int:
    """Run everything and print the table; 1 when a part failed or an invariant is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the published pictures")
    parser.add_argument("--output", type=Path, help="the result file (benchmarks/results/MACHINE/gpu.json)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script itself")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--samples", type=int, default=5)
    options = parser.parse_args(arguments)
    budget = Budget(60 * options.minutes)
    device, facts = resolve_device(options.device), environment()
    output = options.output or Path(__file__).parent / "results" / machine_slug(facts, str(device)) / "gpu.json"
    torch.backends.cudnn.benchmark = True
    with torch.no_grad():
        bench = Bench(device, options.tiny, options.data, options.samples, budget)
        document = Document(
            output,
            {
                "device": str(device),
                "model": bench.scale.preset,
                "dtype": str(bench.scale.dtype).removeprefix("torch."),
                "batch": BATCH,
                "masks": edits.PUBLISHED if options.data else edits.DRAWN,
                "environment": facts,
            },
        )
        run(bench, document)
    print(table(document))
    return 0 if document.sound else 1


if __name__ == "__main__":
    sys.exit(main())
