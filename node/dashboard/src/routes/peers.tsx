import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import type { Org, Peer } from "../api/types";
import { useGet, useMesh, useRefresh } from "../api/use";
import { bytes, plural, roundTrip, short } from "../lib/format";
import { InviteForm, JoinForm } from "../peers/admit";
import { Card, Dialog, Empty, Facts, Field, Page, State, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

const RIGHTS: [keyof Org & ("ask" | "fetch" | "see" | "relay"), string][] = [
  ["ask", "May ask for quotes and have work done here"],
  ["fetch", "May fetch what is published here"],
  ["see", "May see restricted records that name it"],
  ["relay", "Is relayed by this node"],
];

function Rights({ org, onClose }: { org: Org; onClose: () => void }) {
  const [stance, setStance] = useState(org.stance as string);
  const [rights, setRights] = useState({ ask: org.ask, fetch: org.fetch, see: org.see, relay: org.relay });
  const [tasks, setTasks] = useState(String(org.tasks_max ?? 0));
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const change: Record<string, unknown> = stance === org.stance ? {} : { stance };
      for (const [right] of RIGHTS) if (rights[right] !== org[right]) change[right] = rights[right];
      if (Number(tasks) !== (org.tasks_max ?? 0)) change.tasks_max = Number(tasks);
      await send("PATCH", "/orgs", { org: org.org, change });
      refresh("/orgs", "/peers");
      onClose();
    });
  };
  return (
    <Dialog title={org.org_name ?? "An organisation"} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Facts facts={[["Identity", <span className="mono" key="id">{org.org}</span>], ["Fingerprint", <span className="mono" key="fp">{org.fingerprint}</span>]]} />
        <Field label="Standing" hint="A partner is trusted explicitly, and its nodes are preferred; who is blocked gets nothing.">
          <select className="input" value={stance} onChange={(event) => setStance(event.target.value)}>
            <option value="peer">Peer</option>
            <option value="partner">Partner</option>
            <option value="blocked">Blocked</option>
          </select>
        </Field>
        <div className="stack tight">
          {RIGHTS.map(([right, words]) => (
            <label className="check" key={right}>
              <input type="checkbox" checked={rights[right]} onChange={(event) => setRights({ ...rights, [right]: event.target.checked })} />
              {words}
            </label>
          ))}
        </div>
        <Field label="Tasks at once" hint="0 for no limit">
          <input className="input" type="number" min="0" value={tasks} onChange={(event) => setTasks(event.target.value)} />
        </Field>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>Save</button></footer>
      </form>
    </Dialog>
  );
}

function Orgs() {
  const orgs = useGet<Org[]>("/orgs", 5_000);
  const [chosen, setChosen] = useState<Org | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const decide = (org: string, isAdmitted: boolean) =>
    run(async () => {
      await send("POST", "/orgs/decide", { org, is_admitted: isAdmitted });
      refresh("/orgs");
    });
  if (orgs.data === undefined) return orgs.isPending ? <Wait what="organisations" /> : <Trouble error={orgs.error} />;
  const allowed = (org: Org) => RIGHTS.filter(([right]) => org[right]).map(([right]) => right).join(", ");
  return (
    <>
      <Trouble error={error} />
      <Card flush>
        <Table
          label="Organisations"
          rows={orgs.data}
          id={(org) => org.org}
          columns={[
            { head: "Organisation", cell: (org) => <><strong>{org.org_name ?? short(org.org)}</strong><br /><span className="soft small mono">{org.fingerprint}</span></> },
            { head: "Standing", cell: (org) => <State word={org.stance} /> },
            { head: "May", cell: (org) => allowed(org) || "nothing" },
            { head: "Tasks here", num: true, cell: (org) => `${org.tasks}${(org.tasks_max ?? 0) > 0 ? ` of ${org.tasks_max}` : ""}` },
            { head: "Nodes connected", num: true, cell: (org) => org.connected },
            {
              head: "Change",
              cell: (org) =>
                org.stance === "own" ? null : org.stance === "asking" ? (
                  <span className="row">
                    <button type="button" className="button slim main" disabled={isBusy} onClick={() => decide(org.org, true)}>Admit</button>
                    <button type="button" className="button slim danger" disabled={isBusy} onClick={() => decide(org.org, false)}>Refuse</button>
                  </span>
                ) : (
                  <button type="button" className="button slim" onClick={() => setChosen(org)}>Rights<span className="hidden"> of {org.org_name}</span></button>
                ),
            },
          ]}
        />
      </Card>
      {chosen !== null && <Rights org={chosen} onClose={() => setChosen(null)} />}
    </>
  );
}

function Nodes() {
  const { mesh, trouble } = useMesh();
  if (mesh === null) return trouble === null ? <Wait what="peers" /> : <Trouble error={trouble} />;
  if (mesh.peers.length === 0) return <Card><Empty title="No peers">Invite an organisation, or join with a ticket.</Empty></Card>;
  const state = (peer: Peer) => (peer.connected ? (peer.path === "relayed" ? "relayed" : "connected") : "away");
  return (
    <>
      <Trouble error={trouble} />
      <Card flush>
        <Table
          label="Peers"
          rows={mesh.peers}
          id={(peer) => peer.id}
          columns={[
            { head: "Node", cell: (peer) => <><strong>{peer.name}</strong> <span className="soft mono small">{short(peer.id)}</span><br /><span className="soft">{peer.org_name}</span></> },
            { head: "Standing", cell: (peer) => <State word={peer.trust} /> },
            { head: "Connection", cell: (peer) => <State word={state(peer)} /> },
            { head: "Round trip", num: true, cell: (peer) => (peer.rtt_us === null ? "–" : roundTrip(peer.rtt_us)) },
            { head: "Relayed today", num: true, cell: (peer) => (peer.relayed_bytes === 0 ? "–" : bytes(peer.relayed_bytes)) },
            { head: "What stands in the way", cell: (peer) => (peer.why === null ? <span className="soft">nothing</span> : <>{peer.why}{peer.hint !== null && <><br /><span className="soft">{peer.hint}</span></>}</>) },
          ]}
        />
      </Card>
      <p className="soft small" role="status" style={{ marginTop: 8 }}>{plural(mesh.peers.length, "peer")}, followed live</p>
    </>
  );
}

export default function Peers() {
  const [open, setOpen] = useState<"invite" | "join" | null>(null);
  return (
    <Page
      title="Peers and trust"
      lead="Which nodes this one knows, how they are reached, and what their organisations may do here."
      actions={
        <>
          <button type="button" className="button" onClick={() => setOpen("join")}>Join with a ticket</button>
          <button type="button" className="button main" onClick={() => setOpen("invite")}>Invite</button>
        </>
      }
    >
      <Tabs label="Peers" tabs={[{ id: "nodes", name: "Nodes", body: <Nodes /> }, { id: "orgs", name: "Organisations and rights", body: <Orgs /> }]} />
      {open === "invite" && <Dialog title="Invite an organisation" onClose={() => setOpen(null)}><InviteForm /></Dialog>}
      {open === "join" && <Dialog title="Join with a ticket" onClose={() => setOpen(null)}><JoinForm /></Dialog>}
    </Page>
  );
}
