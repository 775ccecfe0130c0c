"""The runtime's local API, for jobs in Python: one file, nothing but the standard library.

    from anchorhold_job import Runtime

    runtime = Runtime()
    message = runtime.seal(b"4111111111111111", {"purpose": "cards"})

What the manifest's [api] does not grant raises Refused. A Runtime is for one thread; it keeps one connection.
"""

import base64
import http.client
import json
import os
import socket
import urllib.parse

VARIABLE = "ANCHORHOLD_API_SOCKET"


class Refused(Exception):
    """The runtime refused or failed: its HTTP status, a word for programs, and a sentence."""

    def __init__(self, status, kind, message):
        super().__init__(f"{message} ({kind})")
        self.status = status
        self.kind = kind


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("runtime", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _text(data):
    return base64.b64encode(data).decode("ascii")


def _bytes(text):
    return base64.b64decode(text, validate=True)


class Runtime:
    """The runtime of this enclave. Raises KeyError outside of one, or where the manifest grants nothing."""

    def __init__(self, path=None, timeout=75.0):
        self._connection = _Connection(path or os.environ[VARIABLE], timeout)

    def close(self):
        self._connection.close()

    def _ask(self, method, path, body=None):
        text = None if body is None else json.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            self._connection.request(method, path, text, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            # Whatever is left of an answer must not be taken for the next one's.
            self._connection.close()
            raise
        found = json.loads(content)
        if answer.status != 200:
            raise Refused(answer.status, found.get("error"), found.get("message"))
        return found

    def granted(self):
        """What the manifest grants: a dict of grant, secrets and extend_pcrs."""
        return self._ask("GET", "/v1/granted")

    def attest(self, nonce=None, user_data=None, public_key=None):
        """An attestation document, with bytes of your choice."""
        given = {"nonce": nonce, "user_data": user_data, "public_key": public_key}
        body = {name: _text(data) for name, data in given.items() if data is not None}
        return _bytes(self._ask("POST", "/v1/attestation", body)["document"])

    def seal(self, plaintext, context=None):
        """A sealed message under the key service's key."""
        body = {"plaintext": _text(plaintext), "context": context or {}}
        return _bytes(self._ask("POST", "/v1/seal", body)["message"])

    def open(self, message, context=None):
        """A message's plaintext and its context, which must have all of what is given here."""
        body = {"message": _text(message), "context": context or {}}
        found = self._ask("POST", "/v1/open", body)
        return _bytes(found["plaintext"]), found["context"]

    def data_key(self, context=None):
        """A new data key: its 32 bytes, and the same encrypted under the key service's key."""
        found = self._ask("POST", "/v1/data-keys", {"context": context or {}})
        return _bytes(found["plaintext"]), _bytes(found["ciphertext"])

    def decrypt_data_key(self, ciphertext, context=None):
        """The bytes of a data key that was made before."""
        body = {"ciphertext": _text(ciphertext), "context": context or {}}
        return _bytes(self._ask("POST", "/v1/data-keys/decrypt", body)["plaintext"])

    def random(self, count=32):
        """Random bytes, at most 65,536."""
        return _bytes(self._ask("GET", f"/v1/random?bytes={int(count)}")["bytes"])

    def secret(self, name, after=0, wait_seconds=0):
        """A secret and its version; with wait_seconds (60 at most), a version above `after` is waited for."""
        name = urllib.parse.quote(name, safe="")
        query = f"after={int(after)}&wait_seconds={int(wait_seconds)}"
        found = self._ask("GET", f"/v1/secrets/{name}?{query}")
        return _bytes(found["value"]), found["version"]

    def read_pcr(self, index):
        """The value of a PCR from 16 to 31."""
        return bytes.fromhex(self._ask("GET", f"/v1/pcrs/{int(index)}")["value"])

    def extend_pcr(self, index, data):
        """Extends a PCR, and returns its new value."""
        body = {"data": _text(data)}
        return bytes.fromhex(self._ask("POST", f"/v1/pcrs/{int(index)}/extend", body)["value"])

    def time(self):
        """The time that the parent cannot set: a dict with unix_ms, uncertainty_ms, steps and more."""
        return self._ask("GET", "/v1/time")
