import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { useLocation } from "wouter";

import { query, save, send } from "../api/client";
import type { Channel, Checked, Explained, FileRef, Run, Submission, Task, Value } from "../api/types";
import { useEvents, useGet, useRefresh } from "../api/use";
import { AreaName } from "../areas/name";
import { billOf, totals } from "../lib/bill";
import type { Vertex } from "../lib/dag";
import { dimension, exact, money, short, span, time, used } from "../lib/format";
import { files, hasFiles, plain } from "../lib/values";
import { Bars } from "../ui/charts";
import { Dag, type Standing } from "../ui/dag";
import { Gantt } from "../ui/gantt";
import { LogText } from "../ui/log";
import { Card, Dialog, Empty, Facts, Field, Page, State, Stats, Table, Tabs, Trouble, useAction, useNow, Wait } from "../ui/parts";
import { Preview } from "../ui/preview";

/** Between two looks at a run while its events come in. */
const LOOK_EVERY_MS = 300;
/** Files shown at once; the rest has to be asked for. */
const SHOWN_MAX = 12;

/** What an address may open at once, as `#bill`. */
const TABS = ["graph", "tasks", "outputs", "logs", "bill", "events", "document"];

type Numbered = { seq: number; at_ms: number; body: { event: string; submission?: Submission } };

/** Follows a run: its submission once, and its state whenever something happened. */
function useRun(id: string) {
  const run = useGet<Run>(`/runs/${id}`);
  const [submission, setSubmission] = useState<Submission | null>(null);
  const [events, setEvents] = useState<Numbered[]>([]);
  const refresh = useRefresh();
  const timer = useRef(0);
  const trouble = useEvents(`/runs/${id}/events`, (data) => {
    const event = JSON.parse(data) as Numbered;
    if (event.seq === 0) setSubmission(event.body.submission ?? null);
    setEvents((known) => (known.length > 0 && known[known.length - 1]!.seq >= event.seq ? known : [...known.slice(-499), event]));
    if (timer.current === 0) {
      timer.current = window.setTimeout(() => {
        timer.current = 0;
        refresh(`/runs/${id}`, "/ledger");
      }, LOOK_EVERY_MS);
    }
  }, run.data?.ended_ms === null);
  useEffect(() => () => window.clearTimeout(timer.current), []);
  return { run, submission, events, trouble };
}

function standings(run: Run): Map<string, Standing> {
  const isOver = run.ended_ms !== null;
  const done = new Set(run.tasks.filter((task) => task.state === "committed").map((task) => `${task.step}.${task.index}`));
  const failed = new Set(run.tasks.filter((task) => isOver && task.state !== "committed" && !done.has(`${task.step}.${task.index}`)).map((task) => task.step));
  return new Map(run.steps.map((step) => [step.step, { ...step, state: failed.has(step.step) && step.state !== "done" ? "failed" : step.state }]));
}

function Log({ run, tasks }: { run: string; tasks: Task[] }) {
  const started = tasks.filter((task) => task.attempt > 0);
  const [chosen, setChosen] = useState(0);
  const [stream, setStream] = useState("stderr");
  const task = started[Math.min(chosen, started.length - 1)];
  const path = task === undefined ? null : `/runs/${run}/logs${query({ step: task.step, index: task.index, attempt: task.attempt, stream, follow: true })}`;
  if (task === undefined) return <Empty title="Nothing has run yet">What tasks write appears here as they write it.</Empty>;
  return (
    <div className="stack">
      <div className="row">
        <Field label="Attempt">
          <select className="input" value={chosen} onChange={(event) => setChosen(Number(event.target.value))}>
            {started.map((one, at) => <option key={at} value={at}>{`${one.step} ${one.index}, try ${one.attempt} at ${one.org_name ?? "?"}: ${one.state}`}</option>)}
          </select>
        </Field>
        <Field label="Stream">
          <select className="input" value={stream} onChange={(event) => setStream(event.target.value)}>
            <option value="stderr">Standard error</option>
            <option value="stdout">Standard output</option>
          </select>
        </Field>
      </div>
      <LogText path={path} label="What the task wrote" />
    </div>
  );
}

function Outputs({ run }: { run: Run }) {
  const [isAll, setAll] = useState(false);
  const outputs = Object.entries(run.outputs as unknown as Record<string, Value>);
  if (outputs.length === 0) {
    return <Card><Empty title={run.ended_ms === null ? "Not yet" : "No outputs"}>{run.ended_ms === null ? "Outputs appear when the run has succeeded." : "This run gave nothing back."}</Empty></Card>;
  }
  const found = outputs.flatMap(([name, value]) => files(name, value));
  const dirs = outputs.filter(([, value]) => value !== "null" && "dir" in value) as [string, { dir: FileRef }][];
  const rest = outputs.filter(([, value]) => !hasFiles(value) && !(value !== "null" && "dir" in value));
  return (
    <div className="stack">
      {rest.length > 0 && (
        <Card title="Values">
          <Facts facts={rest.map(([name, value]) => [name, <pre key={name} tabIndex={0} style={{ margin: 0, maxHeight: 260, overflow: "auto" }}>{JSON.stringify(plain(value), null, 2)}</pre>])} />
        </Card>
      )}
      {dirs.length > 0 && <Card title="Directories"><Facts facts={dirs.map(([name, { dir }]) => [name, <code className="wrap" key={name}>opencloud data get {dir.digest} --out {dir.name}</code>])} /></Card>}
      <div className="halves">
        {found.slice(0, isAll ? found.length : SHOWN_MAX).map(({ name, file }) => <Preview key={name} name={name} file={file} />)}
      </div>
      {!isAll && found.length > SHOWN_MAX && <button type="button" className="button" onClick={() => setAll(true)}>Show all {found.length} files</button>}
    </div>
  );
}

function Bill({ run }: { run: Run }) {
  const ledger = useGet<Channel[]>("/ledger");
  if (ledger.data === undefined) return ledger.isPending ? <Wait what="the ledger" /> : <Trouble error={ledger.error} />;
  const lines = billOf(ledger.data, run.id);
  if (lines.length === 0) return <Card><Empty title="Nothing to pay">All tasks ran at your own organisation, or none has begun.</Empty></Card>;
  const name = (attempt: string) => {
    const [, step, index, number] = /\/(\d+)\.(\d+)#(\d+)$/.exec(attempt) ?? [];
    return step === undefined ? attempt : `${run.steps[Number(step)]?.step ?? `step ${step}`} ${index}${number === "1" ? "" : `, try ${number}`}`;
  };
  return (
    <div className="stack">
      <Card title="What it comes to"><Bars label="Cost by provider" rows={totals(lines)} /></Card>
      <Card flush title="The bill, attempt by attempt" aside={<button type="button" className="button slim" onClick={() => void save("/ledger/export", "opencloud.ledger")}>Export the proofs</button>}>
        <Table
          label="Bill"
          rows={lines}
          id={(line) => `${line.provider} ${line.attempt}`}
          columns={[
            { head: "Task", cell: (line) => name(line.attempt) },
            { head: "Provider", cell: (line) => line.provider },
            { head: "Receipt", cell: (line) => <State word={line.state} /> },
            { head: "Used", cell: (line) => <span className="small soft">{Object.entries(line.used).filter(([, count]) => count > 0).map(([what, count]) => `${dimension(what)} ${used(what, count)}`).join(", ")}</span> },
            { head: "Amount", num: true, cell: (line) => <span title={`${exact(line.claimed)} ${line.currency}`}>{money(line.claimed, line.currency)}</span> },
          ]}
        />
      </Card>
    </div>
  );
}

function Tasks({ run, now }: { run: Run; now: number }) {
  const refresh = useRefresh();
  const { run: act, isBusy, error } = useAction();
  const steer = (task: Task, verb: "suspend" | "resume") =>
    act(async () => {
      await send("POST", `/runs/${run.id}/${verb}`, { step: task.step, index: task.index, attempt: task.attempt });
      refresh(`/runs/${run.id}`);
    });
  return (
    <div className="stack">
      <Trouble error={error} />
      <Card title="When and where"><Gantt run={run} now={now} /></Card>
      <Card flush>
        <Table
          label="Tasks"
          rows={run.tasks}
          id={(task) => `${task.step}.${task.index}#${task.attempt}`}
          columns={[
            { head: "Task", cell: (task) => `${task.step} ${task.index}` },
            { head: "Try", num: true, cell: (task) => task.attempt || "–" },
            { head: "State", cell: (task) => <><State word={task.state} />{task.detail !== null && <><br /><span className="small soft wrap">{task.detail}</span></>}</> },
            { head: "Where", cell: (task) => (task.org_name === null ? "–" : <>{task.org_name} <span className="soft mono small">{task.node === null ? "" : short(task.node)}</span></>) },
            { head: "Took", num: true, cell: (task) => (task.started_ms === null ? "–" : span((task.ended_ms ?? now) - task.started_ms)) },
            {
              head: "Act",
              cell: (task) =>
                task.state === "suspended" ? (
                  <button type="button" className="button slim" disabled={isBusy} onClick={() => steer(task, "resume")}>Resume</button>
                ) : task.state === "running" ? (
                  <button type="button" className="button slim" disabled={isBusy} onClick={() => steer(task, "suspend")} title="Machines of the runtime `vm` can be suspended">Suspend</button>
                ) : null,
            },
          ]}
        />
      </Card>
    </div>
  );
}

function Explain({ id, onClose }: { id: string; onClose: () => void }) {
  const told = useGet<Explained[]>(`/runs/${id}/explain`);
  return (
    <Dialog title="Why tasks run where they run, or wait" onClose={onClose} wide>
      {told.data === undefined ? (told.isPending ? <Wait what="the explanation" /> : <Trouble error={told.error} />) : (
        <Table
          label="Explanation"
          rows={told.data}
          id={(one) => `${one.step} ${one.index}`}
          columns={[
            { head: "Task", cell: (one) => `${one.step} ${one.index}` },
            { head: "State", cell: (one) => <State word={one.state} /> },
            { head: "Why", cell: (one) => <ul>{one.reasons.map((reason) => <li key={reason}>{reason}</li>)}</ul> },
          ]}
        />
      )}
    </Dialog>
  );
}

export default function RunPage({ id }: { id: string }) {
  const { run, submission, events, trouble } = useRun(id);
  const now = useNow();
  const [isExplaining, setExplaining] = useState(false);
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run: act, isBusy, error } = useAction();
  const source = submission?.source ?? null;
  const checked = useQuery<Checked>({ queryKey: ["check", source], queryFn: () => send<Checked>("POST", "/workflow/check", { source }), enabled: source !== null, staleTime: Infinity });
  if (run.data === undefined) return <Page title="Run">{run.isPending ? <Wait what="the run" /> : <Trouble error={run.error} />}</Page>;
  const found = run.data;
  const isOver = found.ended_ms !== null;
  const vertices: Vertex[] = checked.data?.steps ?? found.steps.map((step) => ({ id: step.step, after: [] }));
  const cancel = () => act(async () => { await send("POST", `/runs/${id}/cancel`); refresh(`/runs/${id}`); });
  const again = () =>
    act(async () => {
      const { id: made } = await send<{ id: string }>("POST", "/runs", submission, { "idempotency-key": crypto.randomUUID() });
      go(`/runs/${made}`);
    });
  const cost = found.costs.length === 0 ? "nothing" : found.costs.map((one) => money(one.claimed, one.currency)).join(", ");
  return (
    <Page
      title={found.workflow}
      lead={<span className="row"><State word={found.state} /><span className="mono small wrap">{found.id}</span>{found.area != null && <span className="small">under the rules of <AreaName id={found.area} /></span>}{found.by != null && <span className="small">by {found.by}</span>}</span>}
      actions={
        <>
          <button type="button" className="button" onClick={() => setExplaining(true)}>Explain</button>
          {!isOver && <button type="button" className="button danger" disabled={isBusy || found.state === "cancelling"} onClick={cancel}>Cancel</button>}
          <button type="button" className={isOver ? "button main" : "button"} disabled={isBusy || submission === null} onClick={again}>Run again</button>
        </>
      }
    >
      <Trouble error={error ?? trouble} />
      {found.detail !== null && <div className="note bad" style={{ marginBottom: 16 }}><strong>Why it failed</strong><span className="wrap">{found.detail}</span></div>}
      <Stats
        stats={[
          ["Tasks", `${found.committed} of ${found.total}`, "committed"],
          [isOver ? "Took" : "Running for", span((found.ended_ms ?? now) - found.submitted_ms), `since ${time(found.submitted_ms)}`],
          ["Cost", cost, "at other organisations"],
          ["Organisations", new Set(found.tasks.map((task) => task.org).filter((org) => org !== null)).size, `${new Set(found.tasks.map((task) => task.node).filter((node) => node !== null)).size} nodes`],
        ]}
      />
      <Tabs
        label="The run"
        at={TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : undefined}
        tabs={[
          { id: "graph", name: "Graph", body: <div className="stack"><Card title="Steps"><Dag steps={vertices} standings={standings(found)} /></Card><Card title="When and where"><Gantt run={found} now={now} /></Card></div> },
          { id: "tasks", name: "Tasks", body: <Tasks run={found} now={now} /> },
          { id: "outputs", name: "Outputs", body: <Outputs run={found} /> },
          { id: "logs", name: "Logs", body: <Card><Log run={id} tasks={found.tasks} /></Card> },
          { id: "bill", name: "Bill", body: <Bill run={found} /> },
          {
            id: "events",
            name: "Events",
            body: (
              <Card flush>
                <Table label="Events" rows={[...events].reverse()} id={(event) => String(event.seq)} columns={[
                  { head: "No.", num: true, cell: (event) => event.seq },
                  { head: "After", num: true, cell: (event) => span(event.at_ms - found.submitted_ms) },
                  { head: "What happened", cell: (event) => event.body.event.replaceAll("_", " ") },
                  { head: "Task", cell: (event) => { const at = (event.body as { task?: { step: number; index: number }; step?: number }); return at.task != null ? `${found.steps[at.task.step]?.step ?? at.task.step} ${at.task.index}` : at.step !== undefined ? found.steps[at.step]?.step ?? "" : ""; } },
                ]} />
              </Card>
            ),
          },
          { id: "document", name: "Document", body: <Card><pre className="secret" style={{ maxHeight: "none", whiteSpace: "pre-wrap" }} tabIndex={0}>{source ?? ""}</pre></Card> },
        ]}
      />
      {isExplaining && <Explain id={id} onClose={() => setExplaining(false)} />}
    </Page>
  );
}
