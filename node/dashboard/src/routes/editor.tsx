import { useQuery } from "@tanstack/react-query";
import { ReactFlowProvider } from "@xyflow/react";
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import { useLocation } from "wouter";

import { get, query, request, send } from "../api/client";
import type { Checked, PlanStep, Resource, Workspace, WorkspaceSummary } from "../api/types";
import { useGet, useRefresh } from "../api/use";
import { AreaChoice } from "../areas/choice";
import { type Acts, arrange, Canvas, NEW, type Places, type Ports } from "../editor/canvas";
import { Panel } from "../editor/panel";
import { Needs, PlanTable, type Run, submission } from "../editor/submit";
import { addOutputPort, addParam, addStep, connect, disconnect, EMPTY, freeName, type Model, PROGRAM_KEYS, read, removeOutput, removeParam, removeStep, setAfter, setOutput, type Source } from "../lib/workflow";
import { DRAFT } from "../lib/draft";
import { nameOf } from "../lib/name";
import { gist } from "../lib/resource";
import { plural } from "../lib/format";
import { Code } from "../ui/code";
import { Card, Dialog, Field, Page, State, Trouble, useAction, Wait } from "../ui/parts";
import "../editor/editor.css";

/** What of a workflow is shown; kept in this browser. */
const VIEWS = ["both", "graph", "text"] as const;
const VIEW = "opencloud.view";

/** Steps back that are kept. */
const UNDO_MAX = 100;

type Detail = { kind: string; runtime?: string; digest: string; size: number; inputs?: { name: string; type: string }[]; outputs?: { name: string; type: string }[] };
const detailOf = (resource: Resource) => resource.resource.detail as unknown as Detail;

function readable(text: string): { model: Model | null; why: string | null } {
  try {
    return { model: read(text), why: null };
  } catch (error) {
    return { model: null, why: error instanceof Error ? error.message : String(error) };
  }
}

/** The text with its history; kept in this browser until another is opened. */
function useDraft() {
  const [texts, setTexts] = useState<{ past: string[]; now: string; next: string[] }>(() => ({ past: [], now: localStorage.getItem(DRAFT) ?? EMPTY, next: [] }));
  useEffect(() => localStorage.setItem(DRAFT, texts.now), [texts.now]);
  const set = (now: string) => setTexts((before) => (now === before.now ? before : { past: [...before.past.slice(1 - UNDO_MAX), before.now], now, next: [] }));
  const undo = () => setTexts((before) => (before.past.length === 0 ? before : { past: before.past.slice(0, -1), now: before.past[before.past.length - 1]!, next: [before.now, ...before.next] }));
  const redo = () => setTexts((before) => (before.next.length === 0 ? before : { past: [...before.past, before.now], now: before.next[0]!, next: before.next.slice(1) }));
  return { text: texts.now, set, undo, redo, canUndo: texts.past.length > 0, canRedo: texts.next.length > 0 };
}

function Palette({ found, onAdd }: { found: Resource[]; onAdd: (resource: Resource) => void }) {
  const [wanted, setWanted] = useState("");
  const [place, setPlace] = useState("");
  const all = useGet<WorkspaceSummary[]>("/workspaces");
  const workspace = useGet<Workspace>(place === "" ? null : `/workspaces/${encodeURIComponent(place)}`);
  const chosen = place === "" ? null : new Set((workspace.data?.resources ?? []).map((one) => one.id));
  const rows = found.filter((one) => (chosen === null || chosen.has(one.id)) && `${one.resource.name} ${one.resource.short ?? ""} ${one.org_name}`.toLowerCase().includes(wanted.toLowerCase()));
  return (
    <section className="card palette" aria-label="Resources">
      <h2>Resources</h2>
      {(all.data ?? []).length > 0 && (
        <select className="input" aria-label="Of which workspace" value={place} onChange={(event) => setPlace(event.target.value)}>
          <option value="">whole catalogue</option>
          {(all.data ?? []).map((one) => <option key={one.name}>{one.name}</option>)}
        </select>
      )}
      <input className="input" type="search" aria-label="Search resources" placeholder="Search" value={wanted} onChange={(event) => setWanted(event.target.value)} />
      {rows.length === 0 && <p className="small soft">No algorithm, data or workflow in the catalogue fits. Publish some, or add a step of your own.</p>}
      <ul className="stack tight">
        {rows.map((one) => (
          <li key={one.id}>
            <button
              type="button"
              className="chip-box"
              draggable
              onDragStart={(event) => event.dataTransfer.setData("application/opencloud-resource", one.id)}
              onClick={() => onAdd(one)}
              title="Drag to the graph, or press to add"
            >
              <span className="row between"><strong className="wrap">{one.resource.name}</strong><span className="badge plain">{one.resource.detail.kind}</span></span>
              <span className="small soft">{gist(one.resource)} · {one.org_name}</span>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

export default function Editor() {
  const draft = useDraft();
  const { text, set } = draft;
  const [moved, setMoved] = useState<Places>({});
  const [view, setView] = useState(() => VIEWS.find((one) => one === localStorage.getItem(VIEW)) ?? "both");
  const [chosen, setChosen] = useState<string | null>(null);
  const [runtime, setRuntime] = useState("wasi");
  const [refused, setRefused] = useState<string | null>(null);
  const [open, setOpen] = useState<"plan" | "run" | "load" | null>(null);
  const [given, setGiven] = useState<Run>({ params: {}, files: {}, assets: {}, area: "" });
  const last = useRef<Model>({ name: "", params: [], steps: [], outputs: [] });
  const { model: now, why } = useMemo(() => readable(text), [text]);
  if (now !== null) last.current = now;
  const model = now ?? last.current;
  const settled = useDeferredValue(text);
  const checked = useQuery<Checked>({ queryKey: ["check", settled], queryFn: () => send<Checked>("POST", "/workflow/check", { source: settled }), placeholderData: (before) => before });
  const catalogue = useGet<Resource[]>(`/catalog${query({ filter: "kind = algorithm or kind = data or kind = workflow", limit: 300 })}`, 20_000);
  const found = useMemo(() => catalogue.data ?? [], [catalogue.data]);
  const ports = useMemo<Ports>(() => new Map(found.filter((one) => one.resource.detail.kind === "algorithm").map((one) => [detailOf(one).digest, (detailOf(one).inputs ?? []).map((port) => ({ name: port.name, type: port.type === "json" ? "any" : (port.type as "file") }))])), [found]);
  const places = useMemo(() => ({ ...arrange(model, ports), ...moved }), [model, ports, moved]);
  const problems = checked.data?.problems ?? [];
  const wrong = useMemo(() => new Set(problems.map((problem) => problem.path.split(".")).filter((path) => path[0] === "steps" && path[1] !== undefined).map((path) => path[1]!)), [problems]);
  const names = () => [...model.steps.map((step) => step.id), ...model.params.map((param) => param.name)];
  const add = (resource: Resource, at?: { x: number; y: number }) => {
    const detail = detailOf(resource);
    const id = freeName(resource.resource.name.replace(/\.[a-z0-9]{1,5}$/i, ""), names());
    if (detail.kind === "data") {
      set(addParam(text, id, "file", resource.resource.short ?? ""));
      setGiven({ ...given, files: { ...given.files, [id]: { digest: detail.digest, size: detail.size, name: resource.resource.key.split("/").pop() ?? id } } });
    } else if (detail.kind === "algorithm") {
      if (PROGRAM_KEYS[detail.runtime ?? ""] === undefined) {
        action.run(() => Promise.reject(new Error(`Steps that ${detail.runtime ?? "nothing"} runs are not drawn: write this one into the text.`)));
        return;
      }
      set(addStep(text, { id, description: resource.resource.short ?? "", runtime: detail.runtime, program: detail.digest, outputs: detail.outputs ?? [] }));
    } else {
      void load(detail.digest);
      return;
    }
    const node = `${detail.kind === "data" ? "param" : "step"}:${id}`;
    if (at !== undefined) setMoved({ ...moved, [node]: at });
    setChosen(node);
  };
  const action = useAction();
  const load = async (digest: string) => action.run(async () => { set(await (await request(`/blobs/${digest}`)).text()); setMoved({}); setChosen(null); });
  const acts: Acts = {
    onConnect: ({ source, step: before }, { node, port }) => {
      if (before !== null) {
        const step = model.steps.find((one) => `step:${one.id}` === node);
        if (step !== undefined) set(setAfter(text, step.id, [...new Set([...step.after, before])]));
      } else if (source !== null && node === "end") {
        set(setOutput(text, port === `in:${NEW}` ? freeName(name(source), model.outputs.map((output) => output.name)) : port.slice(3), source));
      } else if (source !== null) {
        const step = model.steps.find((one) => `step:${one.id}` === node);
        const input = port === `in:${NEW}` ? freeName(name(source), step?.inputs.map((one) => one.name) ?? []) : port.slice(3);
        if (step !== undefined && port !== "over") set(connect(text, source, step.id, input));
      }
    },
    onRemoveEdge: ({ node, port }, from) => {
      const step = model.steps.find((one) => `step:${one.id}` === node);
      if (node === "end") set(removeOutput(text, port.slice(3)));
      else if (step !== undefined && port === "after") set(setAfter(text, step.id, step.after.filter((one) => `step:${one}` !== from)));
      else if (step !== undefined && port.startsWith("in:")) set(disconnect(text, step.id, port.slice(3)));
    },
    onRemove: (node) => {
      if (node.startsWith("step:")) set(removeStep(text, node.slice(5)));
      else if (node.startsWith("param:")) set(removeParam(text, node.slice(6)));
      setChosen(null);
    },
    onChoose: setChosen,
    onRefused: setRefused,
    onMove: (more) => setMoved((before) => ({ ...before, ...more })),
    onDrop: (id, at) => { const resource = found.find((one) => one.id === id); if (resource !== undefined && why === null) add(resource, at); },
  };
  const step = chosen?.startsWith("step:") ? chosen.slice(5) : null;
  const fresh = (kind: "step" | "param", runtime = "wasi") => {
    const id = freeName(kind === "step" ? "step" : "input", names());
    const program = runtime === "wasi" ? `${id}.wasm` : runtime === "vm" ? `${id}.qcow2` : id;
    set(kind === "step" ? addStep(text, { id, runtime, program, outputs: [{ name: "out", type: "file" }] }) : addParam(text, id, "file", ""));
    setChosen(`${kind}:${id}`);
  };
  const isLocked = why !== null;
  const isValid = checked.data?.valid === true && settled === text;
  return (
    <Page
      title="Workflow editor"
      lead={<span className="row"><span>{model.name === "" ? "unnamed" : model.name}</span>{why !== null ? <State word="not YAML" tone="bad" /> : isValid ? <State word="valid" tone="good" /> : problems.length > 0 ? <State word={plural(problems.length, "problem")} tone="bad" /> : <State word="being checked" />}</span>}
      actions={
        <>
          <span className="chips" role="group" aria-label="Show">
            {VIEWS.map((one) => <button key={one} type="button" className="chip" aria-pressed={view === one} onClick={() => { localStorage.setItem(VIEW, one); setView(one); }}>{one}</button>)}
          </span>
          <button type="button" className="button" disabled={!draft.canUndo} onClick={draft.undo}>Undo</button>
          <button type="button" className="button" disabled={!draft.canRedo} onClick={draft.redo}>Redo</button>
          <button type="button" className="button" onClick={() => setOpen("load")}>Open or save</button>
          <button type="button" className="button" disabled={!isValid} onClick={() => setOpen("plan")}>Plan</button>
          <button type="button" className="button main" disabled={!isValid} onClick={() => setOpen("run")}>Run</button>
        </>
      }
    >
      <Trouble error={action.error ?? checked.error} />
      <div className={`editor ${view}`}>
        <Palette found={found} onAdd={(resource) => { if (!isLocked) add(resource); }} />
        {view !== "text" && <div className="stack tight">
          <div className="row">
            <button type="button" className="button slim" disabled={isLocked} onClick={() => fresh("step", runtime)}>Add a step</button>
            <select className="input slim" aria-label="What runs a new step" value={runtime} onChange={(event) => setRuntime(event.target.value)}>
              {Object.keys(PROGRAM_KEYS).map((one) => <option key={one}>{one}</option>)}
            </select>
            <button type="button" className="button slim" disabled={isLocked} onClick={() => fresh("param")}>Add a parameter</button>
            <button type="button" className="button slim" onClick={() => setMoved({})}>Arrange</button>
            {isLocked && <span className="small soft">The graph shows the last text that was YAML: {why}</span>}
          </div>
          <div role="status" aria-label="Refused connection">{refused !== null && <p className="note warn small"><strong>This does not fit</strong>{refused}</p>}</div>
          <div className="canvas">
            <ReactFlowProvider>
              <Canvas model={model} places={places} chosen={chosen} wrong={wrong} ports={ports} isLocked={isLocked} acts={acts} />
            </ReactFlowProvider>
          </div>
          {step !== null && !isLocked && (
            <Panel
              key={step}
              model={model}
              id={step}
              ports={ports}
              acts={{
                onConnect: (source, input) => set(connect(text, source, step, input)),
                onDisconnect: (input) => set(disconnect(text, step, input)),
                onAddInput: (input, source) => set(connect(text, source, step, input)),
                onAddOutput: (output, type) => set(addOutputPort(text, step, output, type)),
                onGive: (output) => set(setOutput(text, freeName(output, model.outputs.map((one) => one.name)), { step, output })),
                onRemove: () => acts.onRemove(`step:${step}`),
              }}
            />
          )}
        </div>}
        {view !== "graph" && <section className="card flush text" aria-label="The text"><Code label="Document in YAML" text={text} problems={problems} onText={set} /></section>}
      </div>
      {open === "load" && <Load name={model.name} text={text} onText={(next) => { set(next); setMoved({}); setChosen(null); setOpen(null); }} onClose={() => setOpen(null)} />}
      {(open === "plan" || open === "run") && checked.data !== undefined && <Go kind={open} source={text} checked={checked.data} given={given} onGive={setGiven} data={found.filter((one) => one.resource.detail.kind === "data")} onClose={() => setOpen(null)} />}
    </Page>
  );
}

function name(source: Source): string {
  return "param" in source ? source.param : source.output;
}

function Load({ name: title, text, onText, onClose }: { name: string; text: string; onText: (text: string) => void; onClose: () => void }) {
  const all = useGet<WorkspaceSummary[]>("/workspaces");
  const [place, setPlace] = useState("");
  const [kept, setKept] = useState<string | null>(null);
  const refresh = useRefresh();
  const { run, isBusy, error } = useAction();
  const keep = () =>
    run(async () => {
      const path = `/workspaces/${encodeURIComponent(place)}`;
      const { version, about, notes, searches, workflows, resources } = await get<Workspace>(path);
      const draft = nameOf(title);
      const workspace = { about, notes, searches, resources: resources.map((one) => one.id), workflows: { ...(workflows as Record<string, string>), [draft]: text } };
      await send("PUT", path, { version, workspace });
      refresh("/workspaces");
      setKept(`${draft} in ${place}`);
    });
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
    link.download = `${title === "" ? "workflow" : title}.yaml`;
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return (
    <Dialog title="Open or save" onClose={onClose}>
      <div className="form">
        <Field label="Open a document" hint="Takes the place of what is drawn; Undo brings it back.">
          <input className="input" type="file" accept=".yaml,.yml,.json" onChange={(event) => void event.target.files?.[0]?.text().then(onText)} />
        </Field>
        <div className="row">
          <button type="button" className="button" onClick={save}>Save as a file</button>
          <button type="button" className="button danger" onClick={() => onText(EMPTY)}>Begin anew</button>
        </div>
        {(all.data ?? []).length > 0 && (
          <div className="row">
            <select className="input" style={{ flex: "1 1 160px", width: "auto" }} aria-label="Workspace" value={place} onChange={(event) => setPlace(event.target.value)}>
              <option value="">a workspace…</option>
              {(all.data ?? []).map((one) => <option key={one.name}>{one.name}</option>)}
            </select>
            <button type="button" className="button" disabled={isBusy || place === ""} onClick={keep}>Keep as a draft there</button>
          </div>
        )}
        {kept !== null && <p className="small" role="status">Kept as {kept}.</p>}
        <Trouble error={error} />
      </div>
    </Dialog>
  );
}

type Going = { kind: "plan" | "run"; source: string; checked: Checked; given: Run; onGive: (next: Run) => void; data: Resource[]; onClose: () => void };

function Go({ kind, source, checked, given, onGive, data, onClose }: Going) {
  const [strategy, setStrategy] = useState("");
  const [minutes, setMinutes] = useState("1");
  const [plan, setPlan] = useState<PlanStep[] | null>(null);
  const [, go] = useLocation();
  const { run, isBusy, error } = useAction();
  // A plan is of what was asked, not of what is asked now.
  const give = (next: Run) => { onGive(next); setPlan(null); };
  const ask = () =>
    run(async () => {
      const asked = await submission(source, checked, given, strategy);
      if (kind === "run") go(`/runs/${(await send<{ id: string }>("POST", "/runs", asked, { "idempotency-key": crypto.randomUUID() })).id}`);
      else setPlan(await send<PlanStep[]>("POST", `/plan${query({ estimate_ms: Math.max(1, Math.round(Number(minutes) * 60_000)) })}`, asked));
    });
  return (
    <Dialog title={kind === "run" ? "Run" : "Where each step could run, and for how much"} onClose={onClose} wide>
      <form className="form" onSubmit={(event) => { event.preventDefault(); ask(); }}>
        <Needs checked={checked} given={given} data={data} onGive={give} />
        <AreaChoice value={given.area} onValue={(area) => give({ ...given, area })} />
        <div className="pair">
          <Field label="Strategy">
            <select className="input" value={strategy} onChange={(event) => { setStrategy(event.target.value); setPlan(null); }}>
              <option value="">as the node has it</option>
              <option value="sovereignty">sovereignty: own nodes, then partners</option>
              <option value="performance">performance: done first</option>
              <option value="cost">cost: cheapest</option>
            </select>
          </Field>
          {kind === "plan" && <Field label="Minutes that a task is taken to run" hint="Nobody knows before: prices are those of such a task."><input className="input" type="number" min="0.01" step="0.01" value={minutes} onChange={(event) => { setMinutes(event.target.value); setPlan(null); }} /></Field>}
        </div>
        <Trouble error={error} />
        <footer><button className="button main" disabled={isBusy}>{isBusy ? "Asking the node…" : kind === "run" ? "Run" : "Plan"}</button></footer>
      </form>
      {isBusy && <Wait what="the node" />}
      {plan !== null && <div style={{ marginTop: 18 }}><Card title="The plan"><PlanTable plan={plan} /></Card></div>}
    </Dialog>
  );
}
