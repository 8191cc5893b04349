# Every target makes the environment when it is missing or older than what it is made from.
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN   := runs/demo
TRAINED := training/work/model
MACHINE := local
comma := ,
DEMO_RUN := runs/bench-demo$(if $(WAYS),-$(subst $(comma),-,$(WAYS)))

# The first interpreter that starts and is new enough (a version manager's shim may exist and not start).
PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help env demo test test-full lint format bench-smoke bench-demo bench-pie bench-unet bench-profile bench-whole bench-first bench-flat bench-guard bench-coarse bench-series bench-tasks bench-tradeoff bench-driver bench-gpu bench-fuzz bench-soak audit wheel-check train-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || \
		{ echo "No Python 3.11 or newer found: install one, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## run every edit of manifests/demo.yaml on the embedded model
	$(BIN)/sparsedit edit manifests/demo.yaml -o $(RUN) --overwrite
	@echo "Every edit, sparse beside dense: open $(RUN)/report.html, or see $(RUN)/images/<case>/<variant>/"

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint ## lint, types and the fast tests
	$(BIN)/pytest

test-full: lint ## the same with the slow tests
	$(BIN)/pytest -m "slow or not slow"

bench-smoke: $(STAMP) ## 20 edits of the demo suite; fails below the fidelity or multiply-adds of benchmarks/limits.yaml
	$(BIN)/sparsedit bench --suite demo --limit 20 --grid benchmarks/smoke.yaml --limits benchmarks/limits.yaml \
		--no-pictures --overwrite -o runs/bench-smoke

bench-demo: $(STAMP) ## 200 edits of the demo suite in every way, or in WAYS=..., and what is kept of them; goes on where it stopped
	for part in "--limit 20" "--limit 200 --no-pictures"; do \
		$(BIN)/sparsedit bench --suite demo $$part --grid benchmarks/demo.yaml $(if $(WAYS),--ways $(WAYS)) \
			-o $(DEMO_RUN) || test $$? -eq 1 || exit; \
	done
	$(BIN)/python -m benchmarks.publish $(DEMO_RUN)

bench-pie: $(STAMP) ## PIE-Bench, mask given: make bench-pie DATA=folder with mapping_file.json (MODEL=..., ARGUMENTS=...)
	@test -n "$(DATA)" || { echo "Name PIE-Bench's folder: make bench-pie DATA=..." >&2; exit 1; }
	$(BIN)/sparsedit bench --suite pie --data $(DATA) --track mask-given $(if $(MODEL),-m $(MODEL)) -o runs/bench-pie \
		$(ARGUMENTS)

bench-unet: $(STAMP) ## the full-size SDXL UNet, dense against thin: make bench-unet DATA=folder of the published cases
	@test -n "$(DATA)" || { echo "Name the folder of the published pictures: make bench-unet DATA=..." >&2; exit 1; }
	$(BIN)/python benchmarks/unet_call.py --data $(DATA) --output benchmarks/results/$(MACHINE)/unet-call.json

bench-profile: $(STAMP) ## time and multiply-adds against the size of the edit, demo and full-size SDXL
	$(BIN)/python -c 'import matplotlib' 2>/dev/null || \
		$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,plot]'
	$(BIN)/python -m benchmarks.edit_sizes $(ARGUMENTS) >/dev/null

bench-whole: $(STAMP) ## whole warm edits against the size of the edit (never slower than dense?), and their setting up
	$(BIN)/python -m benchmarks.whole_edits $(ARGUMENTS) >/dev/null
	$(BIN)/python -m benchmarks.setting_up >/dev/null

bench-first: $(STAMP) ## first edits of full-size SDXL: cold, some steps recorded, and steps left out in the same time (15 to 26 minutes)
	$(BIN)/python -m benchmarks.first_edits --model sdxl --size 1024x512 $(ARGUMENTS) >/dev/null

bench-flat: $(STAMP) ## what should stay flat: time against variants, size of the picture, number of steps
	$(BIN)/python -m benchmarks.flat $(ARGUMENTS)

bench-guard: $(STAMP) ## are thin calls as much faster as committed? ratios alone, exit code 3 where not
	$(BIN)/python -m benchmarks.guard $(ARGUMENTS)

bench-gpu: $(STAMP) ## dense, compiled, thin and CUDA graphs on this machine's GPU, in 8 minutes (DATA=... as above)
	$(BIN)/python benchmarks/gpu.py $(if $(DATA),--data $(DATA))

bench-coarse: $(STAMP) ## fidelity of cold edits and short recordings on the demo suite, and the table behind --fidelity
	$(BIN)/python -m benchmarks.coarse $(ARGUMENTS)

bench-series: $(STAMP) ## ten edits of a scene, one upon the other: what a recording renewed by its edits loses
	$(BIN)/python -m benchmarks.series $(ARGUMENTS)

bench-tasks: $(STAMP) ## tasks prompt, control, pan and rotate over the demo suite, dense beside sparse (needs the probe: training/README.md)
	$(BIN)/python -m benchmarks.tasks --count $(or $(COUNT),20)

bench-tradeoff: $(STAMP) ## every way by fidelity, time and multiply-adds, as one picture (EDITS=40; goes on where it stopped)
	for part in ways cold recorded margins; do \
		$(BIN)/sparsedit bench --suite demo --limit $(or $(EDITS),40) --grid benchmarks/tradeoff-$$part.yaml --no-pictures \
			-o runs/tradeoff-$$part || test $$? -eq 1 || exit; \
	done
	$(BIN)/python -m benchmarks.tradeoff $(addprefix runs/tradeoff-,ways cold recorded margins)

bench-driver: $(STAMP) ## records a second that a bench keeps, and the cost of a case beside its models (--cases 700: memory)
	$(BIN)/python -m benchmarks.driver $(ARGUMENTS)

bench-fuzz: $(STAMP) ## 1,000 seeded works, sound and damaged, through the command line (20 minutes)
	$(BIN)/python -m benchmarks.fuzz $(ARGUMENTS)

bench-soak: $(STAMP) ## 2,000 small edits in one process: memory, file handles and threads stay as they are (long)
	$(BIN)/python -m benchmarks.soak $(ARGUMENTS)

audit: $(STAMP) ## known vulnerabilities of the pinned dependencies, by pip-audit (needs pypi.org)
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

wheel-check: $(STAMP) ## build wheel and sdist, install the wheel in an empty environment without a compiler, and run it
	rm -rf build/wheel dist
	$(BIN)/hatchling build -d dist
	$(PYTHON) -m venv build/wheel
	CC=false CXX=false build/wheel/bin/python -m pip install --constraint constraints.txt dist/*.whl
	cd build/wheel && bin/sparsedit --help >help.txt && bin/sparsedit env && \
		bin/sparsedit edit ../../manifests/demo/meadow.png --edited ../../manifests/demo/meadow_sun.png -o run --overwrite

train-demo: $(STAMP) ## train the demo model from nothing (hours; every step can be killed and goes on)
	$(BIN)/python -m training.tokenizer --to $(TRAINED)
	$(BIN)/python -m training.pictures
	$(BIN)/python -m training.vae --to $(TRAINED)
	$(BIN)/python -m training.latents --model $(TRAINED)
	$(BIN)/python -m training.unet --base $(TRAINED)
	$(BIN)/python -m training.decoder --base $(TRAINED) --stars --batch 2 --rate 0.004
	$(BIN)/python -m training.decoder --base $(TRAINED) --start training/work/decoder-stars.pt
	$(BIN)/python -m training.export --base $(TRAINED) --unet training/work/unet.pt --decoder training/work/decoder.pt
	$(BIN)/python -m training.tiny
	$(BIN)/python -m training.edges
	$(BIN)/python -m training.controlnet
	$(BIN)/python -m training.trajectories
	$(BIN)/python -m training.few_step
	$(BIN)/python -m training.refiner

clean: ## remove caches and builds (.venv and runs stay)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
