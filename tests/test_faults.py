"""docs/faults.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")


def defined_in(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")}


def test_every_fault_has_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)
    assert len(named) > 80
    missing = {(file, test) for file, test in named if test not in defined_in(file)}
    assert not missing


def test_every_promise_is_proved() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    unproved = [row for row in rows if "::" not in row]
    assert [row.split(" | ")[0] for row in unproved] == [
        "| archives with links, devices, lying sizes, a million entries"
    ]
