// What the ledger's channels come to, by whatever people ask.

import type { Channel, RunSummary } from "../api/types";
import { dimension, money } from "./format";

/** Sums in nano-units by currency. */
export type Sums = Map<string, bigint>;

export function add(sums: Sums, currency: string, amount: number | bigint): void {
  sums.set(currency, (sums.get(currency) ?? 0n) + BigInt(amount));
}

/** Sums as people read them. */
export function told(found: Sums): string {
  return found.size === 0 ? "nothing" : [...found].map(([currency, amount]) => money(amount, currency)).join(", ");
}

/** What this node owes others, and what others owe it. */
export function balances(channels: Channel[]): { spent: Sums; earned: Sums } {
  const told = { spent: new Map<string, bigint>(), earned: new Map<string, bigint>() };
  for (const channel of channels) {
    add(channel.side === "consumer" ? told.spent : told.earned, channel.currency, channel.claimed);
  }
  return told;
}

export type Row = { key: string; label: string; amount: bigint; currency: string };

function rows(sums: Map<string, Row>): Row[] {
  return [...sums.values()].sort((a, b) => (a.amount === b.amount ? a.label.localeCompare(b.label) : a.amount > b.amount ? -1 : 1));
}

function put(sums: Map<string, Row>, key: string, label: string, currency: string, amount: number): void {
  const at = `${key} ${currency}`;
  const row = sums.get(at) ?? { key, label, amount: 0n, currency };
  sums.set(at, { ...row, amount: row.amount + BigInt(amount) });
}

export function byPartner(channels: Channel[], side: Channel["side"]): Row[] {
  const sums = new Map<string, Row>();
  for (const channel of channels.filter((one) => one.side === side)) {
    const partner = side === "consumer" ? channel.provider_org : channel.consumer_org;
    const node = side === "consumer" ? channel.provider : channel.consumer;
    put(sums, partner ?? node, partner ?? `node …${node.slice(-6)}`, channel.currency, channel.claimed);
  }
  return rows(sums);
}

/** The run of a lane's attempt, `run-…/step.index#number`. */
export function runOf(attempt: string): string {
  return attempt.split("/", 1)[0] ?? attempt;
}

export type BillLine = { provider: string; currency: string; attempt: string; state: string; claimed: number; earned: number; used: Record<string, number> };

/** What the attempts of a run cost at other organisations. */
export function billOf(channels: Channel[], run: string): BillLine[] {
  return channels
    .filter((channel) => channel.side === "consumer")
    .flatMap((channel) =>
      channel.lanes
        .filter((lane) => runOf(lane.attempt) === run)
        .map((lane) => ({ ...lane, provider: channel.provider_org ?? channel.provider, currency: channel.currency })),
    );
}

/** What a bill comes to, by provider. */
export function totals(lines: BillLine[]): Row[] {
  const sums = new Map<string, Row>();
  for (const line of lines) put(sums, line.provider, line.provider, line.currency, line.claimed);
  return rows(sums);
}

/** The bill of a run of this node in a line; of what no run here asked for, as services and bookings, `run` is null. */
export type RunBill = { id: string; run: RunSummary | null; attempts: number; providers: string[]; claimed: Sums; earned: Sums };

/** The bills of all runs, newest first, and after them what else was used of others. */
export function bills(channels: Channel[], runs: RunSummary[]): RunBill[] {
  const known = new Map(runs.map((run) => [run.id, run]));
  const found = new Map<string, RunBill>();
  for (const channel of channels.filter((one) => one.side === "consumer")) {
    for (const lane of channel.lanes) {
      const run = known.get(runOf(lane.attempt)) ?? null;
      const id = run?.id ?? "";
      const bill: RunBill = found.get(id) ?? { id, run, attempts: 0, providers: [], claimed: new Map(), earned: new Map() };
      const provider = channel.provider_org ?? channel.provider;
      if (!bill.providers.includes(provider)) bill.providers.push(provider);
      bill.attempts += 1;
      add(bill.claimed, channel.currency, lane.claimed);
      add(bill.earned, channel.currency, lane.earned);
      found.set(id, bill);
    }
  }
  return [...found.values()].sort((a, b) => (b.run?.submitted_ms ?? -1) - (a.run?.submitted_ms ?? -1));
}

export type Grouped = { byWorkflow: Row[]; byResource: Row[]; byNode: Row[]; byDay: Row[] };

/** What was spent or earned: by workflow, by what was used of a node, by node, and by the day on which it was agreed. Lanes of runs that
 * this node does not know, as of services and of others' runs, count as "services and others"; what is fixed, rounded up or cut at the
 * most that was agreed stands by itself beside what was used. */
export function grouped(channels: Channel[], side: Channel["side"], runs: RunSummary[]): Grouped {
  const known = new Map(runs.map((run) => [run.id, run]));
  const [workflows, resources, nodes, days] = [new Map<string, Row>(), new Map<string, Row>(), new Map<string, Row>(), new Map<string, Row>()];
  for (const channel of channels.filter((one) => one.side === side)) {
    const { currency } = channel;
    const [node, org] = side === "consumer" ? [channel.provider, channel.provider_org] : [channel.consumer, channel.consumer_org];
    for (const lane of channel.lanes) {
      const name = known.get(runOf(lane.attempt))?.workflow ?? "services and others";
      put(workflows, name, name, currency, lane.claimed);
      put(nodes, node, `${org ?? "unknown"}, node …${node.slice(-6)}`, currency, lane.claimed);
      if (lane.agreed_ms != null) {
        const day = new Date(lane.agreed_ms).toISOString().slice(0, 10);
        put(days, day, day, currency, lane.claimed);
      }
      let rest = lane.claimed;
      for (const [what, cost] of Object.entries(lane.costs)) {
        put(resources, what, dimension(what), currency, cost);
        rest -= cost;
      }
      if (rest !== 0) put(resources, "rest", rest > 0 ? "fixed and rounded up" : "above what was agreed, not billed", currency, rest);
    }
  }
  return { byWorkflow: rows(workflows), byResource: rows(resources), byNode: rows(nodes), byDay: [...days.values()].sort((a, b) => (a.key < b.key ? -1 : 1)) };
}
