import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import type { Session, User } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { time } from "../lib/format";
import { Card, Copy, Dialog, Empty, Facts, Field, Page, Table, Trouble, useAction, Wait } from "../ui/parts";

const words = (text: string) => text.split(",").map((one) => one.trim()).filter((one) => one !== "");
const of = (user: User) => `/users/${encodeURIComponent(user.id)}`;

function Edit({ user, onClose }: { user: User | null; onClose: () => void }) {
  const [name, setName] = useState(user?.name ?? "");
  const [groups, setGroups] = useState((user?.groups ?? []).join(", "));
  const [roles, setRoles] = useState((user?.roles ?? []).join(", "));
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

function Link({ user, onClose }: { user: User; onClose: () => void }) {
  const [made, setMade] = useState<{ path: string; expires_ms: number } | null>(null);
  const { run, isBusy, error } = useAction();
  const link = made === null ? "" : location.origin + made.path;
  return (
    <Dialog title={`A login link for ${user.name}`} onClose={onClose}>
      {made === null ? (
        <div className="form">
          <p className="soft">Whoever opens it first is logged in as {user.name}, once. It holds for an hour.</p>
          <Trouble error={error} />
          <footer><button type="button" className="button main" disabled={isBusy} onClick={() => run(async () => setMade(await send("POST", `${of(user)}/link`, { valid_ms: 3_600_000 })))}>Make the link</button></footer>
        </div>
      ) : (
        <>
          <code className="secret" tabIndex={0} aria-label="Login link">{link}</code>
          <p className="soft small">Until {time(made.expires_ms)}</p>
          <footer><Copy text={link} label="Copy the link" /></footer>
        </>
      )}
    </Dialog>
  );
}

export default function People() {
  const users = useGet<User[]>("/users", 10_000);
  const session = useGet<Session>("/session");
  const [open, setOpen] = useState<{ kind: "edit" | "link"; user: User | null } | null>(null);
  const [sure, setSure] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const remove = (user: User) => run(async () => { await send("DELETE", of(user)); refresh("/users"); setSure(null); });
  const who = session.data;
  return (
    <Page title="People" lead="Users of this node: who they are, their groups and roles, and links to log in with." actions={<button type="button" className="button main" onClick={() => setOpen({ kind: "edit", user: null })}>New user</button>}>
      <div className="stack">
        <Trouble error={error} />
        {who !== undefined && (
          <Card title="You">
            <Facts facts={[["You are", who.person === null ? "the owner of this node" : who.person.name], ["Signed in by", who.entrance.replaceAll("_", " ")], ["Groups", who.person?.groups.join(", ") ?? null], ["Roles", who.person?.roles.join(", ") ?? null], ["Until", who.expires_ms === null ? null : time(who.expires_ms)]]} />
          </Card>
        )}
        {users.data === undefined ? (users.isPending ? <Wait what="users" /> : <Trouble error={users.error} />) : users.data.length === 0 ? (
          <Card><Empty title="No users yet">The owner works with the token of the home. Make users for others, and give each a login link.</Empty></Card>
        ) : (
          <Card flush>
            <Table label="Users" rows={users.data} id={(user) => user.id} columns={[
              { head: "User", cell: (user) => <><strong>{user.name}</strong><br /><span className="small soft">{user.issuer}</span></> },
              { head: "Groups", cell: (user) => user.groups.join(", ") || "–" },
              { head: "Roles", cell: (user) => user.roles.join(", ") || "–" },
              { head: "Seen", cell: (user) => (user.seen_ms == null ? "never" : time(user.seen_ms)) },
              { head: "Sessions", num: true, cell: (user) => user.sessions },
              { head: "Tokens", num: true, cell: (user) => user.tokens },
              {
                head: "Act",
                cell: (user) => (
                  <span className="row">
                    <button type="button" className="button slim" onClick={() => setOpen({ kind: "link", user })}>Login link<span className="hidden"> for {user.name}</span></button>
                    <button type="button" className="button slim" onClick={() => setOpen({ kind: "edit", user })}>Change<span className="hidden"> {user.name}</span></button>
                    {sure === user.id ? <button type="button" className="button slim danger" disabled={isBusy} onClick={() => remove(user)}>Really remove</button> : <button type="button" className="button slim danger" onClick={() => setSure(user.id)}>Remove<span className="hidden"> {user.name}</span></button>}
                  </span>
                ),
              },
            ]} />
          </Card>
        )}
      </div>
      {open?.kind === "edit" && <Edit user={open.user} onClose={() => setOpen(null)} />}
      {open?.kind === "link" && open.user !== null && <Link user={open.user} onClose={() => setOpen(null)} />}
    </Page>
  );
}
