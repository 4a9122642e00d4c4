// What stands in the text of the chosen step, to change without a mouse.

import { useState } from "react";

import { fits, type Model, type Source, typeOf } from "../lib/workflow";
import { Field } from "../ui/parts";
import { inputsOf, type Ports } from "./canvas";

const WRITTEN = "written";

function text(source: Source | null): string {
  if (source === null) return "";
  return "param" in source ? `param:${source.param}` : `${source.step}.${source.output}`;
}

/** All that a step may take a value from. */
function choices(model: Model, step: string, wanted: Parameters<typeof fits>[1]): Source[] {
  const all: Source[] = [...model.params.map((param) => ({ param: param.name })), ...model.steps.filter((one) => one.id !== step).flatMap((one) => one.outputs.map((output) => ({ step: one.id, output: output.name })))];
  return all.filter((source) => fits(typeOf(model, source), wanted));
}

export type PanelActs = {
  onConnect: (source: Source, input: string) => void;
  onDisconnect: (input: string) => void;
  onAddOutput: (name: string, type: string) => void;
  onAddInput: (name: string, source: Source) => void;
  onGive: (output: string) => void;
  onRemove: () => void;
};

export function Panel({ model, id, ports, acts }: { model: Model; id: string; ports: Ports; acts: PanelActs }) {
  const step = model.steps.find((one) => one.id === id);
  const [name, setName] = useState("");
  const [type, setType] = useState("file");
  const [input, setInput] = useState("");
  if (step === undefined) return null;
  const inputs = inputsOf(step, ports);
  const open = choices(model, id, "any");
  const word = /^[A-Za-z_][A-Za-z0-9_-]*$/;
  return (
    <section className="card form" aria-label={`Step ${id}`}>
      <header className="row between">
        <h2>{id}</h2>
        <button type="button" className="button slim danger" onClick={acts.onRemove}>Remove the step</button>
      </header>
      <p className="small soft wrap">{step.runtime}: <span className="mono">{step.program}</span></p>
      {inputs.map((one) => {
        const given = step.inputs.find((input) => input.name === one.name);
        const now = given?.source ?? null;
        // What no line can show, as the item of a map or a fixed value, stays as it is until something else is chosen.
        const isWritten = given !== undefined && now === null;
        return (
          <Field key={one.name} label={`Input ${one.name}`} hint={one.type === "any" ? undefined : one.type}>
            <select
              className="input"
              value={isWritten ? WRITTEN : text(now)}
              onChange={(event) => {
                if (event.target.value === WRITTEN) return;
                const chosen = choices(model, id, one.type).find((source) => text(source) === event.target.value);
                if (chosen === undefined) acts.onDisconnect(one.name);
                else acts.onConnect(chosen, one.name);
              }}
            >
              {isWritten && <option value={WRITTEN}>as the text says</option>}
              <option value="">nothing</option>
              {choices(model, id, one.type).map((source) => <option key={text(source)} value={text(source)}>{"param" in source ? `parameter ${source.param}` : text(source)}</option>)}
            </select>
          </Field>
        );
      })}
      <div className="row">
        <input className="input" style={{ width: 130 }} aria-label="Name of a new input" placeholder="new input" value={input} onChange={(event) => setInput(event.target.value)} />
        <button type="button" className="button slim" disabled={!word.test(input) || open.length === 0} onClick={() => { acts.onAddInput(input, open[0]!); setInput(""); }}>Add the input</button>
      </div>
      <div>
        <h3>Outputs</h3>
        <ul className="stack tight">
          {step.outputs.map((output) => (
            <li key={output.name} className="row between small"><span><strong>{output.name}</strong> <span className="soft">{output.type}</span></span><button type="button" className="button slim" onClick={() => acts.onGive(output.name)}>Give back<span className="hidden"> {output.name} from the workflow</span></button></li>
          ))}
        </ul>
      </div>
      <div className="row">
        <input className="input" style={{ width: 130 }} aria-label="Name of a new output" placeholder="new output" value={name} onChange={(event) => setName(event.target.value)} />
        <select className="input" style={{ width: "auto" }} aria-label="Kind of the new output" value={type} onChange={(event) => setType(event.target.value)}>
          {["file", "dir", "list", "any"].map((one) => <option key={one} value={one}>{one === "any" ? "value" : one === "list" ? "files" : one}</option>)}
        </select>
        <button type="button" className="button slim" disabled={!word.test(name)} onClick={() => { acts.onAddOutput(name, type); setName(""); }}>Add the output</button>
      </div>
    </section>
  );
}
