# The front door: `make help` lists every target. Each target sets up the environment first, if it is not there.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
PY = $(VENV)/bin/python
READY = $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)

MODEL ?= vitn_reg4
RECIPE ?= deit3
TASK ?= imagenet_knn
DATA ?= mini
SEED ?= 0
GPUS ?= 1
NODES ?= 1
LAUNCHER ?= local
PARTITION ?=
GRID ?= demo
BASE ?=
HEAD ?=
STRICT ?=
JOBS ?= 1
GET ?=
ARCHIVES ?=
RUNS ?= runs
RESULTS ?= results
ARGS ?=
ifdef DATA_ROOT
export DATA_ROOT
endif

COMMON = data=$(DATA) devices=$(GPUS) runs=$(RUNS) $(if $(VARIANT),variant=$(VARIANT)) $(if $(filter-out 0 false,$(FORCE)),force=true) $(ARGS)
CELLS = grid=$(GRID) data=$(DATA) runs=$(RUNS) results=$(RESULTS) $(if $(VARIANT),variant=$(VARIANT))
GIVEN_GPUS = $(if $(filter file,$(origin GPUS)),,$(GPUS))
HOW = jobs=$(JOBS) launcher=$(LAUNCHER) $(if $(GIVEN_GPUS),gpus=$(GIVEN_GPUS)) $(if $(PARTITION),partition=$(PARTITION)) $(if $(filter-out 0 false,$(FORCE)),force=true)
EVALUATED = $(if $(filter file,$(origin MODEL)),$(RECIPE)-$(MODEL),$(MODEL))

.DEFAULT_GOAL := help
.PHONY: help setup demo data pretrain eval artifacts cost eval-all all status plan tables compare report bench test \
        test-slurm lint format

help:  ## list the targets and their variables
	@echo "make <target> [VARIABLE=value …]; any target makes the environment in VENV=$(VENV) first"
	@echo
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'
	@echo
	@echo "Settings of a program: make pretrain ARGS=--help · make eval TASK=imagenet_knn ARGS=--help"

setup: $(READY)  ## the environment: VENV=.venv (about 5.5 GB; clones may share one), PYTHON=<python 3.11 or 3.12>

$(READY):
	@echo "making the environment in $(VENV): a few minutes, about 5.5 GB"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	rm -f $(VENV)/.ready-* && touch $@

demo: setup  ## render data, pretrain two nano models, evaluate, print the table (CPU, minutes); GRID=demo|mini-paper JOBS=1
	@$(PY) -m benchmarks.grid grid=$(GRID) data=mini pretrain=true jobs=$(JOBS) runs=$(RUNS) results=$(RESULTS)
	@$(PY) -m benchmarks.tables data=mini results=$(RESULTS)

data: setup  ## make or check data: DATA=mini (rendered, with a contact sheet), DATA=full|own|voc2012|… DATA_ROOT=…, or a folder; GET=voc07,voc12,coco20k,ade20k,nyu_test,nyu_train,imagenet_train,imagenet_val|all downloads or prepares, ARCHIVES=<folder>
	@$(PY) -m benchmarks.data data=$(DATA) $(if $(GET),get=$(GET)) $(if $(ARCHIVES),archives=$(ARCHIVES)) $(ARGS)

pretrain: setup  ## MODEL=vitb_reg16 RECIPE=deit3 DATA=mini|full|<folder> SEED=0 GPUS=1 NODES=1 LAUNCHER=local|slurm PARTITION= VARIANT= FORCE=1 ARGS="epochs=2"
	@$(PY) -m benchmarks.pretrain model=$(MODEL) recipe=$(RECIPE) seed=$(SEED) results=$(RESULTS) nodes=$(NODES) launcher=$(LAUNCHER) $(if $(PARTITION),partition=$(PARTITION)) $(COMMON)

eval: setup  ## MODEL=deit3-vitb_reg16|timm/…|<file>|random-… TASK=imagenet_knn|imagenet_linear|ade20k_linear|nyud_linear1|… DATA= SEED= GPUS= VARIANT= FORCE=1 ARGS=
	@$(PY) -m benchmarks.evaluate model=$(EVALUATED) task=$(TASK) seed=$(SEED) results=$(RESULTS) $(COMMON)

artifacts: setup  ## the artifact report of MODEL=, on the test images of DATA= (VARIANT=, ARGS= as for eval)
	@$(PY) -m benchmarks.evaluate model=$(EVALUATED) task=artifact_report seed=$(SEED) results=$(RESULTS) $(COMMON)

cost: setup  ## parameters and multiply-adds of MODEL= with 0 to 16 registers; ARGS="image_size=518"
	@$(PY) -m benchmarks.cost model=$(MODEL) runs=$(RUNS) $(ARGS)

eval-all: setup  ## what is missing or stale of GRID=demo|mini-paper|paper|registers|released DATA= GPUS=0,1,3|all JOBS=1 FORCE=1 LAUNCHER=local|slurm PARTITION=
	@$(PY) -m benchmarks.grid $(CELLS) $(HOW) $(ARGS)

all: setup  ## the same, after pretraining the models that are not trained yet; ARGS="pretrain_devices=8"
	@$(PY) -m benchmarks.grid $(CELLS) $(HOW) pretrain=true $(ARGS)

status: setup  ## the grid as a table: done, running, failed, stale, missing, and the time left: GRID= DATA= ARGS="pretrain=true"
	@$(PY) -m benchmarks.status $(CELLS) $(ARGS)

plan: setup  ## FLOPs, memory and hours of every cell of GRID=, GPU-hours, hours on GPUS=64; runs nothing: ARGS="tflops=312 mfu=0.4"
	@$(PY) -m benchmarks.plan $(CELLS) $(if $(GIVEN_GPUS),gpus=$(GIVEN_GPUS)) $(ARGS)

tables: setup  ## result tables from the records, those of the paper under their numbers: DATA=mini
	@$(PY) -m benchmarks.tables data=$(DATA) results=$(RESULTS) $(ARGS)

compare: setup  ## what changed, for a review: BASE=<git rev or folder> HEAD=<the same; here> DATA=mini STRICT=1 (fail where worse)
	@$(PY) -m benchmarks.compare $(if $(BASE),base=$(BASE)) $(if $(HEAD),head=$(HEAD)) data=$(DATA) results=$(RESULTS) $(if $(filter-out 0 false,$(STRICT)),strict=true) $(ARGS)

report: setup  ## one HTML page of all results, results/<data>/report.html: DATA=mini
	@$(PY) -m benchmarks.report data=$(DATA) results=$(RESULTS) runs=$(RUNS) $(ARGS)

bench: setup  ## speed, as ratios measured in one run: results/bench/
	@$(PY) -m benchmarks.speed data=$(DATA) results=$(RESULTS) $(ARGS)

test: setup  ## the tests: ARGS="tests/test_vit.py -k macs"
	@$(PY) -m pytest $(ARGS)

test-slurm: setup  ## the tests that start a Slurm of their own; as root, with Debian's slurm-wlm and munge
	@$(PY) -m pytest tests/slurm $(ARGS)

lint: setup  ## ruff (rules and format) and mypy
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

format: setup  ## let ruff mend and format the code
	@$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .
