// The verifier of attestation documents, for browsers and Node: the Rust verifier as a WebAssembly module. It has no clock,
// no randomness and no network: what is judged here was brought by somebody.

/** AWS's root for Nitro enclaves, among `anchors`. */
export const AWS_NITRO = "aws-nitro";

// Nobody else can make what only the verifier may.
const ours = Symbol("anchorhold");

/** A document was refused, or a channel. */
export class Refused extends Error {
  constructor(step, names, message, differences = []) {
    super(message);
    this.name = "Refused";
    this.step = step;
    this.names = Object.freeze([...names]);
    this.differences = Object.freeze([...differences]);
  }
}

/** What a document says that was verified and is as expected. */
export class Admitted {
  constructor(key, said) {
    if (key !== ours) throw new TypeError("only the verifier admits");
    this.moduleId = said.module_id;
    this.timestampMs = said.timestamp_ms;
    this.debug = said.debug;
    this.pcrs = Object.freeze({ ...said.pcrs });
    this.publicKey = said.public_key === null ? null : bytes(said.public_key);
    this.userData = said.user_data === null ? null : bytes(said.user_data);
    this.nonce = said.nonce === null ? null : bytes(said.nonce);
    this.anchor = said.anchor;
    this.certificateNotAfterMs = said.certificate_not_after_ms;
    Object.freeze(this);
  }
}

/** Loads the module: from beside this file, or from what is given. */
export async function load(source = new URL("./anchorhold_verifier.wasm", import.meta.url)) {
  let from = source;
  if (typeof from === "string") from = new URL(from, import.meta.url);
  if (from instanceof URL && from.protocol === "file:") {
    const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
    from = await readFile(from);
  } else if (from instanceof URL) {
    const answer = await fetch(from);
    if (!answer.ok) throw new Error(`${from} cannot be loaded: status ${answer.status}`);
    from = await answer.arrayBuffer();
  }
  const module = from instanceof WebAssembly.Module ? from : await WebAssembly.compile(from);
  return new Verifier(ours, await WebAssembly.instantiate(module, {}));
}

/** Judges documents. `load` makes one. */
export class Verifier {
  #doors;

  constructor(key, instance) {
    if (key !== ours) throw new TypeError("load() makes verifiers");
    this.#doors = instance.exports;
  }

  /** Admits a document or throws `Refused`; what makes no sense is a `TypeError`. */
  verify(document, options = {}) {
    const { time, ignoreUnknownKeys = false, ...rest } = options;
    return this.#judged({
      do: "verify",
      document: hex(document, "the document"),
      time: when(time ?? {}),
      ignore_unknown_keys: ignoreUnknownKeys === true,
      terms: terms(rest),
    });
  }

  // What follows is for `node.mjs`.

  /** @internal */
  _question(nonce, host) {
    const said = this.#ask({ do: "question", nonce: hex(nonce, "the nonce"), host });
    return bytes(said.question);
  }

  /** @internal */
  _answer(read) {
    const said = this.#ask({ do: "answer", bytes: hex(read, "the answer") });
    if (said.more !== undefined) return { more: said.more };
    return { document: bytes(said.document.document), used: said.document.used };
  }

  /** @internal */
  _channel(channel, options) {
    return this.#judged({
      do: "channel",
      document: hex(channel.document, "the document"),
      nonce: hex(channel.nonce, "the nonce"),
      certificate: hex(channel.certificate, "the certificate"),
      exporter: hex(channel.exporter, "the exporter's value"),
      now_ms: Date.now(),
      clock_error_ms: options.clockErrorMs ?? 300_000,
      terms: terms(options.terms),
    });
  }

  #judged(question) {
    return new Admitted(ours, this.#ask(question).admitted);
  }

  #ask(question) {
    const doors = this.#doors;
    const asked = new TextEncoder().encode(JSON.stringify(question));
    const place = doors.anchorhold_alloc(asked.length) >>> 0;
    if (place === 0) throw new TypeError("that is longer than any document");
    new Uint8Array(doors.memory.buffer, place, asked.length).set(asked);
    const answer = doors.anchorhold_ask(place, asked.length) >>> 0;
    const length = new DataView(doors.memory.buffer).getUint32(answer, true);
    const text = new TextDecoder().decode(new Uint8Array(doors.memory.buffer, answer + 4, length));
    doors.anchorhold_free(answer, length);
    const said = JSON.parse(text);
    if (said.error !== undefined) throw new TypeError(said.error);
    if (said.refused !== undefined) {
      const { step, names, message, differences } = said.refused;
      throw new Refused(step, names, message, differences);
    }
    return said;
  }
}

const WORDS = {
  nonce: "nonce", userData: "user_data", publicKey: "public_key", moduleId: "module_id", role: "role",
  instance: "instance", signedBy: "signed_by", anyImage: "any_image", allowDebug: "allow_debug",
};
const BINARY = ["nonce", "userData", "publicKey", "signedBy"];

/** @internal In the verifier's words. A word that it does not know is an error here already. */
export function terms({ anchors = [AWS_NITRO], expect = {}, ...unknown }) {
  const stranger = Object.keys(unknown)[0];
  if (stranger !== undefined) throw new TypeError(`${stranger} is no word of the verifier's`);
  if (!Array.isArray(anchors)) throw new TypeError("anchors are a list");
  const said = { pcrs: {} };
  for (const [word, value] of Object.entries(expect)) {
    if (value === undefined) continue;
    if (word === "pcrs") {
      for (const [index, values] of Object.entries(value)) {
        said.pcrs[index] = typeof values === "string" ? [values] : [...values];
      }
    } else if (Object.hasOwn(WORDS, word)) {
      said[WORDS[word]] = BINARY.includes(word) ? hex(value, word) : value;
    } else {
      throw new TypeError(`${word} is nothing that can be expected`);
    }
  }
  return { anchors, expect: said };
}

function when(time) {
  if (time === "document") return time;
  if ("at" in time) return { at: milliseconds(time.at) };
  const { now = Date.now(), maxAgeMs = 300_000, maxSkewMs = 300_000 } = time;
  return { now_ms: milliseconds(now), max_age_ms: maxAgeMs, max_skew_ms: maxSkewMs };
}

function milliseconds(instant) {
  return instant instanceof Date ? instant.getTime() : instant;
}

function hex(data, what) {
  if (!(data instanceof Uint8Array)) throw new TypeError(`${what} is to be a Uint8Array`);
  let text = "";
  for (const byte of data) text += byte.toString(16).padStart(2, "0");
  return text;
}

function bytes(text) {
  const data = new Uint8Array(text.length / 2);
  for (let at = 0; at < data.length; at += 1) data[at] = Number.parseInt(text.slice(2 * at, 2 * at + 2), 16);
  return data;
}
