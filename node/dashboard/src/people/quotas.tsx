// How much of this node people may take, and have taken.

import { useState, type FormEvent, type ReactNode } from "react";

import { query, send } from "../api/client";
import type { Org, User } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { money, span } from "../lib/format";
import { Card, Dialog, Empty, Field, Table, Trouble, useAction, Wait } from "../ui/parts";

const DAY_MS = 86_400_000;
/** The period where none is said. */
const PERIOD_MS = 30 * DAY_MS;
/** Of an amount, in nano-units. */
const WHOLE = 1_000_000_000;

type Limits = { runs?: number; cpu_s?: number; spend?: number; currency?: string; records?: number; period_ms?: number };
type Quota = { subject: string; name?: string | null; limits: Limits; used: { runs: number; cpu_s: number; spend: number; records: number } };

/** Whom a quota is for, as people say it. */
function whom({ subject, name }: Quota): string {
  if (subject === "user:*") return "each person";
  if (name != null) return name;
  if (subject.startsWith("group:")) return `group ${subject.slice(6)}, together`;
  return subject.startsWith("org:") ? "all people, together" : subject.slice(5);
}

/** What is taken of a limit; nothing where there is none. */
function of(used: string, limit: string | null) {
  return limit === null ? <span className="soft">{used}</span> : `${used} of ${limit}`;
}

function Rows({ quotas, act }: { quotas: Quota[]; act?: (quota: Quota) => ReactNode }) {
  return (
    <Table label="Quotas" rows={quotas} id={(quota) => quota.subject} columns={[
      { head: "Whose", cell: (quota) => <strong className="wrap">{whom(quota)}</strong> },
      { head: "Runs at once", num: true, cell: ({ used, limits }) => of(String(used.runs), limits.runs == null ? null : String(limits.runs)) },
      { head: "Core time", num: true, cell: ({ used, limits }) => of(span(used.cpu_s * 1_000), limits.cpu_s == null ? null : span(limits.cpu_s * 1_000)) },
      { head: "Spent", num: true, cell: ({ used, limits }) => of(money(used.spend, limits.currency ?? "EUR"), limits.spend == null ? null : money(limits.spend, limits.currency ?? "EUR")) },
      { head: "Published", num: true, cell: ({ used, limits }) => of(String(used.records), limits.records == null ? null : String(limits.records)) },
      { head: "In", num: true, cell: ({ limits }) => span(limits.period_ms ?? PERIOD_MS) },
      ...(act === undefined ? [] : [{ head: "Act", cell: act }]),
    ]} />
  );
}

/** The quotas that apply to whoever is here. */
export function OwnQuotas() {
  const own = useGet<Quota[]>("/session/quotas", 10_000);
  if (own.data === undefined || own.data.length === 0) return null;
  return <Card title="What you may take" flush><Rows quotas={own.data} /></Card>;
}

type Kind = "person" | "group" | "each" | "all";

function Set({ quota, onClose }: { quota: Quota | null; onClose: () => void }) {
  const users = useGet<User[]>(quota === null ? "/users" : null);
  const orgs = useGet<Org[]>(quota === null ? "/orgs" : null);
  const [kind, setKind] = useState<Kind>("each");
  const [name, setName] = useState("");
  const text = (value: number | undefined, unit = 1) => (value == null ? "" : String(value / unit));
  const limits = quota?.limits ?? {};
  const [asked, setAsked] = useState({ runs: text(limits.runs), hours: text(limits.cpu_s, 3_600), spend: text(limits.spend, WHOLE), currency: limits.currency ?? "EUR", records: text(limits.records), days: text(limits.period_ms ?? PERIOD_MS, DAY_MS) });
  const set = (part: keyof typeof asked) => (event: { target: { value: string } }) => setAsked({ ...asked, [part]: event.target.value });
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const own = orgs.data?.find((one) => one.stance === "own")?.org ?? "";
  const subject = quota?.subject ?? { person: `user:${name}`, group: `group:${name.trim()}`, each: "user:*", all: `org:${own}` }[kind];
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const count = (part: string, unit = 1) => (part.trim() === "" ? undefined : Math.round(Number(part) * unit));
    const spend = count(asked.spend, WHOLE);
    const next: Limits = { runs: count(asked.runs), cpu_s: count(asked.hours, 3_600), spend, currency: spend === undefined ? undefined : asked.currency.trim().toUpperCase(), records: count(asked.records), period_ms: count(asked.days, DAY_MS) };
    run(async () => {
      await send("PUT", "/quotas", { subject, limits: next });
      refresh("/quotas", "/session/quotas");
      onClose();
    });
  };
  return (
    <Dialog title={quota === null ? "New quota" : `Quota: ${whom(quota)}`} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        {quota === null && (
          <div className="pair">
            <Field label="For">
              <select className="input" value={kind} onChange={(event) => { setKind(event.target.value as Kind); setName(""); }}>
                <option value="each">each person by itself</option>
                <option value="person">a person</option>
                <option value="group">a group, together</option>
                <option value="all">all people here, together</option>
              </select>
            </Field>
            {kind === "person" && (
              <Field label="Person">
                <select className="input" required value={name} onChange={(event) => setName(event.target.value)}>
                  <option value="">choose…</option>
                  {(users.data ?? []).map((user) => <option key={user.id} value={user.name}>{user.name}</option>)}
                </select>
              </Field>
            )}
            {kind === "group" && <Field label="Group"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>}
          </div>
        )}
        <p className="soft small">What is left empty has no limit.</p>
        <div className="pair">
          <Field label="Runs at once"><input className="input" type="number" min="0" step="1" value={asked.runs} onChange={set("runs")} /></Field>
          <Field label="Core hours"><input className="input" type="number" min="0" step="any" value={asked.hours} onChange={set("hours")} /></Field>
          <Field label="Spending"><input className="input" type="number" min="0" step="any" value={asked.spend} onChange={set("spend")} /></Field>
          <Field label="Currency"><input className="input" pattern="[A-Za-z]{3}" title="Three letters, like EUR" maxLength={3} value={asked.currency} onChange={set("currency")} /></Field>
          <Field label="Published records"><input className="input" type="number" min="0" step="1" value={asked.records} onChange={set("records")} /></Field>
          <Field label="In how many days" hint="Of core hours and spending"><input className="input" type="number" required min="0.001" max="366" step="any" value={asked.days} onChange={set("days")} /></Field>
        </div>
        <Trouble error={error ?? users.error ?? orgs.error} />
        <footer><button className="button main" disabled={isBusy || (kind === "all" && quota === null && own === "")}>Save</button></footer>
      </form>
    </Dialog>
  );
}

export function Quotas() {
  const all = useGet<Quota[]>("/quotas", 10_000);
  const [open, setOpen] = useState<{ quota: Quota | null } | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  if (all.data === undefined) return all.isPending ? <Wait what="quotas" /> : <Trouble error={all.error} />;
  const remove = (quota: Quota) => run(async () => { await send("DELETE", `/quotas${query({ subject: quota.subject })}`); refresh("/quotas"); });
  return (
    <div className="stack">
      <div className="row between">
        <p className="soft">How much of this node people may take. What the owner does counts for nobody.</p>
        <button type="button" className="button" onClick={() => setOpen({ quota: null })}>New quota</button>
      </div>
      <Trouble error={error} />
      {all.data.length === 0 ? <Card><Empty title="No quotas">People take what policies let them. A quota limits runs at once, core time, spending and published records.</Empty></Card> : (
        <Card flush>
          <Rows quotas={all.data} act={(quota) => (
            <span className="row">
              <button type="button" className="button slim" onClick={() => setOpen({ quota })}>Change<span className="hidden"> the quota of {whom(quota)}</span></button>
              <button type="button" className="button slim danger" disabled={isBusy} onClick={() => remove(quota)}>Remove<span className="hidden"> the quota of {whom(quota)}</span></button>
            </span>
          )} />
        </Card>
      )}
      {open !== null && <Set quota={open.quota} onClose={() => setOpen(null)} />}
    </div>
  );
}
