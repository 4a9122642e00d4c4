// Sharing something in an area, and taking over what others share.

import { useState, type FormEvent } from "react";
import { Link, useLocation } from "wouter";

import { type Area, areaAt, type AreaSummary, type Shared, type SharedContent, type SharedKind } from "../api/areas";
import { get, query, send } from "../api/client";
import type { ServiceSummary, Workspace, WorkspaceSummary } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { DRAFT } from "../lib/draft";
import { NAME, NAME_HINT, nameOf } from "../lib/name";
import { Dialog, Field, Trouble, useAction } from "../ui/parts";

const sharedAt = (id: string, kind: SharedKind, name: string) => `${areaAt(id)}/shared/${kind}/${encodeURIComponent(name)}`;

/** Shares something of this node in an area; a workflow goes with its text. */
export const share = (id: string, kind: SharedKind, name: string, document?: string) => send<Area>("PUT", sharedAt(id, kind, name), document === undefined ? {} : { document });
export const unshare = (id: string, { kind, name }: Shared) => send<Area>("DELETE", sharedAt(id, kind, name));

/** A service is shared with its document, which the node does not keep as it was written. */
function DocumentField({ onText }: { onText: (text: string) => void }) {
  return <Field label="Its document" hint="As it was deployed: others deploy it from that"><input className="input" type="file" required accept=".yaml,.yml,.json" onChange={(event) => void event.target.files?.[0]?.text().then(onText)} /></Field>;
}

/** Under which name a workflow is shared: its title may be any text, and names of what is shared are not. */
function NameField({ value, onValue }: { value: string; onValue: (name: string) => void }) {
  return <Field label="Shared as" hint={NAME_HINT}><input className="input" required pattern={NAME} maxLength={64} value={value} onChange={(event) => onValue(event.target.value)} /></Field>;
}

/** In which area a workspace, workflow or service of this node is to be shared. */
export function ShareIn({ kind, name, document, onClose }: { kind: SharedKind; name: string; document?: string; onClose: () => void }) {
  const all = useGet<AreaSummary[]>("/areas");
  const [id, setId] = useState("");
  const [text, setText] = useState(document);
  const [as, setAs] = useState(kind === "workflow" ? nameOf(name) : name);
  const [done, setDone] = useState<Area | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const mine = (all.data ?? []).filter((area) => area.standing === "member");
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => { setDone(await share(id, kind, as, text)); refresh("/areas"); });
  };
  return (
    <Dialog title={`Share ${name}`} onClose={onClose}>
      {done !== null ? (
        <div className="note good" role="status"><strong>{as} is shared in {done.name}</strong><Link href={areaAt(done.id)}>To the area</Link></div>
      ) : (
        <form className="form" onSubmit={submit}>
          <Field label="Area" hint={mine.length === 0 && all.data !== undefined ? "You are a member of no area yet: make one, or join one that you are invited to." : "Its rule book is checked first; its members alone see what is shared."}>
            <select className="input" required value={id} onChange={(event) => setId(event.target.value)}>
              <option value="">choose…</option>
              {mine.map((area) => <option key={area.id} value={area.id}>{area.name}</option>)}
            </select>
          </Field>
          {kind === "workflow" && <NameField value={as} onValue={setAs} />}
          {kind === "service" && <DocumentField onText={setText} />}
          <Trouble error={error ?? all.error} />
          <footer><button className="button main" disabled={isBusy || id === "" || (kind !== "workspace" && text === undefined)}>Share</button></footer>
        </form>
      )}
    </Dialog>
  );
}

/** Chooses what is to be shared in an area. */
export function ShareForm({ area, onDone }: { area: Area; onDone: (next: Area) => void }) {
  const [kind, setKind] = useState<SharedKind>("workspace");
  const [name, setName] = useState("");
  const [from, setFrom] = useState("");
  const [document, setDocument] = useState<string | undefined>(undefined);
  const [as, setAs] = useState("");
  const workspaces = useGet<WorkspaceSummary[]>("/workspaces");
  const services = useGet<ServiceSummary[]>(kind === "service" ? "/services" : null);
  const drafts = useGet<Workspace>(kind === "workflow" && from !== "" ? `/workspaces/${encodeURIComponent(from)}` : null);
  const texts = (drafts.data?.workflows ?? {}) as Record<string, string>;
  const { run, isBusy, error } = useAction();
  const names = kind === "workspace" ? (workspaces.data ?? []).map((one) => one.name) : kind === "service" ? (services.data ?? []).map((one) => one.name) : Object.keys(texts);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => onDone(await share(area.id, kind, kind === "workflow" ? as : name, kind === "workflow" ? texts[name] : kind === "service" ? document : undefined)));
  };
  return (
    <form className="form" onSubmit={submit}>
      <Field label="Kind">
        <select className="input" value={kind} onChange={(event) => { setKind(event.target.value as SharedKind); setName(""); }}>
          {["workspace", "workflow", "service"].map((one) => <option key={one}>{one}</option>)}
        </select>
      </Field>
      {kind === "workflow" && (
        <Field label="Draft of workspace">
          <select className="input" value={from} onChange={(event) => { setFrom(event.target.value); setName(""); }}>
            <option value="">choose…</option>
            {(workspaces.data ?? []).filter((one) => one.workflows > 0).map((one) => <option key={one.name}>{one.name}</option>)}
          </select>
        </Field>
      )}
      <Field label="What" hint={names.length === 0 ? "There is none yet" : undefined}>
        <select className="input" required value={name} onChange={(event) => { setName(event.target.value); setAs(nameOf(event.target.value)); }}>
          <option value="">choose…</option>
          {names.map((one) => <option key={one}>{one}</option>)}
        </select>
      </Field>
      {kind === "workflow" && name !== "" && <NameField value={as} onValue={setAs} />}
      {kind === "service" && <DocumentField onText={setDocument} />}
      <Trouble error={error} />
      <footer className="row"><button className="button main" disabled={isBusy || name === "" || (kind === "service" && document === undefined)}>Share</button></footer>
    </form>
  );
}

/** Takes over what another organisation shares: a workspace becomes one of this node, a workflow opens in the editor, of a service the document is shown. */
export function Take({ area, one, onClose }: { area: Area; one: Shared; onClose: () => void }) {
  const [name, setName] = useState(one.name);
  const [text, setText] = useState<string | null>(null);
  const [, go] = useLocation();
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const { document } = await get<SharedContent>(`${sharedAt(area.id, one.kind, one.name)}${query({ org: one.org })}`);
      if (one.kind === "workspace") {
        await send("PUT", `/workspaces/${encodeURIComponent(name.trim())}`, { version: 0, workspace: JSON.parse(document) as unknown });
        refresh("/workspaces");
        go(`/workspaces/${encodeURIComponent(name.trim())}`);
      } else if (one.kind === "workflow") {
        localStorage.setItem(DRAFT, document);
        go("/editor");
      } else setText(document);
    });
  };
  return (
    <Dialog title={`Take over ${one.name}`} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <p className="soft">A {one.kind} of {one.org_name ?? one.org}. What you take over is yours from then on: it changes neither there nor by itself.</p>
        {one.kind === "workspace" && <Field label="Name here" hint={NAME_HINT}><input className="input" required pattern={NAME} value={name} onChange={(event) => setName(event.target.value)} /></Field>}
        {text !== null && <pre className="secret" tabIndex={0} aria-label="Document">{text}</pre>}
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>{one.kind === "workspace" ? "Take it over" : one.kind === "workflow" ? "Open in the editor" : "Show its document"}</button></footer>
      </form>
    </Dialog>
  );
}
