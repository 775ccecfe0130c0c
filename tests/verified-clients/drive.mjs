// Tries doors through everything that the package for Node plugs into: `drive.mjs PLAN`. What came of it is for the suite to
// judge; this prints it, a line of JSON for each attempt.
import { readFileSync, writeSync } from "node:fs";
import https from "node:https";
import http2 from "node:http2";
import { Agent, fetch } from "undici";

import { Refused, load } from "anchorhold";
import { admitted, attested } from "anchorhold/node";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`);

function outcome(error) {
  // undici wraps what its connector says.
  const cause = error instanceof Refused ? error : error.cause ?? error;
  if (cause instanceof Refused) {
    return { outcome: "refused", step: cause.step, names: [...cause.names].sort(), message: cause.message };
  }
  return { outcome: "error", message: String(cause?.stack ?? cause) };
}

function overHttps(agent, url, method, body) {
  return new Promise((resolve, reject) => {
    const request = https.request(url, { agent, method, headers: body ? { "content-length": body.length } : {} }, (answer) => {
      const pieces = [];
      answer.on("data", (piece) => pieces.push(piece));
      answer.on("end", () => resolve({ body: Buffer.concat(pieces), pcr0: admitted(answer.socket)?.pcrs[0] }));
      answer.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function overHttp2(enclave, url, method, body) {
  const { hostname, port, origin, pathname } = new URL(url);
  const socket = await enclave.connect({ host: hostname, port: Number(port), protocol: "h2" });
  const session = http2.connect(origin, { createConnection: () => socket });
  try {
    return await new Promise((resolve, reject) => {
      session.on("error", reject);
      const stream = session.request({ ":method": method, ":path": pathname });
      const pieces = [];
      stream.on("data", (piece) => pieces.push(piece));
      stream.on("end", () => resolve({ body: Buffer.concat(pieces), pcr0: admitted(socket)?.pcrs[0] }));
      stream.on("error", reject);
      stream.end(body);
    });
  } finally {
    session.close();
  }
}

async function overFetch(dispatcher, url, method, body) {
  const answer = await fetch(url, { dispatcher, method, body });
  return { body: Buffer.from(await answer.arrayBuffer()) };
}

async function judged() {
  const verifier = await load();
  for (const { name, document, time, ignoreUnknownKeys, anchors, expect } of plan.documents) {
    const binary = (text) => (text == null ? undefined : new Uint8Array(Buffer.from(text, "hex")));
    try {
      const said = verifier.verify(binary(document), {
        time: time === "document" ? time : "at" in time ? time : { now: time.now_ms, maxAgeMs: time.max_age_ms, maxSkewMs: time.max_skew_ms },
        ignoreUnknownKeys,
        anchors,
        expect: {
          pcrs: expect.pcrs,
          nonce: binary(expect.nonce),
          userData: binary(expect.user_data),
          publicKey: binary(expect.public_key),
          moduleId: expect.module_id ?? undefined,
          anyImage: expect.any_image,
          allowDebug: expect.allow_debug,
        },
      });
      say({ name, outcome: "admitted", moduleId: said.moduleId, pcr0: said.pcrs[0] ?? null });
    } catch (error) {
      say({ name, ...outcome(error) });
    }
  }
}

const terms = {
  anchors: plan.roots,
  expect: plan.lenient ? { anyImage: true, allowDebug: true } : { pcrs: { 0: plan.pcr0 } },
};
const enclave = await attested(terms);
const ways = {
  https: (url, method, body) => {
    const agent = enclave.agent({ keepAlive: false });
    return overHttps(agent, url, method, body);
  },
  fetch: (url, method, body) => overFetch(new Agent({ connect: enclave.connector }), url, method, body),
  http2: (url, method, body) => overHttp2(enclave, url, method, body),
};

if (plan.documents) await judged();
for (const { name, port, attempts = 1, only } of plan.doors ?? []) {
  for (const [way, request] of Object.entries(ways)) {
    if (only && only !== way) continue;
    for (let attempt = 0; attempt < attempts; attempt += 1) {
      try {
        const { body, pcr0 } = await request(`https://127.0.0.1:${port}/echo`, "POST", Buffer.from("a secret"));
        say({ name, way, outcome: "answered", body: body.toString(), pcr0 });
      } catch (error) {
        say({ name, way, ...outcome(error) });
      }
    }
  }
}
if (plan.honest) {
  const url = `https://127.0.0.1:${plan.honest}`;
  // Several requests on one socket, and a body that is larger than all buffers together.
  const agent = enclave.agent({ maxSockets: 1 });
  const dispatcher = new Agent({ connect: enclave.connector });
  const large = Buffer.alloc(8 << 20, "large");
  for (const [way, request] of [
    ["https", (path, method, body) => overHttps(agent, url + path, method, body)],
    ["fetch", (path, method, body) => overFetch(dispatcher, url + path, method, body)],
    ["http2", (path, method, body) => overHttp2(enclave, url + path, method, body)],
  ]) {
    for (let round = 0; round < 3; round += 1) {
      const { body } = await request("/head", "GET");
      if (!body.toString().startsWith("GET /head")) throw new Error(`${way}: ${body}`);
    }
    const { body } = await request("/echo", "POST", large);
    say({ name: "large", way, outcome: body.equals(large) ? "answered" : "changed" });
  }
  agent.destroy();
  await dispatcher.close();
  // What no option can switch off, and what is no https.
  for (const [name, attempt] of [
    ["an option", () => new Promise((resolve, reject) => {
      https.get(`https://127.0.0.1:${plan.other}/`, { agent: enclave.agent(), rejectUnauthorized: false, checkServerIdentity: () => undefined }, resolve).on("error", reject);
    })],
    ["http", () => fetch(`http://127.0.0.1:${plan.other}/`, { dispatcher: new Agent({ connect: enclave.connector }) })],
  ]) {
    try {
      await attempt();
      say({ name, outcome: "answered" });
    } catch (error) {
      say({ name, ...outcome(error) });
    }
  }
  for (const wrong of [
    { anchors: plan.roots, expect: { pcr0: plan.pcr0 } },
    { anchors: plan.roots, expect: { pcrs: { 0: "ab" } }, anchor: "x" },
    { anchors: plan.roots, expect: { pcrs: { 0: plan.pcr0 }, nonce: new Uint8Array(32) } },
  ]) {
    try {
      await attested(wrong);
      say({ name: "misspelt", outcome: "answered" });
    } catch (error) {
      say({ name: "misspelt", outcome: error instanceof TypeError ? "type error" : String(error) });
    }
  }
}
