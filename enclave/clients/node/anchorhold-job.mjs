// The runtime's local API, for jobs in Node: one file, nothing but Node itself.
//
//     import { Runtime } from "./anchorhold-job.mjs";
//
//     const runtime = new Runtime();
//     const message = await runtime.seal(Buffer.from("4111111111111111"), { purpose: "cards" });
//
// What the manifest's [api] does not grant rejects with Refused. Bytes are Buffers.

import http from "node:http";

export const VARIABLE = "ANCHORHOLD_API_SOCKET";

/** The runtime refused or failed: its HTTP status, a word for programs, and a sentence. */
export class Refused extends Error {
  constructor(status, kind, message) {
    super(`${message} (${kind})`);
    this.name = "Refused";
    this.status = status;
    this.kind = kind;
  }
}

const text = (bytes) => Buffer.from(bytes).toString("base64");
const bytes = (text) => Buffer.from(text, "base64");
const whole = (number) => {
  if (!Number.isSafeInteger(number)) throw new TypeError(`${number} is no whole number`);
  return number;
};

/** The runtime of this enclave. Throws outside of one, or where the manifest grants nothing. */
export class Runtime {
  #socketPath;
  #timeout;
  #agent = new http.Agent({ keepAlive: true, maxSockets: 8 });

  constructor(socketPath = process.env[VARIABLE], timeout = 75_000) {
    if (!socketPath) throw new Error(`${VARIABLE} is not set: the manifest has no [api]`);
    this.#socketPath = socketPath;
    this.#timeout = timeout;
  }

  close() {
    this.#agent.destroy();
  }

  #ask(method, path, body) {
    const content = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const headers = { host: "runtime" };
      if (content !== undefined) {
        headers["content-type"] = "application/json";
        headers["content-length"] = Buffer.byteLength(content);
      }
      const request = http.request(
        { socketPath: this.#socketPath, agent: this.#agent, method, path, headers },
        (answer) => {
          const pieces = [];
          answer.on("data", (piece) => pieces.push(piece));
          answer.on("error", reject);
          answer.on("end", () => {
            try {
              const found = JSON.parse(Buffer.concat(pieces).toString("utf8"));
              if (answer.statusCode === 200) resolve(found);
              else reject(new Refused(answer.statusCode, found.error, found.message));
            } catch (error) {
              reject(error);
            }
          });
        },
      );
      request.setTimeout(this.#timeout, () => request.destroy(new Error("the runtime did not answer")));
      request.on("error", reject);
      request.end(content);
    });
  }

  /** What the manifest grants: { grant, secrets, extend_pcrs }. */
  granted() {
    return this.#ask("GET", "/v1/granted");
  }

  /** An attestation document, with bytes of your choice. */
  async attest({ nonce, userData, publicKey } = {}) {
    const body = {};
    if (nonce !== undefined) body.nonce = text(nonce);
    if (userData !== undefined) body.user_data = text(userData);
    if (publicKey !== undefined) body.public_key = text(publicKey);
    return bytes((await this.#ask("POST", "/v1/attestation", body)).document);
  }

  /** A sealed message under the key service's key. */
  async seal(plaintext, context = {}) {
    return bytes((await this.#ask("POST", "/v1/seal", { plaintext: text(plaintext), context })).message);
  }

  /** A message's plaintext and its context, which must have all of what is given here. */
  async open(message, context = {}) {
    const found = await this.#ask("POST", "/v1/open", { message: text(message), context });
    return { plaintext: bytes(found.plaintext), context: found.context };
  }

  /** A new data key: its 32 bytes, and the same encrypted under the key service's key. */
  async dataKey(context = {}) {
    const found = await this.#ask("POST", "/v1/data-keys", { context });
    return { plaintext: bytes(found.plaintext), ciphertext: bytes(found.ciphertext) };
  }

  /** The bytes of a data key that was made before. */
  async decryptDataKey(ciphertext, context = {}) {
    const body = { ciphertext: text(ciphertext), context };
    return bytes((await this.#ask("POST", "/v1/data-keys/decrypt", body)).plaintext);
  }

  /** Random bytes, at most 65,536. */
  async random(count = 32) {
    return bytes((await this.#ask("GET", `/v1/random?bytes=${whole(count)}`)).bytes);
  }

  /** A secret and its version; with waitSeconds (60 at most), a version above `after` is waited for. */
  async secret(name, { after = 0, waitSeconds = 0 } = {}) {
    const query = `after=${whole(after)}&wait_seconds=${whole(waitSeconds)}`;
    const found = await this.#ask("GET", `/v1/secrets/${encodeURIComponent(name)}?${query}`);
    return { value: bytes(found.value), version: found.version };
  }

  /** The value of a PCR from 16 to 31. */
  async readPcr(index) {
    return Buffer.from((await this.#ask("GET", `/v1/pcrs/${whole(index)}`)).value, "hex");
  }

  /** Extends a PCR, and returns its new value. */
  async extendPcr(index, data) {
    const found = await this.#ask("POST", `/v1/pcrs/${whole(index)}/extend`, { data: text(data) });
    return Buffer.from(found.value, "hex");
  }

  /** The time that the parent cannot set: { unix_ms, uncertainty_ms, steps, … }. */
  time() {
    return this.#ask("GET", "/v1/time");
  }
}
