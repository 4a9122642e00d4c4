// Tickets: made for others, and used.

import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import { useRefresh } from "../api/use";
import { time } from "../lib/format";
import { Copy, Field, Trouble, useAction } from "../ui/parts";

const HOURS: [string, number][] = [["1 hour", 1], ["1 day", 24], ["7 days", 168], ["30 days", 720]];

/** Makes a ticket, and shows it. */
export function InviteForm() {
  const [hours, setHours] = useState(1);
  const [isAsking, setAsking] = useState(false);
  const [made, setMade] = useState<{ ticket: string; expires_ms: number } | null>(null);
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => setMade(await send("POST", "/invites", { valid_ms: hours * 3_600_000, ask: isAsking })));
  };
  if (made !== null) {
    return (
      <div className="form">
        <p className="soft">Hand it over by a way that you trust: whoever has it first is in, once. It holds until {time(made.expires_ms)}.</p>
        <code className="secret" tabIndex={0} aria-label="Ticket">{made.ticket}</code>
        <footer className="row"><Copy text={made.ticket} label="Copy the ticket" /></footer>
      </div>
    );
  }
  return (
    <form className="form" onSubmit={submit}>
      <Field label="How long the ticket holds">
        <select className="input" value={hours} onChange={(event) => setHours(Number(event.target.value))}>
          {HOURS.map(([name, value]) => <option key={value} value={value}>{name}</option>)}
        </select>
      </Field>
      <label className="check"><input type="checkbox" checked={isAsking} onChange={(event) => setAsking(event.target.checked)} />Ask me before whoever comes with it is let in</label>
      <Trouble error={error} />
      <footer className="row"><button className="button main" disabled={isBusy}>Make the ticket</button></footer>
    </form>
  );
}

/** Joins the realm of a ticket. */
export function JoinForm() {
  const [ticket, setTicket] = useState("");
  const [joined, setJoined] = useState<{ realm: string; org: string } | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      setJoined(await send("POST", "/join", { ticket: ticket.trim() }));
      refresh("/orgs");
    });
  };
  if (joined !== null) return <div className="note good" role="status"><strong>You are in</strong>Invited by <span className="mono wrap">{joined.org}</span></div>;
  return (
    <form className="form" onSubmit={submit}>
      <Field label="Ticket" hint="As its owner gave it to you. Compare the fingerprint that they tell you with the one in the list of organisations afterwards.">
        <textarea className="input mono" required spellCheck={false} value={ticket} onChange={(event) => setTicket(event.target.value)} />
      </Field>
      <Trouble error={error} />
      <footer className="row"><button className="button main" disabled={isBusy}>{isBusy ? "Joining…" : "Join"}</button></footer>
    </form>
  );
}
