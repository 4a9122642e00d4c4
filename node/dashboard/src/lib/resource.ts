// What a resource's own kind says, as name and value for people.

import type { Description, Detail, Price } from "../api/types";
import { bytes, cores, span } from "./format";

export type Fact = [string, string];

const LABELS: Record<string, string> = {
  media_type: "Type", digest: "Digest", size: "Size", directory: "Directory", quality: "Quality", personal: "Personal data", anonymised: "Anonymised",
  open: "Open", update_s: "Updated every", residency: "Has to stay in", runtime: "Runtime", version: "Version", maturity: "Maturity", manifest: "Manifest",
  arch: "Architecture", runtimes: "Runtimes", cpu_milli: "Cores", memory_bytes: "Memory", disk_bytes: "Disk", accelerators: "Accelerators", region: "Region",
  energy: "Energy", addresses: "Addresses", network: "Network for tasks", exec: "Sessions for", device_for: "Devices for", class: "Class",
  capacity_bytes: "Capacity", copies: "Copies", endpoint: "Endpoint", steps: "Steps", protocol: "Protocol", interface: "Interface", inputs: "Takes", outputs: "Gives",
};

function port(value: unknown): string {
  const found = value as { name: string; type: string; optional?: boolean };
  return `${found.name}: ${found.type}${found.optional ? ", optional" : ""}`;
}

function text(name: string, value: unknown): string {
  if (name === "update_s") return span(Number(value) * 1_000);
  if (name === "cpu_milli") return cores(Number(value));
  if (name === "size" || name.endsWith("_bytes")) return bytes(Number(value));
  if (name === "inputs" || name === "outputs") return (value as unknown[]).map(port).join("\n");
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function facts(resource: Description): Fact[] {
  const detail = resource.detail as Detail;
  return Object.entries(detail)
    .filter(([name, value]) => name !== "kind" && value !== null && value !== "" && !(Array.isArray(value) && value.length === 0))
    .map(([name, value]) => [LABELS[name] ?? name, text(name, value)]);
}

/** The two or three facts that matter most, in a line. */
export function gist(resource: Description): string {
  const detail = resource.detail as Detail;
  const num = (name: string) => Number(detail[name] ?? 0);
  switch (detail.kind) {
    case "compute": return `${cores(num("cpu_milli"))} cores, ${bytes(num("memory_bytes"))}, ${String(detail.arch)}${detail.region ? `, ${String(detail.region)}` : ""}`;
    case "data": return `${String(detail.media_type)}, ${bytes(num("size"))}`;
    case "algorithm": return `${String(detail.runtime)}, ${bytes(num("size"))}, ${String(detail.maturity)}`;
    case "storage": return `${String(detail.class)}, ${bytes(num("capacity_bytes"))}`;
    case "workflow": return `${num("steps")} steps, ${String(detail.maturity)}`;
    case "service": return `${String(detail.protocol)}, ${String(detail.maturity)}`;
    case "disk": return `${String(detail.format ?? "")} ${bytes(num("size"))}`;
    default: return "";
  }
}

export function priceOf(resource: Description): Price | null {
  return (resource.price as Price | undefined) ?? null;
}

export function isFree(price: Price): boolean {
  return price.fixed === 0 && price.rows.every((row) => row.amount_nano === 0);
}

/** A key out of a name: visible ASCII without spaces. */
export function keyOf(kind: string, name: string): string {
  const word = name.normalize("NFKD").replaceAll(/[\u0300-\u036f]/g, "").toLowerCase().replaceAll(/[^a-z0-9.]+/g, "-").replaceAll(/^-+|-+$/g, "");
  return `${kind}/${word === "" ? "unnamed" : word}`.slice(0, 128);
}
