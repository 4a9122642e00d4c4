import { useState, type FormEvent, type ReactNode } from "react";
import { Link, useLocation } from "wouter";

import { type Area, areaAt, type AreaSummary, type Shared } from "../api/areas";
import { send } from "../api/client";
import type { Org } from "../api/types";
import { useEvents, useGet, useRefresh } from "../api/use";
import { BookForm, BookEditor, NOTHING, Sentences } from "../areas/rules";
import { ShareForm, Take, unshare } from "../areas/share";
import { bytes, plural, short } from "../lib/format";
import { read } from "../lib/rules";
import { Card, Dialog, Empty, Field, Page, State, Table, Trouble, useAction, Wait } from "../ui/parts";

const STANDING: Record<string, ["good" | "warn" | "bad" | "live" | "", string]> = {
  member: ["good", "member"], invited: ["live", "you are invited"], asking: ["warn", "waiting for votes"], left: ["", "you left"], expelled: ["bad", "expelled"],
};
const Stand = ({ word }: { word: string }) => <State word={STANDING[word]?.[1] ?? word} tone={STANDING[word]?.[0] ?? ""} />;

/** What changes in areas is shown at once. */
function useLive(): void {
  const refresh = useRefresh();
  useEvents("/areas/events", () => refresh("/areas"));
}

function Make({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [about, setAbout] = useState("");
  const [rules, setRules] = useState(NOTHING);
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const { book } = read(rules);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const area = await send<Area>("POST", "/areas", { name: name.trim(), about: about.trim(), ...(book === null || book.rules.length === 0 ? {} : { rules: book }) });
      refresh("/areas");
      go(areaAt(area.id));
    });
  };
  return (
    <Dialog title="New area" wide onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <div className="pair">
          <Field label="Name"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>
          <Field label="What it is for"><input className="input" value={about} onChange={(event) => setAbout(event.target.value)} /></Field>
        </div>
        <h3>Rule book</h3>
        <BookEditor text={rules} onText={setRules} />
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy || book === null || name.trim() === ""}>Make the area</button></footer>
      </form>
    </Dialog>
  );
}

function All() {
  useLive();
  const all = useGet<AreaSummary[]>("/areas", 10_000);
  const [isOpen, setOpen] = useState(false);
  return (
    <Page title="Areas" lead="Workspaces, workflows and services that chosen organisations share, under rules that machines check. No area has an owner: its members decide." actions={<button type="button" className="button main" onClick={() => setOpen(true)}>New area</button>}>
      {all.data === undefined ? (all.isPending ? <Wait what="areas" /> : <Trouble error={all.error} />) : all.data.length === 0 ? (
        <Card><Empty title="No area yet">Make one and invite partners; areas that you are invited to appear here.</Empty></Card>
      ) : (
        <Card flush>
          <Table label="Areas" rows={all.data} id={(area) => area.id} columns={[
            { head: "Area", cell: (area) => <><Link href={areaAt(area.id)}>{area.name}</Link>{area.about !== "" && <><br /><span className="small soft">{area.about}</span></>}</> },
            { head: "You", cell: (area) => <Stand word={area.standing} /> },
            { head: "Members", num: true, cell: (area) => area.members },
            { head: "Shared", num: true, cell: (area) => area.shared },
            { head: "Rules", num: true, cell: (area) => (area.rules === 0 ? "none" : `number ${area.rules}`) },
            { head: "Asked of you", cell: (area) => (area.votes_wanted === 0 ? "" : <State word={plural(area.votes_wanted, "vote")} tone="warn" />) },
          ]} />
        </Card>
      )}
      {isOpen && <Make onClose={() => setOpen(false)} />}
    </Page>
  );
}

function Invite({ area, onDone }: { area: Area; onDone: (next: Area) => void }) {
  const orgs = useGet<Org[]>("/orgs");
  const [org, setOrg] = useState("");
  const { run, isBusy, error } = useAction();
  const known = new Set([...area.members, ...area.invited].map((one) => one.org));
  const free = (orgs.data ?? []).filter((one) => one.stance !== "own" && one.stance !== "blocked" && !known.has(one.org));
  return (
    <form className="form" onSubmit={(event) => { event.preventDefault(); run(async () => onDone(await send<Area>("POST", `${areaAt(area.id)}/invite`, { org }))); }}>
      <Field label="Organisation" hint="Your invitation is your vote; it is in when it joins and more than half of the members want it.">
        <select className="input" required value={org} onChange={(event) => setOrg(event.target.value)}>
          <option value="">choose…</option>
          {free.map((one) => <option key={one.org} value={one.org}>{one.org_name ?? short(one.org)}</option>)}
        </select>
      </Field>
      <Trouble error={error ?? orgs.error} />
      <footer className="row"><button className="button main" disabled={isBusy || org === ""}>Invite</button></footer>
    </form>
  );
}

type Act = (path: string, body?: object) => void;

function Members({ area, act, isBusy }: { area: Area; act: Act; isBusy: boolean }) {
  const [sure, setSure] = useState<string | null>(null);
  const isMember = area.standing === "member";
  const name = (one: { org: string; org_name?: string | null }) => one.org_name ?? short(one.org);
  const votes = ({ votes: has, needed }: { votes: number; needed: number }) => `${has} of ${needed} votes`;
  return (
    <>
      <Card title="Members" flush>
        <Table label="Members" rows={area.members} id={(one) => one.org} columns={[
          { head: "Organisation", cell: (one) => <><strong>{name(one)}</strong>{one.own && " (you)"}{one.founder && <span className="small soft"> · founded it</span>}</> },
          { head: "Connection", cell: (one) => (one.own ? "" : <State word={one.connected ? "connected" : "away"} />) },
          { head: "Act", cell: (one) => (one.own || !isMember ? null : sure === one.org ? <button type="button" className="button slim danger" disabled={isBusy} onClick={() => { act("expel", { org: one.org }); setSure(null); }}>Really expel</button> : <button type="button" className="button slim danger" onClick={() => setSure(one.org)}>Expel<span className="hidden"> {name(one)}</span></button>) },
        ]} />
      </Card>
      {area.invited.length > 0 && (
        <Card title="Invited" flush>
          <Table label="Invited" rows={area.invited} id={(one) => one.org} columns={[
            { head: "Organisation", cell: (one) => <strong>{name(one)}</strong> },
            { head: "State", cell: (one) => <State word={one.joined ? "has joined" : "has not answered"} tone={one.joined ? "live" : ""} /> },
            { head: "Votes", num: true, cell: votes },
            { head: "Act", cell: (one) => (isMember ? <span className="row">{!one.voted && <button type="button" className="button slim main" disabled={isBusy} onClick={() => act("invite", { org: one.org })}>Let it in<span className="hidden">: {name(one)}</span></button>}{one.voted && <button type="button" className="button slim danger" disabled={isBusy} onClick={() => act("expel", { org: one.org })}>Take back<span className="hidden"> the invitation of {name(one)}</span></button>}</span> : null) },
          ]} />
        </Card>
      )}
      {area.expelling.length > 0 && (
        <Card title="To be expelled" flush>
          <Table label="To be expelled" rows={area.expelling} id={(one) => one.org} columns={[
            { head: "Organisation", cell: (one) => <strong>{name(one)}</strong> },
            { head: "Votes", num: true, cell: votes },
            { head: "Act", cell: (one) => (isMember ? one.voted ? <button type="button" className="button slim" disabled={isBusy} onClick={() => act("invite", { org: one.org })}>Keep it<span className="hidden">: {name(one)}</span></button> : <button type="button" className="button slim danger" disabled={isBusy} onClick={() => act("expel", { org: one.org })}>Expel it, too<span className="hidden">: {name(one)}</span></button> : null) },
          ]} />
        </Card>
      )}
    </>
  );
}

function RuleBooks({ area, act, isBusy, onPropose }: { area: Area; act: Act; isBusy: boolean; onPropose: () => void }) {
  const names = new Map([...area.members, ...area.invited].map((one) => [one.org, one.org_name ?? short(one.org)]));
  const name = (org: string) => names.get(org) ?? short(org);
  return (
    <Card title="Rule book" aside={<span className="row"><State word={area.rules.number === 0 ? "none in force" : `number ${area.rules.number} in force`} tone={area.rules.number === 0 ? "" : "good"} />{area.standing === "member" && <button type="button" className="button slim" onClick={onPropose}>Propose rules</button>}</span>}>
      <Sentences book={area.rules.book} name={name} />
      {area.proposals.map((one) => (
        <section key={`${one.number} ${one.digest}`} aria-label={`Proposal ${one.number}`} className="note" style={{ marginTop: 12 }}>
          <strong>Number {one.number}, proposed by {one.by.map(name).join(", ")}</strong>
          <Sentences book={one.book} name={name} />
          <p className="row small" style={{ marginTop: 8 }}>
            {one.votes} of {one.needed} votes
            {!one.voted && area.standing === "member" && <button type="button" className="button slim main" disabled={isBusy} onClick={() => act("rules/accept", { org: one.by[0] })}>Accept<span className="hidden"> rules number {one.number}</span></button>}
          </p>
        </section>
      ))}
    </Card>
  );
}

function SharedThings({ area, onTake, onUnshare, aside, isBusy }: { area: Area; onTake: (one: Shared) => void; onUnshare: (one: Shared) => void; aside: ReactNode; isBusy: boolean }) {
  return (
    <Card title="Shared" aside={aside} flush>
      {area.shared.length === 0 ? <Empty title="Nothing is shared yet">Share a workspace, a workflow or a service; only the members see it.</Empty> : (
        <Table label="Shared" rows={area.shared} id={(one) => `${one.org} ${one.kind} ${one.name}`} columns={[
          { head: "Name", cell: (one) => <strong>{one.name}</strong> },
          { head: "Kind", cell: (one) => one.kind },
          { head: "Of", cell: (one) => (one.own ? "you" : one.org_name ?? short(one.org)) },
          { head: "Size", num: true, cell: (one) => bytes(one.size) },
          { head: "Act", cell: (one) => (one.own ? <button type="button" className="button slim danger" disabled={isBusy} onClick={() => onUnshare(one)}>Share no longer<span className="hidden">: {one.name}</span></button> : <button type="button" className="button slim" onClick={() => onTake(one)}>Take over<span className="hidden"> {one.name}</span></button>) },
        ]} />
      )}
    </Card>
  );
}

function One({ id }: { id: string }) {
  useLive();
  const found = useGet<Area>(areaAt(id), 10_000);
  const [open, setOpen] = useState<"invite" | "propose" | "share" | null>(null);
  const [taken, setTaken] = useState<Shared | null>(null);
  const [isSure, setSure] = useState(false);
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const area = found.data;
  if (area === undefined) return <Page title="Area">{found.isPending ? <Wait what="the area" /> : <Trouble error={found.error} />}</Page>;
  const act: Act = (path, body) => run(async () => { await send("POST", `${areaAt(id)}/${path}`, body); refresh("/areas"); setSure(false); });
  const done = () => { refresh("/areas"); setOpen(null); };
  const forget = () => run(async () => { await send("DELETE", areaAt(id)); refresh("/areas"); go("/areas"); });
  const isMember = area.standing === "member";
  return (
    <Page
      title={area.name}
      lead={<span className="row"><Stand word={area.standing} />{area.about !== "" && <span>{area.about}</span>}</span>}
      actions={isMember ? (
        <>
          {isSure ? <button type="button" className="button danger" disabled={isBusy} onClick={() => act("leave")}>Really leave</button> : <button type="button" className="button danger" onClick={() => setSure(true)}>Leave</button>}
          <button type="button" className="button" onClick={() => setOpen("invite")}>Invite</button>
        </>
      ) : area.standing === "invited" ? (
        <>
          <button type="button" className="button danger" disabled={isBusy} onClick={forget}>Decline</button>
          <button type="button" className="button main" disabled={isBusy} onClick={() => act("join")}>Join</button>
        </>
      ) : area.standing === "asking" ? <button type="button" className="button danger" disabled={isBusy} onClick={() => act("leave")}>Leave</button> : <button type="button" className="button danger" disabled={isBusy} onClick={forget}>Forget</button>}
    >
      <div className="stack">
        <Trouble error={error} />
        {area.standing === "invited" && <div className="note" role="status"><strong>You are invited</strong>Look at its members and rules below before you join: from then on what you share here has to meet them.</div>}
        <div className="two">
          <div className="stack">
            <SharedThings area={area} isBusy={isBusy} onTake={setTaken} onUnshare={(one) => run(async () => { await unshare(id, one); refresh("/areas"); })} aside={isMember ? <button type="button" className="button slim" onClick={() => setOpen("share")}>Share something</button> : null} />
            <Members area={area} act={act} isBusy={isBusy} />
          </div>
          <RuleBooks area={area} act={act} isBusy={isBusy} onPropose={() => setOpen("propose")} />
        </div>
        <p className="small soft">Founded by {area.founder_name ?? area.members.find((one) => one.org === area.founder)?.org_name ?? short(area.founder)}. Its identity is <span className="mono wrap">{area.id}</span></p>
      </div>
      {open === "invite" && <Dialog title={`Invite to ${area.name}`} onClose={() => setOpen(null)}><Invite area={area} onDone={done} /></Dialog>}
      {open === "share" && <Dialog title={`Share in ${area.name}`} onClose={() => setOpen(null)}><ShareForm area={area} onDone={done} /></Dialog>}
      {open === "propose" && <Dialog title={`Rules for ${area.name}`} wide onClose={() => setOpen(null)}><BookForm begin={area.rules.book} word="Propose" onSend={async (rules) => { await send("PUT", `${areaAt(id)}/rules`, { rules }); done(); }} /></Dialog>}
      {taken !== null && <Take area={area} one={taken} onClose={() => setTaken(null)} />}
    </Page>
  );
}

export default function Areas({ id }: { id: string | null }) {
  return id === null ? <All /> : <One key={id} id={id} />;
}
