"""Channels over Python's sockets. Ciphertext is carried here; what is in it, the native part knows alone."""

from __future__ import annotations

import io
import json
import socket
import threading
from typing import Any, Optional

from . import _anchorhold
from ._anchorhold import AttestationError
from ._verifier import Admitted, Pcrs, facts, terms

_PIECE = 64 * 1024


class Connector:
    """Connects to enclaves that are as expected, and to nobody else.

    `pcrs` are the values allowed, by index; the other words are those of `anchorhold.verify`. Nonce, public key and user
    data are the channel's own and cannot be given.
    """

    def __init__(self, pcrs: Optional[Pcrs] = None, **expected: Any) -> None:
        for word in ("nonce", "user_data", "public_key"):
            if word in expected:
                raise TypeError(f"{word} is the channel's own")
        self._native = _anchorhold.Connector(json.dumps(terms(pcrs, **expected)))

    def _begin(self, host: str, protocol: str) -> _anchorhold.Channel:
        return self._native.begin(host, protocol)

    def connect(self, host: str, port: int, timeout: Optional[float] = 30.0) -> Attested:
        """A stream that ends in the enclave behind this address."""
        return self.over(socket.create_connection((host, port), timeout), host)

    def over(self, stream: socket.socket, host: str) -> Attested:
        """The same over a socket that is connected. It is closed where no channel comes of it."""
        return Attested(self, stream, host)


class Attested:
    """A stream like a socket whose other end is an enclave that was admitted. There is none before."""

    def __init__(self, connector: Connector, stream: socket.socket, host: str) -> None:
        self._stream = stream
        self._buffer = b""
        self._sending = threading.Lock()
        self._files = 0
        self._closed = False
        self._channel = connector._begin(host, "http1")
        try:
            while self._channel.admitted() is None:
                stream.sendall(self._channel.outgoing())
                self._buffer = self._channel.receive(stream.recv(_PIECE))
        except BaseException:
            stream.close()
            raise

    @property
    def admitted(self) -> Admitted:
        """What the document says that the enclave was admitted for."""
        said = self._channel.admitted()
        if said is None:
            raise AttestationError("the channel is over", "state", [])
        return facts(json.loads(said))

    def sendall(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        # Records must go out in the order they were made.
        with self._sending:
            for start in range(0, len(view), _PIECE):
                piece = self._channel.send(bytes(view[start : start + _PIECE]))
                self._stream.sendall(piece)

    def send(self, data: Any) -> int:
        self.sendall(data)
        return len(memoryview(data).cast("B"))

    def recv(self, most: int) -> bytes:
        while not self._buffer:
            if self._channel.has_ended():
                return b""
            came = self._stream.recv(_PIECE)
            if not came:
                raise ConnectionResetError("the connection was cut: the enclave has not said that this was all")
            self._buffer = self._channel.receive(came)
        piece, self._buffer = self._buffer[:most], self._buffer[most:]
        return piece

    def recv_into(self, buffer: Any, nbytes: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.recv(nbytes or len(view))
        view[: len(piece)] = piece
        return len(piece)

    def makefile(self, mode: str = "rb", buffering: int = -1, **_: Any) -> io.BufferedReader:
        """For reading bytes alone, as http.client does."""
        if mode not in ("r", "rb"):
            raise ValueError("a file for reading bytes alone")
        self._files += 1
        return io.BufferedReader(_File(self), _PIECE if buffering < 2 else buffering)

    def settimeout(self, timeout: Optional[float]) -> None:
        self._stream.settimeout(timeout)

    def gettimeout(self) -> Optional[float]:
        return self._stream.gettimeout()

    def setsockopt(self, *arguments: Any) -> None:
        self._stream.setsockopt(*arguments)

    def getpeername(self) -> Any:
        return self._stream.getpeername()

    def fileno(self) -> int:
        return self._stream.fileno()

    def shutdown(self, how: int) -> None:
        self._stream.shutdown(how)

    def close(self) -> None:
        """Closes the stream, once no file of it is open any more."""
        self._closed = True
        if self._files > 0:
            return
        try:
            with self._sending:
                self._stream.sendall(self._channel.close())
        except OSError:
            pass
        self._stream.close()

    def _file_closed(self) -> None:
        self._files -= 1
        if self._closed:
            self.close()

    def __enter__(self) -> Attested:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _File(io.RawIOBase):
    def __init__(self, stream: Attested) -> None:
        self._attested = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._attested.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._attested._file_closed()
