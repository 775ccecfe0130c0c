/** AWS's root for Nitro enclaves, among `anchors`. */
export declare const AWS_NITRO: "aws-nitro";

/** What must hold of a document: all of it. At least one of PCR0, 1, 2 and 8, or `anyImage`. */
export interface Expect {
  /** By index 0 to 31, in hexadecimal. Several: any of them. */
  readonly pcrs?: Readonly<Record<number, string | readonly string[]>>;
  readonly nonce?: Uint8Array;
  readonly userData?: Uint8Array;
  readonly publicKey?: Uint8Array;
  readonly moduleId?: string;
  /** ARN of the instance's role (PCR3). */
  readonly role?: string;
  /** Id of the instance (PCR4). */
  readonly instance?: string;
  /** DER of the certificate that signed the image (PCR8). */
  readonly signedBy?: Uint8Array;
  /** Says aloud that the image does not matter. */
  readonly anyImage?: boolean;
  /** Admits enclaves in debug mode, into which their host sees. */
  readonly allowDebug?: boolean;
}

/** Whom to trust, and what to expect. */
export interface Terms {
  /** Roots: `AWS_NITRO`, or certificates in PEM. AWS's alone where nothing is said. */
  readonly anchors?: readonly string[];
  readonly expect: Expect;
}

/**
 * When a document is judged: now, and fresh (five minutes of age and of skew where nothing is said); at an instant; or at its
 * own timestamp, for archives. Instants are dates, or milliseconds since 1970.
 */
export type Time =
  | { readonly now?: Date | number; readonly maxAgeMs?: number; readonly maxSkewMs?: number }
  | { readonly at: Date | number }
  | "document";

export interface VerifyOptions extends Terms {
  readonly time?: Time;
  /** Keys that documents do not have are skipped rather than refused. */
  readonly ignoreUnknownKeys?: boolean;
}

/** Which step refused. */
export type Step = "tls" | "io" | "time" | "answer" | "form" | "truth" | "expectations";

/** A document was refused, or a channel. */
export declare class Refused extends Error {
  constructor(step: Step, names: readonly string[], message: string, differences?: readonly Difference[]);
  readonly step: Step;
  /** Stable names of what is wrong. */
  readonly names: readonly string[];
  /** Each thing that differs from what was expected. */
  readonly differences: readonly Difference[];
}

/** One thing that differs; byte strings in hexadecimal, `null` for what is absent. */
export interface Difference {
  readonly what: "no-image-expected" | "debug" | "pcr" | "nonce" | "user-data" | "public-key" | "module-id";
  readonly index?: number;
  readonly expected?: string | readonly string[];
  readonly found?: string | null;
}

/** What a document says that was verified and is as expected. Only the verifier makes one. */
export declare class Admitted {
  private constructor();
  readonly moduleId: string;
  readonly timestampMs: number;
  readonly debug: boolean;
  readonly pcrs: Readonly<Record<number, string>>;
  readonly publicKey: Uint8Array | null;
  readonly userData: Uint8Array | null;
  readonly nonce: Uint8Array | null;
  /** SHA-256 of the root that it chains to. */
  readonly anchor: string;
  readonly certificateNotAfterMs: number;
}

/** Judges documents. `load` makes one. */
export declare class Verifier {
  private constructor();
  /** @throws {Refused} where it is not admitted. */
  verify(document: Uint8Array, options: VerifyOptions): Admitted;
}

/** Loads the module: from beside this file, or from what is given. */
export declare function load(
  source?: string | URL | ArrayBuffer | Uint8Array | WebAssembly.Module,
): Promise<Verifier>;
