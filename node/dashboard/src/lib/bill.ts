// What the ledger's channels come to, by whatever people ask.

import type { Channel, RunSummary } from "../api/types";

/** Sums in nano-units by currency. */
export type Sums = Map<string, bigint>;

export function add(sums: Sums, currency: string, amount: number | bigint): void {
  sums.set(currency, (sums.get(currency) ?? 0n) + BigInt(amount));
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

/** What was spent, by workflow and by the day on which a run was submitted. Lanes of runs that this node does not know, as of
 * services, count as "services and others". */
export function spending(channels: Channel[], runs: RunSummary[]): { byWorkflow: Row[]; byDay: Row[] } {
  const known = new Map(runs.map((run) => [run.id, run]));
  const [workflows, days] = [new Map<string, Row>(), new Map<string, Row>()];
  for (const channel of channels.filter((one) => one.side === "consumer")) {
    for (const lane of channel.lanes) {
      const run = known.get(runOf(lane.attempt));
      const name = run?.workflow ?? "services and others";
      put(workflows, name, name, channel.currency, lane.claimed);
      if (run !== undefined) {
        const day = new Date(run.submitted_ms).toISOString().slice(0, 10);
        put(days, day, day, channel.currency, lane.claimed);
      }
    }
  }
  return { byWorkflow: rows(workflows), byDay: [...days.values()].sort((a, b) => (a.key < b.key ? -1 : 1)) };
}
