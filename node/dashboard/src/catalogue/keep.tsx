// Putting something that was found into a workspace.

import { useState } from "react";

import { get, send } from "../api/client";
import type { Workspace, WorkspaceSummary } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { type Content, contentOf, workspaceAt } from "../lib/workspace";
import { Trouble, useAction } from "../ui/parts";

type Properties = { label: string; isReady?: boolean; done: (workspace: string) => string; change: (content: Content) => Content };

/** A choice of workspaces, and what is changed in the one that is chosen. */
export function Keep({ label, isReady = true, done, change }: Properties) {
  const all = useGet<WorkspaceSummary[]>("/workspaces");
  const [place, setPlace] = useState("");
  const [told, setTold] = useState("");
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const keep = () =>
    run(async () => {
      const now = await get<Workspace>(workspaceAt(place));
      await send("PUT", workspaceAt(place), { version: now.version, workspace: change(contentOf(now)) });
      refresh("/workspaces");
      setTold(done(place));
    });
  if (all.data === undefined) return <Trouble error={all.error} />;
  if (all.data.length === 0) return <p className="small soft">There is no workspace yet to put it into: make one under Workspaces.</p>;
  return (
    <div className="stack tight">
      <div className="row">
        <select className="input" style={{ width: "auto", minWidth: 160 }} aria-label="Workspace" value={place} onChange={(event) => { setPlace(event.target.value); setTold(""); }}>
          <option value="">a workspace…</option>
          {all.data.map((one) => <option key={one.name}>{one.name}</option>)}
        </select>
        <button type="button" className="button" disabled={isBusy || place === "" || !isReady} onClick={keep}>{label}</button>
      </div>
      <p className="small" role="status">{told}</p>
      <Trouble error={error} />
    </div>
  );
}
