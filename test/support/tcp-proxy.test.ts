import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "./eventually.ts";
import { freePort } from "./redis-server.ts";
import { TcpProxy } from "./tcp-proxy.ts";

let echo: Server;
let proxy: TcpProxy;
const sockets: Socket[] = [];

beforeEach(async () => {
  const port = await freePort();
  echo = createServer((socket) => {
    socket.on("error", () => {});
    socket.pipe(socket);
  });
  echo.listen(port, "127.0.0.1");
  await once(echo, "listening");
  proxy = await TcpProxy.start(port);
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await proxy.close();
  await new Promise((resolve) => echo.close(resolve));
});

function dial(): { readonly socket: Socket; readonly received: () => string; readonly closed: Promise<unknown> } {
  const socket = connect(proxy.port, "127.0.0.1");
  sockets.push(socket);
  let text = "";
  socket.on("data", (bytes) => {
    text += bytes.toString();
  });
  socket.on("error", () => {});
  return { socket, received: () => text, closed: new Promise((resolve) => socket.on("close", resolve)) };
}

describe("TcpProxy", () => {
  it("passes bytes both ways, also in large pieces", async () => {
    const { socket, received } = dial();
    const large = "x".repeat(5_000_000);
    socket.write(large);
    await eventually(() => expect(received().length).toBe(large.length));
  });

  it("holds bytes back while stalled and lets them through, in order, afterwards", async () => {
    const { socket, received } = dial();
    socket.write("a");
    await eventually(() => expect(received()).toBe("a"));
    proxy.set({ kind: "stalled" });
    for (const letter of "bcd") socket.write(letter);
    const other = dial();
    other.socket.write("z");
    await eventually(() => expect(proxy.connections).toBe(2));
    expect(received()).toBe("a");
    proxy.set({ kind: "slow", delayMs: 20 });
    socket.write("e");
    await eventually(() => expect(received()).toBe("abcde"));
    proxy.set({ kind: "open" });
    socket.write("f");
    await eventually(() => expect([received(), other.received()]).toEqual(["abcdef", "z"]));
  });

  it("ends every connection when cut, and takes new ones once it is open again", async () => {
    const first = dial();
    first.socket.write("a");
    await eventually(() => expect(first.received()).toBe("a"));
    proxy.set({ kind: "cut" });
    await first.closed;
    const second = dial();
    await second.closed;
    expect(proxy.connections).toBe(0);
    proxy.set({ kind: "open" });
    const third = dial();
    third.socket.write("c");
    await eventually(() => expect(third.received()).toBe("c"));
  });
});
