// A picture of steps: layers from left to right, each step one layer after the last that it waits for; within a layer in the
// order of what they come from, so that lines cross little.

export type Vertex = { id: string; after: string[] };
export type Placed = { id: string; x: number; y: number };
export type Drawing = { places: Map<string, Placed>; edges: { from: string; to: string }[]; width: number; height: number };

export const BOX = { width: 168, height: 60, gapX: 56, gapY: 22 };

export function layers(steps: Vertex[]): string[][] {
  const known = new Map(steps.map((step) => [step.id, step]));
  const depth = new Map<string, number>();
  const of = (id: string, seen: Set<string>): number => {
    const told = depth.get(id);
    if (told !== undefined) return told;
    // A circle is no workflow, but it may stand in a text that somebody is still writing.
    if (seen.has(id)) return 0;
    seen.add(id);
    const before = (known.get(id)?.after ?? []).filter((dep) => known.has(dep)).map((dep) => of(dep, seen) + 1);
    const found = Math.max(0, ...before);
    depth.set(id, found);
    return found;
  };
  const found: string[][] = [];
  for (const step of steps) (found[of(step.id, new Set())] ??= []).push(step.id);
  return Array.from(found, (layer) => layer ?? []);
}

export function draw(steps: Vertex[]): Drawing {
  const known = new Map(steps.map((step) => [step.id, step]));
  const order = new Map<string, number>();
  const found = layers(steps).map((layer) => {
    const weight = (id: string) => {
      const before = (known.get(id)?.after ?? []).map((dep) => order.get(dep)).filter((at) => at !== undefined);
      return before.length === 0 ? 0 : before.reduce((sum, at) => sum + at, 0) / before.length;
    };
    const sorted = layer.map((id, at) => ({ id, at, weight: weight(id) })).sort((a, b) => a.weight - b.weight || a.at - b.at);
    sorted.forEach(({ id }, at) => order.set(id, at - (sorted.length - 1) / 2));
    return sorted.map(({ id }) => id);
  });
  const tallest = Math.max(1, ...found.map((layer) => layer.length));
  const height = tallest * (BOX.height + BOX.gapY) - BOX.gapY;
  const places = new Map<string, Placed>();
  found.forEach((layer, column) => {
    const own = layer.length * (BOX.height + BOX.gapY) - BOX.gapY;
    layer.forEach((id, row) => {
      places.set(id, { id, x: column * (BOX.width + BOX.gapX), y: (height - own) / 2 + row * (BOX.height + BOX.gapY) });
    });
  });
  const edges = steps.flatMap((step) => step.after.filter((from) => known.has(from)).map((from) => ({ from, to: step.id })));
  return { places, edges, width: Math.max(1, found.length) * (BOX.width + BOX.gapX) - BOX.gapX, height };
}
