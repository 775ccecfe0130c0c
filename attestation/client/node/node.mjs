// Attested TLS for Node: sockets that end in an enclave of an image that the caller has named, or in an error. OpenSSL ends
// TLS here; that the handshake's key, this channel's exporter value and a fresh nonce are those of the document, the verifier
// judges, before anybody gets the socket.

import { randomBytes } from "node:crypto";
import https from "node:https";
import net from "node:net";
import tls from "node:tls";

import { Refused, load, terms } from "./verifier.mjs";

export { AWS_NITRO, Admitted, Refused } from "./verifier.mjs";

// RFC 9266.
const LABEL = "EXPORTER-Channel-Binding";
const EXPORTER_BYTES = 32;
const NONCE_BYTES = 32;
const PROTOCOLS = { h1: ["http/1.1"], h2: ["h2"] };

const ours = Symbol("anchorhold");
const admissions = new WeakMap();

/** The document that the enclave behind a socket was admitted for; `undefined` for any other socket. */
export function admitted(socket) {
  return admissions.get(socket);
}

/** Whom to connect to, from now on. */
export async function attested(options = {}) {
  const { timeoutMs = 30_000, clockErrorMs = 300_000, wasm, ...rest } = options;
  for (const word of ["nonce", "userData", "publicKey"]) {
    if (rest.expect !== undefined && word in rest.expect) throw new TypeError(`${word} is the channel's own`);
  }
  // What is misspelt is said now.
  terms(rest);
  return new Attested(ours, await load(wasm), structuredClone(rest), timeoutMs, clockErrorMs);
}

export class Attested {
  #verifier;
  #terms;
  #timeoutMs;
  #clockErrorMs;

  constructor(key, verifier, wanted, timeoutMs, clockErrorMs) {
    if (key !== ours) throw new TypeError("attested() makes these");
    this.#verifier = verifier;
    this.#terms = wanted;
    this.#timeoutMs = timeoutMs;
    this.#clockErrorMs = clockErrorMs;
    /** For undici: `new Agent({ connect: enclave.connector })`. */
    this.connector = ({ hostname, host, port, protocol, localAddress, allowH2 }, done) => {
      if (protocol !== "https:") {
        done(new Refused("tls", ["tls"], "an enclave is reached by https:// alone"), null);
        return;
      }
      const name = (hostname ?? host).replace(/^\[|\]$/g, "");
      const to = { host: name, port: Number(port) || 443, localAddress, protocol: allowH2 ? "h2" : "h1" };
      this.connect(to).then((socket) => done(null, socket), (error) => done(error, null));
    };
    Object.freeze(this);
  }

  /** An agent for `https`: each of its sockets was admitted before a request gets it. */
  agent(options = {}) {
    return new AttestedAgent(this, options);
  }

  /** A socket that ends in the enclave behind that address. */
  connect({ host, port = 443, path, socket: below, localAddress, family, lookup, protocol = "h1" }) {
    const alpn = PROTOCOLS[protocol];
    if (alpn === undefined) throw new TypeError('protocol is "h1" or "h2"');
    const name = host ?? "enclave.invalid";
    return new Promise((resolve, reject) => {
      const socket = tls.connect({
        ...(below === undefined ? { host: name, port, path, localAddress, family, lookup } : { socket: below }),
        servername: net.isIP(name) === 0 ? name : "",
        ALPNProtocols: alpn,
        minVersion: "TLSv1.3",
        maxVersion: "TLSv1.3",
        sigalgs: "ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384",
        // Whose key it is, the document says; that the handshake is signed by it, OpenSSL insists on in any case.
        rejectUnauthorized: false,
      });
      const nonce = randomBytes(NONCE_BYTES);
      let shown;
      let read = Buffer.alloc(0);
      let wanted = 1;

      const over = () => {
        clearTimeout(timer);
        for (const [event, heard] of Object.entries(listeners)) socket.removeListener(event, heard);
      };
      const fail = (error) => {
        over();
        // Whatever else goes wrong on it is nobody's affair any more.
        socket.on("error", () => {});
        socket.destroy();
        reject(error);
      };
      const step = (what) => {
        try {
          what();
        } catch (error) {
          fail(error);
        }
      };
      const listeners = {
        error: (error) => {
          const what = error.code?.startsWith("ERR_SSL") ? "tls" : "io";
          fail(new Refused(what, [what], `no TLS with the enclave: ${error.message}`));
        },
        close: () => fail(new Refused("io", ["hung-up"], "whoever answers there hung up before it had given an attestation document")),
        end: () => fail(new Refused("io", ["hung-up"], "whoever answers there hung up before it had given an attestation document")),
        secureConnect: () => step(() => {
          if (socket.getProtocol() !== "TLSv1.3" || socket.isSessionReused()) {
            throw new Refused("tls", ["tls"], "no new TLS 1.3 handshake");
          }
          const certificate = socket.getPeerX509Certificate();
          if (certificate === undefined) throw new Refused("tls", ["tls"], "no certificate");
          shown = {
            certificate: new Uint8Array(certificate.raw),
            exporter: new Uint8Array(socket.exportKeyingMaterial(EXPORTER_BYTES, LABEL, Buffer.alloc(0))),
          };
          socket.write(this.#verifier._question(nonce, name));
        }),
        readable: () => step(() => {
          // Never further than the answer: what follows is the next protocol's. As long as it wants.
          for (let piece; shown !== undefined && (piece = socket.read(wanted)) !== null;) {
            read = Buffer.concat([read, piece]);
            const answer = this.#verifier._answer(read);
            if (answer.document === undefined) {
              wanted = answer.more;
              continue;
            }
            const said = this.#verifier._channel(
              { ...shown, nonce, document: answer.document },
              { terms: this.#terms, clockErrorMs: this.#clockErrorMs },
            );
            over();
            admissions.set(socket, said);
            resolve(socket);
            return;
          }
        }),
      };
      const timer = setTimeout(
        () => fail(new Refused("time", ["time"], "the enclave did not answer in time")),
        this.#timeoutMs,
      );
      for (const [event, heard] of Object.entries(listeners)) socket.on(event, heard);
    });
  }
}

class AttestedAgent extends https.Agent {
  #attested;

  constructor(to, options) {
    super({ keepAlive: true, ...options, maxCachedSessions: 0 });
    this.#attested = to;
  }

  createConnection(options, done) {
    const { host, port, socketPath, localAddress, family, lookup } = options;
    this.#attested
      .connect({ host, port: Number(port) || 443, path: socketPath ?? undefined, localAddress, family, lookup })
      .then((socket) => done(null, socket), (error) => done(error));
    return undefined;
  }
}
