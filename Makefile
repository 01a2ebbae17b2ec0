# The two commands: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/peers
AUDIT := timeout 60 $(VENV)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

.DEFAULT_GOAL := help
.PHONY: help run test unprotected network soak bench check format clean

help: ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo
	@echo "The first command sets up $(VENV): 338 MB to download with torch for the CPU (PIP_EXTRA_INDEX_URL in README.md),"
	@echo "several GB with torch for CUDA; 1.5 GB on disk; a minute or a few. Tried with Python 3.11 on Debian 12 (x86-64)."

run: $(INSTALLED) ## set everything up and start the service on port 8000
	$(VENV)/bin/digits up

test: $(INSTALLED) ## set everything up and run every test (a quarter of an hour on two cores)
	$(VENV)/bin/pytest

unprotected: $(INSTALLED) ## run each fault test without the protection that it proves: all must fail
	$(VENV)/bin/pytest -n 0 -rx --unprotected tests/system/test_faults.py

network: $(INSTALLED) ## several hosts in network namespaces that lose their cables under load (root, Linux, nginx)
	$(VENV)/bin/python -m tests.system.network

soak: $(INSTALLED) ## 20 random faults in two workers and a Valkey: every job must end
	$(VENV)/bin/python -m tests.system.soak

bench: $(INSTALLED) $(PEERS)/.installed ## measure training, and drawing against other servers (two hours; needs wrk, nginx and chromium)
	GOMP_SPINCOUNT=10000 $(VENV)/bin/python benchmarks/training.py
	$(VENV)/bin/python benchmarks/threads.py
	$(VENV)/bin/python benchmarks/serving/engine.py
	$(VENV)/bin/python benchmarks/serving/compare.py --peers $(PEERS)
	$(VENV)/bin/python benchmarks/serving/large.py
	$(VENV)/bin/python benchmarks/serving/heads.py
	$(VENV)/bin/python benchmarks/serving/followers.py
	$(VENV)/bin/python benchmarks/serving/versions.py
	$(VENV)/bin/python benchmarks/serving/values.py
	$(VENV)/bin/python benchmarks/serving/endure.py
	$(VENV)/bin/python -m benchmarks.serving.cached
	$(VENV)/bin/python benchmarks/records.py
	$(VENV)/bin/python -m benchmarks.page
	$(VENV)/bin/python benchmarks/stale.py
	$(VENV)/bin/python benchmarks/usefulness.py
	$(VENV)/bin/python benchmarks/usefulness.py --judge

check: $(INSTALLED) ## check style, types, import rules and known vulnerabilities
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/bandit -q -ll -r app worker models
	@$(AUDIT) > $(VENV)/audit.log 2>&1 && ! grep -q 'could not be audited' $(VENV)/audit.log \
		&& echo "pip-audit: no known vulnerabilities" \
		|| { ! grep -E 'Found [0-9]+ known' -A 1000 $(VENV)/audit.log \
		&& echo "pip-audit: skipped, for no (whole) index of vulnerabilities answers"; }

format: $(INSTALLED) ## format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove the environment; versions and jobs in var/ stay
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 run"; exit 1; }
	@echo "Setting up $(VENV): a minute or a few, mostly for torch"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

$(PEERS)/.installed: benchmarks/serving/requirements.txt | $(INSTALLED)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement benchmarks/serving/requirements.txt
	@touch $@
