// Rule books of areas, as sentences and as they are written.

import type { AreaRule, RuleBook } from "../api/areas";
import type { Spot } from "../ui/code";

/** What a cap on prices counts. */
export const PRICE_UNITS = ["run", "cpu_hour", "memory_gib_hour", "storage_gib_hour", "net_gib", "device_hour"] as const;

const KINDS = ["residency", "licences", "personal", "organisations", "price", "runtimes"] as const;
export type RuleKind = (typeof KINDS)[number];

export const RULE_KINDS: [RuleKind, string][] = [
  ["residency", "Data is kept and work runs in these regions alone"],
  ["licences", "What is shared has one of these licences"],
  ["personal", "Personal data never leaves the organisation that published it"],
  ["organisations", "Work is done by these organisations alone"],
  ["price", "Nothing costs more than this"],
  ["runtimes", "Work runs in these runtimes alone"],
];

export function kindOf(rule: AreaRule): RuleKind | null {
  return KINDS.find((kind) => rule[kind] !== undefined) ?? null;
}

/** A rule as a sentence; `name` says what an organisation is called. */
export function sentence(rule: AreaRule, name: (org: string) => string = (org) => org): string {
  const list = (all: string[] | undefined) => (all ?? []).join(", ");
  switch (kindOf(rule)) {
    case "residency": return `Data is kept and work runs in ${list(rule.residency)} alone`;
    case "licences": return `What is shared has one of these licences: ${list(rule.licences)}`;
    case "personal": return "Personal data never leaves the organisation that published it";
    case "organisations": return `Work is done by ${list(rule.organisations?.map(name))} alone`;
    case "price": return `Nothing costs more than ${rule.price?.max} per ${rule.price?.per.replaceAll("_", " ")}`;
    case "runtimes": return `Work runs in ${list(rule.runtimes)} alone`;
    default: return JSON.stringify(rule);
  }
}

/** What is wrong with a rule book before the node is asked: its form, not its meaning. */
export function read(text: string): { book: RuleBook | null; spots: Spot[] } {
  let found: unknown;
  try {
    found = JSON.parse(text);
  } catch (error) {
    const told = error instanceof Error ? error.message : String(error);
    const at = Number(/position (\d+)/.exec(told)?.[1] ?? text.length);
    const before = text.slice(0, at).split("\n");
    return { book: null, spots: [{ line: before.length, column: (before.at(-1)?.length ?? 0) + 1, problem: told }] };
  }
  const rules = (found as { rules?: unknown } | null)?.rules;
  if (!Array.isArray(rules)) return { book: null, spots: [{ line: 1, column: 1, problem: "a rule book is {\"rules\": [...]}" }] };
  const spots = rules.flatMap((rule: AreaRule, at) => {
    const kinds = KINDS.filter((kind) => rule?.[kind] !== undefined).length;
    return kinds === 1 ? [] : [{ line: lineOf(text, at), column: 1, problem: `rule ${at + 1} has ${kinds === 0 ? "no kind" : "more than one kind"}`, hint: `it has one of ${KINDS.join(", ")}` }];
  });
  return { book: spots.length === 0 ? (found as RuleBook) : null, spots };
}

/** The line on which a rule of a list begins, counted by the braces that open below the list's own. */
function lineOf(text: string, wanted: number): number {
  let [depth, seen, line, isText] = [0, -1, 1, false];
  for (let at = 0; at < text.length; at += 1) {
    const c = text[at];
    if (c === "\n") line += 1;
    if (isText) {
      if (c === "\\") at += 1;
      else if (c === '"') isText = false;
    } else if (c === '"') isText = true;
    else if (c === "{") {
      depth += 1;
      if (depth === 2) seen += 1;
      if (depth === 2 && seen === wanted) return line;
    } else if (c === "}") depth -= 1;
  }
  return 1;
}

export const write = (book: RuleBook): string => {
  const lines = book.rules.map((rule) => `    ${JSON.stringify(rule)}`);
  return lines.length === 0 ? '{\n  "rules": []\n}\n' : `{\n  "rules": [\n${lines.join(",\n")}\n  ]\n}\n`;
};
