import { useState } from "react";
import { Link } from "wouter";

import { useGet, useMesh } from "../api/use";
import type { Channel, Mesh, Org, Provider, RunSummary, Session, User } from "../api/types";
import { balances, byPartner, told } from "../lib/bill";
import { ago, bytes, cores, plural, roundTrip, runName, span } from "../lib/format";
import { meshMap } from "../lib/mesh";
import { isSettled, settled } from "../lib/setup";
import { Bars } from "../ui/charts";
import { Card, Empty, Meter, Page, State, Stats, Table, Trouble, useNarrow, useNow, Wait } from "../ui/parts";

function MeshPicture({ mesh }: { mesh: Mesh }) {
  const isNarrow = useNarrow();
  const { status, peers } = mesh;
  const [width, height] = isNarrow ? [420, peers.length > 2 ? 320 : 190] : [760, peers.length > 4 ? 400 : peers.length > 2 ? 320 : 258];
  const map = meshMap(status, peers, width, height);
  const live = peers.filter((peer) => peer.connected).length;
  const words = peers.map((peer) => `${peer.name} of ${peer.org_name}: ${peer.connected ? peer.path : "not connected"}`);
  return (
    <figure className="figure map">
      <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`Map of the mesh: ${live} of ${plural(peers.length, "peer")} connected. ${words.join("; ")}`}>
        {map.dots.map((dot) => <line key={dot.id} className={`edge ${dot.way}`} x1={width / 2} y1={height / 2} x2={dot.x} y2={dot.y} />)}
        {map.dots.filter((dot) => dot.rtt !== null).map((dot) => (
          <text key={dot.id} className="fine" x={(width / 2 + dot.x) / 2} y={(height / 2 + dot.y) / 2 - 6} textAnchor="middle">{roundTrip(dot.rtt ?? 0)}</text>
        ))}
        <circle className="pulse" cx={width / 2} cy={height / 2} r="24" />
        <circle className="self" cx={width / 2} cy={height / 2} r="22" />
        <text className="on" x={width / 2} y={height / 2 + 4} textAnchor="middle">you</text>
        {map.dots.map((dot) => (
          <g key={dot.id}>
            <title>{`${dot.label}, ${dot.org}: ${dot.way === "none" ? "not connected" : dot.way}, ${dot.trust}`}</title>
            <circle className={`dot ${dot.way}`} cx={dot.x} cy={dot.y} r={dot.count > 1 ? 18 : 13} />
            {dot.count > 1 && <text className="fine" x={dot.x} y={dot.y + 4} textAnchor="middle">{dot.count}</text>}
          </g>
        ))}
        {map.orgs.map((org) => <text key={`${org.name} ${org.x}`} x={org.x} y={org.y} textAnchor={org.anchor}>{org.name}</text>)}
      </svg>
      <figcaption className="legend">
        <span><i />direct</span>
        <span><i className="relayed" />relayed</span>
        <span><i className="none" />not connected</span>
        <Link href="/peers">All peers as a list</Link>
      </figcaption>
    </figure>
  );
}

/** What partners did for this organisation, and it for them. */
function Partners({ channels }: { channels: Channel[] }) {
  const sides = ([["Spend by partner", "consumer"], ["Income by partner", "provider"]] as const).map(([name, side]) => ({ name, rows: byPartner(channels, side).slice(0, 6) }));
  if (sides.every(({ rows }) => rows.length === 0)) return <Empty title="Nothing spent or earned">What other organisations' nodes do for you, and yours for them, appears here with the first receipt.</Empty>;
  return (
    <div className="stack">
      {sides.map(({ name, rows }) => <section key={name} className="stack tight"><h3>{name}</h3>{rows.length === 0 ? <p className="soft small">Nothing yet.</p> : <Bars label={name} rows={rows} />}</section>)}
    </div>
  );
}

/** Offers its owner to set the node up, as long as nothing is. */
function Offer() {
  const [isAsked, setAsked] = useState(isSettled);
  const session = useGet<Session>(isAsked ? null : "/session");
  const isOwner = session.data?.caller === "owner";
  const providers = useGet<Provider[]>(isOwner ? "/providers" : null);
  const users = useGet<User[]>(isOwner ? "/users" : null);
  const orgs = useGet<Org[]>(isOwner ? "/orgs" : null);
  const isBare = providers.data?.length === 0 && users.data?.length === 0 && orgs.data?.every((org) => org.stance === "own") === true;
  if (isAsked || !isBare) return null;
  return (
    <section className="card" aria-label="Set up this node" style={{ marginBottom: 16 }}>
      <div className="row between">
        <div><h2>Set up this node</h2><p className="soft">See how others know you, connect your identity provider or invite people, and invite a partner.</p></div>
        <span className="row">
          <button type="button" className="button" onClick={() => { settled(); setAsked(true); }}>Not now</button>
          <Link className="button main" href="/setup">Begin</Link>
        </span>
      </div>
    </section>
  );
}

export function Overview() {
  const { mesh, trouble } = useMesh();
  const ledger = useGet<Channel[]>("/ledger", 10_000);
  const runs = useGet<RunSummary[]>("/runs", 5_000);
  const now = useNow(5_000);
  if (mesh === null) {
    return <Page title="Overview">{trouble === null ? <Wait what="the node" /> : <Trouble error={trouble} />}</Page>;
  }
  const { status, peers } = mesh;
  const live = peers.filter((peer) => peer.connected);
  const orgs = new Set(live.map((peer) => peer.org)).size;
  const money_ = balances(ledger.data ?? []);
  const used = (total: number, free: number) => total - free;
  const reach = status.reach;
  // Whom the policies do not let read the ledger, it is not shown to, here where nobody asked for it.
  const isForOthers = ledger.error?.refusal != null;
  return (
    <Page title={status.org_name} lead={<>Node <strong>{status.name}</strong>, live. Everything on this page is what the node knows now.</>}>
      <Offer />
      <Trouble error={trouble} />
      {status.papers.warning !== null && <div className="note warn"><strong>The node's papers</strong>{status.papers.warning}</div>}
      <Stats
        stats={[
          ["Peers connected", live.length, `of ${plural(orgs, "organisation")}`],
          ["Resources in the catalogue", status.resources.toLocaleString("en")],
          ["Runs active", status.active_runs, `${plural(status.active_attempts, "task")} running here`],
          ...(isForOthers ? [] : [["Spent", told(money_.spent), "claimed by providers' receipts"], ["Earned", told(money_.earned), "from others' tasks here"]] as [string, string, string][]),
        ]}
      />
      <div className="two">
        <Card title="The mesh" aside={<State word={live.length > 0 ? "live" : "alone"} tone={live.length > 0 ? "live" : "warn"} />}>
          {peers.length === 0 ? (
            <Empty title="Nobody else is here yet">Invite an organisation, or join with a ticket that you were given, under <Link href="/peers">Peers and trust</Link>.</Empty>
          ) : (
            <MeshPicture mesh={mesh} />
          )}
        </Card>
        <div className="stack">
          <Card title="Capacity offered">
            <div className="stack tight">
              <Meter name="Cores" used={used(status.cpu_total_milli, status.cpu_free_milli)} total={status.cpu_total_milli} text={`${cores(status.cpu_free_milli)} of ${cores(status.cpu_total_milli)} free`} />
              <Meter name="Memory" used={used(status.memory_total_bytes, status.memory_free_bytes)} total={status.memory_total_bytes} text={`${bytes(status.memory_free_bytes)} of ${bytes(status.memory_total_bytes)} free`} />
              <Meter name="Disk" used={used(status.disk_total_bytes, status.disk_free_bytes)} total={status.disk_total_bytes} text={`${bytes(status.disk_free_bytes)} of ${bytes(status.disk_total_bytes)} free`} />
            </div>
          </Card>
          {reach !== null && (
            <Card title="How others reach you" aside={<State word={reach.standing} tone={reach.standing === "public" || reach.standing === "private" ? "good" : reach.standing === "unknown" ? "" : "warn"} />}>
              <p className="small">{reach.why}</p>
            </Card>
          )}
        </div>
      </div>
      <div className="halves" style={{ marginTop: 16 }}>
        <Card title="Latest runs" flush aside={<Link href="/runs">All runs</Link>}>
          {runs.data === undefined ? <Trouble error={runs.error} /> : runs.data.length === 0 ? (
            <Empty title="No run yet">Draw a workflow in the <Link href="/editor">editor</Link>, or use <code>opencloud run submit</code>.</Empty>
          ) : (
            <Table
              label="Latest runs"
              rows={runs.data.slice(0, 5)}
              id={(run) => run.id}
              columns={[
                { head: "Run", cell: (run) => <><Link href={`/runs/${run.id}`}>{run.workflow}</Link> <span className="soft mono small">{runName(run.id)}</span></> },
                { head: "State", cell: (run) => <State word={run.state} /> },
                { head: "Tasks", num: true, cell: (run) => `${run.committed}/${run.total}` },
                { head: "Submitted", num: true, cell: (run) => <>{ago(run.submitted_ms, now)}{run.ended_ms !== null && <span className="soft small"> · {span(run.ended_ms - run.submitted_ms)}</span>}</> },
              ]}
            />
          )}
        </Card>
        {!isForOthers && (
          <Card title="Spend and income" aside={<Link href="/ledger">Ledger</Link>}>
            {ledger.data === undefined ? <Trouble error={ledger.error} /> : <Partners channels={ledger.data} />}
          </Card>
        )}
      </div>
    </Page>
  );
}
