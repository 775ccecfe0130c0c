"""Documents by themselves: what is expected of one, and what an admitted one says."""

from __future__ import annotations

import json
import time as clock
from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Optional, Union

from ._anchorhold import AttestationError, ask

#: AWS's root for Nitro enclaves, among `anchors`.
AWS_NITRO = "aws-nitro"

Pcrs = Mapping[int, Union[str, Iterable[str]]]


@dataclass(frozen=True)
class Admitted:
    """What a document says that was verified and is as expected."""

    module_id: str
    timestamp_ms: int
    debug: bool
    pcrs: Mapping[int, str]
    public_key: Optional[bytes]
    user_data: Optional[bytes]
    nonce: Optional[bytes]
    #: SHA-256 of the root that it chains to, in hexadecimal.
    anchor: str
    certificate_not_after_ms: int


def facts(said: Mapping[str, Any]) -> Admitted:
    def binary(name: str) -> Optional[bytes]:
        return None if said[name] is None else bytes.fromhex(said[name])

    return Admitted(
        module_id=said["module_id"],
        timestamp_ms=said["timestamp_ms"],
        debug=said["debug"],
        pcrs={int(index): value for index, value in said["pcrs"].items()},
        public_key=binary("public_key"),
        user_data=binary("user_data"),
        nonce=binary("nonce"),
        anchor=said["anchor"],
        certificate_not_after_ms=said["certificate_not_after_ms"],
    )


def terms(
    pcrs: Optional[Pcrs] = None,
    anchors: Iterable[str] = (AWS_NITRO,),
    nonce: Optional[bytes] = None,
    user_data: Optional[bytes] = None,
    public_key: Optional[bytes] = None,
    module_id: Optional[str] = None,
    role: Optional[str] = None,
    instance: Optional[str] = None,
    signed_by: Optional[bytes] = None,
    any_image: bool = False,
    allow_debug: bool = False,
) -> dict[str, Any]:
    """Whom to trust and what to expect, for the native part, which refuses what it does not understand."""
    if isinstance(anchors, str):
        raise TypeError("anchors are several: give a list")
    expect: dict[str, Any] = {
        "pcrs": {
            str(index): [values] if isinstance(values, str) else list(values)
            for index, values in (pcrs or {}).items()
        },
        "any_image": any_image,
        "allow_debug": allow_debug,
    }
    for name, binary in (
        ("nonce", nonce),
        ("user_data", user_data),
        ("public_key", public_key),
        ("signed_by", signed_by),
    ):
        if binary is not None:
            expect[name] = bytes(binary).hex()
    for name, text in (("module_id", module_id), ("role", role), ("instance", instance)):
        if text is not None:
            expect[name] = text
    return {"anchors": list(anchors), "expect": expect}


def verify(
    document: bytes,
    pcrs: Optional[Pcrs] = None,
    *,
    at_ms: Optional[int] = None,
    at_document_time: bool = False,
    max_age_ms: int = 300_000,
    max_skew_ms: int = 300_000,
    now_ms: Optional[int] = None,
    ignore_unknown_keys: bool = False,
    **expected: Any,
) -> Admitted:
    """Verifies a document and compares it with what is expected.

    `pcrs` are the values allowed, by index, in hexadecimal; besides `anchors` (PEM texts; AWS's root alone where nothing is
    said), `nonce`, `user_data`, `public_key`, `module_id`, `role`, `instance`, `signed_by` (DER), `any_image`, `allow_debug`.
    At least one of PCR0, 1, 2 and 8 is expected, or `any_image=True`.

    It is judged by this machine's clock (or `now_ms`) and must be fresh: at most `max_age_ms` old, at most `max_skew_ms`
    ahead. `at_ms` judges at an instant, and `at_document_time=True` at the document's own timestamp: both for archives.

    Raises `AttestationError` with a message, the step that refused and stable names; `ValueError` for what makes no sense.
    """
    time: Any
    if at_document_time and at_ms is not None:
        raise ValueError("either at_ms or at_document_time")
    if at_document_time:
        time = "document"
    elif at_ms is not None:
        time = {"at": at_ms}
    else:
        now = clock.time_ns() // 1_000_000 if now_ms is None else now_ms
        time = {"now_ms": now, "max_age_ms": max_age_ms, "max_skew_ms": max_skew_ms}
    question = {
        "do": "verify",
        "document": bytes(document).hex(),
        "time": time,
        "ignore_unknown_keys": ignore_unknown_keys,
        "terms": terms(pcrs, **expected),
    }
    said = json.loads(ask(json.dumps(question).encode()))
    if "admitted" in said:
        return facts(said["admitted"])
    if "refused" in said:
        refused = said["refused"]
        raise AttestationError(refused["message"], refused["step"], refused["names"])
    raise ValueError(said["error"])
