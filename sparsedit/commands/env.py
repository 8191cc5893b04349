"""`sparsedit env`: what this installation and machine are, as measurements will name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparsedit.commands import options


def env(json_line: options.Json = False, debug: options.Debug = False) -> None:
    """Show versions, processor, GPUs and memory."""
    from sparsedit.commands.output import print_json, print_view
    from sparsedit.environment import environment
    from sparsedit.report.table import cells, grid

    facts = environment()
    table = grid([("what", "left"), ("here", "left")])
    for name, value in _rows(facts):
        table.add_row(*cells([name, value]))
    print_view(table)
    if json_line:
        print_json(facts)


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts as names and words, what measurements depend on most first."""
    from sparsedit.report.numbers import NONE, size_of

    processor = facts["processor"]
    parts = (processor["name"], f"{processor['cores']} cores", processor["capability"])
    yield "processor", ", ".join(parts) + (", bf16" if processor["bf16"] else "")
    yield "threads", str(facts["threads"])
    limit = facts["memory_limit_bytes"]
    yield "memory", size_of(facts["memory_bytes"]) + (f", of which {size_of(limit)} may be used" if limit else "")
    for gpu in facts["gpus"]:
        yield "GPU", f"{gpu['name']}, {size_of(gpu['memory_bytes'])}, compute capability {gpu['capability']}"
    if not facts["gpus"]:
        yield "GPU", "none that CUDA sees"
    yield "system", facts["system"]
    yield "python", facts["python"]
    changed = " with changes" if facts["dirty"] else ""
    yield "sparsedit", facts["sparsedit"] + (f", commit {facts['commit'][:12]}{changed}" if facts["commit"] else "")
    yield from ((name, version or NONE) for name, version in facts["packages"].items())
    yield "cuda", facts["cuda"] or NONE
