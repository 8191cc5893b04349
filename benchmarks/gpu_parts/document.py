"""The results as one JSON file, written anew after every part, and as the table that is read first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.timing import COMPILED, COMPILED_GRAPHS, DENSE, GRAPHS, THIN
from sparsedit.files import write_atomic

SCHEMA = 1
THIN_WAYS = (THIN, GRAPHS, COMPILED_GRAPHS)


class Document:
    """What is known so far. `parts` maps a part to its status ("ok", "skipped", "failed"), reason and result."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self.facts = facts
        self.parts: dict[str, dict[str, Any]] = {}

    def add(self, name: str, part: dict[str, Any]) -> None:
        """Keep a part's outcome, on disk too: whatever ends the program later takes nothing away."""
        self.parts[name] = part
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, **self.facts, "parts": self.parts}
        write_atomic(self.path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())

    def result(self, name: str) -> dict[str, Any] | None:
        """A part's result, None where it has none."""
        return self.parts.get(name, {}).get("result")

    @property
    def sound(self) -> bool:
        """Whether no part failed and no invariant is broken."""
        checks = (self.result("exactness") or {}).get("checks", [])
        broken = any(check["holds"] is False for check in checks)
        return not broken and all(part["status"] != "failed" for part in self.parts.values())


def table(document: Document) -> str:
    """Milliseconds of a call by subject, edit and way, speed-ups over both dense ways, and what was not run and why."""
    lines = [_row("subject", "edit", "way", "ms", "vs eager", "vs compiled", "extra MB")]
    rounds = {name: part["result"] for name, part in document.parts.items() if "median" in (part.get("result") or {})}
    for name, result in rounds.items():
        for way, seconds in result["median"].items():
            edit, _, thin = way.rpartition("/")
            ups = [_times(result["speedup"].get(dense, {}).get(way)) for dense in (DENSE, COMPILED)]
            extra = result["extra_bytes"][way]
            memory = "" if extra is None else f"{extra / 1e6:.0f}"
            lines.append(_row(name, edit, thin, f"{seconds * 1e3:.2f}", *ups, memory))
    for check in (document.result("exactness") or {}).get("checks", []):
        holds = {True: "holds", False: "BROKEN", None: "not looked at"}[check["holds"]]
        error = check.get("relative_error")
        figure = "" if error is None else f" ({error:.1e})"
        lines.append(f"{holds}: {check['check']}{figure}{'; ' + check['reason'] if 'reason' in check else ''}")
    for name, part in document.parts.items():
        if part["status"] != "ok":
            lines.append(f"{name} {part['status']}: {part['reason']}")
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, (30, 8, 14, 9, 9, 11, 8), strict=True)).rstrip()


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"
