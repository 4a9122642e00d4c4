// A workflow document as a graph, and changes of the graph as changes of the text: comments and order stay. The node alone says
// whether a document is valid; what is read here is as much as a picture needs.

import { type Document, isMap, parseDocument, type YAMLMap } from "yaml";

import type { Vertex } from "./dag";

export type PortType = "bool" | "int" | "float" | "text" | "file" | "dir" | "list" | "any";
/** Where a value comes from: a parameter, or an output of a step. */
export type Source = { param: string } | { step: string; output: string };
export type Input = { name: string; source: Source | null };
export type Output = { name: string; type: PortType };
export type Step = { id: string; description: string; runtime: string; program: string; inputs: Input[]; outputs: Output[]; after: string[]; over: Source | null; isMapped: boolean };
export type Param = { name: string; type: PortType; description: string };
export type Model = { name: string; params: Param[]; steps: Step[]; outputs: { name: string; source: Source | null }[] };

export const EMPTY = "opencloud: workflow/v1\nname: untitled\n\nsteps: {}\n";

const TYPES = ["bool", "int", "float", "text", "file", "dir", "list"];

function parse(text: string): Document.Parsed {
  const doc = parseDocument(text);
  const first = doc.errors[0];
  if (first !== undefined) throw new Error(first.message.split("\n", 1)[0]);
  return doc;
}

type Plain = Record<string, unknown>;

function plainMap(value: unknown): Plain {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Plain) : {};
}

function sourceOf(value: unknown): Source | null {
  const found = plainMap(value);
  if (typeof found.param === "string") return { param: found.param };
  if (typeof found.from !== "string") return null;
  const [step, output] = found.from.split(".", 2);
  return step !== undefined && output !== undefined ? { step, output } : null;
}

function collected(value: unknown): PortType {
  const found = plainMap(value);
  if ("file" in found || "stdout" in found) return "file";
  if ("dir" in found) return "dir";
  return "files" in found ? "list" : "any";
}

/** The picture of a text; throws where the text is not YAML. */
export function read(text: string): Model {
  const root = plainMap(parse(text).toJS({ maxAliasCount: 100 }));
  const params = Object.entries(plainMap(root.params)).map(([name, value]): Param => {
    const found = plainMap(value);
    const type = TYPES.includes(String(found.type)) ? (found.type as PortType) : "any";
    return { name, type, description: String(found.description ?? "") };
  });
  const steps = Object.entries(plainMap(root.steps)).map(([id, value]): Step => {
    const found = plainMap(value);
    const [runtime, program] = Object.entries(plainMap(found.run))[0] ?? ["", {}];
    const named = plainMap(program);
    const map = plainMap(found.map);
    const isMapped = "map" in found;
    const file = named.module ?? named.image ?? named.program ?? named.disk ?? named.kernel ?? "";
    return {
      id,
      description: String(found.description ?? ""),
      runtime,
      program: typeof file === "string" ? file : "a parameter",
      inputs: Object.entries(plainMap(found.in)).map(([name, input]) => ({ name, source: sourceOf(input) })),
      outputs: Object.entries(plainMap(found.out)).map(([name, output]) => ({ name, type: isMapped ? "list" : collected(output) })),
      after: Array.isArray(found.after) ? found.after.map(String) : [],
      over: sourceOf(map.over),
      isMapped,
    };
  });
  const outputs = Object.entries(plainMap(root.outputs)).map(([name, value]) => ({ name, source: sourceOf(value) }));
  return { name: String(root.name ?? ""), params, steps, outputs };
}

/** The steps with all that each waits for. */
export function vertices(model: Model): Vertex[] {
  return model.steps.map((step) => {
    const from = [...step.inputs.map((input) => input.source), step.over].flatMap((source) => (source !== null && "step" in source ? [source.step] : []));
    return { id: step.id, after: [...new Set([...from, ...step.after])] };
  });
}

export function typeOf(model: Model, source: Source): PortType {
  if ("param" in source) return model.params.find((param) => param.name === source.param)?.type ?? "any";
  return model.steps.find((step) => step.id === source.step)?.outputs.find((output) => output.name === source.output)?.type ?? "any";
}

/** Whether a value of one type may go where another is wanted. */
export function fits(given: PortType, wanted: PortType): boolean {
  return given === wanted || given === "any" || wanted === "any" || (given === "int" && wanted === "float");
}

/** Whether `to` would wait for itself when it waits for `from`. */
export function closesCircle(model: Model, from: string, to: string): boolean {
  const waits = new Map(vertices(model).map((step) => [step.id, step.after]));
  const seen = new Set<string>();
  const reaches = (id: string): boolean => id === to || (!seen.has(id) && (seen.add(id), (waits.get(id) ?? []).some(reaches)));
  return reaches(from);
}

/** Why a value may not go to an input of a step or, where no step is named, be an output of the workflow; null where it may. */
export function whyNot(model: Model, source: Source, to: { step: string; input: string; wanted: PortType } | null): string | null {
  const from = "param" in source ? `parameter ${source.param}` : `${source.step}.${source.output}`;
  if (to === null) return "step" in source ? null : `${from} goes in, and is no output: outputs come from steps`;
  if ("step" in source && closesCircle(model, source.step, to.step)) return source.step === to.step ? `${to.step} cannot wait for itself` : `${source.step} waits for ${to.step} already: this would close a circle`;
  const given = typeOf(model, source);
  return fits(given, to.wanted) ? null : `${from} gives ${told(given)}, and ${to.step} wants ${told(to.wanted)} for ${to.input}`;
}

function told(type: PortType): string {
  return { bool: "yes or no", int: "a whole number", float: "a number", text: "a text", file: "a file", dir: "a directory", list: "a list", any: "anything" }[type];
}

/** A name that is not taken: `slope`, `slope_2`, … */
export function freeName(wanted: string, taken: Iterable<string>): string {
  const all = new Set(taken);
  const base = wanted.normalize("NFKD").toLowerCase().replaceAll(/[^a-z0-9]+/g, "_").replaceAll(/^[_0-9]+|_+$/g, "").slice(0, 40) || "step";
  let name = base;
  for (let nth = 2; all.has(name); nth += 1) name = `${base}_${nth}`;
  return name;
}

function edit(text: string, change: (doc: Document.Parsed) => void): string {
  const doc = parse(text);
  change(doc);
  return doc.toString({ lineWidth: 120, flowCollectionPadding: false });
}

/** The map at a path, made where there is none or an empty one. */
function mapAt(doc: Document.Parsed, path: string[]): YAMLMap {
  const found = doc.getIn(path, true);
  if (isMap(found)) {
    if (found.items.length === 0) found.flow = false;
    return found;
  }
  const made = doc.createNode({}) as YAMLMap;
  doc.setIn(path, made);
  return made;
}

function drop(doc: Document.Parsed, path: string[]): void {
  if (!doc.hasIn(path)) return;
  doc.deleteIn(path);
  const parent = path.slice(0, -1);
  const left = doc.getIn(parent, true);
  const isNeeded = parent.length === 0 || (parent.length === 1 && parent[0] === "steps");
  if (!isNeeded && isMap(left) && left.items.length === 0) doc.deleteIn(parent);
}

function reference(source: Source): Plain {
  return "param" in source ? { param: source.param } : { from: `${source.step}.${source.output}` };
}

/** Has an input of a step come from elsewhere; what else stands there, as its path, stays. */
export function connect(text: string, source: Source, step: string, input: string): string {
  return edit(text, (doc) => {
    const path = ["steps", step, "in", input];
    const before = doc.getIn(path, true);
    mapAt(doc, ["steps", step, "in"]);
    const kept = isMap(before) ? (before.toJSON() as Plain) : {};
    for (const key of ["from", "param", "var", "index", "expr"]) delete kept[key];
    const node = doc.createNode({ ...reference(source), ...kept }) as YAMLMap;
    node.flow = true;
    doc.setIn(path, node);
  });
}

export function disconnect(text: string, step: string, input: string): string {
  return edit(text, (doc) => drop(doc, ["steps", step, "in", input]));
}

export function setAfter(text: string, step: string, after: string[]): string {
  return edit(text, (doc) => {
    if (after.length === 0) return drop(doc, ["steps", step, "after"]);
    const node = doc.createNode(after);
    (node as unknown as { flow: boolean }).flow = true;
    doc.setIn(["steps", step, "after"], node);
  });
}

export function setOutput(text: string, name: string, source: Source): string {
  return edit(text, (doc) => {
    mapAt(doc, ["outputs"]);
    const node = doc.createNode(reference(source)) as YAMLMap;
    node.flow = true;
    doc.setIn(["outputs", name], node);
  });
}

export function removeOutput(text: string, name: string): string {
  return edit(text, (doc) => drop(doc, ["outputs", name]));
}

export type NewStep = { id: string; description?: string; runtime?: string; program: string; outputs: { name: string; type: string }[] };

/** What a program is called in the `run:` of its runtime; also all runtimes that a step may be added for. */
export const PROGRAM_KEYS: Record<string, string> = { wasi: "module", container: "image", vm: "disk", slurm: "program" };

export function addStep(text: string, step: NewStep): string {
  return edit(text, (doc) => {
    mapAt(doc, ["steps"]);
    const collect = ({ name, type }: { name: string; type: string }): Plain =>
      type === "file" ? { file: name } : type === "dir" ? { dir: name } : type === "list" ? { files: `${name}/*` } : { value: `${name}.json` };
    const out = Object.fromEntries(step.outputs.map((output) => [output.name, collect(output)]));
    const body: Plain = {};
    if (step.description !== undefined && step.description !== "") body.description = step.description;
    const runtime = step.runtime ?? "wasi";
    body.run = { [runtime]: { [PROGRAM_KEYS[runtime] ?? "module"]: step.program } };
    if (step.outputs.length > 0) body.out = out;
    doc.setIn(["steps", step.id], doc.createNode(body));
  });
}

export function addParam(text: string, name: string, type: string, description: string): string {
  return edit(text, (doc) => {
    if (!doc.has("params")) {
      // Before the steps, where people look for them.
      const root = doc.contents as unknown as YAMLMap;
      const at = root.items.findIndex((pair) => String(pair.key) === "steps");
      root.items.splice(at < 0 ? root.items.length : at, 0, doc.createPair("params", {}) as never);
    }
    mapAt(doc, ["params"]);
    doc.setIn(["params", name], doc.createNode(description === "" ? { type } : { type, description }));
  });
}

/** Takes a step away, and all that came from it. */
export function removeStep(text: string, id: string): string {
  const { steps, outputs } = read(text);
  const isFrom = (source: Source | null) => source !== null && "step" in source && source.step === id;
  return edit(text, (doc) => {
    doc.deleteIn(["steps", id]);
    for (const step of steps.filter((one) => one.id !== id)) {
      for (const input of step.inputs.filter((one) => isFrom(one.source))) drop(doc, ["steps", step.id, "in", input.name]);
      if (isFrom(step.over)) drop(doc, ["steps", step.id, "map"]);
      if (step.after.includes(id)) {
        const rest = step.after.filter((one) => one !== id);
        if (rest.length === 0) drop(doc, ["steps", step.id, "after"]);
        else doc.setIn(["steps", step.id, "after"], rest);
      }
    }
    for (const output of outputs.filter((one) => isFrom(one.source))) drop(doc, ["outputs", output.name]);
  });
}

export function removeParam(text: string, name: string): string {
  const { steps } = read(text);
  const isFrom = (source: Source | null) => source !== null && "param" in source && source.param === name;
  return edit(text, (doc) => {
    drop(doc, ["params", name]);
    for (const step of steps) {
      for (const input of step.inputs.filter((one) => isFrom(one.source))) drop(doc, ["steps", step.id, "in", input.name]);
      if (isFrom(step.over)) drop(doc, ["steps", step.id, "map"]);
    }
  });
}

export function addOutputPort(text: string, step: string, name: string, type: string): string {
  return edit(text, (doc) => {
    mapAt(doc, ["steps", step, "out"]);
    const body = type === "dir" ? { dir: name } : type === "list" ? { files: `${name}/*` } : type === "any" ? { value: `${name}.json` } : { file: name };
    const node = doc.createNode(body) as YAMLMap;
    node.flow = true;
    doc.setIn(["steps", step, "out", name], node);
  });
}

export function rename(text: string, name: string): string {
  return edit(text, (doc) => doc.set("name", name));
}
