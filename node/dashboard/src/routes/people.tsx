import { useState, type ReactNode } from "react";

import { send } from "../api/client";
import type { Session, User } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { listed, time } from "../lib/format";
import { Providers } from "../people/provider";
import { OwnQuotas, Quotas } from "../people/quotas";
import { Edit, LoginLink, of, Tokens } from "../people/user";
import { Card, Dialog, Empty, Facts, Page, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

type Open = { kind: "edit" | "link" | "tokens"; user: User | null };

function You() {
  const session = useGet<Session>("/session");
  const who = session.data;
  if (who === undefined) return session.isPending ? <Wait what="the session" /> : <Trouble error={session.error} />;
  return (
    <div className="halves">
      <Card title="You">
        <Facts facts={[
          ["You are", who.person === null ? "the owner of this node" : who.person.name], ["Signed in by", who.entrance.replaceAll("_", " ")], ["Known by", who.person?.issuer ?? null],
          ["Groups", listed(who.person?.groups ?? []) || null], ["Roles", listed(who.person?.roles ?? []) || null], ["Until", who.expires_ms === null ? null : time(who.expires_ms)],
        ]} />
      </Card>
      {who.person !== null && <OwnQuotas />}
      {who.person !== null && who.entrance === "session" && <Card title="Your access tokens"><Tokens at="/session/tokens" /></Card>}
    </div>
  );
}

function Users({ users, onOpen }: { users: User[]; onOpen: (open: Open) => void }) {
  const [sure, setSure] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const end = (user: User) => run(async () => { await send("DELETE", `${of(user)}/sessions`); refresh("/users"); });
  const remove = (user: User) => run(async () => { await send("DELETE", of(user)); refresh("/users"); setSure(null); });
  if (users.length === 0) return <Card><Empty title="No users yet">The owner works with the token of the home. Make users for others and give each a login link, or connect your provider of identities.</Empty></Card>;
  return (
    <>
      <Trouble error={error} />
      <Card flush>
        <Table label="Users" rows={users} id={(user) => user.id} columns={[
          { head: "User", cell: (user) => <><strong>{user.name}</strong><br /><span className="small soft wrap">{user.issuer}</span></> },
          { head: "Groups", cell: (user) => listed(user.groups) || "–" },
          { head: "Roles", cell: (user) => listed(user.roles) || "–" },
          { head: "Seen", cell: (user) => (user.seen_ms == null ? "never" : time(user.seen_ms)) },
          { head: "Sessions", num: true, cell: (user) => user.sessions },
          { head: "Tokens", num: true, cell: (user) => user.tokens },
          {
            head: "Act",
            cell: (user) => (
              <span className="row">
                <button type="button" className="button slim" onClick={() => onOpen({ kind: "link", user })}>Login link<span className="hidden"> for {user.name}</span></button>
                <button type="button" className="button slim" onClick={() => onOpen({ kind: "tokens", user })}>Tokens<span className="hidden"> of {user.name}</span></button>
                <button type="button" className="button slim" onClick={() => onOpen({ kind: "edit", user })}>Change<span className="hidden"> {user.name}</span></button>
                {user.sessions > 0 && <button type="button" className="button slim" disabled={isBusy} onClick={() => end(user)}>End sessions<span className="hidden"> of {user.name}</span></button>}
                {sure === user.id ? <button type="button" className="button slim danger" disabled={isBusy} onClick={() => remove(user)}>Really remove</button> : <button type="button" className="button slim danger" onClick={() => setSure(user.id)}>Remove<span className="hidden"> {user.name}</span></button>}
              </span>
            ),
          },
        ]} />
      </Card>
    </>
  );
}

/** Groups and roles that people here have, with who has them. */
function Groups({ users }: { users: User[] }) {
  const rows = (["groups", "roles"] as const).flatMap((kind) =>
    [...new Set(users.flatMap((user) => user[kind]))].sort().map((name) => ({ kind, name, who: users.filter((user) => user[kind].includes(name)).map((user) => user.name) })),
  );
  if (rows.length === 0) return <Card><Empty title="No groups and roles yet">Give them to users here, or have your provider's claims give them.</Empty></Card>;
  return (
    <Card flush>
      <Table label="Groups and roles" rows={rows} id={(row) => `${row.kind} ${row.name}`} columns={[
        { head: "Name", cell: (row) => <strong>{row.name}</strong> },
        { head: "Is a", cell: (row) => (row.kind === "groups" ? "group" : "role") },
        { head: "People", cell: (row) => row.who.join(", ") },
      ]} />
    </Card>
  );
}

export default function People() {
  const users = useGet<User[]>("/users", 10_000);
  const [open, setOpen] = useState<Open | null>(null);
  const close = () => setOpen(null);
  const body = (show: (users: User[]) => ReactNode) => (users.data === undefined ? (users.isPending ? <Wait what="users" /> : <Trouble error={users.error} />) : show(users.data));
  return (
    <Page title="People" lead="Users of this node: who they are, their groups and roles, and how they log in." actions={<button type="button" className="button main" onClick={() => setOpen({ kind: "edit", user: null })}>New user</button>}>
      <Tabs label="People" tabs={[
        { id: "users", name: "Users", body: <div className="stack">{body((all) => <Users users={all} onOpen={setOpen} />)}<You /></div> },
        { id: "groups", name: "Groups and roles", body: body((all) => <Groups users={all} />) },
        { id: "quotas", name: "Quotas", body: <Quotas /> },
        { id: "providers", name: "Identity providers", body: <Providers /> },
      ]} />
      {open?.kind === "edit" && <Edit user={open.user} onClose={close} />}
      {open?.kind === "link" && open.user !== null && <LoginLink user={open.user} onClose={close} />}
      {open?.kind === "tokens" && open.user !== null && <Dialog title={`Access tokens of ${open.user.name}`} onClose={close}><Tokens at={`${of(open.user)}/tokens`} /></Dialog>}
    </Page>
  );
}
