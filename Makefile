# Every target is safe to run twice. `make demo` and `make test` need nothing before them.
.PHONY: setup demo test test-lengthy test-cluster crash-matrix check protos baseline lock
BIN := .venv/bin
# How many files of tests run at once: most of them wait for programs. They are taken in their order,
# in which the longest come first.
# Bytecode is written, whatever the environment says: tests start hundreds of programs.
WORKERS ?= 3

setup: ## .venv with everything, pinned
	@python3 scripts/setup

demo: setup ## the whole story on this machine, live
	@$(BIN)/aegis demo

test: setup ## every test but the lengthy ones, against real PostgreSQL and Valkey
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not lengthy"

test-lengthy: setup ## applications of others at sites that run Flower's own SuperNodes: five minutes and more
	@$(BIN)/python -m pytest -m lengthy

test-cluster: setup ## what Kubernetes answers and what the executor makes of it, on the cluster of AEGIS_TEST_KUBECONFIG too
	@if [ -z "$$AEGIS_TEST_KUBECONFIG" ]; then echo "test-cluster: AEGIS_TEST_KUBECONFIG names no cluster, so only the sandbox is asked"; fi
	@$(BIN)/python -m pytest -rs tests/integration/cluster tests/unit/executor/test_policies.py tests/unit/executor/test_role.py

crash-matrix: setup ## kill -9 at every step of every action, and who noticed; `ARGS=--quick` for a few
	@$(BIN)/python scripts/crash_matrix.py $(ARGS)

check: setup ## format, lint, types, imports, protos
	@$(BIN)/python scripts/check.py

protos: setup ## stubs from the .proto files
	@$(BIN)/python scripts/protos.py

baseline: setup ## at a release: what later protos must stay compatible with
	@$(BIN)/python scripts/protos.py --baseline

lock: setup ## constraints.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --all-extras --group dev --no-annotate --custom-compile-command "make lock" -o constraints.txt pyproject.toml
