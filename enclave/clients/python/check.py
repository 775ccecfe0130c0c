"""Asks a test's runtime all that there is, as its job; the enclave's tests run it."""

from anchorhold_job import Refused, Runtime


def refused(kind, question):
    try:
        question()
    except Refused as error:
        assert error.kind == kind, error
    else:
        raise AssertionError(f"not refused as {kind}")


runtime = Runtime()
assert "seal" in runtime.granted()["grant"]
message = runtime.seal(b"x\x00\xff", {"a": "ü"})
assert runtime.open(message, {"a": "ü"}) == (b"x\x00\xff", {"a": "ü"})
refused("request", lambda: runtime.open(message, {"a": "c"}))
refused("message", lambda: runtime.open(message[:-1]))
plaintext, ciphertext = runtime.data_key({"a": "b"})
assert len(plaintext) == 32
assert runtime.decrypt_data_key(ciphertext, {"a": "b"}) == plaintext
refused("keys", lambda: runtime.decrypt_data_key(ciphertext))
assert len(runtime.random(1000)) == 1000
assert runtime.secret("token", wait_seconds=1) == (b"s3cret", 1)
refused("not_granted", lambda: runtime.secret("other"))
refused("not_granted", lambda: runtime.secret("a/../token"))
assert b"nonce" in runtime.attest(nonce=b"nonce", user_data=b"u")
assert len(runtime.read_pcr(16)) == 48
assert runtime.extend_pcr(17, b"x") == b"x"
refused("not_granted", lambda: runtime.extend_pcr(18, b"x"))
assert runtime.time()["unix_ms"] > 0
print("answer: 0 done", flush=True)
