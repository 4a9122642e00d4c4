import { useState } from "react";
import { Link } from "wouter";

import { get, save } from "../api/client";
import type { Channel, RunSummary } from "../api/types";
import { useGet } from "../api/use";
import { balances, bills, byPartner, grouped, type Row, runOf, told as sumsTold } from "../lib/bill";
import { dimension, exact, listed, money, plural, runName, short, time, used } from "../lib/format";
import { Bars, Columns } from "../ui/charts";
import { Card, Empty, Page, State, Stats, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

type Verification = { verdict: string; channels: number; receipts: number; findings: string[]; findings_omitted: number };

const VERDICTS: Record<string, [string, string]> = {
  valid: ["good", "Valid: every signature, link and amount is right, and both sides signed"],
  valid_with_tail: ["warn", "Valid; the newest entries are not acknowledged yet"],
  invalid: ["bad", "Invalid: something in it is wrong or was changed"],
  equivocation: ["bad", "Equivocation: a party signed two things for one place, and here is the proof"],
};

function Receipts({ channels, runs }: { channels: Channel[]; runs: RunSummary[] }) {
  const [shown, setShown] = useState(50);
  const known = new Map(runs.map((run) => [run.id, run]));
  const rows = channels.flatMap((channel) => channel.lanes.map((lane) => ({ channel, lane })));
  if (rows.length === 0) return <Card><Empty title="No receipts yet">Each attempt at another organisation, and each of theirs here, leaves one that both sides sign.</Empty></Card>;
  return (
    <div className="stack">
      <Card flush>
        <Table
          label="Receipts"
          rows={rows.slice(0, shown)}
          id={({ channel, lane }) => `${channel.channel} ${lane.lane}`}
          columns={[
            { head: "Partner", cell: ({ channel }) => (channel.side === "consumer" ? channel.provider_org ?? short(channel.provider) : channel.consumer_org ?? short(channel.consumer)) },
            { head: "Side", cell: ({ channel }) => (channel.side === "consumer" ? "spent" : "earned") },
            {
              head: "For",
              cell: ({ channel, lane }) => {
                const run = known.get(runOf(lane.attempt));
                return run !== undefined && channel.side === "consumer" ? <Link href={`/runs/${run.id}`}>{run.workflow} <span className="mono small">{runName(run.id)}</span></Link> : <span className="mono small soft">{lane.attempt.slice(0, 20)}…</span>;
              },
            },
            { head: "State", cell: ({ lane }) => <State word={lane.state} /> },
            { head: "Used", cell: ({ lane }) => <span className="small soft">{Object.entries(lane.used).filter(([, count]) => count > 0).map(([what, count]) => `${dimension(what)} ${used(what, count)}`).join(", ")}</span> },
            { head: "Claimed", num: true, cell: ({ channel, lane }) => <span title={`${exact(lane.claimed)} ${channel.currency}`}>{money(lane.claimed, channel.currency)}</span> },
            { head: "Acknowledged", num: true, cell: ({ channel, lane }) => money(lane.earned, channel.currency) },
          ]}
        />
      </Card>
      {rows.length > shown && <button type="button" className="button" onClick={() => setShown(shown + 200)}>Show more of {rows.length}</button>}
    </div>
  );
}

function Channels({ channels }: { channels: Channel[] }) {
  return (
    <Card flush>
      <Table
        label="Channels"
        rows={channels}
        id={(channel) => channel.channel}
        columns={[
          { head: "Partner", cell: (channel) => <><strong>{(channel.side === "consumer" ? channel.provider_org : channel.consumer_org) ?? "unknown"}</strong> <span className="mono small soft">{short(channel.side === "consumer" ? channel.provider : channel.consumer)}</span></> },
          { head: "You", cell: (channel) => (channel.side === "consumer" ? "consume" : "provide") },
          { head: "State", cell: (channel) => <><State word={channel.state} />{channel.reason !== null && <><br /><span className="small soft">{channel.reason}</span></>}</> },
          { head: "Receipts", num: true, cell: (channel) => channel.lanes.length },
          { head: "Claimed", num: true, cell: (channel) => <span title={`${exact(channel.claimed)} ${channel.currency}`}>{money(channel.claimed, channel.currency)}</span> },
          { head: "Acknowledged", num: true, cell: (channel) => <span title={`${exact(channel.earned)} ${channel.currency}`}>{money(channel.earned, channel.currency)}</span> },
        ]}
      />
    </Card>
  );
}

function Bills({ channels, runs }: { channels: Channel[]; runs: RunSummary[] }) {
  const rows = bills(channels, runs);
  if (rows.length === 0) return <Card><Empty title="No bill yet">Each run that others work for has one, attempt by attempt.</Empty></Card>;
  return (
    <Card flush>
      <Table label="Bills" rows={rows} id={(bill) => bill.id} columns={[
        { head: "For", cell: ({ run }) => (run === null ? "services and others" : <><Link href={`/runs/${run.id}#bill`}>{run.workflow}</Link> <span className="soft mono small">{runName(run.id)}</span></>) },
        { head: "Submitted", num: true, cell: ({ run }) => (run === null ? "" : time(run.submitted_ms)) },
        { head: "Attempts", num: true, cell: (bill) => bill.attempts },
        { head: "Providers", cell: (bill) => listed(bill.providers) },
        { head: "Claimed", num: true, cell: (bill) => sumsTold(bill.claimed) },
        { head: "Acknowledged", num: true, cell: (bill) => sumsTold(bill.earned) },
      ]} />
    </Card>
  );
}

function Charts({ channels, runs }: { channels: Channel[]; runs: RunSummary[] }) {
  const [side, setSide] = useState<Channel["side"]>("consumer");
  const partners = byPartner(channels, side);
  const { byWorkflow, byResource, byNode, byDay } = grouped(channels, side, runs);
  const word = side === "consumer" ? "Spent" : "Earned";
  const bars = (by: string, found: Row[]) => (
    <Card title={`${word}, by ${by}`}>{found.length === 0 ? <p className="soft">Nothing yet.</p> : <Bars label={`${word} by ${by}`} rows={found.slice(0, 12)} />}</Card>
  );
  return (
    <div className="stack">
      <div className="chips" role="group" aria-label="Which side">
        {(["consumer", "provider"] as const).map((one) => <button key={one} type="button" className="chip" aria-pressed={side === one} onClick={() => setSide(one)}>{one === "consumer" ? "Spent" : "Earned"}</button>)}
      </div>
      <div className="halves">
        {bars("partner", partners)}
        {bars("what was used", byResource)}
        {side === "consumer" && bars("workflow", byWorkflow)}
        {bars("node", byNode)}
        <Card title={`${word}, by day`}>{byDay.length === 0 ? <p className="soft">Nothing yet.</p> : <Columns label={`${word} by day`} rows={byDay} />}</Card>
      </div>
    </div>
  );
}

export default function Ledger() {
  const ledger = useGet<Channel[]>("/ledger", 5_000);
  const runs = useGet<RunSummary[]>("/runs", 10_000);
  const [checked, setChecked] = useState<Verification | null>(null);
  const { run, isBusy, error } = useAction();
  const verify = () => run(async () => setChecked(await get<Verification>("/ledger/verification")));
  const channels = ledger.data;
  const told = channels === undefined ? null : balances(channels);
  const verdict = checked === null ? undefined : VERDICTS[checked.verdict];
  return (
    <Page
      title="Ledger"
      lead="Who used what of whom, and what it costs. Both sides sign every receipt; anyone can check the export offline."
      actions={
        <>
          <button type="button" className="button" disabled={isBusy} onClick={verify}>Verify</button>
          <button type="button" className="button main" disabled={isBusy} onClick={() => run(() => save("/ledger/export", "opencloud.ledger"))}>Export</button>
        </>
      }
    >
      <div className="stack">
        <Trouble error={error} />
        {checked !== null && verdict !== undefined && (
          <div className={`note ${verdict[0]}`} role="status">
            <strong>{verdict[1]}</strong>
            {plural(checked.receipts, "receipt")} in {plural(checked.channels, "channel")}.
            {checked.findings.length > 0 && <ul>{checked.findings.slice(0, 10).map((finding) => <li key={finding}>{finding}</li>)}</ul>}
          </div>
        )}
        {channels === undefined || told === null ? (ledger.isPending ? <Wait what="the ledger" /> : <Trouble error={ledger.error} />) : (
          <>
            <Stats stats={[["Spent", sumsTold(told.spent), "claimed by receipts"], ["Earned", sumsTold(told.earned), "claimed by receipts"], ["Channels", channels.length], ["Receipts", channels.reduce((sum, channel) => sum + channel.lanes.length, 0)]]} />
            {channels.length === 0 ? <Card><Empty title="Nothing was used yet">The first task at another organisation's node opens a channel.</Empty></Card> : (
              <Tabs label="Ledger" tabs={[
                { id: "charts", name: "Charts", body: <Charts channels={channels} runs={runs.data ?? []} /> },
                { id: "channels", name: "Balances", body: <Channels channels={channels} /> },
                { id: "bills", name: "Bills", body: <Bills channels={channels} runs={runs.data ?? []} /> },
                { id: "receipts", name: "Receipts", body: <Receipts channels={channels} runs={runs.data ?? []} /> },
              ]} />
            )}
          </>
        )}
      </div>
    </Page>
  );
}
