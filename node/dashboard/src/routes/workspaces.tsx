import { useEffect, useState, type FormEvent } from "react";
import { Link, useLocation } from "wouter";

import { get, query, send } from "../api/client";
import type { Resource, Workspace, WorkspaceSummary } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { ShareIn } from "../areas/share";
import { DRAFT } from "../lib/draft";
import { ago, plural } from "../lib/format";
import { NAME, NAME_HINT, nameOf } from "../lib/name";
import { type Content, contentOf, workspaceAt as address } from "../lib/workspace";
import { Card, Dialog, Empty, Field, Page, Table, Trouble, useAction, useNow, Wait } from "../ui/parts";

function Make({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [about, setAbout] = useState("");
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      await send("PUT", address(name.trim()), { version: 0, workspace: { about } });
      refresh("/workspaces");
      go(address(name.trim()));
      onClose();
    });
  };
  return (
    <Dialog title="New workspace" onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Field label="Name" hint={NAME_HINT}><input className="input" required pattern={NAME} value={name} onChange={(event) => setName(event.target.value)} /></Field>
        <Field label="What it is for"><input className="input" value={about} onChange={(event) => setAbout(event.target.value)} /></Field>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy || name.trim() === ""}>Make it</button></footer>
      </form>
    </Dialog>
  );
}

function All() {
  const all = useGet<WorkspaceSummary[]>("/workspaces", 10_000);
  const [isOpen, setOpen] = useState(false);
  const now = useNow(5_000);
  return (
    <Page title="Workspaces" lead="Chosen resources, searches, notes and drafts of workflows under a name." actions={<button type="button" className="button main" onClick={() => setOpen(true)}>New workspace</button>}>
      {all.data === undefined ? (all.isPending ? <Wait what="workspaces" /> : <Trouble error={all.error} />) : all.data.length === 0 ? (
        <Card><Empty title="No workspace yet">Make one, and put into it what you work with.</Empty></Card>
      ) : (
        <Card flush>
          <Table label="Workspaces" rows={all.data} id={(one) => one.name} columns={[
            { head: "Name", cell: (one) => <><Link href={address(one.name)}>{one.name}</Link>{one.about !== "" && <><br /><span className="small soft">{one.about}</span></>}</> },
            { head: "Resources", num: true, cell: (one) => one.resources },
            { head: "Searches", num: true, cell: (one) => one.searches },
            { head: "Drafts", num: true, cell: (one) => one.workflows },
            { head: "Changed", num: true, cell: (one) => ago(one.changed_ms, now) },
          ]} />
        </Card>
      )}
      {isOpen && <Make onClose={() => setOpen(false)} />}
    </Page>
  );
}

function Choose({ taken, isBusy, error, onTake, onClose }: { taken: Set<string>; isBusy: boolean; error: unknown; onTake: (id: string) => void; onClose: () => void }) {
  const found = useGet<Resource[]>(`/catalog${query({ limit: 300 })}`);
  const [wanted, setWanted] = useState("");
  const rows = (found.data ?? []).filter((one) => !taken.has(one.id) && `${one.resource.name} ${one.resource.short ?? ""} ${one.org_name} ${one.resource.detail.kind}`.toLowerCase().includes(wanted.toLowerCase()));
  return (
    <Dialog title="Put resources into the workspace" onClose={onClose} wide>
      <div className="form">
        <Field label="Search"><input className="input" type="search" value={wanted} onChange={(event) => setWanted(event.target.value)} /></Field>
        <Trouble error={found.error ?? error} />
        <Table label="Resources" plain rows={rows.slice(0, 50)} id={(one) => one.id} columns={[
          { head: "Resource", cell: (one) => <strong>{one.resource.name}</strong> },
          { head: "Kind", cell: (one) => one.resource.detail.kind },
          { head: "Organisation", cell: (one) => one.org_name },
          { head: "Choose", cell: (one) => <button type="button" className="button slim" disabled={isBusy} onClick={() => onTake(one.id)}>Put in<span className="hidden"> {one.resource.name}</span></button> },
        ]} />
      </div>
    </Dialog>
  );
}

function One({ name }: { name: string }) {
  const found = useGet<Workspace>(address(name));
  const [notes, setNotes] = useState<string | null>(null);
  const [search, setSearch] = useState({ name: "", filter: "" });
  const [isChoosing, setChoosing] = useState(false);
  const [isSure, setSure] = useState(false);
  const [sharing, setSharing] = useState<{ kind: "workspace" | "workflow"; name: string; document?: string } | null>(null);
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  useEffect(() => setNotes(null), [found.data?.version]);
  const workspace = found.data;
  if (workspace === undefined) return <Page title={name}>{found.isPending ? <Wait what="the workspace" /> : <Trouble error={found.error} />}</Page>;
  // What is put in or taken out goes to the workspace as it is now; what is written in place of something, to the one that was read.
  const change = (next: (content: Content) => Content, isOfThis = false) =>
    run(async () => {
      const now = isOfThis ? workspace : await get<Workspace>(address(name));
      await send("PUT", address(name), { version: now.version, workspace: next(contentOf(now)) });
      refresh("/workspaces");
    });
  const remove = () => run(async () => { await send("DELETE", address(name)); refresh("/workspaces"); go("/workspaces"); });
  const edit = (text: string) => {
    localStorage.setItem(DRAFT, text);
    go("/editor");
  };
  const searches = Object.entries(workspace.searches as Record<string, string>);
  const workflows = Object.entries(workspace.workflows as Record<string, string>);
  return (
    <Page
      title={name}
      lead={workspace.about === "" ? undefined : workspace.about}
      actions={
        <>
          {isSure ? <button type="button" className="button danger" disabled={isBusy} onClick={remove}>Really remove</button> : <button type="button" className="button danger" onClick={() => setSure(true)}>Remove</button>}
          <button type="button" className="button" onClick={() => setSharing({ kind: "workspace", name })}>Share in an area</button>
          <button type="button" className="button main" onClick={() => setChoosing(true)}>Put resources in</button>
        </>
      }
    >
      <div className="stack">
        <Trouble error={error} />
        <Card title="Resources" flush>
          {workspace.resources.length === 0 ? <Empty title="Nothing in it yet">Put in what you work with; the editor offers it first.</Empty> : (
            <Table label="Resources" rows={workspace.resources} id={(one) => one.id} columns={[
              { head: "Resource", cell: (one) => <><strong>{one.name ?? "not in the catalogue now"}</strong><br /><span className="mono small soft wrap">{one.id}</span></> },
              { head: "Kind", cell: (one) => one.kind ?? "" },
              { head: "Organisation", cell: (one) => one.org_name ?? "" },
              { head: "Act", cell: (one) => <button type="button" className="button slim" disabled={isBusy} onClick={() => change((content) => ({ ...content, resources: content.resources.filter((id) => id !== one.id) }))}>Take out<span className="hidden"> {one.name}</span></button> },
            ]} />
          )}
        </Card>
        <div className="halves">
          <Card title="Drafts of workflows">
            {workflows.length === 0 ? <p className="soft small">None yet. The editor saves drafts to workspaces.</p> : (
              <ul className="stack tight">
                {workflows.map(([title, text]) => (
                  <li key={title} className="row between">
                    <strong>{title}</strong>
                    <span className="row">
                      <button type="button" className="button slim" onClick={() => edit(text)}>Open in the editor</button>
                      <button type="button" className="button slim" onClick={() => setSharing({ kind: "workflow", name: title, document: text })}>Share<span className="hidden"> {title} in an area</span></button>
                      <button type="button" className="button slim danger" disabled={isBusy} onClick={() => change((content) => ({ ...content, workflows: Object.fromEntries(workflows.filter(([other]) => other !== title)) }))}>Remove<span className="hidden"> {title}</span></button>
                    </span>
                  </li>
                ))}
              </ul>
            )}
          </Card>
          <Card title="Searches">
            <ul className="stack tight">
              {searches.map(([title, filter]) => (
                <li key={title} className="row between">
                  <span><strong>{title}</strong> <code className="small wrap">{filter}</code></span>
                  <span className="row">
                    <Link className="button slim" href={`/catalogue?filter=${encodeURIComponent(filter)}`}>Search</Link>
                    <button type="button" className="button slim danger" disabled={isBusy} onClick={() => change((content) => ({ ...content, searches: Object.fromEntries(searches.filter(([other]) => other !== title)) }))}>Remove<span className="hidden"> {title}</span></button>
                  </span>
                </li>
              ))}
            </ul>
            <form className="row" style={{ marginTop: 10 }} onSubmit={(event) => { event.preventDefault(); change((content) => ({ ...content, searches: { ...content.searches, [nameOf(search.name)]: search.filter } })); setSearch({ name: "", filter: "" }); }}>
              <input className="input" style={{ width: 130 }} aria-label="Name of a new search" placeholder="name" required value={search.name} onChange={(event) => setSearch({ ...search, name: event.target.value })} />
              <input className="input mono" style={{ flex: "1 1 160px", width: "auto" }} aria-label="Its filter" placeholder="kind = compute and cpu >= 4" required value={search.filter} onChange={(event) => setSearch({ ...search, filter: event.target.value })} />
              <button className="button slim" disabled={isBusy}>Keep</button>
            </form>
          </Card>
        </div>
        <Card title="Notes">
          <form className="form" onSubmit={(event) => { event.preventDefault(); change((content) => ({ ...content, notes: notes ?? content.notes }), true); }}>
            <textarea className="input" aria-label="Notes" rows={6} value={notes ?? workspace.notes} onChange={(event) => setNotes(event.target.value)} />
            <div><button className="button" disabled={isBusy || notes === null || notes === workspace.notes}>Save the notes</button></div>
          </form>
        </Card>
        <p className="small soft">Version {workspace.version}, {plural(workspace.resources.length, "resource")}</p>
      </div>
      {sharing !== null && <ShareIn {...sharing} onClose={() => setSharing(null)} />}
      {isChoosing && <Choose taken={new Set(workspace.resources.map((one) => one.id))} isBusy={isBusy} error={error} onTake={(id) => change((content) => ({ ...content, resources: [...content.resources, id] }))} onClose={() => setChoosing(false)} />}
    </Page>
  );
}

export default function Workspaces({ name }: { name: string | null }) {
  return name === null ? <All /> : <One key={name} name={name} />;
}
