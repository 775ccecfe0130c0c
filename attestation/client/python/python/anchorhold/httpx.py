"""For `httpx`: transports whose every connection ends in an enclave that was admitted.

    enclave = anchorhold.Connector(pcrs={0: PCR0})
    with httpx.Client(transport=anchorhold.httpx.Transport(enclave), trust_env=False) as client:
        client.get("https://cards.example:8443/")
"""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from typing import Any, AsyncIterator, Iterator, Optional

import anyio
import httpcore
import httpx

from ._channel import Connector

_PIECE = 64 * 1024


class Transport(httpx.BaseTransport):
    """For `httpx.Client`. With `http2=True` it speaks HTTP/2 (which needs the package `h2`)."""

    def __init__(self, connector: Connector, *, http2: bool = False, **pool: Any) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=_unused(),
            http1=True,
            http2=http2,
            network_backend=_Backend(connector, http2),
            **pool,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        _only_https(request)
        with _as_httpx():
            said = self._pool.handle_request(_request(request))
        return httpx.Response(
            status_code=said.status,
            headers=said.headers,
            stream=_Body(said.stream),
            extensions=said.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`."""

    def __init__(self, connector: Connector, *, http2: bool = False, **pool: Any) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_unused(),
            http1=True,
            http2=http2,
            network_backend=_AsyncBackend(connector, http2),
            **pool,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _only_https(request)
        with _as_httpx():
            said = await self._pool.handle_async_request(_request(request))
        return httpx.Response(
            status_code=said.status,
            headers=said.headers,
            stream=_AsyncBody(said.stream),
            extensions=said.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


def _unused() -> ssl.SSLContext:
    """httpcore wants one, and asks nothing of it but to take the names of protocols."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _only_https(request: httpx.Request) -> None:
    if request.url.scheme != "https":
        raise httpx.UnsupportedProtocol("an enclave is reached by https:// alone", request=request)


def _request(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


@contextmanager
def _as_httpx() -> Iterator[None]:
    """httpcore's errors under the names that httpx has for them."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            known = getattr(httpx, kind.__name__, None)
            if kind.__module__.startswith("httpcore") and known is not None:
                raise known(str(error)) from error
        raise


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for piece in self._stream:
                yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Negotiated:
    """What httpcore asks of a TLS object: which protocol."""

    def __init__(self, http2: bool) -> None:
        self._http2 = http2

    def selected_alpn_protocol(self) -> str:
        return "h2" if self._http2 else "http/1.1"


class _Plain(httpcore.NetworkStream):
    """A connection before its channel: nothing can be said through it."""

    def __init__(self, connector: Connector, http2: bool, stream: Any) -> None:
        self._connector, self._http2, self._stream = connector, http2, stream

    def read(self, max_bytes: int, timeout: Optional[float] = None) -> bytes:
        raise httpcore.UnsupportedProtocol("an enclave is reached by https:// alone")

    def write(self, buffer: bytes, timeout: Optional[float] = None) -> None:
        raise httpcore.UnsupportedProtocol("an enclave is reached by https:// alone")

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> httpcore.NetworkStream:
        try:
            channel = self._connector._begin(server_hostname or "", "either" if self._http2 else "http1")
            said = b""
            while channel.admitted() is None:
                self._stream.write(channel.outgoing(), timeout)
                said = channel.receive(self._stream.read(_PIECE, timeout))
            return _Stream(self._stream, channel, said)
        except BaseException:
            self._stream.close()
            raise


class _Stream(httpcore.NetworkStream):
    """A channel."""

    def __init__(self, stream: Any, channel: Any, said: bytes) -> None:
        self._stream, self._channel, self._said = stream, channel, said
        self._sending = threading.Lock()

    def read(self, max_bytes: int, timeout: Optional[float] = None) -> bytes:
        while not self._said:
            if self._channel.has_ended():
                return b""
            came = self._stream.read(_PIECE, timeout)
            if not came:
                raise httpcore.ReadError("the connection was cut")
            self._said = self._channel.receive(came)
        piece, self._said = self._said[:max_bytes], self._said[max_bytes:]
        return piece

    def write(self, buffer: bytes, timeout: Optional[float] = None) -> None:
        with self._sending:
            for start in range(0, len(buffer), _PIECE):
                self._stream.write(self._channel.send(buffer[start : start + _PIECE]), timeout)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return _Negotiated(self._channel.is_http2())
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, connector: Connector, http2: bool) -> None:
        self._connector, self._http2 = connector, http2
        self._below = httpcore.SyncBackend()

    def connect_tcp(self, *arguments: Any, **more: Any) -> httpcore.NetworkStream:
        return _Plain(self._connector, self._http2, self._below.connect_tcp(*arguments, **more))

    def sleep(self, seconds: float) -> None:
        self._below.sleep(seconds)


class _AsyncPlain(httpcore.AsyncNetworkStream):
    def __init__(self, connector: Connector, http2: bool, stream: Any) -> None:
        self._connector, self._http2, self._stream = connector, http2, stream

    async def read(self, max_bytes: int, timeout: Optional[float] = None) -> bytes:
        raise httpcore.UnsupportedProtocol("an enclave is reached by https:// alone")

    async def write(self, buffer: bytes, timeout: Optional[float] = None) -> None:
        raise httpcore.UnsupportedProtocol("an enclave is reached by https:// alone")

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            channel = self._connector._begin(server_hostname or "", "either" if self._http2 else "http1")
            said = b""
            while channel.admitted() is None:
                await self._stream.write(channel.outgoing(), timeout)
                said = channel.receive(await self._stream.read(_PIECE, timeout))
            return _AsyncStream(self._stream, channel, said)
        except BaseException:
            await self._stream.aclose()
            raise


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: Any, channel: Any, said: bytes) -> None:
        self._stream, self._channel, self._said = stream, channel, said
        self._sending = anyio.Lock()

    async def read(self, max_bytes: int, timeout: Optional[float] = None) -> bytes:
        while not self._said:
            if self._channel.has_ended():
                return b""
            came = await self._stream.read(_PIECE, timeout)
            if not came:
                raise httpcore.ReadError("the connection was cut")
            self._said = self._channel.receive(came)
        piece, self._said = self._said[:max_bytes], self._said[max_bytes:]
        return piece

    async def write(self, buffer: bytes, timeout: Optional[float] = None) -> None:
        async with self._sending:
            for start in range(0, len(buffer), _PIECE):
                await self._stream.write(self._channel.send(buffer[start : start + _PIECE]), timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return _Negotiated(self._channel.is_http2())
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, connector: Connector, http2: bool) -> None:
        self._connector, self._http2 = connector, http2
        self._below = httpcore.AnyIOBackend()

    async def connect_tcp(self, *arguments: Any, **more: Any) -> httpcore.AsyncNetworkStream:
        return _AsyncPlain(self._connector, self._http2, await self._below.connect_tcp(*arguments, **more))

    async def sleep(self, seconds: float) -> None:
        await self._below.sleep(seconds)
