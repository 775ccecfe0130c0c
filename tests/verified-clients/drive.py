"""Tries doors through everything that the wheel plugs into: `drive.py PLAN`. What came of it is for the suite to judge; this
prints it, a line of JSON for each attempt."""

import asyncio
import json
import sys
import threading

import httpx
import requests

import anchorhold
import anchorhold.httpx
import anchorhold.requests

with open(sys.argv[1], encoding="utf-8") as file:
    plan = json.load(file)


def say(**line):
    print(json.dumps(line), flush=True)


def outcome(error):
    if isinstance(error, anchorhold.AttestationError):
        message, step, names = error.args
        return {"outcome": "refused", "step": step, "names": sorted(names), "message": message}
    if isinstance(error, (requests.RequestException, httpx.HTTPError, OSError)):
        return {"outcome": "refused", "step": "io", "names": ["io"], "message": repr(error)}
    return {"outcome": "error", "message": repr(error)}


def judged():
    for case in plan["documents"]:
        binary = lambda text: None if text is None else bytes.fromhex(text)
        expect, time = case["expect"], case["time"]
        when = (
            {"at_document_time": True}
            if time == "document"
            else {"at_ms": time["at"]}
            if "at" in time
            else time
        )
        try:
            said = anchorhold.verify(
                bytes.fromhex(case["document"]),
                {int(index): values for index, values in expect["pcrs"].items()},
                anchors=case["anchors"],
                ignore_unknown_keys=case["ignoreUnknownKeys"],
                nonce=binary(expect["nonce"]),
                user_data=binary(expect["user_data"]),
                public_key=binary(expect["public_key"]),
                module_id=expect["module_id"],
                any_image=expect["any_image"],
                allow_debug=expect["allow_debug"],
                **when,
            )
            say(name=case["name"], outcome="admitted", moduleId=said.module_id, pcr0=said.pcrs.get(0))
        except Exception as error:
            say(name=case["name"], **outcome(error))


enclave = (
    anchorhold.Connector(any_image=True, allow_debug=True, anchors=plan["roots"])
    if "lenient" in plan
    else anchorhold.Connector({0: plan["pcr0"]}, anchors=plan["roots"])
)


def by_requests(url, method, body):
    with anchorhold.requests.session(enclave) as session:
        return session.request(method, url, data=body).content


def by_httpx(url, method, body):
    with httpx.Client(transport=anchorhold.httpx.Transport(enclave)) as client:
        return client.request(method, url, content=body).content


def by_httpx_async(url, method, body):
    async def ask():
        transport = anchorhold.httpx.AsyncTransport(enclave, http2=True)
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.request(method, url, content=body)).content

    return asyncio.run(ask())


def by_socket(url, method, body):
    host, port = url.split("/")[2].split(":")
    with enclave.connect(host, int(port)) as stream:
        head = f"{method} / HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        stream.sendall(head.encode() + body)
        with stream.makefile("rb") as file:
            return file.read().split(b"\r\n\r\n", 1)[1]


ways = {"requests": by_requests, "httpx": by_httpx, "httpx-async": by_httpx_async, "socket": by_socket}

if "documents" in plan:
    judged()
for door in plan.get("doors", []):
    for way, request in ways.items():
        if door.get("only") not in (None, way):
            continue
        for _ in range(door.get("attempts", 1)):
            try:
                body = request(f"https://127.0.0.1:{door['port']}/echo", "POST", b"a secret")
                say(name=door["name"], way=way, outcome="answered", body=body.decode())
            except Exception as error:
                say(name=door["name"], way=way, **outcome(error))

if "honest" in plan:
    url = f"https://127.0.0.1:{plan['honest']}"
    large = b"large..." * (1 << 20)
    # Several requests on one connection, and a body that is larger than all buffers together.
    with anchorhold.requests.session(enclave) as session:
        for _ in range(3):
            assert session.get(f"{url}/head").text.startswith("GET /head")
        back = session.post(f"{url}/echo", data=large).content
        say(name="large", way="requests", outcome="answered" if back == large else "changed")
        # As it comes, without its end.
        with session.get(f"{url}/drip", stream=True) as answer:
            assert next(answer.iter_content(5)) == b"drip\n"
        for address in (f"http://127.0.0.1:{plan['other']}/", f"https://127.0.0.1:{plan['other']}/"):
            try:
                session.get(address, verify=False)
                say(name="other", way="requests", outcome="answered")
            except Exception as error:
                say(name="other", way="requests", **outcome(error))
        try:
            session.get(f"{url}/head", proxies={"https": f"http://127.0.0.1:{plan['other']}"})
            say(name="proxy", way="requests", outcome="answered")
        except requests.exceptions.InvalidProxyURL as error:
            say(name="proxy", way="requests", **outcome(error))
    for http2 in (False, True):
        way = "httpx http2" if http2 else "httpx"
        with httpx.Client(transport=anchorhold.httpx.Transport(enclave, http2=http2), timeout=60) as client:
            answer = client.get(f"{url}/head")
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1"), answer.http_version
            # From several threads at once; over HTTP/2 httpcore takes one at a time.
            bodies = []
            threads = [
                threading.Thread(target=lambda: bodies.append(client.post(f"{url}/echo", content=large).content))
                for _ in range(1 if http2 else 3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            say(name="large", way=way, outcome="answered" if bodies == [large] * len(threads) else "changed")
            with client.stream("GET", f"{url}/drip") as answer:
                assert next(answer.iter_raw(5)) == b"drip\n"
            try:
                client.get(f"http://127.0.0.1:{plan['other']}/")
                say(name="other", way=way, outcome="answered")
            except Exception as error:
                say(name="other", way=way, **outcome(error))

    async def at_once():
        transport = anchorhold.httpx.AsyncTransport(enclave, http2=True)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            answers = await asyncio.gather(*(client.post(f"{url}/echo", content=large) for _ in range(4)))
            return all(answer.content == large for answer in answers)

    say(name="large", way="httpx async", outcome="answered" if asyncio.run(at_once()) else "changed")

    # What cannot be got around, and what is misspelt.
    native = enclave._begin("127.0.0.1", "http1")
    for attempt in (lambda: native.send(b"a secret"), lambda: native.is_http2()):
        try:
            attempt()
            say(name="early", way="native", outcome="answered")
        except anchorhold.AttestationError as error:
            say(name="early", way="native", **outcome(error))
    assert native.receive is not None and native.admitted() is None
    for wrong in (
        {"pcr0": plan["pcr0"]},
        {"pcrs": {0: "ab"}},
        {"pcrs": {32: plan["pcr0"]}},
        {"pcrs": {0: plan["pcr0"]}, "nonce": b"x" * 32},
        {"pcrs": {0: plan["pcr0"]}, "anchors": plan["roots"][0]},
    ):
        try:
            anchorhold.Connector(**wrong)
            say(name="misspelt", outcome="answered")
        except (TypeError, ValueError):
            say(name="misspelt", outcome="type error")
