// Asks a test's runtime all that there is, as its job; the enclave's tests run it.

import assert from "node:assert/strict";
import { Refused, Runtime } from "./anchorhold-job.mjs";

const refused = (kind, question) =>
  assert.rejects(question, (error) => error instanceof Refused && error.kind === kind);

const runtime = new Runtime();
assert((await runtime.granted()).grant.includes("seal"));
const message = await runtime.seal(Buffer.from([120, 0, 255]), { a: "ü" });
const opened = await runtime.open(message, { a: "ü" });
assert.deepEqual(opened, { plaintext: Buffer.from([120, 0, 255]), context: { a: "ü" } });
await refused("request", () => runtime.open(message, { a: "c" }));
await refused("message", () => runtime.open(message.subarray(0, -1)));
const key = await runtime.dataKey({ a: "b" });
assert.equal(key.plaintext.length, 32);
assert.deepEqual(await runtime.decryptDataKey(key.ciphertext, { a: "b" }), key.plaintext);
await refused("keys", () => runtime.decryptDataKey(key.ciphertext));
assert.equal((await runtime.random(1000)).length, 1000);
const secret = await runtime.secret("token", { waitSeconds: 1 });
assert.deepEqual(secret, { value: Buffer.from("s3cret"), version: 1 });
await refused("not_granted", () => runtime.secret("other"));
await refused("not_granted", () => runtime.secret("a/../token"));
assert((await runtime.attest({ nonce: Buffer.from("nonce"), userData: Buffer.from("u") })).includes("nonce"));
assert.equal((await runtime.readPcr(16)).length, 48);
assert.deepEqual(await runtime.extendPcr(17, Buffer.from("x")), Buffer.from("x"));
await refused("not_granted", () => runtime.extendPcr(18, Buffer.from("x")));
assert((await runtime.time()).unix_ms > 0);
runtime.close();
console.log("answer: 0 done");
