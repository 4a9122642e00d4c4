// The graph of a workflow, to look at and to draw. Every change goes to the text and comes back from it.

import { Background, Controls, Handle, type Connection, type Edge, type EdgeChange, type FinalConnectionState, MarkerType, type Node, type NodeChange, type NodeProps, Position, ReactFlow, useReactFlow } from "@xyflow/react";
import "@xyflow/react/dist/style.css";
import { createContext, type DragEvent, useContext, useMemo } from "react";

import { closesCircle, type Model, type PortType, type Source, vertices, whyNot } from "../lib/workflow";
import { draw } from "../lib/dag";

export type Places = Record<string, { x: number; y: number }>;
/** Inputs that a step's program takes by the catalogue, by the program's digest. */
export type Ports = Map<string, { name: string; type: PortType }[]>;

type Shown = { wrong: Set<string>; ports: Ports };
const Told = createContext<Shown>({ wrong: new Set(), ports: new Map() });

/** An open port: what is dropped there gets a name of its own. */
export const NEW = "+";

type StepNode = Node<{ step: Model["steps"][number] }, "step">;
type ParamNode = Node<{ param: Model["params"][number] }, "param">;
type EndNode = Node<{ outputs: Model["outputs"] }, "end">;

function Port({ id, type, side, name }: { id: string; type: PortType | ""; side: "in" | "out"; name: string }) {
  return (
    <div className={`port ${side}`}>
      <Handle type={side === "in" ? "target" : "source"} position={side === "in" ? Position.Left : Position.Right} id={id} className={`handle ${type}`} />
      <span>{name}</span>
      {type !== "" && <em>{type}</em>}
    </div>
  );
}

/** The inputs of a step: those of the text, and those that its program takes besides. */
export function inputsOf(step: Model["steps"][number], ports: Ports): { name: string; type: PortType }[] {
  const known = ports.get(step.program) ?? [];
  const named = step.inputs.map((input) => ({ name: input.name, type: known.find((port) => port.name === input.name)?.type ?? ("any" as const) }));
  return [...named, ...known.filter((port) => !step.inputs.some((input) => input.name === port.name))];
}

function StepBox({ data: { step }, selected }: NodeProps<StepNode>) {
  const { wrong, ports } = useContext(Told);
  return (
    <div className={`flow-box${selected ? " selected" : ""}${wrong.has(step.id) ? " wrong" : ""}`}>
      <header>
        <Handle type="target" position={Position.Left} id="after" className="handle order" />
        <strong>{step.id}</strong>
        <span className="badge plain">{step.isMapped ? `${step.runtime}, mapped` : step.runtime}</span>
        <Handle type="source" position={Position.Right} id="then" className="handle order" />
      </header>
      {step.isMapped && <Port id="over" type="list" side="in" name="over" />}
      {inputsOf(step, ports).map((input) => <Port key={input.name} id={`in:${input.name}`} type={input.type === "any" ? "" : input.type} side="in" name={input.name} />)}
      <Port id={`in:${NEW}`} type="" side="in" name="new input" />
      {step.outputs.map((output) => <Port key={output.name} id={`out:${output.name}`} type={output.type} side="out" name={output.name} />)}
    </div>
  );
}

function ParamBox({ data: { param }, selected }: NodeProps<ParamNode>) {
  return (
    <div className={`flow-box param${selected ? " selected" : ""}`}>
      <Port id="value" type={param.type} side="out" name={param.name} />
    </div>
  );
}

function EndBox({ data: { outputs } }: NodeProps<EndNode>) {
  return (
    <div className="flow-box end">
      <header><strong>Outputs</strong></header>
      {outputs.map((output) => <Port key={output.name} id={`in:${output.name}`} type="" side="in" name={output.name} />)}
      <Port id={`in:${NEW}`} type="" side="in" name="new output" />
    </div>
  );
}

const NODE_TYPES = { step: StepBox, param: ParamBox, end: EndBox };
const END = "end";

/** Where boxes stand that nobody has moved: parameters, then steps by layers, then the outputs. */
export function arrange(model: Model, ports: Ports): Places {
  const places: Places = {};
  const drawing = draw(vertices(model));
  const rows = new Map<number, number>();
  const column = (x: number) => 200 + (x / 224) * 260;
  for (const step of model.steps) {
    const at = drawing.places.get(step.id);
    if (at === undefined) continue;
    const y = rows.get(at.x) ?? 0;
    places[`step:${step.id}`] = { x: column(at.x), y };
    rows.set(at.x, y + 110 + 28 * (inputsOf(step, ports).length + step.outputs.length + (step.isMapped ? 1 : 0)));
  }
  model.params.forEach((param, at) => (places[`param:${param.name}`] = { x: 0, y: at * 52 }));
  places[END] = { x: Math.max(200, ...model.steps.map((step) => (places[`step:${step.id}`]?.x ?? 0) + 260)), y: 0 };
  return places;
}

function nodes(model: Model, places: Places, chosen: string | null): Node[] {
  const of = (id: string) => ({ id, position: places[id] ?? { x: 40, y: 40 }, selected: chosen === id });
  return [
    ...model.params.map((param) => ({ ...of(`param:${param.name}`), type: "param", data: { param }, ariaLabel: `Parameter ${param.name}` })),
    ...model.steps.map((step) => ({ ...of(`step:${step.id}`), type: "step", data: { step }, ariaLabel: `Step ${step.id}` })),
    { ...of(END), type: "end", data: { outputs: model.outputs }, deletable: false, ariaLabel: "Outputs of the workflow" },
  ];
}

function edges(model: Model): Edge[] {
  const found: Edge[] = [];
  const put = (source: Source | null, target: string, handle: string) => {
    if (source === null) return;
    const [from, port] = "param" in source ? [`param:${source.param}`, "value"] : [`step:${source.step}`, `out:${source.output}`];
    found.push({ id: `${from} ${port} ${target} ${handle}`, source: from, sourceHandle: port, target, targetHandle: handle });
  };
  for (const step of model.steps) {
    for (const input of step.inputs) put(input.source, `step:${step.id}`, `in:${input.name}`);
    put(step.over, `step:${step.id}`, "over");
    for (const before of step.after) {
      found.push({ id: `${before} then ${step.id}`, source: `step:${before}`, sourceHandle: "then", target: `step:${step.id}`, targetHandle: "after", className: "order" });
    }
  }
  for (const output of model.outputs) put(output.source, END, `in:${output.name}`);
  return found.map((edge) => ({ ...edge, markerEnd: { type: MarkerType.ArrowClosed } }));
}

export function sourceAt(node: string | null, handle: string | null | undefined): Source | null {
  if (node?.startsWith("param:")) return { param: node.slice(6) };
  if (node?.startsWith("step:") && handle?.startsWith("out:")) return { step: node.slice(5), output: handle.slice(4) };
  return null;
}

export type Acts = {
  onConnect: (from: { source: Source | null; step: string | null }, to: { node: string; port: string }) => void;
  onRemoveEdge: (to: { node: string; port: string }, from: string) => void;
  onRemove: (node: string) => void;
  onChoose: (node: string | null) => void;
  onMove: (places: Places) => void;
  /** A line was let go where it may not end, with the reason; null where it was let go elsewhere. */
  onRefused: (why: string | null) => void;
  onDrop: (resource: string, at: { x: number; y: number }) => void;
};

type Tried = { source: string; target: string; sourceHandle: string | null; targetHandle: string | null };
type Properties = { model: Model; places: Places; chosen: string | null; wrong: Set<string>; ports: Ports; isLocked: boolean; acts: Acts };

export function Canvas({ model, places, chosen, wrong, ports, isLocked, acts }: Properties) {
  const flow = useReactFlow();
  const shownNodes = useMemo(() => nodes(model, places, chosen), [model, places, chosen]);
  const shownEdges = useMemo(() => edges(model), [model]);
  const told = useMemo(() => ({ wrong, ports }), [wrong, ports]);
  /** Why a line may not be drawn; null where it may. */
  const refused = ({ source: from, target: to, sourceHandle, targetHandle }: Tried): string | null => {
    if (sourceHandle === "then" || targetHandle === "after") {
      if (sourceHandle !== "then" || targetHandle !== "after") return "the square ends say what comes after what, the round ones pass values: join alike with alike";
      return closesCircle(model, from.slice(5), to.slice(5)) ? `${from.slice(5)} waits for ${to.slice(5)} already: this would close a circle` : null;
    }
    const source = sourceAt(from, sourceHandle);
    if (source === null || !(targetHandle?.startsWith("in:") || targetHandle === "over")) return "values go from what gives them, at the right of a box, to what takes them, at the left";
    if (to === END) return whyNot(model, source, null);
    const step = model.steps.find((one) => one.id === to.slice(5));
    if (step === undefined) return "there is no such step";
    const input = targetHandle === "over" ? "over" : targetHandle.slice(3);
    const wanted = targetHandle === "over" ? "list" : inputsOf(step, ports).find((one) => one.name === input)?.type;
    return whyNot(model, source, { step: step.id, input, wanted: wanted ?? "any" });
  };
  const isValid = (tried: Connection | Edge) => refused({ ...tried, sourceHandle: tried.sourceHandle ?? null, targetHandle: tried.targetHandle ?? null }) === null;
  const onEnd = (_: unknown, { isValid: isGood, fromHandle, toHandle }: FinalConnectionState) => {
    if (isGood !== false || fromHandle === null || toHandle === null) return acts.onRefused(null);
    const [one, other] = fromHandle.type === "source" ? [fromHandle, toHandle] : [toHandle, fromHandle];
    acts.onRefused(refused({ source: one.nodeId, sourceHandle: one.id ?? null, target: other.nodeId, targetHandle: other.id ?? null }));
  };
  const onNodesChange = (changes: NodeChange[]) => {
    const moved: Places = {};
    // To choose a box lets go of the one before, in any order: what is chosen counts.
    const picked = changes.filter((change) => change.type === "select");
    const next = picked.find((change) => change.selected)?.id;
    if (next !== undefined) acts.onChoose(next);
    else if (picked.some((change) => change.id === chosen)) acts.onChoose(null);
    for (const change of changes) {
      if (change.type === "position" && change.position !== undefined) moved[change.id] = change.position;
      if (change.type === "remove") acts.onRemove(change.id);
    }
    if (Object.keys(moved).length > 0) acts.onMove(moved);
  };
  const onEdgesChange = (changes: EdgeChange[]) => {
    for (const change of changes.filter((one) => one.type === "remove")) {
      const edge = shownEdges.find((one) => one.id === change.id);
      if (edge !== undefined) acts.onRemoveEdge({ node: edge.target, port: edge.targetHandle ?? "" }, edge.source);
    }
  };
  const drop = (event: DragEvent) => {
    event.preventDefault();
    const resource = event.dataTransfer.getData("application/opencloud-resource");
    if (resource !== "") acts.onDrop(resource, flow.screenToFlowPosition({ x: event.clientX, y: event.clientY }));
  };
  return (
    <Told.Provider value={told}>
      <ReactFlow
        nodes={shownNodes}
        edges={shownEdges}
        nodeTypes={NODE_TYPES}
        onNodesChange={onNodesChange}
        onEdgesChange={onEdgesChange}
        isValidConnection={isValid}
        onConnectEnd={onEnd}
        onConnect={(made) => acts.onConnect({ source: sourceAt(made.source, made.sourceHandle), step: made.sourceHandle === "then" ? made.source.slice(5) : null }, { node: made.target, port: made.targetHandle ?? "" })}
        onDrop={drop}
        onDragOver={(event) => event.preventDefault()}
        nodesConnectable={!isLocked}
        deleteKeyCode={isLocked ? null : ["Delete", "Backspace"]}
        fitView
        fitViewOptions={{ maxZoom: 1, padding: 0.04 }}
        minZoom={0.2}
        aria-label="Graph of the workflow"
      >
        <Background gap={18} />
        <Controls showInteractive={false} />
      </ReactFlow>
    </Told.Provider>
  );
}
