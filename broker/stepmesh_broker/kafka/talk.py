"""Messages to whoever listens now, and requests with their answers: over one topic, of which a subject has one partition.

Invariant: nothing that was written before somebody began to listen is heard; the messages of one sender on one subject are heard in order.
A request names where its answer goes; whoever got it says so when the answer takes a while. It must not know any subject's meaning.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from enum import StrEnum
from hashlib import blake2s
from typing import Any

from aiokafka import TopicPartition

from stepmesh_broker.errors import BrokerError, BrokerUnavailable
from stepmesh_broker.kafka.copies import Copies
from stepmesh_broker.kafka.election import GREETING_S, Electorate
from stepmesh_broker.kafka.publisher import Publisher
from stepmesh_broker.kafka.reader import LogReader, Records
from stepmesh_broker.kafka.records import Key, Outgoing, headers_of, text
from stepmesh_broker.kafka.subscription import KafkaServer
from stepmesh_broker.kafka.topics import Topics
from stepmesh_broker.listening import Listener, matches
from stepmesh_broker.ports import Handler, Responder
from stepmesh_broker.protocol.subjects import Subject

_log = logging.getLogger(__name__)
NOBODY_S = 1.5
"""A request that nobody acknowledges for so long has no responder."""
BUSY_S = 0.03
"""A responder that takes longer lets the asker know that it is there."""
SETTLE_S = 0.15
"""A new member of a group waits so long for the others to show themselves."""
AGAIN_S = 10.0
"""For so long the same message may be written again."""


class Kind(StrEnum):
    """What a record of the talk topic is."""

    SAY = "say"
    ASK = "ask"
    BUSY = "busy"
    ANSWER = "answer"
    HERE = "here"
    GONE = "gone"
    MARK = "mark"


class Talk:
    """One connection's part in the conversation."""

    def __init__(self, topics: Topics, publisher: Publisher, reader: LogReader, max_bytes: int) -> None:
        self._topics = topics
        self._publisher = publisher
        self._reader = reader
        self._max_bytes = max_bytes
        self._id = secrets.token_hex(8)
        self._heard: dict[int, asyncio.Task[None]] = {}
        self._marks: dict[int, asyncio.Future[None]] = {}
        self._listeners: list[Listener] = []
        self._servers: list[KafkaServer] = []
        self._electorates: dict[tuple[str, str], Electorate] = {}
        self._copies = Copies(AGAIN_S * 1000)
        self._requests: dict[str, tuple[asyncio.Event, asyncio.Future[bytes]]] = {}
        self._greeter: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()

    async def send(self, subject: Subject, data: bytes) -> None:
        """Tell whoever listens."""
        await self._write(await self._partition(subject), Kind.SAY, data, subject=subject, request=secrets.token_hex(8))

    async def listen(self, subject: Subject, handler: Handler) -> Listener:
        """Hear all that is sent from now on."""
        await self._hear(await self._partitions(subject))
        listener = Listener(subject, handler, self._forget_listener)
        self._listeners.append(listener)
        return listener

    async def request(self, subject: Subject, data: bytes, timeout_s: float) -> bytes:
        """Ask; the first answer counts."""
        home = await self._partition(Subject(self._id))
        await self._hear([home])
        until = asyncio.get_running_loop().time() + timeout_s  # the first time, this connection had to begin to listen
        request = secrets.token_hex(8)
        heard, answer = self._requests[request] = (asyncio.Event(), asyncio.get_running_loop().create_future())
        try:
            partition = await self._partition(subject)
            await self._write(partition, Kind.ASK, data, subject=subject, request=request, sender=self._id, reply=home)
            return await self._answer(subject, heard, answer, until - asyncio.get_running_loop().time(), timeout_s)
        finally:
            del self._requests[request]

    async def serve(self, subject: Subject, responder: Responder, group: str) -> KafkaServer:
        """Answer requests; a member of a group answers those that fall to it, as soon as the others know it."""
        await self._hear(await self._partitions(subject))
        server = KafkaServer(subject, responder, group, self._max_bytes, self._forget_server)
        if group:
            self._electorates.setdefault((subject, group), Electorate())
            self._servers.append(server)
            try:
                await self._greet(server)
                await asyncio.sleep(SETTLE_S)
            except BaseException:  # nobody gets it, so nobody would close it
                await server.close()
                raise
            if self._greeter is None:
                self._greeter = asyncio.get_running_loop().create_task(self._greet_for_ever())
        else:
            self._servers.append(server)
        return server

    async def close(self) -> None:
        """Say goodbye."""
        if self._greeter is not None:
            self._greeter.cancel()
        await asyncio.gather(*(listener.close() for listener in self._listeners), *(server.close() for server in self._servers))
        for task in (*self._beside, *self._heard.values()):
            task.cancel()

    # --- hearing ------------------------------------------------------------------------------------------------

    async def _hear(self, partitions: Iterable[int]) -> None:
        """Returns when all that is written to them from now on will be heard."""
        for partition in partitions:
            if partition not in self._heard or (self._heard[partition].done() and self._heard[partition].exception() is not None):
                self._heard[partition] = asyncio.get_running_loop().create_task(self._begin(partition))
            await asyncio.shield(self._heard[partition])

    async def _begin(self, partition: int) -> None:
        """A mark is written, and read."""
        mark = await self._write(partition, Kind.MARK, b"", sender=self._id)
        reached = self._marks[partition] = asyncio.get_running_loop().create_future()
        self._reader.read(TopicPartition(self._topics.talk, partition), mark, self._arrived)
        try:
            await asyncio.wait_for(reached, NOBODY_S)
        except TimeoutError:
            _log.info("partition %d of %s is not read yet", partition, self._topics.talk)

    def _arrived(self, records: Records) -> None:
        for record in records:
            headers = dict(record.headers)
            kind, subject = text(headers, Key.KIND), text(headers, Key.SUBJECT)
            if kind == Kind.MARK and text(headers, Key.SENDER) == self._id and not self._marks[record.partition].done():
                self._marks[record.partition].set_result(None)
            elif kind in (Kind.SAY, Kind.ASK) and self._copies.is_copy(text(headers, Key.REQUEST), record.timestamp):
                continue  # this client's producer sends again what got no answer
            elif kind == Kind.SAY:
                for listener in self._listeners:
                    if matches(listener.subject, subject):
                        listener.hear(record.value or b"")
            elif kind == Kind.ASK:
                self._asked(record, headers, subject)
            elif kind in (Kind.ANSWER, Kind.BUSY):
                self._replied(text(headers, Key.REQUEST), kind == Kind.ANSWER, record.value or b"")
            elif kind in (Kind.HERE, Kind.GONE):
                self._member(record, headers, kind == Kind.HERE)

    def _asked(self, record: Any, headers: dict[str, bytes], subject: str) -> None:
        request, home = text(headers, Key.REQUEST), int(text(headers, Key.REPLY))
        for server in self._servers:
            if not matches(server.subject, subject):
                continue
            if server.group and self._electorates[server.subject, server.group].chosen(request, record.timestamp) != server.member:
                continue

            async def busy() -> None:
                await self._write(home, Kind.BUSY, b"", request=request)

            async def answer(reply: bytes) -> None:
                await self._write(home, Kind.ANSWER, reply, request=request)

            server.ask(record.value or b"", busy, answer, BUSY_S)

    def _replied(self, request: str, is_answer: bool, data: bytes) -> None:
        waiting = self._requests.get(request)
        if waiting is not None:
            heard, answer = waiting
            heard.set()
            if is_answer and not answer.done():
                answer.set_result(data)

    async def _answer(self, subject: str, heard: asyncio.Event, answer: asyncio.Future[bytes], left: float, timeout_s: float) -> bytes:
        try:
            await asyncio.wait_for(heard.wait(), min(NOBODY_S, left))
            async with asyncio.timeout(left):
                return await answer
        except TimeoutError as problem:
            if heard.is_set() or left < NOBODY_S:
                raise BrokerUnavailable(f"no answer on {subject} within {timeout_s:g} s") from problem
            raise BrokerUnavailable(f"nobody serves {subject}") from problem

    # --- groups -------------------------------------------------------------------------------------------------

    def _member(self, record: Any, headers: dict[str, bytes], is_here: bool) -> None:
        key, member = (text(headers, Key.SUBJECT), text(headers, Key.GROUP)), text(headers, Key.SENDER)
        electorate = self._electorates.get(key)
        if electorate is None:
            return
        if not is_here:
            electorate.leave(member)
        elif electorate.greet(member, record.timestamp):
            mine = [server for server in self._servers if (server.subject, server.group) == key]
            for server in mine:
                if server.member != member:
                    self._spawn(self._greet(server))

    async def _greet(self, server: KafkaServer, kind: Kind = Kind.HERE) -> None:
        try:
            partition = await self._partition(server.subject)
            await self._write(partition, kind, b"", subject=server.subject, group=server.group, sender=server.member)
        except BrokerError as problem:
            _log.info("a server of %s was not heard: %s", server.subject, problem)

    async def _greet_for_ever(self) -> None:
        while True:
            await asyncio.sleep(GREETING_S)
            for server in [server for server in self._servers if server.group]:
                self._spawn(self._greet(server))

    def _forget_listener(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def _forget_server(self, server: KafkaServer) -> None:
        if server in self._servers:
            self._servers.remove(server)
            if server.group:
                await self._greet(server, Kind.GONE)

    # --- writing ------------------------------------------------------------------------------------------------

    async def _write(self, partition: int, kind: Kind, data: bytes, **named: str | int) -> int:
        headers = headers_of(kind=kind, **named)
        return (await self._publisher.publish(Outgoing(self._topics.talk, partition, data, headers))).offset

    async def _partition(self, subject: Subject) -> int:
        count = await self._topics.ensure(self._topics.talk)
        return int.from_bytes(blake2s(subject.encode(), digest_size=4).digest(), "big") % count

    async def _partitions(self, subject: Subject) -> Iterable[int]:
        if subject.endswith(">"):
            return range(await self._topics.ensure(self._topics.talk))
        return [await self._partition(subject)]

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
