// A service document, as far as the page has to know what to send along with it.

import { parseDocument } from "yaml";

export const EMPTY = `opencloud: service/v1
name: hello
run: {wasi: {module: hello.wasm}}
ports: {http: 8080}
replicas: 1
health: {http: {port: http, path: /}, every: 5s}
`;

/** What a document names: files by path and content by digest. An image of containers is found by the nodes themselves. */
export type Named = { name: string; files: string[]; digests: string[]; problem: string | null };

const PROGRAMS = ["module", "program", "disk", "kernel", "initrd"] as const;

export function named(text: string): Named {
  const none = { name: "", files: [], digests: [] };
  const doc = parseDocument(text);
  const wrong = doc.errors[0];
  if (wrong !== undefined) return { ...none, problem: wrong.message.split("\n", 1)[0] ?? "not YAML" };
  const root = doc.toJS({ maxAliasCount: 100 }) as { name?: unknown; run?: Record<string, Record<string, unknown>> } | null;
  const program = Object.values(root?.run ?? {})[0] ?? {};
  const all = PROGRAMS.map((key) => program[key]).filter((value): value is string => typeof value === "string");
  const isDigest = (value: string) => value.startsWith("blake3:");
  return { name: String(root?.name ?? ""), files: all.filter((value) => !isDigest(value)), digests: all.filter(isDigest), problem: null };
}
