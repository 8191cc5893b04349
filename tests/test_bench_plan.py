"""What a bench plans before it runs: ways, grids, shards, ids, limits. No model is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsedit.bench.grid import Grid, load_grid
from sparsedit.bench.plan import Task, Wanted, edits_of, plan_tasks
from sparsedit.bench.shard import Shard, find_shard
from sparsedit.bench.ways import parse_ways, settings_of
from sparsedit.errors import InputError, SettingsError
from sparsedit.settings import Settings
from sparsedit.suites.catalogue import open_suite
from sparsedit.suites.edit import DERIVED, GIVEN, Suite
from tests.bench_folder import write_folder

PRESET = {"steps": 10, "strength": 0.5, "guidance": 3.0}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return open_suite("folder", write_folder(tmp_path / "suite"))


def planned(suite: Suite, *ways: str, grid: Grid | None = None, track: str | None = None, **flags: Any) -> list[Task]:
    defaults: dict[str, Mapping[str, Any]] = dict.fromkeys(("one", "two"), PRESET)
    skip = flags.pop("skip", None)
    return plan_tasks(suite, Wanted(grid or Grid(), ways or ("warm",), "one", {}, flags, defaults, track, skip))


def test_ways_come_once_and_in_their_order() -> None:
    assert parse_ways("cold, dense,cold") == ("dense", "cold")
    with pytest.raises(SettingsError, match="did you mean 'warm'"):
        parse_ways("wram")
    with pytest.raises(SettingsError, match="no way is named"):
        parse_ways(",")


def test_a_way_heeds_its_own_settings_alone() -> None:
    said = Settings(steps=10, strength=0.5, coarse=3, record_steps=4, cache_precision="int8")
    cold, warm, dense = (settings_of(way, said) for way in ("cold", "warm", "dense"))
    assert (cold.way, cold.coarse, cold.record_steps, cold.cache_precision) == ("cold", 3, None, "native")
    assert (warm.way, warm.coarse, warm.record_steps, warm.cache_precision) == ("warm", None, 4, "int8")
    assert (dense.coarse, dense.record_steps, dense.steps) == (None, None, 10)


def test_an_id_is_of_the_work_alone(suite: Suite) -> None:
    [task, *_] = planned(suite, "warm", "cold")
    assert task.record_id("warm") != task.record_id("cold")
    same = [planned(suite, "warm", device="cpu")[0], planned(suite, "dense", "warm")[0]]
    assert {each.record_id("warm") for each in same} == {task.record_id("warm")}
    others = [planned(suite, steps=8)[0], planned(suite, seed=1)[0], planned(suite, context="self")[0]]
    assert task.record_id("warm") not in {each.record_id("warm") for each in others}
    # A setting of another way changes nothing here.
    assert planned(suite, "warm", coarse=3)[0].record_id("warm") == task.record_id("warm")


def test_what_is_done_is_left_out(suite: Suite) -> None:
    [task, *_] = planned(suite, "dense", "warm", "cold")
    left = task.without({task.record_id("warm")})
    assert left is not None
    assert left.ways == ("dense", "cold")
    assert task.without({task.record_id(way) for way in task.ways}) is None


def test_a_grid_is_every_combination(tmp_path: Path, suite: Suite) -> None:
    path = tmp_path / "grid.yaml"
    grid = {"model": ["one", "two"], "policy": ["tight", "published"]}
    path.write_text(yaml.safe_dump({"version": 1, "ways": ["warm"], "settings": {"steps": 6}, "grid": grid}))
    tasks = planned(suite, grid=load_grid(path))
    assert edits_of(tasks) == 4 * len(suite.edits)
    cells = {task.cell.name: task.cell for task in tasks}
    assert set(cells) == {f"model={model} policy={policy}" for model in grid["model"] for policy in grid["policy"]}
    assert len({cell.configuration for cell in cells.values()}) == 4
    assert {task.settings.steps for task in tasks} == {6}
    # A model is loaded once.
    models = [task.cell.model for task in tasks]
    assert models == sorted(models)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"grid": {"stpes": [1]}}, "did you mean 'steps'"),
        ({"grid": {"steps": ["many"]}}, "steps: must be a whole number"),
        ({"grid": {"steps": list(range(1, 101)), "seed": list(range(11))}}, "1100 combinations"),
        ({"grid": {"way": ["warm"]}}, "'ways'"),
        ({"settings": {"stpes": 1}}, "did you mean 'steps'"),
    ],
)
def test_a_grid_that_is_none_is_refused(content: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"version": 1} | content))
    with pytest.raises(SettingsError, match=sentence):
        load_grid(path)


def test_a_track_is_what_the_suite_says_unless_it_is_asked_for(suite: Suite) -> None:
    assert [task.track for task in planned(suite)] == [DERIVED, DERIVED, GIVEN]
    with pytest.raises(InputError, match="c: track mask-derived needs an edited picture"):
        planned(suite, track=DERIVED)
    with pytest.raises(InputError, match="a: track mask-given needs a mask"):
        planned(suite, track=GIVEN)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"task": "sdedit"}, "c: task sdedit needs an edited picture"),
        ({"task": "pan"}, "not pan"),
        ({"coarse": 9}, "only 5 are run"),
        ({"skip": 9}, "9 of 5"),
        ({"strength": 0.05}, "no step to run"),
        ({"cache": "somewhere"}, "leave out cache"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_runs(
    flags: dict[str, Any], sentence: str, suite: Suite
) -> None:
    with pytest.raises((SettingsError, InputError), match=sentence):
        planned(suite, "cold", "step-skip", **flags)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_together_are_the_whole(count: int) -> None:
    items = list(range(20))
    parts = [Shard(index, count).of(items) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("said", "variables", "shard"),
    [
        (None, {}, Shard(1, 1)),
        ("2/4", {"RANK": "0", "WORLD_SIZE": "9"}, Shard(2, 4)),
        (None, {"RANK": "3", "WORLD_SIZE": "4"}, Shard(4, 4)),
        ("1/1", {"RANK": "3"}, Shard(1, 1)),
        (None, {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "3"}, Shard(1, 3)),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "16",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "3",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            Shard(3, 4),
        ),
    ],
)
def test_a_shard_is_said_or_found(said: str | None, variables: dict[str, str], shard: Shard) -> None:
    assert find_shard(said, variables) == shard


@pytest.mark.parametrize(
    ("said", "variables"),
    [
        ("0/4", {}),
        ("5/4", {}),
        ("half", {}),
        (None, {"SLURM_ARRAY_TASK_ID": "1"}),
        (None, {"RANK": "x"}),
        (None, {"RANK": "1"}),  # or every rank would run the whole
        (None, {"RANK": "2", "WORLD_SIZE": "2"}),
    ],
)
def test_what_is_no_shard_is_refused(said: str | None, variables: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"shard|parts count"):
        find_shard(said, variables)
