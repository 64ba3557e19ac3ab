from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SendEventRequest(_message.Message):
    __slots__ = ("name", "key", "run_id", "data", "id", "namespace")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    key: str
    run_id: str
    data: bytes
    id: str
    namespace: str
    def __init__(self, name: _Optional[str] = ..., key: _Optional[str] = ..., run_id: _Optional[str] = ..., data: _Optional[bytes] = ..., id: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class SendEventResponse(_message.Message):
    __slots__ = ("id", "matched", "buffered", "existing")
    ID_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    BUFFERED_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    id: str
    matched: int
    buffered: bool
    existing: bool
    def __init__(self, id: _Optional[str] = ..., matched: _Optional[int] = ..., buffered: _Optional[bool] = ..., existing: _Optional[bool] = ...) -> None: ...

class SettlePromiseRequest(_message.Message):
    __slots__ = ("token", "value")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    token: str
    value: bytes
    def __init__(self, token: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class SettlePromiseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
