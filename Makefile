.DEFAULT_GOAL := help
.PHONY: help setup demo demo-task test coverage test-random test-models test-export test-zoo test-matrix test-view test-reliability view benchmark docs lint

PYTHON := .venv/bin/python
PARALLEL_TESTS := $(PYTHON) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
COVERAGE := --cov --cov-report term:skip-covered --cov-fail-under 90
TASK := detect
DEMO_detect := mask_rcnn_dat_pp_nano_shapes
DEMO_segment := upernet_dat_pp_nano_shapes
DEMO_classify := dat_pp_nano_shapes
DEMO_DATA_detect := $${SHAPES_ROOT:-data/shapes}
DEMO_DATA_segment := $${SHAPES_SEGMENT_ROOT:-data/shapes_segment}
DEMO_DATA_classify := $${SHAPES_CLASSIFY_ROOT:-data/shapes_classify}
DEMO_HELD_OUT_detect := val
DEMO_HELD_OUT_segment := images/validation
DEMO_HELD_OUT_classify := val
DEMO := $(DEMO_$(TASK))
DEMO_CONFIG := configs/$(DEMO).py
DEMO_RUN := work_dirs/$(DEMO)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

# All works without the kernels in C++, if slower: where they cannot be built, this says why.
setup: ## build .venv from uv.lock; nothing to do when it is current
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || { \
		echo 'There is no python3 on PATH of version 3.9 or later to begin with: install one.' >&2; exit 1; }
	@python3 tools/set_up.py
	@test ! -f mmdat/ops/build.py || $(PYTHON) mmdat/ops/build.py >/dev/null || true

demo: demo-task setup ## draw data, train and test a small Mask R-CNN with DAT++, report on it (or TASK=segment, classify)
	$(PYTHON) tools/make_shapes.py "$(DEMO_DATA_$(TASK))" --task $(TASK)
	$(PYTHON) tools/train.py $(DEMO_CONFIG)
	$(PYTHON) tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_RUN)/last_checkpoint)" --out $(DEMO_RUN)/results.pkl
	$(PYTHON) tools/predict.py $(DEMO_CONFIG) "$$(cat $(DEMO_RUN)/last_checkpoint)" \
		"$(DEMO_DATA_$(TASK))/$(DEMO_HELD_OUT_$(TASK))" --out-dir $(DEMO_RUN)/predictions
	$(PYTHON) tools/analysis_tools/report.py $(DEMO_CONFIG) $(DEMO_RUN)/results.pkl

view: demo-task setup ## look at the demo's model in a browser: predictions, and what a pixel attends to (or TASK=segment, classify)
	@test -f $(DEMO_RUN)/last_checkpoint || { \
		echo 'There is no $(DEMO_RUN)/last_checkpoint: run make demo TASK=$(TASK) first.' >&2; exit 1; }
	$(PYTHON) tools/view.py $(DEMO_CONFIG) "$$(cat $(DEMO_RUN)/last_checkpoint)" \
		--examples "$(DEMO_DATA_$(TASK))/$(DEMO_HELD_OUT_$(TASK))"

demo-task:
	@test -n '$(DEMO)' || { echo 'make demo: TASK=$(TASK) is none: give detect, segment or classify.' >&2; exit 1; }

test: setup ## run the tests (with CI=true as of coverage)
	$(PARALLEL_TESTS) $(if $(CI),$(COVERAGE))

coverage: setup ## run the tests; fail if they run less than 90 % of mmdat's lines
	$(PARALLEL_TESTS) $(COVERAGE)

test-random: setup ## run the tests of random cases with many new ones, 500 of each
	$(PARALLEL_TESTS) -m hypothesis --hypothesis-profile fresh

test-models: setup ## run the slow tests: large models, compilers, training on real images, packages left out or installed
	$(PYTHON) -m pytest -m slow tests/models tests/ops tests/apis tests/datasets tests/test_stack.py tests/test_one_toolbox.py tests/test_wheel.py

test-export: setup ## run the slow tests of exported files: each kind of block, each detector
	$(PYTHON) -m pytest -m slow tests/deployment

test-zoo: setup ## take a training step and a test step with each config, on small drawings, and count costs
	$(PYTHON) tests/helpers/zoo.py
	$(PYTHON) -m pytest -m slow tests/configs tests/test_model_zoo.py

test-matrix: setup ## run tests with other versions of Python, PyTorch and the toolboxes (an hour or more)
	PATH="$$PWD/.uv/bin:$$PATH" $(PYTHON) tests/helpers/matrix.py

test-view: setup ## run the slow tests of the page that make view shows, in Chromium
	$(PYTHON) -m pytest -m slow tests/apis/test_view.py tests/apis/test_view_browser.py

test-reliability: setup ## kill and stop trainings at many moments and resume them (most of an hour)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -m slow tests/reliability

benchmark: setup ## measure the backbones against Swin-T and dense attention (half an hour, idle machine)
	$(PYTHON) benchmarks/backbones.py

docs: setup ## build the pages of docs as a site in build/site (needs Python 3.11)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --quiet --strict

lint: setup ## run ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
