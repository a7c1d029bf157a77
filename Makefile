# Every target sets up what it needs: an environment in .venv, made once and again when a dependency changes.
PYTHON ?= python3
ARGS   ?=

BIN   := .venv/bin
READY := .venv/.ready
CHECK := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 MUNI_NB_PRESET=smoke

.DEFAULT_GOAL := help
.PHONY: help setup ablation test browser-test nightly publish bench docs lab export clean hooks

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables: PYTHON=python3.12 (3.11 or newer, for .venv), ARGS="-p preset smoke"'

setup: $(READY) ## make .venv and install the package with its tools

ablation: $(READY) ## run the routing ablation: runs/routing.ipynb, results/ (ARGS goes to papermill)
	@mkdir -p runs
	$(BIN)/papermill --log-output ablations/routing.ipynb runs/routing.ipynb $(ARGS)

test: $(READY) ## lint, then run every notebook, the ablations at their smoke preset and the tests, in one queue
	$(BIN)/ruff check -q
	$(CHECK) $(BIN)/python -m pytest -n 2 --maxschedchunk 4 --durations=20

browser-test: $(READY) ## click through the explorer in a real Chromium, if there is one: runs/browser has screenshots
	-@$(BIN)/python -c 'import playwright' 2> /dev/null || $(BIN)/python -m pip install --no-compile -c constraints.txt playwright
	$(CHECK) $(BIN)/python -m pytest tests/browser.py -rs

nightly: $(READY) ## what takes long: bad input by property, notebooks twice, faults at every line, a sweep in bad weather
	$(CHECK) MUNI_NB_EXAMPLES=nightly $(BIN)/python -m pytest tests/test_property.py -q
	$(CHECK) $(BIN)/python -m pytest tests/anywhere.py -q -n 2
	$(CHECK) $(BIN)/python -m pytest tests/faults.py -q -rs
	$(CHECK) $(BIN)/python -m pytest tests/cluster.py -q
	$(CHECK) $(BIN)/python tests/soak.py
	$(CHECK) $(BIN)/python tests/soak.py runs/soak-dask --scheduler local

publish: $(READY) ## gather anew, from the committed records, what README and nbs/results.ipynb show
	@mkdir -p runs
	for study in routing peers five_views one_to_many scenes image_text_audio budget handwriting; do \
	  $(BIN)/papermill --log-output ablations/$$study.ipynb runs/$$study.ipynb -p publish True || exit 1; done
	$(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute --inplace nbs/index.ipynb nbs/results.ipynb
	$(BIN)/nbdev_clean
	$(BIN)/python tools/readme.py

bench: .venv-bench/.ready ## measure our VAEs beside those of MultiVae, an hour and more on one core (ARGS goes to it)
	OMP_NUM_THREADS=1 .venv-bench/bin/python tools/multivae_bench.py $(ARGS)

docs: .venv/.docs ## build the site from the notebooks, offline, and follow its links: _docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tools/site/links.py _docs

lab: $(READY) ## open JupyterLab (ARGS goes to it)
	$(BIN)/jupyter lab $(ARGS)

export: $(READY) ## write muni_nb/ from nbs/, and README.md from nbs/index.ipynb
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

clean: $(READY) ## strip the notebooks of what does not belong in git; papermill's tags stay
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_clean --fname ablations

hooks: $(READY) ## let git merge notebooks by cell and Jupyter clean them on saving (writes to ~/.jupyter)
	$(BIN)/nbdev_install_hooks

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || \
	  { echo "muni_nb needs Python 3.11 or newer, and there is no $(PYTHON): make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "muni_nb needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1): make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[dev]'
	@# on all cores, where pip takes one; less what is hardly ever imported
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests|diffusers|transformers/models)/' .venv/lib > /dev/null 2>&1 || true
	$(BIN)/python tools/repair_torchaudio.py
	@touch $@

# which nothing else needs
.venv-bench/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --no-compile -c constraints.txt -e . 'multivae==1.0.3'
	.venv-bench/bin/python tools/repair_torchaudio.py
	@touch $@

.venv/.docs: $(READY)
	$(BIN)/python -m pip install --no-compile -c constraints.txt -e '.[docs]'
	@touch $@
