// Deploying a service from its document.

import { useState, type FormEvent } from "react";

import { send } from "../api/client";
import type { FileRef, Value } from "../api/types";
import { useRefresh } from "../api/use";
import { FileChoice, stageOf } from "../editor/submit";
import { EMPTY, named } from "../lib/service";
import { Code } from "../ui/code";
import { Dialog, Field, Trouble, useAction } from "../ui/parts";

export default function Deploy({ onDone, onClose }: { onDone: (name: string) => void; onClose: () => void }) {
  const [text, setText] = useState(EMPTY);
  const [strategy, setStrategy] = useState("");
  const [given, setGiven] = useState<Record<string, FileRef>>({});
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const found = named(text);
  const isWhole = found.problem === null && found.files.every((path) => given[path] !== undefined);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      const assets: Record<string, Value> = {};
      for (const path of found.files) assets[path] = { file: given[path]! };
      for (const digest of found.digests) assets[digest] = await stageOf(digest, false);
      const { name } = await send<{ name: string }>("POST", "/services", { source: text, assets, binding: null, strategy: strategy === "" ? null : strategy, name: null });
      refresh("/services");
      onDone(name);
    });
  };
  return (
    <Dialog title="Deploy a service" wide onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Field label="Open a document"><input className="input" type="file" accept=".yaml,.yml,.json" onChange={(event) => void event.target.files?.[0]?.text().then(setText)} /></Field>
        <div className="framed low"><Code label="Service document in YAML" text={text} problems={[]} onText={setText} /></div>
        {found.problem !== null && <div className="note bad" role="alert">{found.problem}</div>}
        {found.files.map((path) => <FileChoice key={path} label={path} hint="A file that the document names by its path" now={given[path]} data={[]} onFile={(file) => setGiven({ ...given, [path]: file })} />)}
        <Field label="Strategy">
          <select className="input" value={strategy} onChange={(event) => setStrategy(event.target.value)}>
            <option value="">as the node has it</option>
            <option value="sovereignty">sovereignty: own nodes, then partners</option>
            <option value="performance">performance: done first</option>
            <option value="cost">cost: cheapest</option>
          </select>
        </Field>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy || !isWhole}>{isBusy ? "Deploying…" : "Deploy"}</button></footer>
      </form>
    </Dialog>
  );
}
