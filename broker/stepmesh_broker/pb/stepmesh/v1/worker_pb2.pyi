from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromWorker(_message.Message):
    __slots__ = ("hello", "credit", "results", "progress", "returned", "leaving", "idle", "answers")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    credit: int
    results: _containers.RepeatedCompositeFieldContainer[Result]
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    returned: _containers.RepeatedScalarFieldContainer[str]
    leaving: bool
    idle: _containers.RepeatedScalarFieldContainer[str]
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., credit: _Optional[int] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., returned: _Optional[_Iterable[str]] = ..., leaving: _Optional[bool] = ..., idle: _Optional[_Iterable[str]] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class ToWorker(_message.Message):
    __slots__ = ("welcome", "tasks", "recorded", "stops", "drain", "news", "questions")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    recorded: _containers.RepeatedScalarFieldContainer[str]
    stops: _containers.RepeatedCompositeFieldContainer[Stop]
    drain: bool
    news: _containers.RepeatedScalarFieldContainer[str]
    questions: _containers.RepeatedCompositeFieldContainer[Question]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., recorded: _Optional[_Iterable[str]] = ..., stops: _Optional[_Iterable[_Union[Stop, _Mapping]]] = ..., drain: _Optional[bool] = ..., news: _Optional[_Iterable[str]] = ..., questions: _Optional[_Iterable[_Union[Question, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker", "pool", "capacity", "version", "components", "exclusive", "running", "namespace", "message_bytes")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    worker: str
    pool: str
    capacity: int
    version: str
    components: _containers.RepeatedCompositeFieldContainer[Component]
    exclusive: bool
    running: _containers.RepeatedScalarFieldContainer[str]
    namespace: str
    message_bytes: int
    def __init__(self, worker: _Optional[str] = ..., pool: _Optional[str] = ..., capacity: _Optional[int] = ..., version: _Optional[str] = ..., components: _Optional[_Iterable[_Union[Component, _Mapping]]] = ..., exclusive: _Optional[bool] = ..., running: _Optional[_Iterable[str]] = ..., namespace: _Optional[str] = ..., message_bytes: _Optional[int] = ...) -> None: ...

class Component(_message.Message):
    __slots__ = ("path", "description", "input_schema", "output_schema", "function", "version")
    PATH_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    path: str
    description: str
    input_schema: str
    output_schema: str
    function: bool
    version: str
    def __init__(self, path: _Optional[str] = ..., description: _Optional[str] = ..., input_schema: _Optional[str] = ..., output_schema: _Optional[str] = ..., function: _Optional[bool] = ..., version: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("heartbeat_ms", "payload_bytes", "gateway", "turn_bytes")
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    TURN_BYTES_FIELD_NUMBER: _ClassVar[int]
    heartbeat_ms: int
    payload_bytes: int
    gateway: str
    turn_bytes: int
    def __init__(self, heartbeat_ms: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., gateway: _Optional[str] = ..., turn_bytes: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("id", "component", "input", "attempt", "run_id", "item", "step_id", "root_run_id", "flow_id", "timeout_ms", "traceparent", "idempotency_key", "path_params", "step", "partition", "activation")
    class PathParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_RUN_ID_FIELD_NUMBER: _ClassVar[int]
    FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PATH_PARAMS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    component: str
    input: bytes
    attempt: int
    run_id: str
    item: int
    step_id: str
    root_run_id: str
    flow_id: str
    timeout_ms: int
    traceparent: str
    idempotency_key: str
    path_params: _containers.ScalarMap[str, str]
    step: int
    partition: int
    activation: Activation
    def __init__(self, id: _Optional[str] = ..., component: _Optional[str] = ..., input: _Optional[bytes] = ..., attempt: _Optional[int] = ..., run_id: _Optional[str] = ..., item: _Optional[int] = ..., step_id: _Optional[str] = ..., root_run_id: _Optional[str] = ..., flow_id: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., traceparent: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., path_params: _Optional[_Mapping[str, str]] = ..., step: _Optional[int] = ..., partition: _Optional[int] = ..., activation: _Optional[_Union[Activation, _Mapping]] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("journal", "at_ms", "records", "history", "driver", "seen", "news", "fresh")
    JOURNAL_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    journal: str
    at_ms: int
    records: int
    history: bytes
    driver: int
    seen: int
    news: bytes
    fresh: bool
    def __init__(self, journal: _Optional[str] = ..., at_ms: _Optional[int] = ..., records: _Optional[int] = ..., history: _Optional[bytes] = ..., driver: _Optional[int] = ..., seen: _Optional[int] = ..., news: _Optional[bytes] = ..., fresh: _Optional[bool] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("number", "question")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    number: int
    question: bytes
    def __init__(self, number: _Optional[int] = ..., question: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("number", "answer")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    number: int
    answer: bytes
    def __init__(self, number: _Optional[int] = ..., answer: _Optional[bytes] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "output", "failure", "started_us", "duration_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STARTED_US_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    id: str
    output: bytes
    failure: Failure
    started_us: int
    duration_us: int
    def __init__(self, id: _Optional[str] = ..., output: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., started_us: _Optional[int] = ..., duration_us: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "data", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    data: bytes
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., data: _Optional[bytes] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("id", "fraction", "details")
    ID_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    id: str
    fraction: float
    details: bytes
    def __init__(self, id: _Optional[str] = ..., fraction: _Optional[float] = ..., details: _Optional[bytes] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("id", "reason")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Stop.Reason]
        CANCELLED: _ClassVar[Stop.Reason]
        ELSEWHERE: _ClassVar[Stop.Reason]
    REASON_UNSPECIFIED: Stop.Reason
    CANCELLED: Stop.Reason
    ELSEWHERE: Stop.Reason
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    reason: Stop.Reason
    def __init__(self, id: _Optional[str] = ..., reason: _Optional[_Union[Stop.Reason, str]] = ...) -> None: ...
