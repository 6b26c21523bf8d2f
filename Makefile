# make setup | lint | test | mutate | test-numpy1 | test-python3.12 | docs | audit | demo | clean
# Needs make and Python 3.11 or 3.12 (another one: make PYTHON=python3.12 setup).
PYTHON ?= python3
PYTHON312 ?= $(firstword $(shell python3.12 -c "import sys; print(sys.executable)" 2>/dev/null) \
	$(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12))
# make test COVERAGE= is faster: before Python 3.12 every line of the interpreter is traced.
COVERAGE ?= --cov --cov-report=term:skip-covered
# make mutate SAMPLE= puts every mistake into every module, which takes an hour or more.
SAMPLE ?= --sample 70
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without it OpenMP threads spin while they wait, which is 150 times slower on a busy machine.
export OMP_WAIT_POLICY := PASSIVE

# What "import open3d" wants of a bare Debian or Ubuntu; installed where that needs no password.
OPEN3D_LIBRARIES := libegl1 libgl1 libx11-6 libusb-1.0-0
IMPORT_OPEN3D = $(BIN)/python -c "import open3d" 2>/dev/null
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
APT_INSTALL = { $(SUDO) apt-get update && $(SUDO) apt-get install -y $(1); } >/dev/null 2>&1

.PHONY: setup lint test test-long drill mutate test-numpy1 test-python3.12 docs audit demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
		|| { echo "constraints.txt is for Python 3.11 and 3.12: make PYTHON=python3.11 setup"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { $(call APT_INSTALL,python3-venv) && $(PYTHON) -m venv $(VENV); } \
		|| { rm -rf $(VENV); echo "no venv module: sudo apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install -c constraints.txt setuptools
	$(BIN)/pip install -c constraints.txt --no-build-isolation -e ".[all]"
	$(BIN)/pip install -c constraints.txt --no-deps nuscenes-devkit
	@$(IMPORT_OPEN3D) || $(call APT_INSTALL,$(OPEN3D_LIBRARIES)) && $(IMPORT_OPEN3D) && touch $@ \
		|| { echo "Open3D (the simulator) misses system libraries: sudo apt-get install -y $(OPEN3D_LIBRARIES)"; exit 1; }

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest -q -n 2 -m "not long" $(COVERAGE)

test-long: setup
	$(BIN)/python -m pytest -q -n 2 -m long

drill: setup
	$(BIN)/python tools/drill.py

mutate: setup
	$(BIN)/python tools/mutate.py --named
	$(BIN)/python tools/mutate.py $(SAMPLE) --survivors

test-numpy1:
	.ci/core $(PYTHON) .venv-numpy1 numpy==1.26.4 opencv-python-headless==4.11.0.86

test-python3.12:
	$(if $(PYTHON312),.ci/core $(PYTHON312) .venv-python3.12,@echo "skipped: there is no Python 3.12 (PYTHON312=)")

docs: setup
	$(BIN)/python tools/make_docs.py

audit:
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit && .venv-audit/bin/pip install -q pip-audit; }
	.venv-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

demo: setup
	$(BIN)/perception demo --out out/demo

clean:
	rm -rf $(VENV) .venv-numpy1 .venv-python3.12 .venv-audit out build dist *.egg-info
	rm -rf .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
