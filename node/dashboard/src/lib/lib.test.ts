import { describe, expect, it } from "vitest";

import { Parser } from "../api/sse";
import type { Channel, Peer, Run, RunSummary, Status } from "../api/types";
import { balances, billOf, byPartner, grouped } from "./bill";
import { draw, layers } from "./dag";
import { filterOf, quoted } from "./filter";
import { ago, bytes, exact, money, priceRow, span, used } from "./format";
import { rows } from "./gantt";
import { DOTS_MAX, meshMap } from "./mesh";
import { keyOf } from "./resource";
import { csv, files, kindOf, plain, raster } from "./values";

describe("events", () => {
  it("come whole, however the text is cut", () => {
    const text = ": hello\n\nid: 1\ndata: {\"a\":1}\n\ndata: one\r\ndata:two\r\n\r\n";
    for (let cut = 1; cut < text.length; cut += 1) {
      const parser = new Parser();
      expect([...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))]).toEqual(['{"a":1}', "one\ntwo"]);
    }
  });
});

describe("figures", () => {
  it("of money are exact", () => {
    expect(exact(423)).toBe("0.000000423");
    expect(exact(-1_500_000_000)).toBe("−1.5");
    expect(exact(9_007_199_254_740_993n)).toBe("9\u202f007\u202f199.254740993");
    expect(money(138_901, "EUR")).toBe("0.000139 EUR");
    expect(money(12_345_678_901, "EUR")).toBe("12.35 EUR");
    expect(money(0, "EUR")).toBe("0 EUR");
    expect(money(7, "EUR")).toBe("0.000000007 EUR");
  });
  it("of sizes and times read well", () => {
    expect([bytes(0), bytes(1023), bytes(1536), bytes(50 * 2 ** 30)]).toEqual(["0 B", "1023 B", "1.5 KiB", "50 GiB"]);
    expect([span(430), span(2_400), span(61_000), span(3_600_000), span(187_200_000)]).toEqual(["430 ms", "2.4 s", "1 min 1 s", "1 h", "2 d 4 h"]);
    expect(ago(1_000, 3_000)).toBe("just now");
    expect(priceRow({ dimension: "cpu", amount_nano: 20_000_000, per: 3_600_000_000 }, "EUR")).toBe("0.02 EUR per core-hour");
    expect([used("cpu", 2_645_000), used("mem", 482), used("io", 95_244), used("requests", 1_200)]).toEqual(["2.6 s", "482 KiB·s", "93 KiB", "1,200"]);
  });
});

const channel = (over: Partial<Channel>): Channel => ({
  channel: "blake3:1", provider: "P", provider_org: "Harbour", consumer: "C", consumer_org: "Survey", side: "consumer", state: "open", reason: null,
  currency: "EUR", claimed: 30, earned: 20, lanes: [], ...over,
});
const lane = (attempt: string, claimed: number): Channel["lanes"][number] => ({ lane: 1, attempt, state: "closed", claimed, earned: claimed, used: {}, costs: { cpu: claimed - 1 }, agreed_ms: Date.UTC(2026, 10, 23) });

describe("the ledger", () => {
  const channels = [
    channel({ lanes: [lane("run-a/1.0#1", 10), lane("run-b/0.0#1", 20)] }),
    channel({ channel: "blake3:2", provider_org: "Summit", claimed: 5, lanes: [lane("run-a/2.0#1", 5)] }),
    channel({ channel: "blake3:3", side: "provider", claimed: 7, lanes: [lane("run-x/0.0#1", 7)] }),
  ];
  const run = { id: "run-a", workflow: "terrain", submitted_ms: Date.UTC(2026, 10, 23) } as RunSummary;
  it("is summed by side, partner, workflow, what was used, node and day", () => {
    expect(balances(channels)).toEqual({ spent: new Map([["EUR", 35n]]), earned: new Map([["EUR", 7n]]) });
    expect(byPartner(channels, "consumer").map((row) => [row.label, row.amount])).toEqual([["Harbour", 30n], ["Summit", 5n]]);
    const told = grouped(channels, "consumer", [run]);
    expect(told.byWorkflow.map((row) => [row.label, row.amount])).toEqual([["services and others", 20n], ["terrain", 15n]]);
    expect(told.byDay.map((row) => [row.key, row.amount])).toEqual([["2026-11-23", 35n]]);
    expect(told.byResource.map((row) => [row.label, row.amount])).toEqual([["Processor", 32n], ["fixed and rounded up", 3n]]);
    expect(told.byNode.map((row) => row.amount)).toEqual([35n]);
    expect(grouped(channels, "provider", [run]).byWorkflow.map((row) => row.amount)).toEqual([7n]);
  });
  it("gives the bill of one run, without what others ran here", () => {
    expect(billOf(channels, "run-a").map((line) => [line.provider, line.claimed])).toEqual([["Harbour", 10], ["Summit", 5]]);
    expect(billOf(channels, "run-x")).toEqual([]);
  });
});

describe("graphs", () => {
  const steps = [{ id: "a", after: [] }, { id: "b", after: ["a"] }, { id: "c", after: ["a"] }, { id: "d", after: ["b", "c", "gone"] }];
  it("have a step after all that it waits for", () => {
    expect(layers(steps)).toEqual([["a"], ["b", "c"], ["d"]]);
    expect(draw(steps).edges).toHaveLength(4);
    expect(draw([]).places.size).toBe(0);
  });
  it("end also where a text has a circle", () => {
    expect(layers([{ id: "a", after: ["b"] }, { id: "b", after: ["a"] }]).flat().sort()).toEqual(["a", "b"]);
  });
});

const peer = (nth: number, over: Partial<Peer> = {}) => ({ id: `n${nth}`, name: `node-${nth}`, org: `o${nth % 3}`, org_name: `Org ${nth % 3}`, path: "direct", trust: "peer", connected: true, ...over }) as Peer;

describe("the map", () => {
  const status = { org: "o0" } as Status;
  it("has every node once and inside", () => {
    const peers = Array.from({ length: 9 }, (_, nth) => peer(nth));
    const map = meshMap(status, peers, 700, 400);
    expect(map.dots.map((dot) => dot.id).sort()).toEqual(peers.map((one) => one.id).sort());
    expect(new Set(map.dots.map((dot) => `${dot.x} ${dot.y}`)).size).toBe(9);
    expect(map.dots.every((dot) => dot.x > 0 && dot.x < 700 && dot.y > 0 && dot.y < 400)).toBe(true);
    expect(map.orgs.map((org) => org.name)).toContain("Org 0 (yours)");
  });
  it("draws organisations where there are too many nodes, each by its best connection", () => {
    const peers = Array.from({ length: DOTS_MAX + 1 }, (_, nth) => peer(nth, { path: nth < 3 ? "relayed" : "none" }));
    const map = meshMap(status, peers, 700, 400);
    expect(map.dots.map((dot) => [dot.count, dot.way])).toEqual([[14, "relayed"], [14, "relayed"], [13, "relayed"]]);
    expect(meshMap(status, [], 700, 400)).toEqual({ dots: [], orgs: [] });
  });
});

describe("values", () => {
  const file = (name: string) => ({ file: { digest: "blake3:0", size: 1, name } });
  it("tell their files, and the rest as JSON", () => {
    expect(files("out", { map: { a: { list: [file("x.png")] }, b: { int: 1 } } }).map((one) => one.name)).toEqual(["out.a[0]"]);
    expect(plain({ map: { a: { list: [{ int: 1 }, "null", { text: "t" }] }, f: file("x.png") } })).toEqual({ a: [1, null, "t"], f: "x.png" });
    expect(["a.PNG", "b.csv", "c.pgm", "d.json", "e"].map(kindOf)).toEqual(["picture", "table", "raster", "text", "other"]);
  });
  it("read tables with quotes", () => {
    expect(csv('a,b\r\n"x, ""y""\nz",2\n', ",", 9)).toEqual([["a", "b"], ['x, "y"\nz', "2"]]);
    expect(csv("a\tb\n1\t2\n3\t4\n", "\t", 2)).toHaveLength(2);
  });
  it("draw rasters, and nothing of what is cut or none", () => {
    const bytesOf = (head: string, ...samples: number[]) => Uint8Array.from([...new TextEncoder().encode(head), ...samples]);
    const found = raster(bytesOf("P5\n# cell_mm 1 1\n2 1\n65535\n", 1, 0, 2, 0));
    expect([found?.width, found?.height, [...(found?.rgba ?? [])]]).toEqual([2, 1, [0, 0, 0, 255, 255, 255, 255, 255]]);
    expect(raster(bytesOf("P5 2 2 255\n", 1, 2, 3))).toBeNull();
    expect(raster(bytesOf("P4 2 2\n", 1))).toBeNull();
    expect(raster(new Uint8Array())).toBeNull();
  });
});

describe("runs", () => {
  it("are bars in the order of their beginning", () => {
    const task = (step: string, index: number, started: number | null) => ({ step, index, attempt: 1, org: null, org_name: "Org", node: null, state: "committed", started_ms: started, ended_ms: null, detail: null });
    const run = { submitted_ms: 0, ended_ms: null, steps: [{ step: "a", state: "open", committed: 0, tasks: 2 }], tasks: [task("a", 1, 9), task("a", 0, 5), task("a", 2, null)] } as unknown as Run;
    expect(rows(run, 20)).toEqual({ from: 0, to: 20, bars: [expect.objectContaining({ name: "a 0", begin: 5, end: 20 }), expect.objectContaining({ name: "a 1" })] });
  });
});

describe("filters and keys", () => {
  it("are what the node reads", () => {
    expect(filterOf({ kind: "data", text: 'a "b"', free: true, more: "size < 1MiB or open = true" })).toBe(
      'kind = data and (text ~ "a \\"b\\"" or key ~ "a \\"b\\"" or org ~ "a \\"b\\"") and free = true and (size < 1MiB or open = true)',
    );
    expect(filterOf({ kind: null, text: " ", free: false, more: "" })).toBe("");
    expect(quoted("x\\")).toBe('"x\\\\"');
    expect(keyOf("data", "Höhen Modell (2026).tif")).toBe("data/hohen-modell-2026-.tif");
  });
});
