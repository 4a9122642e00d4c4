import { useQuery } from "@tanstack/react-query";
import { useDeferredValue, useState, type FormEvent } from "react";

import { get, query, save, send } from "../api/client";
import type { Decisions, Policies, PolicyChecked, PolicyText, User, Verdict } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { listed, plural, time, words } from "../lib/format";
import { ACTIONS, KINDS } from "../lib/policy";
import { Code } from "../ui/code";
import { Card, Dialog, Empty, Field, Page, State, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

const of = (name: string) => `/policies/${encodeURIComponent(name)}`;
const BEGINNING = `@id("members-see-surveys")
permit (principal is User, action == Action::"see", resource is Data)
when { principal.stance == "own" && principal.roles.contains("member") };
`;

function Editor({ file, taken, onClose }: { file: PolicyText | null; taken: string[]; onClose: () => void }) {
  const [name, setName] = useState(file?.name ?? "");
  const [text, setText] = useState(file?.text ?? BEGINNING);
  const [isSure, setSure] = useState(false);
  const settled = useDeferredValue(text);
  const checked = useQuery<PolicyChecked>({ queryKey: ["policy check", settled], queryFn: () => send<PolicyChecked>("POST", "/policy/check", { text: settled }), placeholderData: (before) => before });
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const found = checked.data;
  const isGood = found?.valid === true && settled === text;
  const match: Record<string, string> = file === null ? {} : { "if-match": `"${file.mark}"` };
  const end = () => { refresh("/policies", "/policy"); onClose(); };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      if (file === null && taken.includes(name.trim())) throw new Error(`There is a file ${name.trim()} already: open that one, or choose another name.`);
      await send("PUT", of(name.trim()), { text }, match);
      end();
    });
  };
  const remove = () => run(async () => { await send("DELETE", of(name), undefined, match); end(); });
  return (
    <Dialog title={file === null ? "New file of policies" : `Policies: ${file.name}`} wide onClose={onClose}>
      <form className="form" onSubmit={submit}>
        {file === null && <Field label="Name" hint="Letters, digits and - ; the file in the node's home is called so, with .cedar"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>}
        {file !== null && !file.is_own && <p className="small soft">These are built in. Saving them writes a file that stands in their place; removing that brings them back.</p>}
        <div className="framed"><Code label="Policies in Cedar" text={text} problems={found?.spots ?? []} onText={setText} /></div>
        <p className="row small" role="status">
          {isGood ? <><State word="valid" tone="good" />{plural(found.rules.length, "policy", "policies")}: {listed(found.rules.map((rule) => rule.id.split("/").pop() ?? rule.id))}</> : found !== undefined && !found.valid ? <><State word="refused" tone="bad" /><span className="wrap">{found.problem}</span></> : <State word="being checked" />}
        </p>
        <Trouble error={error ?? checked.error} />
        <footer>
          {file?.is_own === true && (isSure ? <button type="button" className="button danger" disabled={isBusy} onClick={remove}>Really remove</button> : <button type="button" className="button danger" onClick={() => setSure(true)}>Remove</button>)}
          <button className="button main" disabled={isBusy || !isGood || name.trim() === ""}>Save</button>
        </footer>
      </form>
    </Dialog>
  );
}

function Files() {
  const all = useGet<Policies>("/policies");
  const [open, setOpen] = useState<{ file: PolicyText | null } | null>(null);
  const { run, isBusy, error } = useAction();
  const found = all.data;
  if (found === undefined) return all.isPending ? <Wait what="policies" /> : <Trouble error={all.error} />;
  return (
    <div className="stack">
      <div className="row between">
        <p className="soft">What nothing permits is refused; what anything forbids is refused whatever permits it. The owner is above them.</p>
        <span className="row">
          <button type="button" className="button" disabled={isBusy} onClick={() => run(() => save("/policy/schema", "opencloud.cedarschema"))}>Save the schema</button>
          <button type="button" className="button" onClick={() => setOpen({ file: null })}>New file</button>
        </span>
      </div>
      {found.closed !== undefined && <div className="note bad" role="alert"><strong>Nobody but the owner may do anything</strong>{found.closed}</div>}
      <Trouble error={error} />
      <Card flush>
        <Table label="Files of policies" rows={found.files} id={(file) => file.name} columns={[
          { head: "File", cell: (file) => <strong>{file.name}</strong> },
          { head: "From", cell: (file) => (file.is_own ? "this home" : "built in") },
          { head: "Permit", cell: (file) => ids(file, "permit") },
          { head: "Forbid", cell: (file) => ids(file, "forbid") },
          { head: "Act", cell: (file) => <button type="button" className="button slim" disabled={isBusy} onClick={() => run(async () => setOpen({ file: await get<PolicyText>(of(file.name)) }))}>Open<span className="hidden"> {file.name}</span></button> },
        ]} />
      </Card>
      {open !== null && <Editor file={open.file} taken={found.files.map((file) => file.name)} onClose={() => setOpen(null)} />}
    </div>
  );
}

const ids = (file: Policies["files"][number], effect: string) => listed(file.rules.filter((rule) => rule.effect === effect).map((rule) => rule.id.split("/").pop() ?? rule.id)) || "–";

/** What decided: policies by name, or that nothing permits it. */
function why(policies: readonly string[], isAllowed: boolean): string {
  return policies.length > 0 ? listed(policies) : isAllowed ? "the owner is above policies" : "no policy permits it";
}

const Answer = ({ allowed }: { allowed: boolean }) => <State word={allowed ? "allowed" : "refused"} tone={allowed ? "good" : "bad"} />;

/** A person of this organisation as policies name it. */
const nameOf = (user: User) => `${user.issuer.replaceAll("%", "%25").replaceAll("|", "%7C")}|${user.subject}`;

function Ask() {
  const users = useGet<User[]>("/users");
  const [asked, setAsked] = useState({ who: "user", name: "", groups: "", roles: "", action: "see", kind: "node", resource: "", listed: false });
  const [one, setOne] = useState<Verdict | null>(null);
  const [all, setAll] = useState<Verdict[] | null>(null);
  const { run, isBusy, error } = useAction();
  const set = (part: Partial<typeof asked>) => { setAsked({ ...asked, ...part }); setOne(null); setAll(null); };
  const principal = asked.who === "owner" ? "owner" : `${asked.who}:${asked.name.trim()}`;
  const resource = asked.kind === "node" ? "node" : `${asked.kind}:${asked.resource.trim()}`;
  const could = (event: FormEvent) => {
    event.preventDefault();
    run(async () => setOne(await send<Verdict>("POST", "/policy/can", { principal, groups: words(asked.groups), roles: words(asked.roles), action: asked.action, resource, listed: asked.listed })));
  };
  const who = () => run(async () => setAll(await get<Verdict[]>(`/policy/who${query({ action: asked.action, resource })}`)));
  return (
    <div className="stack">
      <Card title="Could somebody do something?">
        <form className="form" onSubmit={could}>
          <div className="pair">
            <Field label="Who">
              <select className="input" value={asked.who} onChange={(event) => set({ who: event.target.value, name: "" })}>
                {["owner", "user", "group", "org", "node"].map((kind) => <option key={kind}>{kind}</option>)}
              </select>
            </Field>
            {asked.who === "user" && (users.data ?? []).length > 0 && (
              <Field label="Person" hint="Whoever is known here, with groups and roles; or write below">
                <select className="input" value={asked.name} onChange={(event) => {
                  const user = users.data?.find((one) => nameOf(one) === event.target.value);
                  set(user === undefined ? { name: "" } : { name: nameOf(user), groups: listed(user.groups), roles: listed(user.roles) });
                }}>
                  <option value="">somebody else</option>
                  {users.data?.map((user) => <option key={user.id} value={nameOf(user)}>{user.name}</option>)}
                </select>
              </Field>
            )}
            {asked.who !== "owner" && <Field label="Name of who asks" hint={asked.who === "user" ? "ISSUER|SUBJECT, as decisions name it" : asked.who === "group" ? "As the provider's claims or the users here have it" : asked.who === "org" ? "did:key:…" : "12D3…"}><input className="input mono" required value={asked.name} onChange={(event) => set({ name: event.target.value })} /></Field>}
            {asked.who === "user" && <Field label="Its groups" hint="With commas between"><input className="input" value={asked.groups} onChange={(event) => set({ groups: event.target.value })} /></Field>}
            {asked.who === "user" && <Field label="Its roles" hint="With commas between"><input className="input" value={asked.roles} onChange={(event) => set({ roles: event.target.value })} /></Field>}
          </div>
          <div className="pair">
            <Field label="Would do"><select className="input" value={asked.action} onChange={(event) => set({ action: event.target.value })}>{ACTIONS.map((action) => <option key={action}>{action}</option>)}</select></Field>
            <Field label="With"><select className="input" value={asked.kind} onChange={(event) => set({ kind: event.target.value })}>{KINDS.map((kind) => <option key={kind} value={kind}>{kind === "node" ? "this node" : kind}</option>)}</select></Field>
            {asked.kind !== "node" && <Field label="Name of it"><input className="input mono" required value={asked.resource} onChange={(event) => set({ resource: event.target.value })} /></Field>}
          </div>
          <label className="check"><input type="checkbox" checked={asked.listed} onChange={(event) => set({ listed: event.target.checked })} />It is published to the organisation that asks</label>
          <Trouble error={error} />
          <footer className="row">
            <button className="button main" disabled={isBusy}>Could it?</button>
            <button type="button" className="button" disabled={isBusy} onClick={who}>Who could?</button>
          </footer>
        </form>
      </Card>
      {one !== null && (
        <div className={`note ${one.allowed ? "good" : "bad"}`} role="status">
          <strong>{one.allowed ? "Yes, it could" : "No, it would be refused"}</strong>
          <span className="wrap"><code>{one.principal}</code> {one.action} <code>{one.resource}</code>: {why(one.policies, one.allowed)}</span>
          {one.errors.length > 0 && <p className="small">{one.errors.join("; ")}</p>}
        </div>
      )}
      {all !== null && (
        <Card title="Who could" flush>
          <Table label="Who could" rows={all} id={(verdict) => verdict.principal} columns={[
            { head: "Who", cell: (verdict) => <span className="mono wrap">{verdict.principal}</span> },
            { head: "Answer", cell: (verdict) => <Answer allowed={verdict.allowed} /> },
            { head: "By", cell: (verdict) => why(verdict.policies, verdict.allowed) },
          ]} />
        </Card>
      )}
    </div>
  );
}

function Log() {
  const [before, setBefore] = useState<number | null>(null);
  const found = useGet<Decisions>(`/policy/log${query({ limit: 50, before: before ?? undefined })}`, before === null ? 5_000 : undefined);
  const [isRefused, setRefused] = useState(false);
  if (found.data === undefined) return found.isPending ? <Wait what="decisions" /> : <Trouble error={found.error} />;
  const rows = found.data.entries.filter((entry) => !isRefused || !entry.allowed);
  const next = found.data.next;
  return (
    <div className="stack">
      <label className="check"><input type="checkbox" checked={isRefused} onChange={(event) => setRefused(event.target.checked)} />Refusals alone</label>
      {rows.length === 0 ? <Card><Empty title="No decision">Whatever anybody but the owner asks for is decided by policies, and stands here.</Empty></Card> : (
        <Card flush>
          <Table label="Decisions" rows={rows} id={(entry) => String(entry.seq)} columns={[
            { head: "At", cell: (entry) => <span className="small">{time(entry.at_ms)}{(entry.repeated ?? 0) > 0 && <><br /><span className="soft">and {entry.repeated} times before</span></>}</span> },
            { head: "Who", cell: (entry) => <span className="mono wrap">{entry.principal}</span> },
            { head: "Action", cell: (entry) => entry.action },
            { head: "With", cell: (entry) => <span className="mono wrap">{entry.resource}</span> },
            { head: "Answer", cell: (entry) => <Answer allowed={entry.allowed} /> },
            { head: "By", cell: (entry) => <>{why(entry.policies, entry.allowed)}{entry.error !== undefined && <><br /><span className="small soft">{entry.error}</span></>}</> },
          ]} />
        </Card>
      )}
      <div className="row">
        {before !== null && <button type="button" className="button" onClick={() => setBefore(null)}>Newest</button>}
        {next != null && <button type="button" className="button" onClick={() => setBefore(next)}>Older</button>}
      </div>
    </div>
  );
}

export default function PoliciesPage() {
  return (
    <Page title="Policies" lead="Who may do what on this node: readable, checked before it holds, and every decision written down.">
      <Tabs label="Policies" tabs={[
        { id: "files", name: "Policies", body: <Files /> },
        { id: "ask", name: "Ask", body: <Ask /> },
        { id: "log", name: "Decisions", body: <Log /> },
      ]} />
    </Page>
  );
}
