/// <reference types="node" />
import type { Agent, AgentOptions } from "node:https";
import type { LookupFunction } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";

import type { Admitted, Expect, Terms } from "./verifier.js";

export { AWS_NITRO, Admitted, Refused } from "./verifier.js";

export interface AttestedOptions extends Terms {
  /** Nonce, user data and public key are the channel's own. */
  readonly expect: Omit<Expect, "nonce" | "userData" | "publicKey">;
  /** How long connection, handshake and document may take together; 30 seconds where nothing is said. */
  readonly timeoutMs?: number;
  /** How far this machine's clock and the NSM's may lie apart; five minutes where nothing is said. */
  readonly clockErrorMs?: number;
  /** The module, where it does not lie beside this file. */
  readonly wasm?: string | URL | ArrayBuffer | Uint8Array | WebAssembly.Module;
}

export interface ConnectOptions {
  readonly host?: string;
  /** 443 where nothing is said. */
  readonly port?: number;
  /** A Unix socket, in place of host and port. */
  readonly path?: string;
  /** A stream that leads there already. */
  readonly socket?: Duplex;
  readonly localAddress?: string;
  readonly family?: number;
  readonly lookup?: LookupFunction;
  /** What will be spoken: HTTP/1.1 where nothing is said. */
  readonly protocol?: "h1" | "h2";
}

/** Connects to enclaves that are as expected, and to nobody else. `attested` makes one. */
export declare class Attested {
  private constructor();
  /** An agent for `https`: each of its sockets was admitted before a request gets it. */
  agent(options?: AgentOptions): Agent;
  /** For undici's `new Agent({ connect })`, and so for `fetch`. */
  readonly connector: (
    options: {
      hostname: string;
      host?: string;
      port: string;
      protocol: string;
      localAddress?: string | null;
      allowH2?: boolean;
    },
    callback: (...result: [null, TLSSocket] | [Error, null]) => void,
  ) => void;
  /**
   * A socket that ends in the enclave behind that address. For HTTP/2:
   * `http2.connect(url, { createConnection: () => socket })`.
   */
  connect(options: ConnectOptions): Promise<TLSSocket>;
}

/** Whom to connect to, from now on. */
export declare function attested(options: AttestedOptions): Promise<Attested>;

/** The document that the enclave behind a socket was admitted for; `undefined` for any other socket. */
export declare function admitted(socket: object): Admitted | undefined;
