import { lazy, Suspense, useState, type FormEvent } from "react";

import { query, send } from "../api/client";
import type { Service, ServiceSummary } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { ShareIn } from "../areas/share";
import { ago, money, short, span, time } from "../lib/format";
import { LogText } from "../ui/log";
import { Card, Dialog, Empty, Facts, Field, Page, State, Table, Trouble, useAction, useNow, Wait } from "../ui/parts";

// With what reads YAML, which the list does without.
const Deploy = lazy(() => import("../services/deploy"));

/** What the replicas write, those that have ended not: theirs the command line shows. */
function Logs({ service }: { service: Service }) {
  const [chosen, setChosen] = useState("");
  const [stream, setStream] = useState("stderr");
  const replicas = service.replicas_now;
  const replica = replicas.find((one) => one.run === chosen) ?? replicas[0];
  if (replica === undefined) return <p className="soft small">No replica runs.</p>;
  return (
    <div className="stack tight">
      <div className="row">
        <Field label="Replica">
          <select className="input" value={replica.run} onChange={(event) => setChosen(event.target.value)}>
            {replicas.map((one) => <option key={one.run} value={one.run}>{`${one.state} at ${one.org_name ?? "?"}, revision ${one.revision}`}</option>)}
          </select>
        </Field>
        <Field label="Stream">
          <select className="input" value={stream} onChange={(event) => setStream(event.target.value)}>
            <option value="stderr">Standard error</option>
            <option value="stdout">Standard output</option>
          </select>
        </Field>
      </div>
      <LogText path={replica.node === null || ["waiting", "placed"].includes(replica.state) ? null : `/services/${encodeURIComponent(service.name)}/logs${query({ replica: replica.run, stream, follow: true })}`} label="What the replica wrote" />
    </div>
  );
}

function Scale({ service, onClose }: { service: Service; onClose: () => void }) {
  const [count, setCount] = useState(String(service.replicas));
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      await send("POST", `/services/${encodeURIComponent(service.name)}/scale`, { replicas: Number(count) });
      refresh("/services");
      onClose();
    });
  };
  return (
    <Dialog title={`Scale ${service.name}`} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Field label="Replicas" hint="0 stops the service and keeps its document."><input className="input" type="number" min="0" required value={count} onChange={(event) => setCount(event.target.value)} /></Field>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>Scale</button></footer>
      </form>
    </Dialog>
  );
}

function One({ name, onClose }: { name: string; onClose: () => void }) {
  const service = useGet<Service>(`/services/${encodeURIComponent(name)}`, 2_000);
  const [isScaling, setScaling] = useState(false);
  const [isSharing, setSharing] = useState(false);
  const [isSure, setSure] = useState(false);
  const now = useNow();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const found = service.data;
  const post = (verb: string, body: object) => run(async () => { await send("POST", `/services/${encodeURIComponent(name)}/${verb}`, body); refresh("/services"); });
  const remove = () => run(async () => { await send("DELETE", `/services/${encodeURIComponent(name)}`); refresh("/services"); onClose(); });
  return (
    <Card title={name} aside={<button type="button" className="button quiet slim" onClick={onClose}>Close</button>}>
      {found === undefined ? (service.isPending ? <Wait what="the service" /> : <Trouble error={service.error} />) : (
        <div className="stack">
          <Trouble error={error} />
          {found.trouble !== null && <div className="note warn"><strong>What is wrong</strong>{found.trouble}</div>}
          <Facts facts={[
            ["State", <State key="state" word={found.state} />],
            ["About", found.description],
            ["Replicas", `${found.available} of ${found.replicas} available`],
            ["Revision", `${found.revision}${found.stable === null ? "" : `, last known to work ${found.stable}`}`],
            ["Runtime", found.runtime],
            ["Ports", Object.entries(found.ports as Record<string, number>).map(([port, at]) => `${port} ${at}`).join(", ")],
            ["Deployed", time(found.deployed_ms)],
            ["Cost", found.costs.length === 0 ? "nothing yet" : found.costs.map((cost) => money(cost.claimed, cost.currency)).join(", ")],
            ["Connect", <code key="connect">opencloud service connect {found.name}</code>],
          ]} />
          <div className="row">
            <button type="button" className="button" onClick={() => setScaling(true)}>Scale</button>
            <button type="button" className="button" onClick={() => setSharing(true)}>Share in an area</button>
            <button type="button" className="button" disabled={isBusy || found.revisions.length < 2} onClick={() => post("rollback", {})}>Roll back</button>
            {isSure ? <button type="button" className="button danger" disabled={isBusy} onClick={remove}>Really remove</button> : <button type="button" className="button danger" onClick={() => setSure(true)}>Remove</button>}
          </div>
          <h3>Replicas</h3>
          <Table label="Replicas" plain rows={found.replicas_now} id={(replica) => replica.run} columns={[
            { head: "State", cell: (replica) => <State word={replica.state} /> },
            { head: "Where", cell: (replica) => (replica.org_name === null ? "–" : <>{replica.org_name} <span className="soft mono small">{replica.node === null ? "" : short(replica.node)}</span></>) },
            { head: "Revision", num: true, cell: (replica) => replica.revision },
            { head: "For", num: true, cell: (replica) => span(now - replica.started_ms) },
            { head: "Why", cell: (replica) => replica.reasons.join("; ") },
          ]} />
          <h3>Logs</h3>
          <Logs service={found} />
          <h3>Lately</h3>
          <ol className="small stack tight">
            {[...found.events].reverse().slice(0, 12).map((event) => <li key={event.seq}><span className="soft">{ago(event.at_ms, now)}</span> {String((event.body as { event?: string }).event ?? "").replaceAll("_", " ")}</li>)}
          </ol>
          {isSharing && <ShareIn kind="service" name={name} onClose={() => setSharing(false)} />}
          {isScaling && <Scale service={found} onClose={() => setScaling(false)} />}
        </div>
      )}
    </Card>
  );
}

export default function Services() {
  const services = useGet<ServiceSummary[]>("/services", 3_000);
  const [chosen, setChosen] = useState<string | null>(null);
  const [isOpen, setOpen] = useState(false);
  return (
    <Page title="Services" lead="Programs that are kept running: replicas on many nodes, probed and replaced." actions={<button type="button" className="button main" onClick={() => setOpen(true)}>Deploy a service</button>}>
      {services.data === undefined ? (services.isPending ? <Wait what="services" /> : <Trouble error={services.error} />) : services.data.length === 0 ? (
        <Card><Empty title="No service is deployed">Deploy one here, or with <code>opencloud service deploy hello.yaml</code>; it appears with its replicas.</Empty></Card>
      ) : (
        <div className={chosen === null ? undefined : "two"}>
          <Card flush>
            <Table label="Services" rows={services.data} id={(one) => one.name} columns={[
              { head: "Service", cell: (one) => <button type="button" className="button quiet slim" onClick={() => setChosen(one.name)}><strong>{one.name}</strong></button> },
              { head: "State", cell: (one) => <State word={one.state} /> },
              { head: "Available", num: true, cell: (one) => `${one.available} of ${one.replicas}` },
              { head: "Revision", num: true, cell: (one) => one.revision },
              { head: "Runtime", cell: (one) => one.runtime },
            ]} />
          </Card>
          {chosen !== null && <One key={chosen} name={chosen} onClose={() => setChosen(null)} />}
        </div>
      )}
      {isOpen && <Suspense fallback={null}><Deploy onClose={() => setOpen(false)} onDone={(name) => { setOpen(false); setChosen(name); }} /></Suspense>}
    </Page>
  );
}
