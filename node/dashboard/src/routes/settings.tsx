import { useState } from "react";
import { Link } from "wouter";

import { signOut } from "../api/auth";
import type { Price, Status } from "../api/types";
import { useGet } from "../api/use";
import { bytes, cores, dimension, plural, priceRow, time } from "../lib/format";
import { applyTheme, theme, type Theme } from "../lib/theme";
import { Card, Copy, Facts, Field, Page, State, Table, Trouble, Wait } from "../ui/parts";

const SIGNERS: Record<string, string> = { root: "renewed here with the root key", issuer: "renewed here with an issuer's key", nothing: "renewed by other nodes of the organisation" };

export default function Settings() {
  const status = useGet<Status>("/status", 10_000);
  const [wanted, setWanted] = useState<Theme>(theme);
  const choose = (next: Theme) => {
    applyTheme(next);
    setWanted(next);
  };
  const found = status.data;
  const price = found?.price as unknown as Price | null | undefined;
  return (
    <Page title="Settings" lead={<>This page, and what the node is set to. The node's own settings are the options of <code>opencloud up</code>.</>}>
      <div className="stack">
        <Card title="This page">
          <div className="form">
            <Field label="Colours">
              <select className="input" value={wanted} onChange={(event) => choose(event.target.value as Theme)}>
                <option value="system">As the system has them</option>
                <option value="light">Light</option>
                <option value="dark">Dark</option>
              </select>
            </Field>
            <div className="row">
              <Link className="button" href="/setup">Set up this node again</Link>
              <button type="button" className="button" onClick={() => void signOut()}>Sign out</button>
            </div>
          </div>
        </Card>
        {found === undefined ? (status.isPending ? <Wait what="the node" /> : <Trouble error={status.error} />) : (
          <>
            <div className="halves">
              <Card title="Identity">
                <Facts facts={[
                  ["Organisation", found.org_name],
                  ["Its identity", <span key="org" className="mono">{found.org}</span>],
                  ["Node", found.name],
                  ["Its key", <span key="id" className="mono">{found.id}</span>],
                  ["Realm", <span key="realm" className="mono">{found.realm}</span>],
                  ["Program", found.version],
                ]} />
                <div className="row" style={{ marginTop: 12 }}><Copy text={found.org} label="Copy the organisation's identity" /></div>
              </Card>
              <Card title="Papers">
                {found.papers.warning !== null && <div className="note warn" style={{ marginBottom: 12 }}>{found.papers.warning}</div>}
                <Facts facts={[
                  ["Valid until", time(found.papers.until_ms)],
                  ["Renewal", SIGNERS[found.papers.signs_with] ?? found.papers.signs_with],
                  ["Key", `number ${found.papers.generation}`],
                  ["Taken back", plural(found.papers.revoked, "key or serial", "keys or serials")],
                  ["Former keys", found.papers.former.length === 0 ? "none" : found.papers.former.length],
                ]} />
              </Card>
            </div>
            <div className="halves">
              <Card title="Offered">
                <Facts facts={[
                  ["Cores", cores(found.cpu_total_milli)],
                  ["Memory", bytes(found.memory_total_bytes)],
                  ["Disk", bytes(found.disk_total_bytes)],
                  ["Catalogue", found.light === null || found.light === undefined ? "held whole" : `light: of others ${found.light}`],
                ]} />
              </Card>
              <Card title="Price for other organisations" flush={price !== null && price !== undefined}>
                {price === null || price === undefined ? <p className="soft">Not published yet.</p> : (
                  <Table label="Prices" rows={price.rows} id={(row) => row.dimension} columns={[{ head: "What", cell: (row) => dimension(row.dimension) }, { head: "Price", num: true, cell: (row) => priceRow(row, price.currency) }]} />
                )}
              </Card>
            </div>
            {found.reach !== null && (
              <Card title="Reachability" aside={<State word={found.reach.standing} tone={["public", "private"].includes(found.reach.standing) ? "good" : ""} />}>
                <p style={{ marginBottom: 12 }}>{found.reach.why}</p>
                <Table label="Addresses" plain rows={found.reach.addresses} id={(address) => address.address} columns={[
                  { head: "Address", cell: (address) => <span className="mono wrap">{address.address}</span> },
                  { head: "From", cell: (address) => address.source },
                  { head: "Reached by", num: true, cell: (address) => address.reached_by.length },
                  { head: "Missed by", num: true, cell: (address) => address.missed_by.length },
                ]} />
              </Card>
            )}
          </>
        )}
      </div>
    </Page>
  );
}
