# Every target is safe to run twice. `make demo` and `make test` need nothing before them.
.PHONY: setup demo test check protos baseline lock
BIN := .venv/bin

setup: ## .venv with everything, pinned
	@python3 scripts/setup

demo: setup ## the whole story on this machine, live
	@$(BIN)/aegis demo

test: setup ## every test, against real PostgreSQL and Valkey
	@$(BIN)/python -m pytest

check: setup ## format, lint, types, imports, protos
	@$(BIN)/python scripts/check.py

protos: setup ## stubs from the .proto files
	@$(BIN)/python scripts/protos.py

baseline: setup ## at a release: what later protos must stay compatible with
	@$(BIN)/python scripts/protos.py --baseline

lock: setup ## constraints.txt from pyproject.toml
	@$(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --all-extras --group dev --no-annotate --custom-compile-command "make lock" -o constraints.txt pyproject.toml
