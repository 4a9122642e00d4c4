import { useDeferredValue, useState, type FormEvent } from "react";

import { query, send, upload } from "../api/client";
import type { Org, OwnResource, Resource } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { filterOf, KINDS, type Kind } from "../lib/filter";
import { plural, priceRow, exact, bytes } from "../lib/format";
import { facts, gist, isFree, keyOf, priceOf } from "../lib/resource";
import { Card, Copy, Dialog, Empty, Facts, Field, Page, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

const LIMIT = 200;

function Prices({ resource }: { resource: Resource["resource"] }) {
  const price = priceOf(resource);
  if (price === null) return <>on request</>;
  if (isFree(price)) return <>free</>;
  return (
    <ul>
      {price.fixed > 0 && <li>{exact(price.fixed)} {price.currency} once</li>}
      {price.rows.filter((row) => row.amount_nano > 0).map((row) => <li key={row.dimension}>{row.dimension}: {priceRow(row, price.currency)}</li>)}
    </ul>
  );
}

function Details({ found, onClose }: { found: Resource; onClose: () => void }) {
  const { resource } = found;
  return (
    <Dialog title={resource.name} onClose={onClose} wide>
      <div className="stack">
        {(resource.short ?? "") !== "" && <p>{resource.short}</p>}
        {(resource.long ?? "") !== "" && <p className="soft" style={{ whiteSpace: "pre-line" }}>{resource.long}</p>}
        <Facts
          facts={[
            ["Kind", resource.detail.kind],
            ["Organisation", found.org_name],
            ["Node", `${found.node_name}`],
            ...facts(resource).map(([name, value]): [string, React.ReactNode] => [name, <span key={name} style={{ whiteSpace: "pre-line" }} className={name === "Digest" || name === "Addresses" ? "mono" : undefined}>{value}</span>]),
            ["Price", <Prices key="price" resource={resource} />],
            ["Licence", resource.licence ?? null],
            ["Terms", resource.terms ?? null],
            ["Id", <span className="mono" key="id">{found.id}</span>],
          ]}
        />
      </div>
      <footer><Copy text={found.id} label="Copy the id" /></footer>
    </Dialog>
  );
}

function Search() {
  const [kind, setKind] = useState<Kind | null>(null);
  const [text, setText] = useState("");
  const [free, setFree] = useState(false);
  const [more, setMore] = useState(() => new URLSearchParams(location.search).get("filter") ?? "");
  const [chosen, setChosen] = useState<Resource | null>(null);
  const filter = useDeferredValue(filterOf({ kind, text, free, more }));
  const found = useGet<Resource[]>(`/catalog${query({ filter: filter === "" ? undefined : filter, limit: LIMIT })}`, 15_000);
  return (
    <div className="stack">
      <div className="card form">
        <div className="row">
          <label className="hidden" htmlFor="search">Search</label>
          <input id="search" className="input" style={{ flex: "1 1 240px", width: "auto" }} type="search" placeholder="Name, text, key or organisation" value={text} onChange={(event) => setText(event.target.value)} />
          <label className="check"><input type="checkbox" checked={free} onChange={(event) => setFree(event.target.checked)} />Free of charge</label>
        </div>
        <div className="chips" role="group" aria-label="Kind">
          <button type="button" className="chip" aria-pressed={kind === null} onClick={() => setKind(null)}>everything</button>
          {KINDS.map((one) => <button key={one} type="button" className="chip" aria-pressed={kind === one} onClick={() => setKind(kind === one ? null : one)}>{one}</button>)}
        </div>
        <Field label="Filter" hint={<>As in <code>opencloud catalog search</code>: <code>cpu &gt;= 4 and region in [eu, de] and not personal = true</code></>}>
          <input className="input mono" spellCheck={false} value={more} onChange={(event) => setMore(event.target.value)} />
        </Field>
      </div>
      {found.error !== null ? <Trouble error={found.error} /> : found.data === undefined ? <Wait what="the catalogue" /> : found.data.length === 0 ? (
        <Card><Empty title="Nothing fits">No resource that this node knows passes the filter{filter === "" ? "" : <> <code className="wrap">{filter}</code></>}.</Empty></Card>
      ) : (
        <>
          <p className="soft small" role="status">{found.data.length === LIMIT ? `The first ${LIMIT} resources` : plural(found.data.length, "resource")}</p>
          <ul className="grid">
            {found.data.map((one) => {
              const price = priceOf(one.resource);
              return (
                <li key={one.id}>
                  <button type="button" className="card tile" onClick={() => setChosen(one)} style={{ height: "100%" }}>
                    <span className="row between"><span className="badge plain">{one.resource.detail.kind}</span><span className="small soft">{price === null ? "price on request" : isFree(price) ? "free" : `priced in ${price.currency}`}</span></span>
                    <strong className="wrap">{one.resource.name}</strong>
                    {(one.resource.short ?? "") !== "" && <span className="small">{one.resource.short}</span>}
                    <span className="small soft">{gist(one.resource)}</span>
                    <span className="small soft">{one.org_name}</span>
                  </button>
                </li>
              );
            })}
          </ul>
        </>
      )}
      {chosen !== null && <Details found={chosen} onClose={() => setChosen(null)} />}
    </div>
  );
}

function Own() {
  const own = useGet<OwnResource[]>("/resources", 10_000);
  const orgs = useGet<Org[]>("/orgs");
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const names = new Map((orgs.data ?? []).map((org) => [org.org, org.org_name ?? org.org]));
  if (own.data === undefined) return own.isPending ? <Wait what="own resources" /> : <Trouble error={own.error} />;
  const withdraw = (one: OwnResource) =>
    run(async () => {
      const parts = { key: one.resource.key, for: one.variant ? one.orgs.join(",") : undefined };
      await send("DELETE", `/resources${query(parts)}`);
      refresh("/resources", "/catalog");
    });
  const seen = (one: OwnResource) => (one.public ? "everybody in the realm" : one.orgs.length === 0 ? "your organisation alone" : one.orgs.map((org) => names.get(org) ?? org).join(", "));
  return (
    <div className="stack">
      <Trouble error={error} />
      {own.data.length === 0 ? <Card><Empty title="Nothing published">What you publish from this node stands here, with who sees it.</Empty></Card> : (
        <Card flush>
          <Table
            label="Own resources"
            rows={own.data}
            id={(one) => `${one.resource.key} ${one.orgs.join()}`}
            columns={[
              { head: "Resource", cell: (one) => <><strong>{one.resource.name}</strong><br /><span className="mono small soft">{one.resource.key}</span></> },
              { head: "Kind", cell: (one) => one.resource.detail.kind },
              { head: "What", cell: (one) => gist(one.resource) },
              { head: "Seen by", cell: seen },
              { head: "Act", cell: (one) => <button type="button" className="button slim danger" disabled={isBusy} onClick={() => withdraw(one)}>Withdraw<span className="hidden"> {one.resource.name}</span></button> },
            ]}
          />
        </Card>
      )}
    </div>
  );
}

function Publish({ onClose }: { onClose: () => void }) {
  const [kind, setKind] = useState<"data" | "algorithm" | "workflow">("data");
  const [file, setFile] = useState<File | null>(null);
  const [text, setText] = useState({ name: "", short: "", long: "", licence: "", terms: "", residency: "", maturity: "stable", currency: "EUR", price: "" });
  const [flags, setFlags] = useState({ personal: false, anonymised: false, open: false });
  const [isPrivate, setPrivate] = useState(false);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const set = (name: keyof typeof text) => (event: { target: { value: string } }) => setText({ ...text, [name]: event.target.value });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    run(async () => {
      if (file === null) throw new Error("Choose a file first.");
      const fixed = nano(text.price);
      const name = text.name.trim() === "" ? file.name : text.name.trim();
      const detail = await describe(kind, file, { ...flags, maturity: text.maturity, residency: text.residency });
      const price = text.price.trim() === "" ? {} : { price: { currency: text.currency.trim().toUpperCase(), rows: [], fixed } };
      const texts = Object.fromEntries((["short", "long", "licence", "terms"] as const).filter((one) => text[one].trim() !== "").map((one) => [one, text[one].trim()]));
      await send("POST", `/resources${query({ private: isPrivate || undefined })}`, { key: keyOf(kind, name), name, ...texts, ...price, detail });
      refresh("/resources", "/catalog");
      onClose();
    });
  };
  return (
    <Dialog title="Publish" onClose={onClose}>
      <form className="form" onSubmit={submit}>
        <Field label="What">
          <select className="input" value={kind} onChange={(event) => setKind(event.target.value as typeof kind)}>
            <option value="data">Data</option>
            <option value="algorithm">Algorithm: a WebAssembly module</option>
            <option value="workflow">Workflow document</option>
          </select>
        </Field>
        <Field label="File" hint={file === null ? "Goes to your own node and stays there; others fetch it from you." : `${file.name}, ${bytes(file.size)}`}>
          <input className="input" type="file" required onChange={(event) => setFile(event.target.files?.[0] ?? null)} />
        </Field>
        <Field label="Name" hint="The file's own name when empty"><input className="input" maxLength={64} value={text.name} onChange={set("name")} /></Field>
        <Field label="In a line"><input className="input" maxLength={200} value={text.short} onChange={set("short")} /></Field>
        <Field label="At length"><textarea className="input" maxLength={2000} value={text.long} onChange={set("long")} /></Field>
        <div className="grid">
          <Field label="Licence" hint="An SPDX expression, like CC-BY-4.0"><input className="input" maxLength={64} value={text.licence} onChange={set("licence")} /></Field>
          <Field label="Price of one use" hint={`In ${text.currency}; on request when empty`}><input className="input" inputMode="decimal" placeholder="0.05" value={text.price} onChange={set("price")} /></Field>
        </div>
        <Field label="Terms of use"><textarea className="input" maxLength={500} value={text.terms} onChange={set("terms")} /></Field>
        {kind === "data" ? (
          <>
            <Field label="Has to stay in" hint="Regions with commas between them; anywhere when empty"><input className="input" value={text.residency} onChange={set("residency")} /></Field>
            <div className="row">
              {(["personal", "anonymised", "open"] as const).map((flag) => (
                <label className="check" key={flag}><input type="checkbox" checked={flags[flag]} onChange={(event) => setFlags({ ...flags, [flag]: event.target.checked })} />{{ personal: "Personal data", anonymised: "Anonymised", open: "Open data" }[flag]}</label>
              ))}
            </div>
          </>
        ) : (
          <Field label="Maturity">
            <select className="input" value={text.maturity} onChange={set("maturity")}>{["experimental", "beta", "stable", "deprecated"].map((one) => <option key={one}>{one}</option>)}</select>
          </Field>
        )}
        <label className="check"><input type="checkbox" checked={isPrivate} onChange={(event) => setPrivate(event.target.checked)} />For my own organisation alone</label>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>{isBusy ? "Publishing…" : "Publish"}</button></footer>
      </form>
    </Dialog>
  );
}

/** Decimal digits as nano-units, exactly. */
function nano(text: string): number {
  const found = /^(\d{1,6})(?:\.(\d{1,9}))?$/.exec(text.trim() === "" ? "0" : text.trim());
  if (found === null) throw new Error(`The price \`${text}\` has to be a number like 0.05, with at most nine digits after the point.`);
  return Number(`${found[1]}${(found[2] ?? "").padEnd(9, "0")}`);
}

async function describe(kind: string, file: File, more: { personal: boolean; anonymised: boolean; open: boolean; maturity: string; residency: string }) {
  const { digest, size } = await upload(file);
  if (kind === "data") {
    const { personal, anonymised, open } = more;
    const residency = more.residency.split(",").map((one) => one.trim()).filter((one) => one !== "");
    // The owner's pin keeps the content, and lets members of the realm fetch it.
    await send("PUT", `/data/${digest}/pin`, { name: file.name });
    return { kind, digest, size, media_type: file.type === "" ? "application/octet-stream" : file.type, personal, anonymised, open, residency };
  }
  await send("PUT", `/data/${digest}/pin`, { name: file.name });
  if (kind === "algorithm") return { kind, digest, size, runtime: "wasi", maturity: more.maturity };
  const checked = await send<{ valid: boolean; steps: unknown[]; problems: { line: number; problem: string }[]; params: { name: string; type: string; required: boolean }[] }>("POST", "/workflow/check", { source: await file.text() });
  const first = checked.problems[0];
  if (first !== undefined) throw new Error(`The document is not valid. Line ${first.line}: ${first.problem}`);
  const inputs = checked.params.map((param) => ({ name: param.name, type: param.type, optional: !param.required }));
  return { kind, digest, size, steps: checked.steps.length, inputs, maturity: more.maturity };
}

export default function Catalogue() {
  const [isOpen, setOpen] = useState(false);
  return (
    <Page title="Catalogue" lead="Data, programs, machines, workflows and services that organisations of this realm share." actions={<button type="button" className="button main" onClick={() => setOpen(true)}>Publish</button>}>
      <Tabs label="Catalogue" tabs={[{ id: "search", name: "Search", body: <Search /> }, { id: "own", name: "Yours", body: <Own /> }]} />
      {isOpen && <Publish onClose={() => setOpen(false)} />}
    </Page>
  );
}
