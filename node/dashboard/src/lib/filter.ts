// Writes filters in the node's own language: `kind = data and text ~ "slope"`. The node reads and checks them.

export const KINDS = ["data", "algorithm", "compute", "storage", "workflow", "service", "disk"] as const;
export type Kind = (typeof KINDS)[number];

/** A text as the language writes it. */
export function quoted(text: string): string {
  return `"${text.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

export type Wanted = { kind: Kind | null; text: string; free: boolean; more: string };

export function filterOf({ kind, text, free, more }: Wanted): string {
  const parts: string[] = [];
  if (kind !== null) parts.push(`kind = ${kind}`);
  if (text.trim() !== "") parts.push(`(text ~ ${quoted(text.trim())} or key ~ ${quoted(text.trim())} or org ~ ${quoted(text.trim())})`);
  if (free) parts.push("free = true");
  if (more.trim() !== "") parts.push(`(${more.trim()})`);
  return parts.join(" and ");
}
