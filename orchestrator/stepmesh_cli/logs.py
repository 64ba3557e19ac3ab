"""Where the log of a server goes, in the words of `stepflow-server`. Its default destination `stdout` is stderr here: stdout is for
the one line that says the port."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stepmesh_cli.errors import CommandError
from stepmesh_cli.reporting import warn

Level = Literal["trace", "debug", "info", "warn", "error"]
_KAFKA = "aiokafka"
_LEVELS = {"trace": logging.DEBUG, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_OURS = "stepmesh"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LogFlags:
    """As stepflow-server takes them."""

    log_level: Annotated[Level, Parameter(help="Of Stepmesh's own log.", env_var="STEPFLOW_LOG_LEVEL")] = "info"
    other_log_level: Annotated[
        Level | None, Parameter(help="Of all other libraries; default: warn.", env_var="STEPFLOW_OTHER_LOG_LEVEL")
    ] = None
    log_destination: Annotated[
        Literal["stdout", "file", "otlp"], Parameter(help="stdout (which is stderr here) or file.", env_var="STEPFLOW_LOG_DESTINATION")
    ] = "stdout"
    log_format: Annotated[Literal["json", "text"], Parameter(help="Of a line.", env_var="STEPFLOW_LOG_FORMAT")] = "text"
    log_file: Annotated[Path | None, Parameter(help="For --log-destination file.", env_var="STEPFLOW_LOG_FILE")] = None

    def apply(self) -> None:
        """Set the process's logging up. Raises `CommandError`."""
        handler = self._handler()
        if self.log_format == "json":
            handler.setFormatter(JsonLines())
        else:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(handlers=[handler], level=_LEVELS[self.other_log_level or "warn"], force=True)
        if self.other_log_level is not None:
            logging.getLogger(_KAFKA).setLevel(logging.NOTSET)
        logging.getLogger(_OURS).setLevel(_LEVELS[self.log_level])

    def _handler(self) -> logging.Handler:
        if self.log_destination == "otlp":
            warn("--log-destination otlp: this version exports traces and metrics, and logs to stderr")
        if self.log_destination != "file":
            return logging.StreamHandler(sys.stderr)
        if self.log_file is None:
            raise CommandError("--log-destination file wants --log-file", hint="--log-file stepmesh.log")
        try:
            return logging.FileHandler(self.log_file)
        except OSError as problem:
            raise CommandError(
                f"--log-file {self.log_file}: {problem.strerror or problem}", hint="name a file that can be written"
            ) from problem


NO_LOGS = LogFlags()


def quiet_clients() -> None:
    """Kafka's client logs as an error whatever it tries again; what fails for good is told by the broker that uses it."""
    logging.getLogger(_KAFKA).setLevel(logging.CRITICAL)


class JsonLines(logging.Formatter):
    """One JSON object per record: `timestamp`, `level`, `target`, `message`, and `exception` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
