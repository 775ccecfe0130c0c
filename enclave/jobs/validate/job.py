"""The cards job's validation, as a job in Python of contract `http`: which numbers are card numbers.

POST /v1/validate takes {"id":…,"pan":"4111 1111 1111 1111"}, or {"sealed":…}, a message under the key service's key in
base64 whose plaintext is such a record, and answers {"id":…,"valid":true,"scheme":"visa","digits":16,"last4":"1111"} or
{"id":…,"valid":false,"error":{"code":…}}. The answer to a sealed record is sealed. Where the manifest gives the secret
`fingerprint-key`, an answer also has a fingerprint: HMAC-SHA-256 of the number.

It is for people who write jobs in Python; nothing but the standard library and anchorhold_job.py beside it.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import socketserver
import sys
import threading

from anchorhold_job import Refused, Runtime

MAX_BODY = 64 * 1024
# Prefixes of six digits, from and to, by scheme; the first that fits counts.
SCHEMES = [
    ("amex", [(340000, 349999), (370000, 379999)], [15]),
    ("diners", [(300000, 305999), (309500, 309599), (360000, 369999), (380000, 399999)], range(14, 20)),
    ("discover", [(601100, 601199), (644000, 659999)], range(16, 20)),
    ("jcb", [(352800, 358999)], range(16, 20)),
    ("mastercard", [(510000, 559999), (222100, 272099)], [16]),
    ("mir", [(220000, 220499)], range(16, 20)),
    ("unionpay", [(620000, 629999), (810000, 817199)], range(16, 20)),
    ("visa", [(400000, 499999)], [13, 16, 19]),
    ("maestro", [(500000, 509999), (560000, 589999), (600000, 699999)], range(12, 20)),
    ("unknown", [(0, 999999)], range(12, 20)),
]


def validate(pan):
    """What there is to say of a number."""
    if any(character not in "0123456789 -" for character in pan):
        return {"valid": False, "error": {"code": "characters"}}
    digits = [int(character) for character in pan if character not in " -"]
    if not digits:
        return {"valid": False, "error": {"code": "missing"}}
    prefix = int("".join(map(str, (digits + [0] * 6)[:6])))
    scheme, lengths = next(
        (name, lengths) for name, ranges, lengths in SCHEMES if any(low <= prefix <= high for low, high in ranges)
    )
    if len(digits) not in lengths:
        return {"valid": False, "error": {"code": "length"}}
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    if total % 10:
        return {"valid": False, "error": {"code": "luhn"}}
    last4 = "".join(map(str, digits[-4:]))
    return {"valid": True, "scheme": scheme, "digits": len(digits), "last4": last4}


class Job:
    """What answers, on one connection to the runtime."""

    def __init__(self):
        self.runtime = Runtime()
        self.lock = threading.Lock()
        granted = self.runtime.granted()
        self.key = self.runtime.secret("fingerprint-key")[0] if "fingerprint-key" in granted["secrets"] else None

    def answer(self, request):
        if "sealed" not in request:
            return self.judge(request)
        with self.lock:
            plaintext, context = self.runtime.open(base64.b64decode(request["sealed"], validate=True))
            answer = self.judge(json.loads(plaintext))
            sealed = self.runtime.seal(json.dumps(answer).encode(), context)
        return {"sealed": base64.b64encode(sealed).decode("ascii")}

    def judge(self, record):
        pan = record.get("pan")
        if pan is not None and not isinstance(pan, str):
            raise ValueError("pan is no string")
        pan = pan or ""
        answer = {"id": record.get("id"), **validate(pan)}
        if answer["valid"] and self.key is not None:
            digits = "".join(character for character in pan if character.isdigit())
            answer["fingerprint"] = hmac.new(self.key, digits.encode(), hashlib.sha256).hexdigest()
        return answer


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    job = None

    def do_GET(self):
        self.say(200 if self.path == "/ready" else 404, {"ready": self.path == "/ready"})

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit():
            self.close_connection = True
            return self.fail(411, "length")
        left = int(length)
        if left > MAX_BODY:
            # Heard to its end, so that who is still sending gets to read the answer; the manifest bounds it.
            while left > 0:
                left -= len(self.rfile.read(min(left, MAX_BODY))) or left
            return self.fail(413, "too_large")
        body = self.rfile.read(left)
        if self.path != "/v1/validate":
            return self.fail(404, "not_found")
        try:
            request = json.loads(body)
            if not isinstance(request, dict):
                raise ValueError("no object")
            answer = self.job.answer(request)
        except Refused as error:
            return self.fail(502 if error.status >= 500 else 400, "runtime")
        except (ValueError, AttributeError, TypeError):
            # Its words would quote what was sent.
            return self.fail(400, "format")
        self.say(200, answer)

    def fail(self, status, code):
        self.say(status, {"error": {"code": code}})

    def say(self, status, answer):
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self):
        return "client"

    def log_message(self, *_):
        """A path may hold what must not be on the console."""


class OnPort(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class OnSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main():
    Handler.job = Job()
    port = os.environ.get("ANCHORHOLD_HTTP_PORT")
    if port is not None:
        server = OnPort(("127.0.0.1", int(port)), Handler)
    else:
        server = OnSocket(os.environ["ANCHORHOLD_HTTP_SOCKET"], Handler)
    print(f"python {sys.version_info.major}.{sys.version_info.minor} serves", file=sys.stderr, flush=True)
    server.serve_forever()


main()
