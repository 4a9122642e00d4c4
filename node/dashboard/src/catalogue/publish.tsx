// Publishing a resource of this node.

import { useState, type ChangeEvent, type FormEvent } from "react";

import { query, send, upload } from "../api/client";
import type { Org } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { bytes, short, words } from "../lib/format";
import { keyOf } from "../lib/resource";
import { Dialog, Field, Trouble, useAction } from "../ui/parts";

type Kind = "data" | "algorithm" | "workflow" | "service";
type Port = { name: string; type: string; optional: boolean };
type Seen = "realm" | "own" | "some";

const TYPES = ["file", "dir", "list", "text", "int", "float", "bool", "json"];
const NOTHING = { name: "", short: "", long: "", licence: "", terms: "", residency: "", quality: "", version: "", protocol: "http", region: "", maturity: "stable", currency: "EUR", price: "", every: "", unit: "86400" };
type Texts = typeof NOTHING;

/** Inputs or outputs of a program: the editor draws them as handles, and lets only fitting values in. */
function Ports({ legend, word, ports, onPorts }: { legend: string; word: string; ports: Port[]; onPorts: (next: Port[]) => void }) {
  const set = (at: number, part: Partial<Port>) => onPorts(ports.map((port, one) => (one === at ? { ...port, ...part } : port)));
  return (
    <fieldset className="rules">
      <legend>{legend}</legend>
      {ports.map((port, at) => (
        <div key={at} className="row" role="group" aria-label={`${word} ${at + 1}`}>
          <input className="input" required maxLength={64} pattern="[A-Za-z_][A-Za-z0-9_\-]*" title="Letters, digits, _ and -, a letter first" aria-label="Name of it" placeholder="name" value={port.name} onChange={(event) => set(at, { name: event.target.value })} />
          <select className="input" aria-label="Type" value={port.type} onChange={(event) => set(at, { type: event.target.value })}>{TYPES.map((type) => <option key={type} value={type}>{type === "json" ? "any value" : type}</option>)}</select>
          {word === "Input" && <label className="check"><input type="checkbox" checked={port.optional} onChange={(event) => set(at, { optional: event.target.checked })} />optional</label>}
          <button type="button" className="button slim danger" onClick={() => onPorts(ports.filter((_, one) => one !== at))}>Remove<span className="hidden"> {word.toLowerCase()} {at + 1}</span></button>
        </div>
      ))}
      <div><button type="button" className="button slim" onClick={() => onPorts([...ports, { name: "", type: "file", optional: false }])}>Add an {word.toLowerCase()}</button></div>
    </fieldset>
  );
}

/** Who sees it: everybody, nobody else, or organisations by name. */
function Audience({ seen, orgs, onSeen, onOrgs }: { seen: Seen; orgs: string[]; onSeen: (seen: Seen) => void; onOrgs: (orgs: string[]) => void }) {
  const all = useGet<Org[]>("/orgs");
  const others = (all.data ?? []).filter((one) => one.stance !== "own" && one.stance !== "blocked");
  return (
    <>
      <Field label="Seen by">
        <select className="input" value={seen} onChange={(event) => onSeen(event.target.value as Seen)}>
          <option value="realm">everybody in the realm</option>
          <option value="own">my own organisation alone</option>
          <option value="some">chosen organisations</option>
        </select>
      </Field>
      {seen === "some" && (
        <fieldset>
          <legend>Which organisations</legend>
          {others.length === 0 && <p className="small soft">No other organisation is known yet: invite one under Peers and trust.</p>}
          {others.map((one) => <label key={one.org} className="check"><input type="checkbox" checked={orgs.includes(one.org)} onChange={(event) => onOrgs(event.target.checked ? [...orgs, one.org] : orgs.filter((org) => org !== one.org))} />{one.org_name ?? short(one.org)}</label>)}
          <p className="small soft">Published once more for others with other terms or another price, they see that in its place.</p>
        </fieldset>
      )}
    </>
  );
}

export function Publish({ onClose }: { onClose: () => void }) {
  const [kind, setKind] = useState<Kind>("data");
  const [file, setFile] = useState<File | null>(null);
  const [text, setText] = useState(NOTHING);
  const [flags, setFlags] = useState({ personal: false, anonymised: false, open: false });
  const [ports, setPorts] = useState<{ inputs: Port[]; outputs: Port[] }>({ inputs: [], outputs: [] });
  const [seen, setSeen] = useState<Seen>("realm");
  const [orgs, setOrgs] = useState<string[]>([]);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const set = (name: keyof Texts) => (event: ChangeEvent<HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement>) => setText({ ...text, [name]: event.target.value });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      if (file === null && kind !== "service") throw new Error("Choose a file first.");
      if (seen === "some" && orgs.length === 0) throw new Error("Choose at least one organisation that sees it.");
      const fixed = nano(text.price);
      const name = text.name.trim() === "" ? (file?.name ?? "") : text.name.trim();
      const detail = file === null || kind === "service" ? serviceOf(text) : await describe(kind, file, text, flags, ports);
      const price = text.price.trim() === "" ? {} : { price: { currency: text.currency.trim().toUpperCase(), rows: [], fixed } };
      const texts = Object.fromEntries((["short", "long", "licence", "terms"] as const).filter((one) => text[one].trim() !== "").map((one) => [one, text[one].trim()]));
      const to = { private: seen === "own" || undefined, for: seen === "some" ? orgs.join(",") : undefined };
      await send("POST", `/resources${query(to)}`, { key: keyOf(kind, name), name, ...texts, ...price, detail });
      refresh("/resources", "/catalog");
      onClose();
    });
  };
  return (
    <Dialog title="Publish" onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Field label="What" hint={kind === "algorithm" ? <>Images of containers are published with <code>opencloud image publish</code>.</> : kind === "service" ? "A service that runs elsewhere, described for others. One that is deployed here is found by its own record." : undefined}>
          <select className="input" value={kind} onChange={(event) => setKind(event.target.value as Kind)}>
            <option value="data">Data</option>
            <option value="algorithm">Algorithm: a WebAssembly module</option>
            <option value="workflow">Workflow document</option>
            <option value="service">Service</option>
          </select>
        </Field>
        {kind !== "service" && (
          <Field label="File" hint={file === null ? "Goes to your own node and stays there; others fetch it from you." : `${file.name}, ${bytes(file.size)}`}>
            <input className="input" type="file" required onChange={(event) => setFile(event.target.files?.[0] ?? null)} />
          </Field>
        )}
        <Field label="Name" hint={kind === "service" ? undefined : "The file's own name when empty"}><input className="input" required={kind === "service"} maxLength={64} value={text.name} onChange={set("name")} /></Field>
        <Field label="In a line"><input className="input" maxLength={200} value={text.short} onChange={set("short")} /></Field>
        <Field label="At length"><textarea className="input" maxLength={2000} value={text.long} onChange={set("long")} /></Field>
        <div className="pair">
          <Field label="Licence" hint="An SPDX expression, like CC-BY-4.0"><input className="input" maxLength={64} value={text.licence} onChange={set("licence")} /></Field>
          <Field label="Price of one use" hint={`In ${text.currency}; on request when empty`}><input className="input" inputMode="decimal" placeholder="0.05" value={text.price} onChange={set("price")} /></Field>
        </div>
        <Field label="Terms of use"><textarea className="input" maxLength={500} value={text.terms} onChange={set("terms")} /></Field>
        {kind === "data" && <DataFields text={text} set={set} flags={flags} onFlags={setFlags} />}
        {kind === "algorithm" && (
          <>
            <Ports legend="Takes" word="Input" ports={ports.inputs} onPorts={(inputs) => setPorts({ ...ports, inputs })} />
            <Ports legend="Gives" word="Output" ports={ports.outputs} onPorts={(outputs) => setPorts({ ...ports, outputs })} />
          </>
        )}
        {kind === "service" && (
          <div className="pair">
            <Field label="Protocol" hint="How it is spoken to, such as http or tcp"><input className="input" required maxLength={64} value={text.protocol} onChange={set("protocol")} /></Field>
            <Field label="Region" hint="Where it runs, such as eu"><input className="input" maxLength={64} value={text.region} onChange={set("region")} /></Field>
          </div>
        )}
        {kind !== "data" && (
          <div className="pair">
            <Field label="Maturity">
              <select className="input" value={text.maturity} onChange={set("maturity")}>{["experimental", "beta", "stable", "deprecated"].map((one) => <option key={one}>{one}</option>)}</select>
            </Field>
            {kind !== "workflow" && <Field label="Version" hint="Its own, like 1.2"><input className="input" maxLength={64} value={text.version} onChange={set("version")} /></Field>}
          </div>
        )}
        <Audience seen={seen} orgs={orgs} onSeen={setSeen} onOrgs={setOrgs} />
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>{isBusy ? "Publishing…" : "Publish"}</button></footer>
      </form>
    </Dialog>
  );
}

type Flags = { personal: boolean; anonymised: boolean; open: boolean };
type Set = (name: keyof Texts) => (event: ChangeEvent<HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement>) => void;

function DataFields({ text, set, flags, onFlags }: { text: Texts; set: Set; flags: Flags; onFlags: (next: Flags) => void }) {
  return (
    <>
      <Field label="Has to stay in" hint="Regions with commas between them; anywhere when empty"><input className="input" value={text.residency} onChange={set("residency")} /></Field>
      <div className="pair">
        <Field label="New every" hint="When it is renewed; empty when it never changes"><input className="input" type="number" min="1" step="1" value={text.every} onChange={set("every")} /></Field>
        <Field label="Counted in">
          <select className="input" value={text.unit} onChange={set("unit")}>{[["60", "minutes"], ["3600", "hours"], ["86400", "days"]].map(([seconds, word]) => <option key={seconds} value={seconds}>{word}</option>)}</select>
        </Field>
      </div>
      <Field label="Quality" hint="What is known of it, such as how it was measured"><input className="input" maxLength={128} value={text.quality} onChange={set("quality")} /></Field>
      <div className="row">
        {(["personal", "anonymised", "open"] as const).map((flag) => (
          <label className="check" key={flag}><input type="checkbox" checked={flags[flag]} onChange={(event) => onFlags({ ...flags, [flag]: event.target.checked })} />{{ personal: "Personal data", anonymised: "Anonymised", open: "Open data" }[flag]}</label>
        ))}
      </div>
    </>
  );
}

/** Decimal digits as nano-units, exactly. */
function nano(text: string): number {
  const found = /^(\d{1,6})(?:\.(\d{1,9}))?$/.exec(text.trim() === "" ? "0" : text.trim());
  if (found === null) throw new Error(`The price \`${text}\` has to be a number like 0.05, with at most nine digits after the point.`);
  return Number(`${found[1]}${(found[2] ?? "").padEnd(9, "0")}`);
}

const serviceOf = ({ protocol, version, region, maturity }: Texts) => ({ kind: "service", protocol: protocol.trim(), version: version.trim(), region: region.trim(), maturity });

async function describe(kind: "data" | "algorithm" | "workflow", file: File, text: Texts, flags: Flags, ports: { inputs: Port[]; outputs: Port[] }) {
  const { digest, size } = await upload(file);
  // The owner's pin keeps the content, and lets members of the realm fetch it.
  await send("PUT", `/data/${digest}/pin`, { name: file.name });
  const { maturity } = text;
  if (kind === "data") {
    const update = text.every === "" ? {} : { update_s: Math.round(Number(text.every)) * Number(text.unit) };
    return { kind, digest, size, media_type: file.type === "" ? "application/octet-stream" : file.type, ...flags, ...update, quality: text.quality.trim(), residency: words(text.residency) };
  }
  if (kind === "algorithm") return { kind, digest, size, runtime: "wasi", version: text.version.trim(), maturity, ...ports };
  const checked = await send<{ valid: boolean; steps: unknown[]; problems: { line: number; problem: string }[]; params: { name: string; type: string; required: boolean }[] }>("POST", "/workflow/check", { source: await file.text() });
  const first = checked.problems[0];
  if (first !== undefined) throw new Error(`The document is not valid. Line ${first.line}: ${first.problem}`);
  const inputs = checked.params.map((param) => ({ name: param.name, type: param.type, optional: !param.required }));
  return { kind, digest, size, steps: checked.steps.length, inputs, maturity };
}
