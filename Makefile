# `make run` trains the first sweep, `make test` checks everything; both set up what they need on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HYDRA_1_4 := $(VENV)-hydra-1.4

.DEFAULT_GOAL := run
.PHONY: run test test-fast test-hydra-1.4 lint docs

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

run: $(VENV)/.installed
	$(BIN)/nc-train +experiment=first_light

# Many tests wait for processes of their own: three at a time keep two cores busy. Those that share a core do not spin.
test: export OMP_WAIT_POLICY = passive
test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses=3

# While one works: without the tests that start processes, a SLURM cluster or a browser, or take minutes.
test-fast: export OMP_WAIT_POLICY = passive
test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses=2 -m "not processes and not long"

# The launchers and the command with the next Hydra, which lies in an environment of its own on top of the first one;
# without the two tests of the command that are about training alone, and long.
$(HYDRA_1_4)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv --clear --without-pip $(HYDRA_1_4)
	$(BIN)/pip --python $(HYDRA_1_4)/bin/python install --quiet --disable-pip-version-check --no-deps \
		hydra-core==1.4.0rc3 omegaconf==2.4.1rc1
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(HYDRA_1_4)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/first.pth
	@touch $@

test-hydra-1.4: export OMP_WAIT_POLICY = passive
test-hydra-1.4: $(HYDRA_1_4)/.installed
	$(HYDRA_1_4)/bin/python -m pytest --numprocesses=3 tests/test_cli.py tests/config/test_private_names.py \
		tests/launch/test_composer.py tests/launch/test_packed.py tests/launch/test_paired.py \
		--deselect tests/test_cli.py::test_one_epoch_of_figure_1a_on_mnist \
		--deselect tests/test_cli.py::test_a_run_stopped_in_every_way_ends_as_if_nothing_had_happened

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/python docs/reference.py
