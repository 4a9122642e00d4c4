import { useState } from "react";
import { Link } from "wouter";

import type { RunSummary } from "../api/types";
import { useGet } from "../api/use";
import { AreaName } from "../areas/name";
import { ago, runName, span } from "../lib/format";
import { Card, Empty, Page, State, Table, Trouble, useNow, Wait } from "../ui/parts";

const FILTERS = ["all", "active", "succeeded", "failed", "cancelled"] as const;

export default function Runs() {
  const runs = useGet<RunSummary[]>("/runs", 2_000);
  const [wanted, setWanted] = useState<(typeof FILTERS)[number]>("all");
  const [text, setText] = useState("");
  const now = useNow();
  const fits = (run: RunSummary) => `${run.workflow} ${run.id} ${run.by ?? ""}`.toLowerCase().includes(text.trim().toLowerCase());
  const rows = (runs.data ?? []).filter((run) => wanted === "all" || (wanted === "active" ? run.ended_ms === null : run.state === wanted)).filter(fits);
  return (
    <Page title="Runs" lead="Every run that was submitted at this node, newest first." actions={<Link href="/editor" className="button main">New workflow</Link>}>
      <div className="row between" style={{ marginBottom: 14 }}>
        <div className="chips" role="group" aria-label="Which runs">
          {FILTERS.map((name) => <button key={name} type="button" className="chip" aria-pressed={wanted === name} onClick={() => setWanted(name)}>{name}</button>)}
        </div>
        <input className="input" style={{ flex: "0 1 260px", width: "auto" }} type="search" aria-label="Search runs" placeholder="Workflow, id or person" value={text} onChange={(event) => setText(event.target.value)} />
      </div>
      {runs.data === undefined ? (runs.isPending ? <Wait what="runs" /> : <Trouble error={runs.error} />) : rows.length === 0 ? (
        <Card><Empty title="No such run">Draw a workflow in the editor and run it, or use <code>opencloud run submit workflow.yaml</code>.</Empty></Card>
      ) : (
        <Card flush>
          <Table
            label="Runs"
            rows={rows}
            id={(run) => run.id}
            columns={[
              { head: "Workflow", cell: (run) => <><Link href={`/runs/${run.id}`}>{run.workflow}</Link> <span className="soft mono small">{runName(run.id)}</span>{run.by != null && <span className="soft small"> by {run.by}</span>}</> },
              ...(rows.some((run) => run.area != null) ? [{ head: "Area", cell: (run: RunSummary) => (run.area == null ? "–" : <AreaName id={run.area} />) }] : []),
              { head: "State", cell: (run) => <State word={run.state} /> },
              { head: "Tasks", num: true, cell: (run) => `${run.committed} of ${run.total}` },
              { head: "Submitted", num: true, cell: (run) => ago(run.submitted_ms, now) },
              { head: "Took", num: true, cell: (run) => span((run.ended_ms ?? now) - run.submitted_ms) },
            ]}
          />
        </Card>
      )}
    </Page>
  );
}
