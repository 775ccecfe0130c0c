// Compiled and not run: what the types say, and what they forbid.
import https from "node:https";
import { AWS_NITRO, Admitted, Refused, Verifier, load } from "anchorhold";
import { Attested, admitted, attested } from "anchorhold/node";

const verifier: Verifier = await load();
const said: Admitted = verifier.verify(new Uint8Array(), {
  anchors: [AWS_NITRO],
  expect: { pcrs: { 0: "ab", 8: ["cd", "ef"] }, nonce: new Uint8Array(32) },
  time: { maxAgeMs: 1000 },
});
const key: Uint8Array | null = said.publicKey;
const enclave: Attested = await attested({ expect: { pcrs: { 0: "ab" } } });
const agent: https.Agent = enclave.agent({ maxSockets: 4 });
https.get("https://cards.example:8443/", { agent }, (answer) => {
  const who: Admitted | undefined = admitted(answer.socket);
  console.log(who?.moduleId, key);
});
try {
  await enclave.connect({ host: "cards.example", port: 8443, protocol: "h2" });
} catch (error) {
  if (error instanceof Refused) console.log(error.step, error.names.join(), error.differences[0]?.what);
}
verifier.verify(new Uint8Array(), { expect: { anyImage: true }, time: { at: new Date() } });
verifier.verify(new Uint8Array(), { expect: { anyImage: true }, time: "document" });

// @ts-expect-error nobody but the verifier admits
new Admitted();
// @ts-expect-error nor makes a verifier
new Verifier();
// @ts-expect-error nor a way around the check
new Attested();
// @ts-expect-error the nonce is the channel's own
await attested({ expect: { pcrs: { 0: "ab" }, nonce: new Uint8Array() } });
// @ts-expect-error there is no such word
await attested({ expect: { pcr0: "ab" } });
// @ts-expect-error something is expected, or anyImage said
verifier.verify(new Uint8Array(), {});
// @ts-expect-error what was admitted is not changed
said.debug = false;
