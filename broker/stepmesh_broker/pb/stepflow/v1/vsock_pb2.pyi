from stepmesh_broker.pb.stepflow.v1 import tasks_pb2 as _tasks_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VsockTaskEnvelope(_message.Message):
    __slots__ = ("assignment", "blob_url", "tasks_url", "otel_endpoint")
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    BLOB_URL_FIELD_NUMBER: _ClassVar[int]
    TASKS_URL_FIELD_NUMBER: _ClassVar[int]
    OTEL_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    assignment: _tasks_pb2.TaskAssignment
    blob_url: str
    tasks_url: str
    otel_endpoint: str
    def __init__(self, assignment: _Optional[_Union[_tasks_pb2.TaskAssignment, _Mapping]] = ..., blob_url: _Optional[str] = ..., tasks_url: _Optional[str] = ..., otel_endpoint: _Optional[str] = ...) -> None: ...
