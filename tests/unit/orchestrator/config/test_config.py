"""The configuration file: look-up, substitution, contents, and the router that follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepmesh_broker.protocol.messages import Failure
from stepmesh_orchestrator.config import Config, ConfigInvalid, MockPlugin, WorkerPlugin, find_config, load_config, parse_config
from stepmesh_orchestrator.config.loading import NAMES, TEST_NAMES
from stepmesh_orchestrator.core.flow.compiled import Backoff
from stepmesh_orchestrator.core.flow.diagnostics import Level
from stepmesh_orchestrator.core.flow.jsontext import dumps
from stepmesh_orchestrator.core.flow.routing import Route

CONFORMANCE = """
plugins:
  builtin: {type: builtin}
  mock:
    type: mock
    components:
      "/say":
        input_schema: {type: object}
        output_schema: {}
        behaviors:
          '{"v":true}': {outcome: success, result: true}
          '{ "v" : null }': {outcome: success, result: null}
          '{"v":"boom"}': {outcome: failed, error: {code: COMPONENT_FAILED, message: kaput}}
          '{"b":2,"a":1}': {error: short}
routes:
  "/builtin": [{plugin: builtin}]
  "/mock": [{plugin: mock}]
retry: {transportMaxRetries: 0, backoff: {type: constant, delayMs: 10}}
storageConfig: {type: inMemory}
"""


def parsed(text: str, **environment: str) -> Config:
    config, warnings = parse_config(text, environment)
    assert warnings == []
    return config


def refused(text: str, **environment: str) -> ConfigInvalid:
    with pytest.raises(ConfigInvalid) as raised:
        parse_config(text, environment, name="c.yml")
    return raised.value


# --- look-up --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_found_in_the_first_folder_that_has_one(tmp_path: Path, name: str) -> None:
    first, second = tmp_path / "flow", tmp_path / "cwd"
    first.mkdir()
    second.mkdir()
    assert find_config(None, [first, second]) is None
    (second / "stepmesh.yml").write_text("")
    assert find_config(None, [first, second]) == second / "stepmesh.yml"
    (first / name).write_text("")
    assert find_config(None, [first, second]) == first / name


def test_two_in_one_folder_is_an_error(tmp_path: Path) -> None:
    for name in ("stepmesh.yml", "stepflow_config.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigInvalid) as raised:
        find_config(None, [tmp_path])
    assert raised.value.code == "SM-0201"
    assert "stepmesh.yml, stepflow_config.yaml" in raised.value.message
    assert find_config(tmp_path / "stepmesh.yml", [tmp_path]) == tmp_path / "stepmesh.yml"


def test_an_explicit_file_must_exist_and_test_names_are_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        find_config(tmp_path / "no.yml", [])
    assert raised.value.code == "SM-0203"
    (tmp_path / "stepflow-config.test.yml").write_text("")
    assert find_config(None, [tmp_path]) is None
    assert find_config(None, [tmp_path], TEST_NAMES) == tmp_path / "stepflow-config.test.yml"


def test_loading_sets_the_working_directory(tmp_path: Path) -> None:
    path = tmp_path / "stepmesh.yml"
    path.write_text("partitions: 4\nparttions: 5")
    config, warnings = load_config(path, {})
    assert (config.partitions, config.working_directory) == (4, str(tmp_path))
    assert [(item.code, item.path, item.line, item.level) for item in warnings] == [("SM-0204", "$.parttions", 2, Level.WARNING)]
    assert "partitions" in warnings[0].hint
    path.write_text("workingDirectory: sub")
    assert load_config(path, {})[0].working_directory == str(tmp_path / "sub")
    path.write_text(f"workingDirectory: {tmp_path.parent}")
    assert load_config(path, {})[0].working_directory == str(tmp_path.parent)
    with pytest.raises(ConfigInvalid) as raised:
        load_config(tmp_path, {})
    assert raised.value.code == "SM-0203"


# --- substitution ---------------------------------------------------------------------------------------


def test_the_environment_is_substituted_everywhere() -> None:
    text = """
plugins:
  gpu: {type: worker, pool: "${POOL}", command: "${BIN:-python}", args: ["-m", "${MODULE}.${SUB:-main}"], env: {A: "$${B}", C: "$D ${E:-}"}}
partitions: ${P:-8}
storageConfig: {type: sqlite, databaseUrl: "sqlite:${HOME}/x.db", maxConnections: "${N:-3}", autoMigrate: "${M}"}
routes: {"/x": [{plugin: gpu, conditions: [{path: $.a, value: "${V:-v}"}]}]}
"""
    config = parsed(text, POOL="a100", MODULE="work", HOME="/h", M="false", N="", V="w")
    plugin = config.plugins["gpu"]
    assert isinstance(plugin, WorkerPlugin)
    assert (plugin.pool, plugin.command, plugin.args) == ("a100", "python", ["-m", "work.main"])
    assert plugin.env == {"A": "${B}", "C": "$D "}
    assert config.partitions == 8
    assert config.storage_config is not None
    assert (config.storage_config.journal.database_url, config.storage_config.journal.max_connections) == ("sqlite:/h/x.db", 3)
    assert config.storage_config.journal.auto_migrate is False
    assert isinstance(config.router().route("/x/c", b'{"a":"w"}'), Route)


def test_a_variable_that_is_not_set_is_named_with_its_place() -> None:
    problem = refused("partitions: 4\nbroker: {type: nats, url: 'nats://${HOST}:4222'}")
    assert problem.code == "SM-0202"
    assert problem.message == "c.yml:2:22: $.broker.url: the environment variable HOST is not set"
    assert "HOST:-" in problem.hint
    assert parsed("broker: {type: nats, url: 'nats://${HOST}:4222'}", HOST="").broker.url == "nats://:4222"


def test_substituted_text_is_never_parsed_as_configuration() -> None:
    assert parsed("workingDirectory: ${X}", X="a: [1]\n${Y}").working_directory == "a: [1]\n${Y}"


# --- contents -------------------------------------------------------------------------------------------


def test_an_empty_file_is_a_single_node() -> None:
    config = parsed("")
    assert (config.partitions, config.broker.type, config.limits.max_concurrency, config.storage_config) == (16, "embedded", 10, None)
    assert (config.retry.transport_max_retries, config.retry.backoff.compiled()) == (3, Backoff())
    assert list(config.plugins) == ["builtin"]
    assert config.router().route("/gpu/c", b"{}") == Route("gpu", "gpu", "/c")
    assert parsed("plugins: null\nroutes: null\nretry: {backoff: null, transportMaxRetries: null}\nbroker: null") == config


def test_the_configuration_of_the_conformance_flows() -> None:
    config = parsed(CONFORMANCE)
    assert config.retry.transport_max_retries == 0
    assert config.retry.backoff.compiled() == Backoff("constant", 10, 60_000, 2.0, 0.0)
    router = config.router()
    assert router.route("/mock/say", b"{}") == Route("mock", "mock", "/say")
    assert router.route("/builtin/eval", b"{}") == Route("builtin", "builtin", "/eval")
    assert isinstance(router.route("/other/x", b"{}"), Failure)
    mock = config.plugins["mock"]
    assert isinstance(mock, MockPlugin)
    say = mock.components["/say"]
    assert (say.input_schema, say.output_schema) == ({"type": "object"}, {})
    for value, outcome, detail in [
        ({"v": True}, "success", True),
        ({"v": None}, "success", None),
        ({"v": "boom"}, "failed", "kaput"),
        ({"a": 1, "b": 2}, "failed", "short"),
    ]:
        answer = say.answer(value)
        assert answer is not None
        assert answer.outcome == outcome
        assert (answer.error.message if answer.error else answer.result) == detail
    assert say.answer({"v": 1}) is None


def test_plugins_and_their_pools() -> None:
    config = parsed(
        """
plugins:
  g: {type: grpc, queueName: py, command: uv, args: [run], env: {A: b}, queueTimeoutSecs: 5, executionTimeoutSecs: 60}
  g2: {type: grpc}
  n: {type: nats, url: "nats://x", stream: S, consumer: C}
  k: {type: kafka, bootstrapServers: "k:9092", topic: t}
  m: {type: mcp, command: npx, args: [x]}
  m2: {type: mcp, url: "http://x", headers: {A: b}}
  w: {type: worker, pool: gpu, instances: 2, command: "python -m w"}
  w2: {type: worker}
  builtins: {type: builtin}
routes:
  "/g": [{plugin: g}]
  "/g2": [{plugin: g2}]
  "/q": [{plugin: n, queueName: other, stream: S2}]
  "/n": [{plugin: n}]
  "/k": [{plugin: k}]
  "/m": [{plugin: m}]
  "/w": [{plugin: w, componentAllow: [a*], componentDeny: [ab]}, {plugin: w2}]
  "/": [{plugin: builtins}]
"""
    )
    router = config.router()
    pools = {}
    for prefix in ("g", "g2", "q", "n", "k", "m", "w"):
        found = router.route(f"/{prefix}/aa", b"{}")
        assert isinstance(found, Route)
        pools[prefix] = (found.plugin, found.pool)
    assert pools == {
        "g": ("g", "py"), "g2": ("g2", "g2"), "q": ("n", "other"), "n": ("n", "n"), "k": ("k", "k"), "m": ("m", "m"), "w": ("w", "gpu"),
    }  # fmt: skip
    assert router.route("/w/ab", b"{}") == Route("w2", "w2", "/ab")
    assert router.route("/z/x", b"{}") == Route("builtins", "builtin", "/z/x")


def test_storage_short_and_expanded() -> None:
    short = parsed("storageConfig: {type: sqlite, databaseUrl: 'sqlite:x.db'}").storage_config
    assert short is not None
    assert short.metadata == short.blobs == short.journal
    expanded = parsed(
        "storageConfig:\n  {metadata: {type: postgres, databaseUrl: 'postgres://x'}, blobs: {type: filesystem, directory: b},\n"
        "   journal: {type: nats}}"
    ).storage_config
    assert expanded is not None
    assert (expanded.metadata.type, expanded.blobs.directory, expanded.journal.type) == ("postgres", "b", "nats")
    partly = parsed("storageConfig: {metadata: {type: redis, url: 'redis://x'}}").storage_config
    assert partly is not None
    assert partly.blobs == partly.journal == partly.metadata
    empty = parsed("storageConfig: {}").storage_config
    assert empty is not None
    assert empty.metadata.type == "inMemory"


@pytest.mark.parametrize(
    ("text", "backoff"),
    [
        ("{type: exponential, minDelayMs: 100, maxDelayMs: 5000, factor: 3}", Backoff("exponential", 100, 5_000, 3.0, 0.0)),
        ("{type: fibonacci, minDelayMs: 100}", Backoff("fibonacci", 100, 60_000, 2.0, 0.0)),
        ("{type: constant, delayMs: 120000}", Backoff("constant", 120_000, 120_000, 2.0, 0.0)),
        ("{initial: 50ms, max: 2s, jitter: 0.5}", Backoff("exponential", 50, 2_000, 2.0, 0.5)),
        ("{type: constant, delayMs: 5, jitter: 1}", Backoff("constant", 5, 60_000, 2.0, 1.0)),
    ],
)
def test_backoff_in_both_spellings(text: str, backoff: Backoff) -> None:
    assert parsed(f"retry: {{backoff: {text}}}").retry.backoff.compiled() == backoff


@pytest.mark.parametrize(
    ("text", "path", "known"),
    [
        ("pluginss: {}", "$.pluginss", "plugins"),
        ("retry: {transportMaxRetry: 1}", "$.retry.transportMaxRetry", "transportMaxRetries"),
        ("retry: {backoff: {typ: constant}}", "$.retry.backoff.typ", "type"),
        ("plugins: {g: {type: grpc, queueNam: x}}", "$.plugins.g.queueNam", "queueName"),
        ("storageConfig: {metadata: {type: inMemory}, journall: {}}", "$.storageConfig.journall", "journal"),
        (
            "routes: {/x: [{plugin: builtin, conditions: [{path: $.a, value: 1, vlaue: 2}]}]}",
            '$.routes["/x"][0].conditions[0].vlaue',
            "value",
        ),
    ],
)
def test_unknown_keys_are_reported_with_the_nearest(text: str, path: str, known: str) -> None:
    _, warnings = parse_config(text, {})
    found = [item for item in warnings if item.path == path]
    assert len(found) == 1 or path.endswith("vlaue")
    assert all(known in item.hint for item in found)


def test_keys_in_snake_case_and_x_keys_are_fine() -> None:
    assert parsed("working_directory: w\nx-team: a\nretry: {transport_max_retries: 2, x-why: 1}").retry.transport_max_retries == 2


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("plugins: {a: {type: grcp}}", "1:11: $.plugins.a", "'grcp'"),
        ("plugins: {a: {}}", "1:11: $.plugins.a", "type"),
        ("plugins: {a: {type: nats}}", "1:11: $.plugins.a.url", "required"),
        ("plugins: {a: {type: kafka}}", "1:11: $.plugins.a.bootstrapServers", "required"),
        ("plugins: {a: {type: mcp}}", "1:11: $.plugins.a", "either `command` or `url`"),
        ("plugins: {a: {type: mcp, command: x, url: y}}", "1:11: $.plugins.a", "either `command` or `url`"),
        ("plugins: {a: {type: worker, pool: 'x y'}}", "1:29: $.plugins.a.pool", "pattern"),
        ("plugins: {a: {type: worker, instances: -1}}", "1:29: $.plugins.a.instances", "greater"),
        ("plugins: {'a b': {type: grpc}}", '1:11: $.plugins["a b"]', "name of a pool"),
        ("plugins: {a: {type: grpc, queueTimeoutSecs: 0}}", "1:27: $.plugins.a.queueTimeoutSecs", "greater"),
        (
            "plugins: {a: {type: mock, components: {/s: {behaviors: {'{a': {error: x}}}}}}",
            '1:45: $.plugins.a.components["/s"].behaviors',
            "not JSON",
        ),
        (
            "plugins: {a: {type: mock, components: {/s: {behaviors: {'1': {outcome: failed}}}}}}",
            '1:57: $.plugins.a.components["/s"].behaviors.1',
            "wants an `error`",
        ),
        (
            "plugins: {a: {type: mock, components: {/s: {behaviors: {'1': {outcome: success, error: {}}}}}}}",
            '1:57: $.plugins.a.components["/s"].behaviors.1',
            "no `error`",
        ),
        ("plugins: {a: {type: mock, components: {/s: {behaviors: 3}}}}", '1:45: $.plugins.a.components["/s"].behaviors', "dictionary"),
        ("routes:\n  /x: [{plugin: bultin}]", '2:9: $.routes["/x"][0].plugin', "no plugin `bultin`; nearest: builtin"),
        ("routes: {x: []}", "1:10: $.routes.x", "does not begin"),
        (
            "routes: {/x: [{plugin: builtin, conditions: [{path: '$.*', value: 1}]}]}",
            '1:47: $.routes["/x"][0].conditions[0].path',
            "character 3",
        ),
        ("storageConfig: {type: sqlite}", "1:1: $.storageConfig", "databaseUrl"),
        ("storageConfig: {type: sqlit}", "1:17: $.storageConfig.type", "Input should be"),
        ("storageConfig: {journal: {type: kafka}}", "1:17: $.storageConfig.journal", "bootstrapServers"),
        ("storageConfig: {metadata: {type: filesystem}}", "1:1: $.storageConfig", "cannot store metadata"),
        ("storageConfig: {blobs: {type: nats}}", "1:1: $.storageConfig", "cannot store blobs"),
        ("storageConfig: []", "1:1: $.storageConfig", "dictionary"),
        ("broker: {type: nats}", "1:1: $.broker", "wants `url`"),
        ("broker: {type: kafka}", "1:1: $.broker", "wants `bootstrapServers`"),
        ("partitions: 0", "1:1: $.partitions", "greater"),
        ("partitions: 1025", "1:1: $.partitions", "less"),
        ("retry: {backoff: {initial: soon}}", "1:19: $.retry.backoff.initial", "not a duration"),
        ("retry: {backoff: {initial: 2s, max: 1s}}", "1:9: $.retry.backoff", "shorter"),
        ("retry: {backoff: []}", "1:9: $.retry.backoff", "dictionary"),
        ("limits: {maxConcurrency: -1}", "1:10: $.limits.maxConcurrency", "greater"),
        ("telemetry: {sampleRatio: 2}", "1:13: $.telemetry.sampleRatio", "less"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, place: str, words: str) -> None:
    problem = refused(text)
    assert problem.code == "SM-0200"
    assert problem.message.startswith(f"c.yml:{place}: ")
    assert words in problem.message
    assert problem.findings[0].level is Level.ERROR


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "x: !!python/name:os.system a", "[]", "3"])
def test_what_is_no_configuration_at_all(text: str) -> None:
    assert refused(text).code == "SM-0200"


def test_values_of_the_environment_are_not_in_messages() -> None:
    assert "hunter2" not in str(refused("partitions: ${SECRET}", SECRET="hunter2"))


def test_all_mistakes_are_counted() -> None:
    problem = refused("partitions: 0\nlimits: {items: 0}")
    assert "(and 1 more)" in problem.message
    assert len(problem.findings) == 2
    assert "more" not in refused("storageConfig: {type: sqlit}").message


LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["builtin", "sqlite", "/x", "mock", "${A}", "${"])
ANY = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "a", "plugin", "metadata", "components", "behaviors", "conditions"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: ANY | st.dictionaries(st.text(max_size=4), ANY, max_size=2)
            for name in ("plugins", "routes", "retry", "storageConfig", "broker", "limits", "auth")
        },
    )
)
def test_any_configuration_is_accepted_or_refused_with_a_code(value: dict[str, Any]) -> None:
    try:
        config: Config | ConfigInvalid = parse_config(dumps(value), {"A": "b"})[0]
    except ConfigInvalid as problem:
        config = problem
    assert isinstance(config, ConfigInvalid) or config.router() is not None
