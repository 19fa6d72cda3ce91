import type { RedisCommand } from "./redis.ts";

/* Which commands of a batch go to which slot of a Redis Cluster: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ */

export const SLOTS = 16_384;

/** CRC-16/XMODEM, as the cluster specification has it. */
const crcTable = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit += 1) crc = (crc & 0x8000) === 0 ? crc << 1 : (crc << 1) ^ 0x1021;
  return crc & 0xffff;
});

/** Slot of a key: of the part between the first `{` and the next `}` where that is not empty, else of all of it. */
export function slotOf(key: string): number {
  const open = key.indexOf("{");
  const close = open === -1 ? -1 : key.indexOf("}", open + 1);
  const hashed = close > open + 1 ? key.slice(open + 1, close) : key;
  let crc = 0;
  for (const byte of Buffer.from(hashed)) crc = ((crc << 8) & 0xffff) ^ (crcTable[((crc >> 8) ^ byte) & 0xff] ?? 0);
  return crc % SLOTS;
}

/** Commands without a key: any node may answer them. */
const keyless = new Set(["ping", "echo", "time", "info", "publish", "scan", "dbsize", "script", "config", "multi", "exec"]);

/** Slot of a command; null when it has no key. */
function slotOfCommand([name, ...args]: RedisCommand): number | null {
  const lower = name.toLowerCase();
  if (keyless.has(lower)) return null;
  const at = lower === "eval" || lower === "evalsha" ? 2 : lower === "memory" ? 1 : 0;
  const key = args[at];
  return key === undefined ? null : slotOf(String(key));
}

/** Commands that go together: one, or a transaction from MULTI to EXEC. */
export interface CommandUnit {
  /** Positions in the batch: from the first to before `to`. */
  readonly from: number;
  readonly to: number;
  /** Null: any node will do. */
  readonly slot: number | null;
}

export function unitsOf(commands: readonly RedisCommand[]): readonly CommandUnit[] {
  const units: CommandUnit[] = [];
  for (let from = 0; from < commands.length; ) {
    let to = from + 1;
    let slot = commandSlot(commands[from]);
    if (commands[from]?.[0].toLowerCase() === "multi") {
      while (to < commands.length && commands[to - 1]?.[0].toLowerCase() !== "exec") {
        slot ??= commandSlot(commands[to]);
        to += 1;
      }
    }
    units.push({ from, to, slot });
    from = to;
  }
  return units;
}

function commandSlot(command: RedisCommand | undefined): number | null {
  return command === undefined ? null : slotOfCommand(command);
}

/** Where a node says a unit is to be sent instead. */
export interface Redirection {
  readonly node: string;
  /** True while the slot is on its way there: the next command only, after ASKING. */
  readonly isAsk: boolean;
}

/** `MOVED 3999 10.0.0.7:6381` or `ASK ...`; null for any other answer. */
export function redirectionIn(reply: unknown): Redirection | null {
  if (!(reply instanceof Error)) return null;
  const match = /^(MOVED|ASK) \d+ (\S+)/.exec(reply.message);
  return match?.[2] === undefined ? null : { node: match[2], isAsk: match[1] === "ASK" };
}
