// Figures as people read them. Money is whole nano-units all the way: `BigInt`, no floating point.

const NANO = 1_000_000_000n;

/** All digits of an amount of nano-units: `0.000000423`. */
export function exact(nano: number | bigint): string {
  const value = BigInt(nano);
  const size = value < 0n ? -value : value;
  const whole = (size / NANO).toLocaleString("en").replaceAll(",", "\u202f");
  const part = (size % NANO).toString().padStart(9, "0").replace(/0+$/, "");
  return `${value < 0n ? "−" : ""}${whole}${part === "" ? "" : `.${part}`}`;
}

/** An amount in short: two decimals, or three digits that count of less than a cent. */
export function money(nano: number | bigint, currency: string): string {
  const value = BigInt(nano);
  const size = value < 0n ? -value : value;
  if (size === 0n) return `0 ${currency}`;
  const digits = size.toString().length;
  // 10 000 000 nano-units are a cent.
  const step = size >= 10_000_000n ? 10_000_000n : 10n ** BigInt(Math.max(0, digits - 3));
  const rounded = ((size + step / 2n) / step) * step;
  return `${exact(value < 0n ? -rounded : rounded)} ${currency}`;
}

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count: number): string {
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < BYTES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${BYTES[unit]}`;
}

export function cores(milli: number): string {
  return (milli / 1000).toLocaleString("en", { maximumFractionDigits: 2 });
}

/** A length of time: `430 ms`, `2.4 s`, `5 min 3 s`, `2 h 10 min`, `3 d 4 h`. */
export function span(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  const units: [number, string][] = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1_000, "s"]];
  const at = units.findIndex(([size]) => ms >= size);
  const [big, small] = [units[at]!, units[at + 1]];
  const whole = Math.floor(ms / big[0]);
  const rest = small === undefined ? 0 : Math.floor((ms % big[0]) / small[0]);
  return `${whole} ${big[1]}${rest > 0 && small !== undefined ? ` ${rest} ${small[1]}` : ""}`;
}

export function ago(at: number, now: number): string {
  const ms = now - at;
  return ms < 5_000 ? "just now" : `${span(ms - (ms % (ms < 60_000 ? 1_000 : 60_000)))} ago`;
}

export function time(ms: number): string {
  return new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** The end of an id, which tells ids apart: all of them begin alike. */
export function short(id: string): string {
  return id.length > 16 ? `${id.startsWith("did:key:") ? "did:key:…" : "…"}${id.slice(-6)}` : id;
}

export function runName(id: string): string {
  return id.replace(/^run-/, "").slice(0, 8);
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/** A price row as `opencloud` shows it: per core-hour, GiB-hour, GB. */
export function priceRow(row: { dimension: string; amount_nano: number; per: number }, currency: string): string {
  const bases: Record<string, [number, string]> = {
    cpu: [3_600_000_000, "core-hour"],
    vcpu_alloc: [3_600_000_000, "core-hour"],
    set_up: [3_600_000_000, "hour"],
    gpu: [3_600_000_000, "hour"],
    mem: [3_774_873_600, "GiB-hour"],
    storage: [3_774_873_600, "GiB-hour"],
    net_in: [1_000_000_000, "GB"],
    net_out: [1_000_000_000, "GB"],
  };
  const base = bases[row.dimension];
  const unit = base !== undefined && base[0] === row.per ? base[1] : `${row.per.toLocaleString("en")} units`;
  return `${exact(row.amount_nano)} ${currency} per ${unit}`;
}

const DIMENSIONS: Record<string, string> = {
  cpu: "Processor",
  mem: "Memory",
  storage: "Disk",
  io: "Input and output",
  fuel: "Fuel",
  net_in: "Network in",
  net_out: "Network out",
  vcpu_alloc: "Reserved cores",
  gpu: "Accelerators",
  energy: "Energy",
  requests: "Requests",
  set_up: "Setting up",
};

export function dimension(word: string): string {
  return DIMENSIONS[word] ?? word;
}

/** What was used of a dimension, in its base units, as `opencloud ledger show` tells it. */
export function used(word: string, count: number): string {
  switch (word) {
    case "cpu":
    case "vcpu_alloc":
    case "gpu":
    case "set_up":
      return span(count / 1_000);
    case "mem":
    case "storage":
      return `${bytes(count * 1_024)}·s`;
    case "net_in":
    case "net_out":
    case "io":
      return bytes(count);
    default:
      return count.toLocaleString("en");
  }
}

export function roundTrip(us: number): string {
  return us < 1_000 ? `${us} µs` : us < 10_000 ? `${(us / 1_000).toFixed(1)} ms` : span(us / 1_000);
}

/** Words with commas between them. */
export const listed = (all: readonly string[]): string => all.join(", ");

/** The words of a text that has commas between them. */
export const words = (text: string): string[] => text.split(",").map((one) => one.trim()).filter((one) => one !== "");
