import { useDeferredValue, useState } from "react";

import { query, send } from "../api/client";
import type { Org, OwnResource, Resource } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { Keep } from "../catalogue/keep";
import { Publish } from "../catalogue/publish";
import { filterOf, KINDS, type Kind } from "../lib/filter";
import { dimension, exact, plural, priceRow } from "../lib/format";
import { nameOf } from "../lib/name";
import { facts, gist, isFree, priceOf } from "../lib/resource";
import { Card, Copy, Dialog, Empty, Facts, Field, Page, Table, Tabs, Trouble, useAction, Wait } from "../ui/parts";

const LIMIT = 200;

function Prices({ resource }: { resource: Resource["resource"] }) {
  const price = priceOf(resource);
  if (price === null) return <>on request</>;
  if (isFree(price)) return <>free</>;
  return (
    <ul>
      {price.fixed > 0 && <li>{exact(price.fixed)} {price.currency} once</li>}
      {price.rows.filter((row) => row.amount_nano > 0).map((row) => <li key={row.dimension}>{dimension(row.dimension)}: {priceRow(row, price.currency)}</li>)}
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
        <Keep label="Put into the workspace" done={(workspace) => `${resource.name} is in ${workspace}.`} change={(content) => ({ ...content, resources: [...new Set([...content.resources, found.id])] })} />
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
  const [title, setTitle] = useState("");
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
        {filter !== "" && (
          <details>
            <summary className="small">Keep this search</summary>
            <div className="row" style={{ marginTop: 8, alignItems: "start" }}>
              <input className="input" style={{ width: 160 }} aria-label="Name of the search" placeholder="its name" maxLength={64} value={title} onChange={(event) => setTitle(event.target.value)} />
              <Keep label="Keep in the workspace" isReady={title.trim() !== ""} done={(workspace) => `${nameOf(title)} is kept in ${workspace}.`} change={(content) => ({ ...content, searches: { ...content.searches, [nameOf(title)]: filter } })} />
            </div>
          </details>
        )}
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

export default function Catalogue() {
  const [isOpen, setOpen] = useState(false);
  return (
    <Page title="Catalogue" lead="Data, programs, machines, workflows and services that organisations of this realm share." actions={<button type="button" className="button main" onClick={() => setOpen(true)}>Publish</button>}>
      <Tabs label="Catalogue" tabs={[{ id: "search", name: "Search", body: <Search /> }, { id: "own", name: "Yours", body: <Own /> }]} />
      {isOpen && <Publish onClose={() => setOpen(false)} />}
    </Page>
  );
}
