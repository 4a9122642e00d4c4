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
  const now = useNow();
  const rows = (runs.data ?? []).filter((run) => wanted === "all" || (wanted === "active" ? run.ended_ms === null : run.state === wanted));
  return (
    <Page title="Runs" lead="Every run that was submitted at this node, newest first." actions={<Link href="/editor" className="button main">New workflow</Link>}>
      <div className="chips" role="group" aria-label="Which runs" style={{ marginBottom: 14 }}>
        {FILTERS.map((name) => <button key={name} type="button" className="chip" aria-pressed={wanted === name} onClick={() => setWanted(name)}>{name}</button>)}
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
