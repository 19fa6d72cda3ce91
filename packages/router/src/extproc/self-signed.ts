import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { bitString, contextTag, integer, objectId, sequence, setOf, time, utf8String } from "./der.ts";

export interface KeyPair {
  /** PEM */
  readonly certificate: Buffer;
  /** PEM, PKCS #8 */
  readonly key: Buffer;
}

const dayMs = 86_400_000;
const validForMs = 3_650 * dayMs;
const ecdsaWithSha256 = "1.2.840.10045.4.3.2";
const commonName = "2.5.4.3";

/**
 * A certificate (X.509 v3, RFC 5280) for the lifetime of this process. Gateways do not check those of endpoint pickers, they only want TLS (Gateway API
 * Inference Extension). EC P-256 is made in milliseconds, RSA would take seconds.
 *
 * Written out in place of a library: Node makes keys and signatures but no certificates, and those that do (`@peculiar/x509`, `selfsigned`) come with some
 * twenty packages and a global polyfill for one certificate that nobody verifies.
 *
 * @param now - ms since the epoch
 */
export function makeSelfSigned(now: number): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const certificate = certificateOf(publicKey, privateKey, now);
  const base64 = certificate.toString("base64").replace(/.{64}(?=.)/g, "$&\n");
  return {
    certificate: Buffer.from(`-----BEGIN CERTIFICATE-----\n${base64}\n-----END CERTIFICATE-----\n`),
    key: Buffer.from(privateKey.export({ type: "pkcs8", format: "pem" })),
  };
}

function certificateOf(publicKey: KeyObject, privateKey: KeyObject, now: number): Buffer {
  const algorithm = sequence(objectId(ecdsaWithSha256));
  const name = sequence(setOf(sequence(objectId(commonName), utf8String("kvatlas endpoint picker"))));
  const serial = randomBytes(16);
  // Positive, and no leading zero.
  serial[0] = 0x40 | ((serial[0] ?? 0) & 0x3f);
  const toBeSigned = sequence(
    contextTag(0, integer(Buffer.from([2]))),
    integer(serial),
    algorithm,
    name,
    // Clocks differ.
    sequence(time(now - dayMs), time(now + validForMs)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
  );
  return sequence(toBeSigned, algorithm, bitString(sign("sha256", toBeSigned, privateKey)));
}
