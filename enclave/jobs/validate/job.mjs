// The cards job's validation, as a job in Node of contract `http`: which numbers are card numbers.
//
// It answers what job.py beside it answers. Nothing but Node itself and anchorhold-job.mjs beside it.

import crypto from "node:crypto";
import http from "node:http";

import { Refused, Runtime } from "./anchorhold-job.mjs";

const MAX_BODY = 64 * 1024;
const span = (low, high) => Array.from({ length: high - low + 1 }, (_, step) => low + step);
// Prefixes of six digits, from and to, by scheme; the first that fits counts.
const SCHEMES = [
  ["amex", [[340000, 349999], [370000, 379999]], [15]],
  ["diners", [[300000, 305999], [309500, 309599], [360000, 369999], [380000, 399999]], span(14, 19)],
  ["discover", [[601100, 601199], [644000, 659999]], span(16, 19)],
  ["jcb", [[352800, 358999]], span(16, 19)],
  ["mastercard", [[510000, 559999], [222100, 272099]], [16]],
  ["mir", [[220000, 220499]], span(16, 19)],
  ["unionpay", [[620000, 629999], [810000, 817199]], span(16, 19)],
  ["visa", [[400000, 499999]], [13, 16, 19]],
  ["maestro", [[500000, 509999], [560000, 589999], [600000, 699999]], span(12, 19)],
  ["unknown", [[0, 999999]], span(12, 19)],
];

const wrong = (code) => ({ valid: false, error: { code } });

/** What there is to say of a number. */
function validate(pan) {
  if (/[^0-9 -]/u.test(pan)) return wrong("characters");
  const digits = [...pan.replace(/[ -]/g, "")].map(Number);
  if (digits.length === 0) return wrong("missing");
  const prefix = Number([...digits, 0, 0, 0, 0, 0, 0].slice(0, 6).join(""));
  const [scheme, , lengths] = SCHEMES.find(([, ranges]) => ranges.some(([low, high]) => low <= prefix && prefix <= high));
  if (!lengths.includes(digits.length)) return wrong("length");
  const total = [...digits].reverse().reduce((sum, digit, place) => {
    const doubled = place % 2 ? digit * 2 : digit;
    return sum + (doubled > 9 ? doubled - 9 : doubled);
  }, 0);
  if (total % 10) return wrong("luhn");
  return { valid: true, scheme, digits: digits.length, last4: digits.slice(-4).join("") };
}

const runtime = new Runtime();
const granted = await runtime.granted();
const key = granted.secrets.includes("fingerprint-key") ? (await runtime.secret("fingerprint-key")).value : null;

function judge(record) {
  const pan = record.pan ?? "";
  if (typeof pan !== "string") throw new TypeError("pan is no string");
  const answer = { id: record.id ?? null, ...validate(pan) };
  if (answer.valid && key !== null) {
    const digits = pan.replace(/[ -]/g, "");
    answer.fingerprint = crypto.createHmac("sha256", key).update(digits).digest("hex");
  }
  return answer;
}

const object = (text) => {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new TypeError("no object");
  return value;
};

async function answer(request) {
  if (request.sealed === undefined) return judge(request);
  if (typeof request.sealed !== "string") throw new TypeError("no message");
  const { plaintext, context } = await runtime.open(Buffer.from(request.sealed, "base64"));
  const judged = judge(object(plaintext.toString("utf8")));
  const sealed = await runtime.seal(Buffer.from(JSON.stringify(judged)), context);
  return { sealed: sealed.toString("base64") };
}

function say(response, status, body) {
  const text = JSON.stringify(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
  response.end(text);
}

const server = http.createServer(async (request, response) => {
  if (request.method === "GET") {
    const ready = request.url === "/ready";
    return say(response, ready ? 200 : 404, { ready });
  }
  const pieces = [];
  let bytes = 0;
  try {
    for await (const piece of request) {
      bytes += piece.length;
      if (bytes <= MAX_BODY) pieces.push(piece);
    }
  } catch {
    return response.destroy();
  }
  if (bytes > MAX_BODY) return say(response, 413, { error: { code: "too_large" } });
  if (request.method !== "POST" || request.url !== "/v1/validate") {
    return say(response, 404, { error: { code: "not_found" } });
  }
  try {
    say(response, 200, await answer(object(Buffer.concat(pieces).toString("utf8"))));
  } catch (error) {
    // Its words would quote what was sent.
    if (error instanceof Refused) say(response, error.status >= 500 ? 502 : 400, { error: { code: "runtime" } });
    else say(response, 400, { error: { code: "format" } });
  }
});

const port = process.env.ANCHORHOLD_HTTP_PORT;
const place = port === undefined ? { path: process.env.ANCHORHOLD_HTTP_SOCKET } : { host: "127.0.0.1", port: Number(port) };
server.listen(place, () => console.error(`node ${process.versions.node.split(".")[0]} serves`));
