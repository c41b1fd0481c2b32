"""The way of a request: its body, its rows into the queue, and their answers, unless time or patience ends before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from podx.errors import BodySizeError, ConfigError, PodxError, RequestError, RequestTimeoutError
from podx.server.forms import Explain, Form, Items, Many, Sentence
from podx.server.service import Question, Row, Service
from podx.server.settings import KILOBYTE
from podx.server.statuses import failed, failure, json_response
from podx.serving.queue import Waiting

DRAINED = 4 * KILOBYTE**2
"""Bytes read beyond the limit and thrown away, so that a client has sent its body and reads why it was refused."""
ROWS_AT_A_TIME = 16
"""Looked up before others have their turn on the event loop."""

Outcome = Items | Sentence | PodxError


class Answering:
    """One request on its way. ``until``: when its time is over, by the event loop's clock."""

    def __init__(self, service: Service, request: Request) -> None:
        self._service, self._receive = service, request.receive
        self._until = asyncio.get_running_loop().time() + service.settings.timeout_s

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodySizeError: it is too long. RequestTimeoutError: it came too slowly.
        """
        limit, chunks, size, more = self._service.settings.max_body, list[bytes](), 0, True
        try:
            async with asyncio.timeout_at(self._until):
                while more and size <= limit + DRAINED:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    size += len(chunk)
                    if size <= limit:
                        chunks.append(chunk)
        except TimeoutError:
            raise self._late() from None
        if size > limit:
            kilobytes = self._service.settings.max_body_kb
            raise BodySizeError(f"the body is longer than {kilobytes} KB: send fewer or shorter requests")
        return b"".join(chunks)

    async def respond(self, form: Form[Row]) -> Response:
        """Read, answer, and respond: one request by its answer, several by one for each."""
        asked = form.read(await self.body())
        if not isinstance(asked, Many):
            outcome = (await self.outcomes([asked]))[0]
            if isinstance(outcome, PodxError):
                return failed(outcome)
            return json_response(outcome)
        outcomes = await self.outcomes(asked.requests)
        answers = [failure(outcome) if isinstance(outcome, PodxError) else outcome for outcome in outcomes]
        return json_response({"answers": answers})

    async def outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        """An answer, or the error of a request that cannot be answered as asked, for each row.

        Raises:
            RequestError: more rows than can wait. ConfigError: one asks for more items than it may.
            OverloadedError: they do not all find a place in the queue.
            RequestTimeoutError, ClientDisconnect: before all were answered; no row waits any longer.
        """
        most = self._service.settings.max_pending
        if len(rows) > most:
            raise RequestError(f"{len(rows)} requests in a body, at most {most} can wait: send fewer at a time")
        self._service.require_allowed(max((row.k for row in rows if not isinstance(row, Explain)), default=0))
        results: list[Waiting | Question | PodxError] = []
        of_lists = not any(isinstance(row, Explain) for row in rows[:1])
        self._service.unanswered += of_lists
        try:
            for number, row in enumerate(rows, start=1):
                try:
                    results.append(self._service.prepare(row))
                except (RequestError, ConfigError) as error:
                    results.append(error.with_traceback(None))  # which holds this list: a cycle
                if number % ROWS_AT_A_TIME == 0:
                    await asyncio.sleep(0)
            asked = [result for result in results if not isinstance(result, PodxError)]
            self._service.submit(asked)
            await self._wait([each.future for each in asked])
            return [result if isinstance(result, PodxError) else self._outcome(result.future) for result in results]
        finally:
            self._service.unanswered -= of_lists
            for result in results:
                if not isinstance(result, PodxError):
                    result.future.cancel()  # those that are done stay as they are

    async def _wait(self, unanswered: Sequence[Future[Any]]) -> None:
        """Return when all are done; raise when the time is over or the client has left before."""
        if not unanswered:
            return
        loop, missing = asyncio.get_running_loop(), set(unanswered)

        def answered(future: Future[Any]) -> None:  # in a worker's thread
            missing.discard(future)
            if not missing:
                loop.call_soon_threadsafe(end)

        def end() -> None:
            with suppress(RuntimeError):  # it is over already
                time.reschedule(0)

        try:
            async with asyncio.timeout_at(self._until) as time:  # ended early by the last answer
                for future in unanswered:
                    future.add_done_callback(answered)
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            if missing:
                raise self._late() from None
        else:
            raise ClientDisconnect

    def _outcome(self, done: Future[Any]) -> Outcome:
        error = done.exception()
        if error is None:
            return self._service.answer(done.result())
        if isinstance(error, RequestError | ConfigError):
            return error
        if isinstance(error, RequestTimeoutError):
            raise self._late()
        raise error

    def _late(self) -> RequestTimeoutError:
        milliseconds = self._service.settings.timeout_ms
        return RequestTimeoutError(f"no answer within {milliseconds:g} ms: come back later, or serve with a longer one")
