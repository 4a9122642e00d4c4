// Small parts that every page is made of. All of them are the browser's own elements where there is one.

import * as RadixTabs from "@radix-ui/react-tabs";
import { cloneElement, useEffect, useId, useMemo, useRef, useState, type ReactElement, type ReactNode } from "react";

import { Problem, type Refusal } from "../api/client";

export function Page({ title, lead, actions, children }: { title: string; lead?: ReactNode; actions?: ReactNode; children: ReactNode }) {
  useEffect(() => {
    document.title = `${title} · OpenCloud`;
  }, [title]);
  return (
    <>
      <div className="head">
        <div>
          <h1>{title}</h1>
          {lead !== undefined && <p>{lead}</p>}
        </div>
        {actions !== undefined && <div className="row">{actions}</div>}
      </div>
      {children}
    </>
  );
}

export function Card({ title, aside, flush = false, children }: { title?: string; aside?: ReactNode; flush?: boolean; children: ReactNode }) {
  return (
    <section className={flush ? "card flush" : "card"} aria-label={title}>
      {title !== undefined && (
        <header>
          <h2>{title}</h2>
          {aside}
        </header>
      )}
      {children}
    </section>
  );
}

export type Tone = "good" | "warn" | "bad" | "live" | "plain" | "";

const TONES: Record<string, Tone> = {
  succeeded: "good", committed: "good", done: "good", open: "good", running: "live", connected: "good", healthy: "good", ready: "good",
  partner: "good", own: "good", closed: "good", direct: "good",
  negotiating: "live", compiling: "live", active: "live", rolling: "live", starting: "live", placed: "live", opening: "live", asking: "warn",
  cancelling: "warn", failing: "bad", failed: "bad", refused: "bad", blocked: "bad", frozen: "bad", unhealthy: "bad", unreachable: "bad",
  degraded: "warn", relayed: "warn", suspended: "warn", fencing: "warn", draining: "warn", cancelled: "warn", ending: "warn",
};

export function State({ word, tone }: { word: string; tone?: Tone }) {
  return <span className={`badge ${tone ?? TONES[word.split(/[ :(]/, 1)[0] ?? ""] ?? ""}`}>{word}</span>;
}

export function toneOf(word: string): Tone {
  return TONES[word.split(/[ :(]/, 1)[0] ?? ""] ?? "";
}

export function Wait({ what }: { what: string }) {
  return (
    <div role="status">
      <div className="wait" />
      <span className="hidden">Waiting for {what}</span>
    </div>
  );
}

/** What the policies of the node do not let whoever is here do, what decided that, and the way out. */
function Refused({ problem, refusal }: { problem: Problem; refusal: Refusal }) {
  const { principal, action, resource, policies } = refusal;
  return (
    <section className="card refused" role="alert" aria-label="Refused">
      <h2>You may not do this</h2>
      <p>The policies of this node refuse it. Nothing was changed.</p>
      <Facts facts={[
        ["You are", <code className="wrap" key="who">{principal}</code>],
        ["Wanted", <code key="action">{action}</code>],
        ["With", <code className="wrap" key="what">{resource}</code>],
        ["Decided by", policies.length === 0 ? "no policy permits it" : policies.join(", ")],
      ]} />
      <details className="small"><summary>Whom to ask</summary><p className="wrap">{problem.message}</p></details>
    </section>
  );
}

export function Trouble({ error }: { error: unknown }) {
  if (error === null || error === undefined) return null;
  if (error instanceof Problem && error.refusal !== null) return <Refused problem={error} refusal={error.refusal} />;
  const title = error instanceof Problem ? error.title : "Something went wrong";
  return (
    <div className="note bad" role="alert">
      <strong>{title}</strong>
      <span className="wrap">{error instanceof Error ? error.message : String(error)}</span>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children: ReactNode }) {
  return (
    <div className="empty">
      <strong>{title}</strong>
      <p>{children}</p>
    </div>
  );
}

/** A window over the page: the browser keeps the focus inside, and Escape closes it. */
export function Dialog({ title, onClose, wide = false, children }: { title: string; onClose: () => void; wide?: boolean; children: ReactNode }) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={ref} className={wide ? "dialog wide" : "dialog"} aria-labelledby={id} onCancel={(event) => { event.preventDefault(); onClose(); }}>
      <header>
        <h2 id={id}>{title}</h2>
        <button type="button" className="button quiet slim" onClick={onClose}>Close</button>
      </header>
      {children}
    </dialog>
  );
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [isDone, setDone] = useState(false);
  useEffect(() => {
    if (!isDone) return;
    const timer = window.setTimeout(() => setDone(false), 1_500);
    return () => window.clearTimeout(timer);
  }, [isDone]);
  return (
    <button type="button" className="button slim" onClick={() => { void navigator.clipboard.writeText(text).then(() => setDone(true)); }}>
      {isDone ? "Copied" : label}
    </button>
  );
}

export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {facts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => (
        <div key={name} style={{ display: "contents" }}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Stats({ stats }: { stats: [string, ReactNode, ReactNode?][] }) {
  return (
    <dl className="stats">
      {stats.map(([name, value, small]) => (
        <div className="stat" key={name}>
          <dt>{name}</dt>
          <dd>{value}{small !== undefined && <small>{small}</small>}</dd>
        </div>
      ))}
    </dl>
  );
}

export type Column<T> = { head: string; cell: (row: T) => ReactNode; num?: boolean };

export function Table<T>({ label, rows, columns, id, plain = false }: { label: string; rows: T[]; columns: Column<T>[]; id: (row: T) => string; plain?: boolean }) {
  return (
    <div className="scroll" role="region" aria-label={label} tabIndex={0}>
      {/* The roles stay what they are where a narrow window has rows shown as cards. */}
      <table role="table" className={plain ? "plain" : undefined}>
        <thead role="rowgroup">
          <tr role="row">{columns.map((column) => <th key={column.head} role="columnheader" scope="col" className={column.num ? "num" : undefined}>{column.head}</th>)}</tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => (
            <tr key={id(row)} role="row">
              {columns.map((column) => <td key={column.head} role="cell" data-head={column.head} className={column.num ? "num" : undefined}><div>{column.cell(row)}</div></td>)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Field({ label, hint, children }: { label: string; hint?: ReactNode; children: ReactElement<{ id?: string; "aria-describedby"?: string }> }) {
  const id = useId();
  const told = hint === undefined ? undefined : `${id}-hint`;
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {cloneElement(children, { id, "aria-describedby": told })}
      {hint !== undefined && <small id={told}>{hint}</small>}
    </div>
  );
}

export function Tabs({ label, tabs, at, onAt }: { label: string; tabs: { id: string; name: string; body: ReactNode }[]; at?: string; onAt?: (id: string) => void }) {
  const first = tabs[0]?.id ?? "";
  return (
    <RadixTabs.Root defaultValue={at ?? first} onValueChange={onAt}>
      <RadixTabs.List className="tabs" aria-label={label}>
        {tabs.map((tab) => <RadixTabs.Trigger key={tab.id} value={tab.id}>{tab.name}</RadixTabs.Trigger>)}
      </RadixTabs.List>
      {tabs.map((tab) => <RadixTabs.Content key={tab.id} value={tab.id}>{tab.body}</RadixTabs.Content>)}
    </RadixTabs.Root>
  );
}

export function Meter({ name, used, total, text }: { name: string; used: number; total: number; text: string }) {
  const id = useId();
  return (
    <div className="meter">
      <div className="row between"><span id={id}>{name}</span><span className="soft">{text}</span></div>
      <progress aria-labelledby={id} max={Math.max(1, total)} value={used} />
    </div>
  );
}

/** Something asked of the node by a button: says what went wrong, and does not run twice at a time. */
export function useAction(): { run: (work: () => Promise<void>) => void; isBusy: boolean; error: unknown } {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = (work: () => Promise<void>) => {
    setBusy(true);
    setError(null);
    work().catch(setError).finally(() => setBusy(false));
  };
  return { run, isBusy, error };
}

/** The time, told anew every `everyMs`. */
export function useNow(everyMs = 1_000): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = window.setInterval(() => setNow(Date.now()), everyMs);
    return () => window.clearInterval(timer);
  }, [everyMs]);
  return now;
}

/** Whether the window is as narrow as a phone's. */
export function useNarrow(): boolean {
  const query = useMemo(() => window.matchMedia("(max-width: 640px)"), []);
  const [isNarrow, setNarrow] = useState(query.matches);
  useEffect(() => {
    const look = () => setNarrow(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, [query]);
  return isNarrow;
}
