"""Which kind of error each code is, for every door: the names are those of gRPC and of Stepflow's REST answers."""

from __future__ import annotations

from enum import Enum

from stepmesh_broker.errors import BrokerUnavailable, MalformedMessage, MessageTooLarge, StepmeshError


class Kind(Enum):
    """`value`: gRPC status number, HTTP status. Those below `TOO_LARGE` are known to HTTP only."""

    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 504)
    NOT_FOUND = (5, 404)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 409)
    UNIMPLEMENTED = (12, 501)
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    TOO_LARGE = (8, 413)
    METHOD_NOT_ALLOWED = (12, 405)
    TOO_SLOW = (4, 408)
    UNSUPPORTED_MEDIA_TYPE = (3, 415)
    HEADERS_TOO_LARGE = (8, 431)
    UNPROCESSABLE = (3, 422)

    @property
    def status(self) -> str:
        """The name of the gRPC status, as REST answers carry it: several kinds share one."""
        return next(kind.name for kind in Kind if kind.value[0] == self.value[0])


_BY_CODE = {
    "SM-3004": Kind.INVALID_ARGUMENT,
    "SM-4003": Kind.RESOURCE_EXHAUSTED,
    "SM-4004": Kind.FAILED_PRECONDITION,
    "SM-4101": Kind.RESOURCE_EXHAUSTED,
    "SM-7320": Kind.RESOURCE_EXHAUSTED,
    "SM-5001": Kind.INVALID_ARGUMENT,
    "SM-5002": Kind.INVALID_ARGUMENT,
    "SM-5003": Kind.NOT_FOUND,
    "SM-5004": Kind.NOT_FOUND,
    "SM-5005": Kind.NOT_FOUND,
    "SM-5007": Kind.FAILED_PRECONDITION,
    "SM-5008": Kind.INVALID_ARGUMENT,
    "SM-5009": Kind.INVALID_ARGUMENT,
    "SM-5011": Kind.FAILED_PRECONDITION,
    "SM-5012": Kind.FAILED_PRECONDITION,
    "SM-5013": Kind.FAILED_PRECONDITION,
    "SM-5014": Kind.FAILED_PRECONDITION,
    "SM-5024": Kind.NOT_FOUND,
    "SM-5140": Kind.FAILED_PRECONDITION,
    "SM-5141": Kind.FAILED_PRECONDITION,
    "SM-5220": Kind.FAILED_PRECONDITION,
    "SM-5221": Kind.FAILED_PRECONDITION,
    "SM-5222": Kind.FAILED_PRECONDITION,
    "SM-5223": Kind.FAILED_PRECONDITION,
    "SM-5224": Kind.FAILED_PRECONDITION,
    "SM-5225": Kind.FAILED_PRECONDITION,
    "SM-5226": Kind.INVALID_ARGUMENT,
    "SM-5227": Kind.INVALID_ARGUMENT,
    "SM-5228": Kind.TOO_LARGE,
    "SM-5229": Kind.FAILED_PRECONDITION,
    "SM-5230": Kind.UNPROCESSABLE,
    "SM-5120": Kind.UNAVAILABLE,
    "SM-5240": Kind.NOT_FOUND,
    "SM-5241": Kind.FAILED_PRECONDITION,
    "SM-5242": Kind.RESOURCE_EXHAUSTED,
    "SM-5243": Kind.INVALID_ARGUMENT,
    "SM-5244": Kind.INVALID_ARGUMENT,
    "SM-5245": Kind.INVALID_ARGUMENT,
    "SM-5246": Kind.UNAVAILABLE,
    "SM-5250": Kind.INVALID_ARGUMENT,
    "SM-5251": Kind.INVALID_ARGUMENT,
    "SM-5252": Kind.INVALID_ARGUMENT,
    "SM-5255": Kind.INVALID_ARGUMENT,
    "SM-1070": Kind.INVALID_ARGUMENT,
    "SM-1071": Kind.INVALID_ARGUMENT,
    "SM-1072": Kind.NOT_FOUND,
    "SM-1074": Kind.FAILED_PRECONDITION,
    "SM-1075": Kind.FAILED_PRECONDITION,
    "SM-1076": Kind.UNPROCESSABLE,
    "SM-1077": Kind.INVALID_ARGUMENT,
    "SM-1078": Kind.UNPROCESSABLE,
    "SM-1079": Kind.NOT_FOUND,
    "SM-1080": Kind.NOT_FOUND,
    "SM-1082": Kind.FAILED_PRECONDITION,
    "SM-1083": Kind.FAILED_PRECONDITION,
    "SM-1095": Kind.FAILED_PRECONDITION,
    "SM-1096": Kind.FAILED_PRECONDITION,
    "SM-1097": Kind.INVALID_ARGUMENT,
    "SM-1098": Kind.INVALID_ARGUMENT,
    "SM-5133": Kind.UNAVAILABLE,
    "SM-5134": Kind.TOO_LARGE,
    "SM-5135": Kind.TOO_LARGE,
    "SM-5280": Kind.FAILED_PRECONDITION,
    "SM-5281": Kind.FAILED_PRECONDITION,
    "SM-5282": Kind.FAILED_PRECONDITION,
    "SM-5283": Kind.FAILED_PRECONDITION,
    "SM-5284": Kind.INVALID_ARGUMENT,
    "SM-5285": Kind.INVALID_ARGUMENT,
    "SM-5286": Kind.TOO_LARGE,
    "SM-5287": Kind.UNAVAILABLE,
    "SM-5288": Kind.FAILED_PRECONDITION,
    "SM-5102": Kind.DEADLINE_EXCEEDED,
    "SM-5110": Kind.UNAVAILABLE,
    "SM-1060": Kind.FAILED_PRECONDITION,
    "SM-5200": Kind.INVALID_ARGUMENT,
    "SM-5201": Kind.TOO_LARGE,
    "SM-5202": Kind.RESOURCE_EXHAUSTED,
    "SM-5203": Kind.INVALID_ARGUMENT,
    "SM-5204": Kind.PERMISSION_DENIED,
    "SM-5260": Kind.INVALID_ARGUMENT,
    "SM-7001": Kind.INVALID_ARGUMENT,
    "SM-7002": Kind.INVALID_ARGUMENT,
    "SM-7003": Kind.TOO_LARGE,
    "SM-7004": Kind.RESOURCE_EXHAUSTED,
    "SM-7005": Kind.NOT_FOUND,
    "SM-7006": Kind.NOT_FOUND,
    "SM-7007": Kind.UNAVAILABLE,
    "SM-7100": Kind.NOT_FOUND,
    "SM-7101": Kind.METHOD_NOT_ALLOWED,
    "SM-7102": Kind.INVALID_ARGUMENT,
    "SM-7103": Kind.INVALID_ARGUMENT,
    "SM-7104": Kind.UNSUPPORTED_MEDIA_TYPE,
    "SM-7105": Kind.PERMISSION_DENIED,
    "SM-7106": Kind.HEADERS_TOO_LARGE,
    "SM-7107": Kind.TOO_SLOW,
    "SM-7109": Kind.UNAVAILABLE,
    "SM-7110": Kind.INVALID_ARGUMENT,
    "SM-7111": Kind.FAILED_PRECONDITION,
    "SM-7201": Kind.NOT_FOUND,
    "SM-7202": Kind.NOT_FOUND,
    "SM-7203": Kind.UNAVAILABLE,
    "SM-7204": Kind.UNAVAILABLE,
    "SM-7301": Kind.INVALID_ARGUMENT,
    "SM-7302": Kind.FAILED_PRECONDITION,
    "SM-7303": Kind.NOT_FOUND,
    "SM-7304": Kind.INVALID_ARGUMENT,
}


def kind_of(problem: StepmeshError) -> Kind:
    """The kind of an error; what nobody listed is a defect."""
    if isinstance(problem, BrokerUnavailable):
        return Kind.UNAVAILABLE
    if isinstance(problem, MessageTooLarge):
        return Kind.TOO_LARGE
    if isinstance(problem, MalformedMessage) or problem.code.startswith("SM-2"):
        return Kind.INVALID_ARGUMENT
    return _BY_CODE.get(problem.code, Kind.INTERNAL)
