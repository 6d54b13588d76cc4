# The front door: `make help` lists every target. Each target sets up the environment first, if it is not there.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
PY = $(call quote,$(VENV)/bin/python)
READY = $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)

TARGETS = help setup demo data annotate pretrain eval artifacts look neurons cost eval-all all status plan study checkpoints tables compare \
          report bench gpu-check test test-slurm lint format

# What a target takes from make's command line: key=VARIABLE of its program, and ARGS, further words for the program.
# A variable that is not given, or empty, leaves the program's default.
demo.takes = grid=GRID data=DATA seeds=SEEDS jobs=JOBS cache=CACHE runs=RUNS results=RESULTS
data.takes = data=DATA get=GET archives=ARCHIVES ARGS
annotate.takes = data=DATA sets=SETS force=FORCE results=RESULTS ARGS
eval.takes = task=TASK $(artifacts.takes)
artifacts.takes = name=NAME cache=CACHE $(run.takes)
pretrain.takes = recipe=RECIPE tag=TAG nodes=NODES launcher=LAUNCHER partition=PARTITION $(run.takes)
run.takes = model=MODEL data=DATA variant=VARIANT seed=SEED devices=GPUS force=FORCE runs=RUNS results=RESULTS ARGS
look.takes = model=MODEL images=IMAGES data=DATA seed=SEED runs=RUNS results=RESULTS ARGS
neurons.takes = model=MODEL data=DATA seed=SEED runs=RUNS ARGS
cost.takes = model=MODEL runs=RUNS ARGS
status.takes = grid=GRID data=DATA seeds=SEEDS variant=VARIANT runs=RUNS results=RESULTS ARGS
plan.takes = gpus=GPUS $(status.takes)
eval-all.takes = jobs=JOBS cache=CACHE launcher=LAUNCHER partition=PARTITION force=FORCE $(plan.takes)
all.takes = $(eval-all.takes)
study.takes = study=NAME seeds=SEEDS gpus=GPUS jobs=JOBS runs=RUNS results=RESULTS ARGS
checkpoints.takes = model=MODEL data=DATA seed=SEED variant=VARIANT runs=RUNS results=RESULTS ARGS
tables.takes = data=DATA results=RESULTS ARGS
report.takes = runs=RUNS $(tables.takes)
bench.takes = peers=PEERS $(tables.takes)
gpu-check.takes = results=RESULTS ARGS
compare.takes = base=BASE head=HEAD models=MODELS strict=STRICT $(tables.takes)
test.takes = ARGS
test-slurm.takes = ARGS

include benchmarks/make_words.mk

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

help:  ## list the targets and their variables
	@echo "make <target> [VARIABLE=value …]; any target makes the environment in VENV="$(call quote,$(VENV))" first"
	@echo
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-10s %s\n", $$1, $$2}'
	@echo
	@echo "Settings of a program: make pretrain ARGS=--help · make eval TASK=imagenet_knn ARGS=--help"
	@echo "Folders, for every target that has them: RUNS=runs RESULTS=results (demo: <runs>/demo); the data sets: DATA_ROOT=, or the shell's DATA_ROOT"
	@echo "Only make's command line sets variables, and values are taken as they are typed; VENV, PYTHON and DATA_ROOT may also"
	@echo "come from the shell's environment"

setup: $(READY)  ## the environment: VENV=.venv (about 5.5 GB; clones may share one), PYTHON=<python 3.11 or 3.12>

$(READY):
	@echo making the environment in $(call quote,$(VENV)): a few minutes, about 5.5 GB
	test -x $(PY) || $(call quote,$(PYTHON)) -m venv $(call quote,$(VENV))
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	rm -f $(call quote,$(VENV))/.ready-* && touch $(call quote,$@)

demo: setup  ## render data, pretrain two nano models, evaluate, print tables, compare with the kept results, write a page (CPU, minutes): GRID=demo|mini-paper|everything SEEDS=0|all JOBS=1 CACHE=0 (as for eval-all) DATA=mini|photos (photographs and released weights, downloaded)
	@$(PY) -m benchmarks.demo $(WORDS)

data: setup  ## make or check data: DATA=mini (rendered, with a contact sheet), DATA=full|own|voc2012|… DATA_ROOT=…, or a folder; GET=photos|voc07,voc12,coco20k,ade20k,nyu_test,nyu_train,imagenet_train,imagenet_val|all downloads or prepares, ARCHIVES=<folder> ARGS="workers=1"
	@$(PY) -m benchmarks.data $(WORDS)

annotate: setup  ## classes and properties (size, count, clutter, texture) of the test images of DATA=, kept in results/<data>/annotations/, for where a model is better: SETS=imagenet,voc07 (all that are there) FORCE=1 ARGS=
	@$(PY) -m benchmarks.annotate $(WORDS)

pretrain: setup  ## MODEL=vitb_reg16 RECIPE=deit3 TAG=<name of a run with other settings> DATA=mini|full|<folder> SEED=0 GPUS=1 NODES=1 LAUNCHER=local|slurm PARTITION= VARIANT= FORCE=1 ARGS="epochs=2"
	@$(PY) -m benchmarks.pretrain $(if $(MODEL),,model=vitn_reg4) $(WORDS)

eval: setup  ## MODEL=deit3-vitb_reg16|deit3+<tag>-vitb_reg16|timm/…|<file>|random-… TASK=imagenet_knn|imagenet_linear|ade20k_linear|nyud_linear1|… NAME=<id in records> DATA=<name|folder|file.yaml> SEED= GPUS= VARIANT= FORCE=1 CACHE=0 (share no features) ARGS="cache_gb=20"
	@$(PY) -m benchmarks.evaluate $(if $(MODEL),,model=deit3-vitn_reg4) $(if $(TASK),,task=imagenet_knn) $(WORDS)

artifacts: setup  ## the artifact report of MODEL=, on the test images of DATA= (NAME=, SEED=, GPUS=, VARIANT=, FORCE=, CACHE=, ARGS= as for eval)
	@$(PY) -m benchmarks.evaluate task=artifact_report $(if $(MODEL),,model=deit3-vitn_reg4) $(WORDS)

look: setup  ## what models see, side by side: MODEL=a,b,c IMAGES=<files or folder, with commas> DATA=mini (of trained models, and of the figure and page, results/<DATA>/look/) SEED= ARGS="size=518 block=-2 patch=12,20"
	@$(PY) -m benchmarks.look $(if $(MODEL),,model=deit3-vitn_reg4) $(WORDS)

neurons: setup  ## register neurons of MODEL=, which MODEL=<the same>+ttr then needs, on train images of DATA= (SEED=): ARGS="images=500 top_k=50 known=dinov2_vitl14"
	@$(PY) -m benchmarks.neurons $(if $(MODEL),,model=deit3-vitn_reg0) $(WORDS)

cost: setup  ## parameters and multiply-adds of MODEL= with 0 to 16 registers; ARGS="image_size=518"
	@$(PY) -m benchmarks.cost $(if $(MODEL),,model=vitn_reg4) $(WORDS)

eval-all: setup  ## what is missing or stale of GRID=demo|mini-paper|paper|registers|released DATA= SEEDS=0,1|all GPUS=0,1,3|all JOBS=1 VARIANT= FORCE=1 CACHE=0 (cells share neither features nor imports) LAUNCHER=local|slurm PARTITION= ARGS=
	@$(PY) -m benchmarks.grid $(WORDS)

all: setup  ## the same, after pretraining the models that are not trained yet: GRID= DATA= SEEDS= GPUS= JOBS= VARIANT= FORCE=1 CACHE= LAUNCHER= PARTITION= ARGS="pretrain_devices=8"
	@$(PY) -m benchmarks.grid pretrain=true $(WORDS)

status: setup  ## the grid as a table: done, running, failed, stale, missing, and the time left: GRID= DATA= SEEDS= VARIANT= ARGS="pretrain=true"
	@$(PY) -m benchmarks.status $(WORDS)

plan: setup  ## FLOPs, memory and time of every cell of GRID= DATA= SEEDS= VARIANT=, GPU-hours, hours on GPUS=64; runs nothing: ARGS="tflops=312 mfu=0.4"
	@$(PY) -m benchmarks.plan $(WORDS)

study: setup  ## when artifacts appear: trains the models of NAME=emergence|emergence-gpu (with a GPU), writes norms over training, SEEDS=0|all GPUS= JOBS=1 ARGS="train=false page=docs/emergence.md"
	@$(PY) -m benchmarks.study $(WORDS)

checkpoints: setup  ## scores with and without labels of the backbones that the training of MODEL= kept (pretrain ARGS="keep_every=100"), and how their ranks agree: DATA=mini SEED= VARIANT= ARGS="masks=ade20k"
	@$(PY) -m benchmarks.checkpoints $(if $(MODEL),,model=deit3-vitn_reg4) $(WORDS)

tables: setup  ## result tables from the records, those of the paper under their numbers: DATA=mini ARGS=
	@$(PY) -m benchmarks.tables $(WORDS)

compare: setup  ## what changed, for a review: BASE=<git rev or folder> HEAD=<the same; here> MODELS=<two models, a,b> DATA=mini STRICT=1 (fail where worse) ARGS=
	@$(PY) -m benchmarks.compare $(WORDS)

report: setup  ## one HTML page of all results, results/<data>/report.html: DATA=mini ARGS="width=1200"
	@$(PY) -m benchmarks.report $(WORDS)

bench: setup  ## speed, as ratios measured in one run: results/bench/: DATA=mini ARGS="only=ghi"; PEERS=<folder with checkouts of other code bases> ARGS="only=peers"
	@$(PY) -m benchmarks.speed $(WORDS)

gpu-check: setup  ## on a CUDA GPU, in 15 minutes, without a network: gpu tests, losses beside the CPU's, MFU, reading, cells: results/bench/<card>.*: ARGS="budget=330 only=step,models"
	@$(PY) -m benchmarks.gpu_check $(WORDS)

test: setup  ## the tests, without those that start a Slurm: ARGS="tests/test_vit.py -k macs"
	@$(PY) -m pytest --numprocesses=3 --dist=worksteal --ignore=tests/slurm $(WORDS)

test-slurm: setup  ## the tests that start a Slurm of their own; as root, with Debian's slurm-wlm and munge: ARGS=
	@$(PY) -m pytest tests/slurm $(WORDS)

lint: setup  ## ruff (rules and format) and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

format: setup  ## let ruff mend and format the code
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .
