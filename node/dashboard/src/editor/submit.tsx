// What a run needs besides its document: parameters, the files that the document names, and the area under whose rules it is done.

import { get, query, request, upload } from "../api/client";
import type { Checked, FileRef, PlanStep, Resource, Submission, Value } from "../api/types";
import { bytes, listed } from "../lib/format";
import { Field, State, Trouble, useAction } from "../ui/parts";

type Given = Record<string, FileRef>;
/** What is given to a run; `area` is the id of the area under whose rules it is done, or empty. */
export type Run = { params: Record<string, string>; files: Given; assets: Given; area: string };

/** A parameter's text as the value that its type says. */
export function valueOf(type: string, text: string): Value {
  switch (type) {
    case "bool": return { bool: text === "true" };
    case "int": return { int: Number(text) };
    case "float": return { float: Number(text) };
    default: return { text };
  }
}

export async function stageOf(digest: string, isDir: boolean): Promise<Value> {
  const there = await request(`/blobs/${digest}`, { method: "HEAD" }).catch(() => null);
  let size = Number(there?.headers.get("content-length") ?? Number.NaN);
  if (Number.isNaN(size)) {
    const found = await get<Resource>(`/catalog/resource${query({ id: digest })}`).catch(() => null);
    size = Number((found?.resource.detail as unknown as { size?: number } | undefined)?.size ?? Number.NaN);
  }
  if (Number.isNaN(size)) throw new Error(`${digest} is neither on this node nor in its catalogue.`);
  const name = digest.slice(7, 19);
  return isDir ? { dir: { digest, size, name } } : { file: { digest, size, name } };
}

export async function submission(source: string, checked: Checked, given: Run, strategy: string): Promise<Submission> {
  const params: Record<string, Value> = {};
  for (const param of checked.params) {
    const file = given.files[param.name];
    if (file !== undefined) params[param.name] = { file };
    else if ((given.params[param.name] ?? "") !== "") params[param.name] = valueOf(param.type, given.params[param.name]!);
  }
  const assets: Record<string, Value> = {};
  for (const asset of checked.assets) {
    const file = given.assets[asset.path];
    if (file !== undefined) assets[asset.path] = { file };
  }
  for (const blob of checked.blobs) assets[blob.digest] = await stageOf(blob.digest, blob.directory);
  return { source, params, assets, binding: null, strategy: strategy === "" ? null : strategy, ...(given.area === "" ? {} : { area: `blake3:${given.area}` }) };
}

export function FileChoice({ label, hint, now, data, onFile }: { label: string; hint?: string; now: FileRef | undefined; data: Resource[]; onFile: (file: FileRef) => void }) {
  const { run, isBusy, error } = useAction();
  const take = (file: File | undefined) => {
    if (file === undefined) return;
    run(async () => onFile({ ...(await upload(file)), name: file.name }));
  };
  return (
    <fieldset className="field" style={{ border: 0, padding: 0, margin: 0 }}>
      <span>{label}</span>
      <div className="row">
        {data.length > 0 && (
          <select
            className="input"
            style={{ flex: "1 1 160px", width: "auto" }}
            aria-label={`${label}: from the catalogue`}
            value={now?.digest ?? ""}
            onChange={(event) => {
              const found = data.find((one) => (one.resource.detail as unknown as { digest: string }).digest === event.target.value);
              if (found !== undefined) onFile({ digest: event.target.value, size: (found.resource.detail as unknown as { size: number }).size, name: found.resource.key.split("/").pop() ?? found.resource.name });
            }}
          >
            <option value="">from the catalogue…</option>
            {data.map((one) => <option key={one.id} value={(one.resource.detail as unknown as { digest: string }).digest}>{one.resource.name}, {one.org_name}</option>)}
          </select>
        )}
        <input className="input" style={{ flex: "1 1 160px", width: "auto" }} type="file" aria-label={`${label}: from this machine`} onChange={(event) => take(event.target.files?.[0])} />
      </div>
      <small>{isBusy ? "Storing…" : now !== undefined ? `${now.name}, ${bytes(now.size)}` : (hint ?? "not given yet")}</small>
      <Trouble error={error} />
    </fieldset>
  );
}

export function Needs({ checked, given, data, onGive }: { checked: Checked; given: Run; data: Resource[]; onGive: (next: Run) => void }) {
  if (checked.params.length === 0 && checked.assets.length === 0) return <p className="soft small">The workflow takes nothing.</p>;
  return (
    <div className="form">
      {checked.params.map((param) =>
        param.type === "file" || param.type === "dir" ? (
          <FileChoice key={param.name} label={`${param.name}${param.required ? "" : " (may be left out)"}`} hint={param.description ?? undefined} now={given.files[param.name]} data={data} onFile={(file) => onGive({ ...given, files: { ...given.files, [param.name]: file } })} />
        ) : (
          <Field key={param.name} label={`${param.name}${param.required ? "" : " (has a default)"}`} hint={param.description ?? param.type}>
            <input className="input" required={param.required} inputMode={param.type === "int" ? "numeric" : param.type === "float" ? "decimal" : undefined} placeholder={param.type} value={given.params[param.name] ?? ""} onChange={(event) => onGive({ ...given, params: { ...given.params, [param.name]: event.target.value } })} />
          </Field>
        ),
      )}
      {checked.assets.filter((asset) => !asset.directory).map((asset) => (
        <FileChoice key={asset.path} label={asset.path} hint="A file that the document names by its path" now={given.assets[asset.path]} data={[]} onFile={(file) => onGive({ ...given, assets: { ...given.assets, [asset.path]: file } })} />
      ))}
      {checked.assets.some((asset) => asset.directory) && <p className="small soft">Directories that the document names by path can be given by <code>opencloud run submit</code> only.</p>}
    </div>
  );
}

/** The rule of an area that a sentence of the plan names. */
function ruleOf(sentence: string): string | null {
  return /\brule `([^`]+)`/.exec(sentence)?.[1] ?? null;
}

/** What the rule books keep from running anywhere, before anything runs. */
function Barred({ plan }: { plan: PlanStep[] }) {
  const found = plan.filter((step) => !step.is_placeable).map((step) => [step.step, [...new Set(step.candidates.flatMap((one) => ruleOf(one) ?? []))]] as const).filter(([, rules]) => rules.length > 0);
  if (found.length === 0) return null;
  return (
    <div className="note bad" role="alert">
      <strong>The rules do not let it run</strong>
      <ul>{found.map(([step, rules]) => <li key={step}>{step}: no node may do it by {listed(rules.map((rule) => `rule ${rule}`))}</li>)}</ul>
    </div>
  );
}

export function PlanTable({ plan }: { plan: PlanStep[] }) {
  return (
    <div className="stack tight">
      <Barred plan={plan} />
      <ol className="stack tight">
        {plan.map((step) => (
          <li key={step.step} className="card">
            <div className="row between"><strong>{step.step}</strong><State word={step.is_placeable ? "can run" : "nowhere to run"} tone={step.is_placeable ? "good" : "bad"} /></div>
            <p className="small soft">{step.tasks == null ? "As many tasks as its map has items" : `${step.tasks} task${step.tasks === 1 ? "" : "s"}`}{step.after.length > 0 && `, after ${step.after.join(", ")}`}</p>
            <ol className="small stack tight" style={{ marginTop: 8 }}>
              {step.candidates.map((candidate) => {
                const rule = ruleOf(candidate);
                return <li key={candidate} className="wrap">{rule !== null && <><State word={`rule ${rule}`} tone="warn" /> </>}{candidate.replace(/^- /, "")}</li>;
              })}
            </ol>
          </li>
        ))}
      </ol>
    </div>
  );
}
