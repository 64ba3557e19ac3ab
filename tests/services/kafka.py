"""Apache Kafka in KRaft mode, one broker or three, from the jars of Maven Central: `with KafkaServers(folder, 3) as kafka:`."""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.services.process import LocalProcess, ServiceFailed, answers, free_port, install
from tests.services.servers import Servers

HERE = Path(__file__).parent
LIB = HERE.parent.parent / ".environments" / "kafka"
QUICK_FAILOVER = ("broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500")
"""Settings for brokers that are killed. A dead one is noticed, and may come back under its number, after three seconds; else after nine."""
JAVA_OPTIONS = ("-Xms96m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def jars() -> str:
    """The class path; the jars are fetched once. Raises `ServiceFailed`."""
    install("java", "openjdk-17-jre-headless")
    maven = install("mvn", "maven")
    LIB.parent.mkdir(parents=True, exist_ok=True)
    with (LIB.parent / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = LIB / "pom.xml"
        if not mark.exists() or mark.read_bytes() != (HERE / "pom.xml").read_bytes():
            shutil.rmtree(LIB, ignore_errors=True)
            target = f"-DoutputDirectory={LIB}"
            command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime", target]
            subprocess.run(command, check=True)
            shutil.copy(HERE / "pom.xml", mark)
    return f"{LIB}/*"


class KafkaServers(Servers):
    """A cluster of `brokers`, each broker and controller in one. `settings`: more lines for `server.properties`, which count over
    those that are there. `users`: passwords of the users that SCRAM-SHA-512 knows from the start."""

    def __init__(self, folder: Path, brokers: int = 1, settings: tuple[str, ...] = (), users: Mapping[str, str] | None = None) -> None:
        self.ports = [free_port() for _ in range(brokers)]
        self._controllers = [free_port() for _ in range(brokers)]
        self._id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._settings = settings
        self._users = users or {}
        self._jars = jars()
        processes = [
            LocalProcess(
                ["java", *JAVA_OPTIONS, "-cp", self._jars, "kafka.Kafka", "server.properties"],
                folder / str(number),
                lambda number=number: answers(self.ports[number]),  # type: ignore[misc]
            )
            for number in range(brokers)
        ]
        super().__init__(folder, processes)

    @property
    def url(self) -> str:
        """`kafka://host:port,host:port`."""
        return "kafka://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def _prepare(self, number: int) -> None:
        folder = self.folder / str(number)
        if (folder / "data").exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "server.properties").write_text("\n".join((*self._properties(number), *self._settings)) + "\n")
        (folder / "log4j2.properties").write_text("rootLogger.level=WARN\nrootLogger.appenderRefs=out\nrootLogger.appenderRef.out.ref=out\n"
            "appender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n"
            "appender.out.layout.pattern=%d %p %c: %m%n\n")  # fmt: skip
        identity = f"--cluster-id={self._id}"  # which may begin with a dash
        command = ["java", *JAVA_OPTIONS, "-cp", self._jars, "kafka.tools.StorageTool", "format", identity, "-c", "server.properties"]
        for name, password in self._users.items():
            command += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise ServiceFailed(f"Kafka's storage was not formatted: {done.stdout}{done.stderr}")

    def _properties(self, number: int) -> list[str]:
        copies = min(3, len(self._nodes))
        voters = ",".join(f"{other + 1}@127.0.0.1:{port}" for other, port in enumerate(self._controllers))
        return [
            "process.roles=broker,controller",
            f"node.id={number + 1}",
            f"controller.quorum.voters={voters}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.ports[number]},CONTROLLER://127.0.0.1:{self._controllers[number]}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.ports[number]}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=PLAINTEXT",
            "log.dirs=data",
            "auto.create.topics.enable=false",
            f"default.replication.factor={copies}",
            f"min.insync.replicas={max(1, copies - 1)}",
            f"offsets.topic.replication.factor={copies}",
            "offsets.topic.num.partitions=4",
            f"transaction.state.log.replication.factor={copies}",
            f"transaction.state.log.min.isr={max(1, copies - 1)}",
            "transaction.state.log.num.partitions=2",
            f"share.coordinator.state.topic.replication.factor={copies}",
            f"share.coordinator.state.topic.min.isr={max(1, copies - 1)}",
            "group.initial.rebalance.delay.ms=0",
            "group.consumer.heartbeat.interval.ms=1000",
            "group.consumer.min.heartbeat.interval.ms=500",
            "group.min.session.timeout.ms=1000",
            "log.cleaner.dedupe.buffer.size=16777216",
            "log.cleaner.threads=1",
        ]
