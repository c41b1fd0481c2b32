"""The way of a request: its body, its rows into the queue, and their answers, unless time or patience ends before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from podx.errors import BodySizeError, ConfigError, PodxError, RequestError, RequestTimeoutError
from podx.server.forms import Explain, Form, Items, Many, Sentence
from podx.server.service import Result, Row, Service
from podx.server.settings import KILOBYTE
from podx.server.statuses import failure, json_response

DRAINED = 4 * KILOBYTE**2
"""Bytes read beyond the limit and thrown away, so that a client has sent its body and reads why it was refused."""
ROWS_AT_A_TIME = 16
"""Looked up before others have their turn on the event loop."""

Outcome = Items | Sentence | PodxError


class Answering:
    """One request on its way. ``until``: when its time is over, by the event loop's clock."""

    def __init__(self, service: Service, request: Request) -> None:
        self._service, self._request = service, request
        self._until = asyncio.get_running_loop().time() + service.settings.timeout_s

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            BodySizeError: it is too long. RequestTimeoutError: it came too slowly.
        """
        limit, chunks, size = self._service.settings.max_body, list[bytes](), 0
        try:
            async with asyncio.timeout_at(self._until):
                async for chunk in self._request.stream():
                    size += len(chunk)
                    if size > limit + DRAINED:
                        break
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
                raise outcome
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
        self._service.require_allowed(rows)
        results: list[Future[Result] | PodxError] = []
        of_lists = not any(isinstance(row, Explain) for row in rows[:1])
        self._service.unanswered += of_lists
        try:
            for number, row in enumerate(rows, start=1):
                try:
                    results.append(self._service.submit(row))
                except (RequestError, ConfigError) as error:
                    results.append(error)
                if number % ROWS_AT_A_TIME == 0:
                    await asyncio.sleep(0)
            await self._wait([result for result in results if isinstance(result, Future)])
            return [self._outcome(result) for result in results]
        finally:
            self._service.unanswered -= of_lists
            for result in results:
                if isinstance(result, Future):
                    result.cancel()  # those that are done stay as they are

    async def _wait(self, waiting: Sequence[Future[Result]]) -> None:
        """Return when all are done; raise when the time is over or the client has left before."""
        if not waiting:
            return
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        unanswered = set(waiting)

        def answered(future: Future[Result]) -> None:  # in a worker's thread
            unanswered.discard(future)
            if not unanswered:
                loop.call_soon_threadsafe(end)

        def end(left: object = None) -> None:
            if not over.done():
                over.set_result(None)

        left = asyncio.ensure_future(self._client_leaves())
        left.add_done_callback(end)
        for future in waiting:
            future.add_done_callback(answered)
        try:
            async with asyncio.timeout_at(self._until):
                await over
        except TimeoutError:
            raise self._late() from None
        finally:
            left.cancel()
        if unanswered:
            raise ClientDisconnect

    def _outcome(self, result: Future[Result] | PodxError) -> Outcome:
        if isinstance(result, PodxError):
            return result
        error = result.exception()
        if error is None:
            return self._service.answer(result.result())
        if isinstance(error, RequestError | ConfigError):
            return error
        raise error

    async def _client_leaves(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _late(self) -> RequestTimeoutError:
        milliseconds = self._service.settings.timeout_ms
        return RequestTimeoutError(f"no answer within {milliseconds:g} ms: come back later, or serve with a longer one")
