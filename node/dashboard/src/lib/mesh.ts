// Where organisations and nodes stand on the map: around the own node, each organisation in a sector as wide as it has nodes.

import type { Peer, Status } from "../api/types";

export type Dot = {
  id: string;
  label: string;
  org: string;
  x: number;
  y: number;
  /** The last round trip, in microseconds, where it is connected. */
  rtt: number | null;
  /** A node, or an organisation that stands for all of its nodes where there are too many. */
  count: number;
  way: "direct" | "relayed" | "none";
  trust: Peer["trust"];
};

export type MeshMap = { dots: Dot[]; orgs: { name: string; x: number; y: number; anchor: "start" | "middle" | "end" }[] };

/** More nodes than these are drawn as organisations. */
export const DOTS_MAX = 40;

const rank = { direct: 0, relayed: 1, none: 2 };

export function meshMap(status: Status, peers: Peer[], width: number, height: number): MeshMap {
  const groups = new Map<string, Peer[]>();
  for (const peer of peers) groups.set(peer.org, [...(groups.get(peer.org) ?? []), peer]);
  const sectors = [...groups.values()].sort((a, b) => (a[0]!.org < b[0]!.org ? -1 : 1));
  const isDense = peers.length > DOTS_MAX;
  const weights = sectors.map((nodes) => (isDense ? 1 : nodes.length));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const radius = { x: width / 2 - 96, y: height / 2 - 58 };
  const place = (angle: number, by: number) => ({
    x: Math.round((width / 2 + Math.cos(angle) * radius.x * by) * 10) / 10,
    y: Math.round((height / 2 + Math.sin(angle) * radius.y * by) * 10) / 10,
  });
  const map: MeshMap = { dots: [], orgs: [] };
  let before = 0;
  sectors.forEach((nodes, at) => {
    const weight = weights[at]!;
    const middle = ((before + weight / 2) / total) * 2 * Math.PI - (total === 1 ? Math.PI / 2 : 0) - Math.PI / 2;
    const best = nodes.reduce((a, b) => (rank[a.path] <= rank[b.path] ? a : b));
    const first = nodes[0]!;
    const dots = isDense ? [best] : nodes;
    dots.forEach((peer, nth) => {
      const angle = isDense ? middle : ((before + nth + 0.5) / total) * 2 * Math.PI - (total === 1 ? Math.PI / 2 : 0) - Math.PI / 2;
      const label = isDense ? first.org_name : peer.name;
      const count = isDense ? nodes.length : 1;
      map.dots.push({ id: peer.id, label, org: peer.org_name, count, way: peer.path, trust: peer.trust, rtt: peer.connected && !isDense ? peer.rtt_us : null, ...place(angle, 1) });
    });
    const name = first.org === status.org ? `${first.org_name} (yours)` : first.org_name;
    const spot = place(middle, 1);
    const down = spot.y >= height / 2 ? 34 : -24;
    map.orgs.push({ name, x: spot.x, y: spot.y + down, anchor: "middle" });
    before += weight;
  });
  return map;
}
