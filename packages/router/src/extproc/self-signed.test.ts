import { createPrivateKey, X509Certificate } from "node:crypto";
import { describe, expect, it } from "vitest";
import { objectId, time } from "./der.ts";
import { makeSelfSigned } from "./self-signed.ts";

describe("makeSelfSigned", () => {
  it("makes a certificate that is valid for years, with its key", () => {
    const now = Date.parse("2026-05-01T10:00:00Z");
    const { certificate, key } = makeSelfSigned(now);
    const read = new X509Certificate(certificate);
    expect(read.subject).toBe("CN=kvatlas endpoint picker");
    expect(read.verify(read.publicKey)).toBe(true);
    expect(read.checkPrivateKey(createPrivateKey(key))).toBe(true);
    expect(read.publicKey.asymmetricKeyDetails?.namedCurve).toBe("prime256v1");
    expect(Date.parse(read.validFrom)).toBe(now - 86_400_000);
    expect(Date.parse(read.validTo)).toBeGreaterThan(Date.parse("2036-01-01"));
  });
});

describe("DER", () => {
  it("writes object identifiers and times", () => {
    expect(objectId("1.2.840.10045.4.3.2").toString("hex")).toBe("06082a8648ce3d040302");
    expect(time(Date.parse("2026-05-01T10:00:00Z")).toString("latin1")).toBe("\x17\x0d260501100000Z");
    expect(time(Date.parse("2050-05-01T10:00:00Z")).toString("latin1")).toBe("\x18\x0f20500501100000Z");
  });
});
