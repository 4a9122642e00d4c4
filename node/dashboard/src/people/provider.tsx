// Connecting a provider of identities: what it is called here and there, and what its claims give people.

import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import type { Provider, Rule } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { listed, words } from "../lib/format";
import { Card, Copy, Dialog, Empty, Facts, Field, Table, Trouble, useAction, Wait } from "../ui/parts";

type Tested = { keys: number; devices: boolean; logout: boolean };
type Test = "any" | "is" | "begins" | "ends";
type Line = { claim: string; test: Test; text: string; group: string; role: string };

const TESTS: [Test, string][] = [["any", "has any value"], ["is", "is"], ["begins", "begins with"], ["ends", "ends with"]];
const USUAL: Line = { claim: "groups", test: "any", text: "", group: "{}", role: "" };

const ruleOf = ({ claim, test, text, group, role }: Line): Rule => ({
  claim: claim.trim(),
  ...(test === "any" ? {} : { [test]: text }),
  ...(group.trim() === "" ? {} : { group: group.trim() }),
  ...(role.trim() === "" ? {} : { role: role.trim() }),
});

/** A rule in words. */
function told(rule: Rule): string {
  const test = rule.is !== undefined ? ` is “${rule.is}”` : rule.begins !== undefined ? ` begins with “${rule.begins}”` : rule.ends !== undefined ? ` ends with “${rule.ends}”` : "";
  const gives = [rule.group === undefined ? "" : `group ${rule.group}`, rule.role === undefined ? "" : `role ${rule.role}`].filter((one) => one !== "");
  return `${rule.claim}${test} → ${gives.join(", ")}`;
}

function Rules({ lines, onLines }: { lines: Line[]; onLines: (lines: Line[]) => void }) {
  const set = (at: number, part: Partial<Line>) => onLines(lines.map((line, one) => (one === at ? { ...line, ...part } : line)));
  return (
    <fieldset className="rules">
      <legend>Groups and roles out of its claims</legend>
      <p className="small soft">{"{}"} stands for the claim's value. The built-in policies know the roles <code>member</code> (works here) and <code>admin</code> (does what the owner does).</p>
      {lines.map((line, at) => (
        <div className="row" key={at} role="group" aria-label={`Rule ${at + 1}`}>
          <input className="input" aria-label="Claim" placeholder="groups" required value={line.claim} onChange={(event) => set(at, { claim: event.target.value })} />
          <select className="input" aria-label="Test" value={line.test} onChange={(event) => set(at, { test: event.target.value as Test })}>
            {TESTS.map(([value, name]) => <option key={value} value={value}>{name}</option>)}
          </select>
          {line.test !== "any" && <input className="input" aria-label="Value" required value={line.text} onChange={(event) => set(at, { text: event.target.value })} />}
          <input className="input" aria-label="Gives group" placeholder="group" value={line.group} onChange={(event) => set(at, { group: event.target.value })} />
          <input className="input" aria-label="Gives role" placeholder="role" value={line.role} onChange={(event) => set(at, { role: event.target.value })} />
          <button type="button" className="button slim danger" onClick={() => onLines(lines.filter((_, one) => one !== at))}>Remove<span className="hidden"> rule {at + 1}</span></button>
        </div>
      ))}
      <div><button type="button" className="button slim" onClick={() => onLines([...lines, { ...USUAL, group: "", role: "member" }])}>Add a rule</button></div>
    </fieldset>
  );
}

const works = (found: Tested) => `It answers, and signs with ${found.keys} ${found.keys === 1 ? "key" : "keys"}${found.devices ? ", has a login for devices" : ""}${found.logout ? ", has a page to log out" : ""}.`;

/** Tests a provider before it is connected, and connects it. */
export function ProviderForm({ onDone }: { onDone?: () => void }) {
  const [name, setName] = useState("");
  const [issuer, setIssuer] = useState("");
  const [client, setClient] = useState("");
  const [secret, setSecret] = useState("");
  const [scopes, setScopes] = useState("profile, email");
  const [lines, setLines] = useState<Line[]>([USUAL]);
  const [tested, setTested] = useState<Tested | null>(null);
  const [done, setDone] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const whole = () => ({
    name: name.trim(), issuer: issuer.trim(), client_id: client.trim(), scopes: words(scopes), rules: lines.map(ruleOf),
    ...(secret === "" ? {} : { client_secret: secret }),
  });
  const test = () => run(async () => { setTested(null); setTested(await send<Tested>("POST", "/providers/test", whole())); });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      await send("POST", "/providers", whole());
      refresh("/providers");
      setDone(name.trim());
      onDone?.();
    });
  };
  const back = `${location.origin}/api/v1/login/callback`;
  if (done !== null) return <div className="note good" role="status"><strong>{done} is connected</strong>People log in with it from the sign-in page.</div>;
  return (
    <form className="form" onSubmit={submit}>
      <div className="note"><strong>At the provider, register this address to come back to</strong><span className="row"><code className="wrap">{back}</code><Copy text={back} label="Copy the address" /></span></div>
      <div className="pair">
        <Field label="Name of the provider" hint="What it is called here: letters, digits, - _ ."><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>
        <Field label="Issuer" hint="Its address, exactly as it says itself"><input className="input" type="url" required placeholder="https://id.example.org" value={issuer} onChange={(event) => setIssuer(event.target.value)} /></Field>
        <Field label="Client id" hint="What this node is called there"><input className="input" required autoComplete="off" value={client} onChange={(event) => setClient(event.target.value)} /></Field>
        <Field label="Client secret" hint="Kept in the node's home, and never shown again; empty where there is none"><input className="input" type="password" autoComplete="off" value={secret} onChange={(event) => setSecret(event.target.value)} /></Field>
        <Field label="Scopes" hint="Asked for beside openid, with commas between"><input className="input" value={scopes} onChange={(event) => setScopes(event.target.value)} /></Field>
      </div>
      <Rules lines={lines} onLines={setLines} />
      <Trouble error={error} />
      {tested !== null && <div className="note good" role="status"><strong>The connection works</strong>{works(tested)}</div>}
      <footer className="row">
        <button type="button" className="button" disabled={isBusy || issuer.trim() === "" || name.trim() === "" || client.trim() === ""} onClick={test}>Test the connection</button>
        <button className="button main" disabled={isBusy}>Connect the provider</button>
      </footer>
    </form>
  );
}

function One({ provider }: { provider: Provider }) {
  const [isSure, setSure] = useState(false);
  const [tested, setTested] = useState<Tested | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const address = `/providers/${encodeURIComponent(provider.name)}`;
  const remove = () => run(async () => { await send("DELETE", address); refresh("/providers"); });
  return (
    <Card title={provider.name} aside={
      <span className="row">
        <button type="button" className="button slim" disabled={isBusy} onClick={() => run(async () => setTested(await send<Tested>("POST", `${address}/test`)))}>Test<span className="hidden"> {provider.name}</span></button>
        {isSure ? <button type="button" className="button slim danger" disabled={isBusy} onClick={remove}>Really disconnect</button> : <button type="button" className="button slim danger" onClick={() => setSure(true)}>Disconnect<span className="hidden"> {provider.name}</span></button>}
      </span>
    }>
      <div className="stack tight">
        <Trouble error={error} />
        {tested !== null && <div className="note good" role="status"><strong>The connection works</strong>{works(tested)}</div>}
        <Facts facts={[
          ["Issuer", provider.issuer], ["Client id", provider.client_id], ["Secret", provider.has_secret ? "kept" : "none"], ["Scopes", listed(provider.scopes)], ["Audiences", listed(provider.audiences)],
          ["Tells of logouts", <code className="wrap" key="out">{`${location.origin}/api/v1/login/out/${provider.name}`}</code>],
        ]} />
        {provider.rules.length === 0 ? <p className="small soft">No rules: its people have neither groups nor roles here.</p> : (
          <Table label={`Rules of ${provider.name}`} plain rows={provider.rules.map((rule, at) => ({ rule, at }))} id={(one) => String(one.at)} columns={[{ head: "Claim, and what it gives", cell: ({ rule }) => <span className="wrap">{told(rule)}</span> }]} />
        )}
      </div>
    </Card>
  );
}

export function Providers() {
  const all = useGet<Provider[]>("/providers");
  const [isOpen, setOpen] = useState(false);
  return (
    <div className="stack">
      <div className="row between">
        <p className="soft">Where your people log in: the organisation's own provider of identities, by OpenID Connect.</p>
        <button type="button" className="button" onClick={() => setOpen(true)}>Connect a provider</button>
      </div>
      {all.data === undefined ? (all.isPending ? <Wait what="providers" /> : <Trouble error={all.error} />) : all.data.length === 0 ? (
        <Card><Empty title="No provider is connected">People come in by one-time links until then.</Empty></Card>
      ) : all.data.map((provider) => <One key={provider.name} provider={provider} />)}
      {isOpen && <Dialog title="Connect a provider" wide onClose={() => setOpen(false)}><ProviderForm onDone={() => setOpen(false)} /></Dialog>}
    </div>
  );
}
