# Two commands do all the set-up: `make run` and `make test`. They need Python 3.11 or newer, make and git.
PYTHON ?= python3
UV := .tools/bin/uv
PARLEY := .venv/bin/parley
export RAY_ENABLE_UV_RUN_RUNTIME_ENV = 0

.PHONY: run demo test check bench bench-windows bench-imports bench-webhooks bench-claims bench-dialer bench-codec bench-calls bench-scale bench-soak setup clean

run: setup          ## start the platform, place the demo call, keep serving until Ctrl-C
	$(PARLEY) up --demo

demo: setup         ## place the demo call and stop everything; the exit code says whether it went as it should
	$(PARLEY) demo

test: setup check   ## everything that CI runs
	.venv/bin/pytest tests/unit -n 4
	.venv/bin/pytest tests/integration --durations=12

check: setup        ## lint, format, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup        ## quick benchmarks: each prints aim, figure, spread, PASS or MISS
	.venv/bin/python -m load_tests.bench

bench-windows: setup ## calling windows against the wall clock, every minute of 2026-2028 (two minutes)
	.venv/bin/python -m load_tests.calling_windows

bench-imports: setup ## 100,000 and 1,000,000 leads into SQLite, in time and memory, undisturbed and killed half way (5 min)
	.venv/bin/python -m load_tests.imports $(ARGS)

bench-webhooks: setup ## webhooks at 300/s against the API: how fast they are acknowledged, and opt-outs meanwhile (SQLite; half a minute)
	.venv/bin/python -m load_tests.webhooks $(ARGS)

bench-claims: setup ## claims of leads: durable decisions a second, and 1,000,000 leads against 10,000 (SQLite, PostgreSQL; 10 min)
	.venv/bin/python -m load_tests.claims

bench-dialer: setup ## the dialer dies at 100,000 points on simulated time and 1,000 times as a process; pace, switches, FLUSHALL (hours)
	.venv/bin/python -m load_tests.crash_points
	.venv/bin/python -m load_tests.dialer kills
	.venv/bin/python -m load_tests.dialer ray
	.venv/bin/python -m load_tests.dialer --sql postgresql pace
	.venv/bin/python -m load_tests.dialer switches
	.venv/bin/python -m load_tests.dialer redis

bench-codec: setup  ## a 20 ms frame transcoded in process, by one pool call per frame, by one per tick (one minute)
	.venv/bin/python -m load_tests.micro.codec_pool

bench-calls: setup  ## calls per core: this system, its bare pipeline, a featureless server and Pipecat, side by side, in turns (an hour or two; ARGS="--help")
	load_tests/peers/setup
	.venv/bin/python -m load_tests.callbench $(ARGS)

bench-soak: setup   ## half an hour of calls: does anything grow? (ARGS="--calls N": 70 % of what bench-calls found)
	.venv/bin/python -m load_tests.soak $(ARGS)

bench-scale: setup  ## replicas grow and shrink under live calls, rolling update, and two controls that must cut (15 min)
	.venv/bin/python -m load_tests.scale

setup: .venv/.ready

$(UV):
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13.8,<0.14'

.venv/.ready: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --python .tools/bin/python
	@touch $@

clean:
	rm -rf .venv .tools
