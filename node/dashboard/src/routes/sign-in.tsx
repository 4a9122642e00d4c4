import { useState, type FormEvent } from "react";

import { signIn } from "../api/auth";
import { query } from "../api/client";
import { useGet } from "../api/use";
import { Brand } from "../app";
import { Field, Trouble, useAction } from "../ui/parts";

export function SignIn() {
  const [text, setText] = useState("");
  const providers = useGet<{ name: string; issuer: string }[]>("/login/providers");
  const { run, isBusy, error } = useAction();
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const response = await fetch("/api/v1/status", { headers: { authorization: `Bearer ${text.trim()}` } });
      if (response.status === 401) throw new Error("This is not the token of this node. It stands in the file `api.token` of the node's home.");
      if (!response.ok) throw new Error(`The node answered ${response.status}.`);
      signIn(text);
    });
  };
  return (
    <main className="center">
      <form className="card sign form" onSubmit={submit}>
        <div>
          <Brand />
          <h1>Sign in</h1>
          <p className="soft">This page belongs to your node. Whoever was given a login link opens that instead; the owner signs in with the token of the node's home.</p>
        </div>
        {(providers.data ?? []).map((one) => (
          <a key={one.name} className="button main" href={`/api/v1/login/start${query({ provider: one.name })}`}>Log in with {one.name}</a>
        ))}
        <Field label="Token" hint={<>Shown by <code>cat ~/.opencloud/api.token</code>; <code>opencloud dashboard</code> names the file. It is kept until you close this tab.</>}>
          <input className="input mono" type="password" autoComplete="off" spellCheck={false} required value={text} onChange={(event) => setText(event.target.value)} />
        </Field>
        <Trouble error={error} />
        <button className={providers.data === undefined || providers.data.length === 0 ? "button main" : "button"} disabled={isBusy || text.trim() === ""}>Sign in</button>
      </form>
    </main>
  );
}
