# Recipes that people, hooks and CI share. `./dev RECIPE` makes the environment first.

set positional-arguments
set shell := ["bash", "-euc"]

# list the recipes
default:
    @just --list

# format the code
fmt:
    ruff format .
    ruff check --fix .

# format check, lint, types, import contracts
check: lint types imports

lint:
    ruff format --check .
    ruff check .

types:
    mypy
    pyright

imports:
    lint-imports

# all tests, in parallel; arguments go to pytest
test *args:
    pytest -n 2 --dist worksteal "$@"

# the TypeScript worker: its own tests, then what every worker does; needs Node 20
ts-test *args:
    pytest -n 2 tests/integration/languages/test_typescript.py tests/integration/behaviour -k typescript "$@"

# the Go example worker, likewise; needs Go 1.26
go-test *args:
    pytest -n 2 tests/integration/languages/test_go.py tests/integration/behaviour -k "go and not python and not typescript" "$@"

# N random histories of the core against the oracle, on all cores; a second argument is the first seed
histories *args:
    python -m tests.simulation.bulk "$@"

# kill -9 of real processes at N random points, seeded: `just kills 200 7`
kills count="200" seed="1":
    STEPMESH_KILLS={{count}} STEPMESH_KILL_SEED={{seed}} pytest -q -s tests/acceptance/test_kill_nine.py

# a pool from 1 worker to 8 and back while N tasks flow, and one task of S seconds on Kafka: `just scale 20000 90`
scale tasks="20000" seconds="90":
    STEPMESH_SCALE_TASKS={{tasks}} STEPMESH_LONG_TASK_S={{seconds}} pytest -q -s --timeout 600 tests/acceptance/test_scaling.py

# three orchestrators, four workers and their servers killed, frozen and wiped N times on each pair of broker and journal, seeded
matrix count="24" seed="1":
    STEPMESH_KILLS={{count}} STEPMESH_KILL_SEED={{seed}} pytest -q -s tests/acceptance/test_cluster_kills.py

# a real batch over the standard library, with its report; arguments go to `stepmesh demo`
demo *args:
    stepmesh demo "$@"

# N seeds of the chaos demo in a row, a line per seed
chaos count="20" *args:
    stepmesh demo --seeds "1..{{count}}" "${@:2}"

# measure this machine; arguments go to `stepmesh bench`
bench *args:
    stepmesh bench "$@"

# branch coverage of the core; fails below 95 %
cover:
    pytest -q -n 2 tests/unit/orchestrator tests/simulation tests/replay --cov --cov-report=term

# Python code from broker/proto; committed, so that nobody needs the compiler to install
proto out="broker/stepmesh_broker/pb":
    python -m grpc_tools.protoc -Ibroker/proto --python_out={{out}} --pyi_out={{out}} $(cd broker/proto && find . -name '*.proto' -printf '%P\n' | sort)
    find {{out}} -name '*_pb2.py*' | xargs sed -i -E 's/^from (stepflow|stepmesh)\.v1 import/from stepmesh_broker.pb.\1.v1 import/'

# Go code from broker/proto for the example worker; committed, and compared by a test
go-proto:
    examples/go-worker/proto.sh

# the unmodified stepflow-py worker behind `stepmesh server` and behind a server that does nothing, in turns
interop-speed turns="3":
    python -m tests.interop.speed {{turns}}

# servers to try things with, until Ctrl-C: `just services kafka postgres` (also nats, nats-cluster, kafka-cluster, redis)
services *kinds:
    python -m tests.services "$@"
