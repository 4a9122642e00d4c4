// One user: made, changed, let in.

import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import type { Token, User } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { listed, time, words } from "../lib/format";
import { Copy, Dialog, Empty, Field, Table, Trouble, useAction, Wait } from "../ui/parts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

export const of = (user: User) => `/users/${encodeURIComponent(user.id)}`;

export function Edit({ user, onClose }: { user: User | null; onClose: () => void }) {
  const [name, setName] = useState(user?.name ?? "");
  const [groups, setGroups] = useState(listed(user?.groups ?? []));
  const [roles, setRoles] = useState(listed(user?.roles ?? []));
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      if (user === null) await send("POST", "/users", { name: name.trim(), groups: words(groups), roles: words(roles) });
      else await send("PATCH", of(user), { groups: words(groups), roles: words(roles) });
      refresh("/users");
      onClose();
    });
  };
  return (
    <Dialog title={user === null ? "New user" : user.name} onClose={onClose}>
      <form className="form" onSubmit={submit}>
        {user === null && <Field label="Name"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>}
        <Field label="Groups" hint="With commas between them"><input className="input" value={groups} onChange={(event) => setGroups(event.target.value)} /></Field>
        <Field label="Roles" hint="With commas between them; policies say what a role may do"><input className="input" value={roles} onChange={(event) => setRoles(event.target.value)} /></Field>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>Save</button></footer>
      </form>
    </Dialog>
  );
}

type Made = { path: string; expires_ms: number };
const linkOf = (user: string) => send<Made>("POST", `/users/${encodeURIComponent(user)}/link`, { valid_ms: HOUR_MS });

function Shown({ made }: { made: Made }) {
  const link = location.origin + made.path;
  return (
    <>
      <code className="secret" tabIndex={0} aria-label="Login link">{link}</code>
      <p className="soft small">Good once, until {time(made.expires_ms)}</p>
      <footer className="row"><Copy text={link} label="Copy the link" /></footer>
    </>
  );
}

export function LoginLink({ user, onClose }: { user: User; onClose: () => void }) {
  const [made, setMade] = useState<Made | null>(null);
  const { run, isBusy, error } = useAction();
  return (
    <Dialog title={`A login link for ${user.name}`} onClose={onClose}>
      {made !== null ? <Shown made={made} /> : (
        <div className="form">
          <p className="soft">Whoever opens it first is logged in as {user.name}, once. It holds for an hour.</p>
          <Trouble error={error} />
          <footer><button type="button" className="button main" disabled={isBusy} onClick={() => run(async () => setMade(await linkOf(user.id)))}>Make the link</button></footer>
        </div>
      )}
    </Dialog>
  );
}

/** Makes a user and its login link in one step. */
export function InvitePerson() {
  const [name, setName] = useState("");
  const [role, setRole] = useState("member");
  const [made, setMade] = useState<Made | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const user = await send<User>("POST", "/users", { name: name.trim(), roles: role === "" ? [] : [role] });
      refresh("/users");
      setMade(await linkOf(user.id));
    });
  };
  if (made !== null) {
    return (
      <div className="form">
        <p className="soft">Give it to {name}: whoever opens it first is logged in.</p>
        <Shown made={made} />
        <div><button type="button" className="button slim" onClick={() => { setMade(null); setName(""); }}>Invite another person</button></div>
      </div>
    );
  }
  return (
    <form className="form" onSubmit={submit}>
      <Field label="Name of the person"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>
      <Field label="May" hint="By the built-in policies; yours may say otherwise.">
        <select className="input" value={role} onChange={(event) => setRole(event.target.value)}>
          <option value="">look at everything, change nothing</option>
          <option value="member">work: submit runs, store data, publish</option>
          <option value="admin">do what the owner does</option>
        </select>
      </Field>
      <Trouble error={error} />
      <footer className="row"><button className="button main" disabled={isBusy}>Make the login link</button></footer>
    </form>
  );
}

/** Access tokens at an address: of a user, or of whoever is logged in. */
export function Tokens({ at }: { at: string }) {
  const all = useGet<Token[]>(at);
  const [name, setName] = useState("");
  const [days, setDays] = useState(90);
  const [secret, setSecret] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      setSecret((await send<{ secret: string }>("POST", at, { name: name.trim(), valid_ms: days * DAY_MS })).secret);
      setName("");
      refresh(at, "/users");
    });
  };
  const revoke = (id: string) => run(async () => { await send("DELETE", `${at}/${encodeURIComponent(id)}`); refresh(at, "/users"); });
  return (
    <div className="stack tight">
      {all.data === undefined ? (all.isPending ? <Wait what="tokens" /> : <Trouble error={all.error} />) : all.data.length === 0 ? <Empty title="No access token">Programs use one in the place of a login.</Empty> : (
        <Table label="Access tokens" plain rows={all.data} id={(token) => token.id} columns={[
          { head: "For", cell: (token) => <strong>{token.name}</strong> },
          { head: "Until", cell: (token) => time(token.expires_ms) },
          { head: "Act", cell: (token) => <button type="button" className="button slim danger" disabled={isBusy} onClick={() => revoke(token.id)}>Revoke<span className="hidden"> {token.name}</span></button> },
        ]} />
      )}
      {secret !== null && (
        <div className="form">
          <code className="secret" tabIndex={0} aria-label="Access token">{secret}</code>
          <div className="row"><Copy text={secret} label="Copy the token" /><span className="small soft">It is shown this once.</span></div>
        </div>
      )}
      <form className="form" onSubmit={submit}>
        <div className="pair">
          <Field label="What the token is for"><input className="input" required value={name} onChange={(event) => setName(event.target.value)} /></Field>
          <Field label="Good for">
            <select className="input" value={days} onChange={(event) => setDays(Number(event.target.value))}>
              {[1, 30, 90, 365].map((one) => <option key={one} value={one}>{one === 1 ? "a day" : `${one} days`}</option>)}
            </select>
          </Field>
        </div>
        <Trouble error={error} />
        <div><button className="button" disabled={isBusy}>Make a token</button></div>
      </form>
    </div>
  );
}
