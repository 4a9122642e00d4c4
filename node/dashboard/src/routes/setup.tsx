import { useState, type FormEvent, type ReactNode } from "react";
import { Link, useLocation } from "wouter";

import { get, Problem, send } from "../api/client";
import type { Provider, Status, User } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { plural } from "../lib/format";
import { settled } from "../lib/setup";
import { InviteForm, JoinForm } from "../peers/admit";
import { ProviderForm } from "../people/provider";
import { InvitePerson } from "../people/user";
import { Card, Copy, Facts, Field, Page, Tabs, Trouble, useAction, Wait } from "../ui/parts";

/** How often the node is asked whether it is back, and how long at most. */
const [ASK_MS, BACK_MS] = [400, 60_000];

/** Waits until the node answers under its new name. */
async function isBack(name: string): Promise<void> {
  for (const until = Date.now() + BACK_MS; Date.now() < until; await new Promise((go) => setTimeout(go, ASK_MS))) {
    const found = await get<Status>("/status").catch(() => null);
    if (found?.org_name === name) return;
  }
  throw new Error("The node has not come back yet: look at the terminal that it runs in.");
}

function Organisation() {
  const status = useGet<Status>("/status");
  const [name, setName] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const found = status.data;
  if (found === undefined) return status.isPending ? <Wait what="the node" /> : <Trouble error={status.error} />;
  const wanted = (name ?? found.org_name).trim();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      // The node may be gone before its answer is here.
      await send("PATCH", "/org", { name: wanted }).catch((error: unknown) => { if (!(error instanceof Problem && error.status === 0)) throw error; });
      await isBack(wanted);
      refresh("/");
      setName(null);
    });
  };
  return (
    <div className="stack">
      <p>This is how others see you. The name is for people; the identity is what machines know you by, and nobody can take it.</p>
      <form className="form" onSubmit={submit}>
        <Field label="Name of the organisation" hint="The node starts again for a moment with papers that say the new name.">
          <input className="input" required maxLength={64} value={name ?? found.org_name} onChange={(event) => setName(event.target.value)} />
        </Field>
        <Trouble error={error} />
        <div><button className="button" disabled={isBusy || wanted === "" || wanted === found.org_name}>{isBusy ? "The node starts again…" : "Save the name"}</button></div>
      </form>
      <Facts facts={[
        ["Organisation", <strong key="name">{found.org_name}</strong>], ["Its identity", <span className="mono wrap" key="org">{found.org}</span>], ["This node", found.name], ["Its key", <span className="mono wrap" key="id">{found.id}</span>],
      ]} />
      <div className="row"><Copy text={found.org} label="Copy the identity" /></div>
    </div>
  );
}

function People() {
  const providers = useGet<Provider[]>("/providers");
  const users = useGet<User[]>("/users");
  const [known, people] = [providers.data ?? [], users.data ?? []];
  return (
    <div className="stack">
      {(known.length > 0 || people.length > 0) && <p className="small soft" role="status">{plural(known.length, "provider")} connected, {plural(people.length, "user")} known.</p>}
      <Tabs label="How people come in" tabs={[
        { id: "provider", name: "Connect your identity provider", body: <ProviderForm /> },
        { id: "link", name: "Invite by a one-time link", body: <><p className="soft" style={{ marginBottom: 12 }}>Needs no provider: a person alone, or a few who know each other.</p><InvitePerson /></> },
      ]} />
    </div>
  );
}

function Partners() {
  return (
    <Tabs label="How to meet others" tabs={[
      { id: "invite", name: "Invite a partner", body: <InviteForm /> },
      { id: "join", name: "Join with a ticket", body: <JoinForm /> },
    ]} />
  );
}

function Ready() {
  return (
    <div className="stack">
      <p>Your node is set up. From here on:</p>
      <ul className="stack tight">
        <li><Link href="/catalogue">Publish data or an algorithm</Link>, for everybody or for chosen partners</li>
        <li><Link href="/editor">Draw a workflow</Link>, have it planned with prices, and run it</li>
        <li><Link href="/policies">Say who may do what</Link>; what is built in is a careful beginning</li>
        <li><Link href="/peers">See who has come</Link>, and what each organisation may do here</li>
      </ul>
    </div>
  );
}

const STEPS: [string, () => ReactNode][] = [["Your organisation", Organisation], ["Your people", People], ["Your partners", Partners], ["Ready", Ready]];

export default function Setup() {
  const [at, setAt] = useState(0);
  const [, go] = useLocation();
  const [name, Body] = STEPS[at] ?? STEPS[0]!;
  const end = () => {
    settled();
    go("/");
  };
  return (
    <Page title="Set up this node" lead="Four short steps. Each can be left out, and done later." actions={<button type="button" className="button" onClick={end}>Skip the set-up</button>}>
      <ol className="steps" aria-label="Steps">
        {STEPS.map(([title], one) => <li key={title} aria-current={one === at ? "step" : undefined}><button type="button" onClick={() => setAt(one)}>{one + 1}. {title}</button></li>)}
      </ol>
      <Card title={name}>
        <Body key={at} />
        <footer className="row between" style={{ marginTop: 20 }}>
          <button type="button" className="button" disabled={at === 0} onClick={() => setAt(at - 1)}>Back</button>
          {at < STEPS.length - 1 ? <button type="button" className="button main" onClick={() => setAt(at + 1)}>Next</button> : <button type="button" className="button main" onClick={end}>Finish</button>}
        </footer>
      </Card>
    </Page>
  );
}
