import type { components } from "./schema";

type Schemas = components["schemas"];

export type Status = Schemas["Status"];
export type Peer = Schemas["Peer"];
export type Org = Schemas["Org"];
export type Resource = Schemas["Resource"];
export type Description = Schemas["Description"];
export type OwnResource = Schemas["OwnResources"][number];
export type RunSummary = Schemas["RunSummary"];
export type Run = Schemas["Run"];
export type Task = Run["tasks"][number];
export type Explained = Schemas["Explanation"][number];
export type PlanStep = Schemas["Plan"][number];
export type Service = Schemas["Service"];
export type ServiceSummary = Schemas["ServiceSummary"];
export type Channel = Schemas["Ledger"][number];
export type Lane = Channel["lanes"][number];
export type Checked = Schemas["Checked"];
export type FileRef = Schemas["FileRef"];
export type Workspace = Schemas["Workspace"];
export type WorkspaceSummary = Schemas["Workspaces"][number];
export type User = Schemas["Users"][number];
export type Session = Schemas["Session"];
export type Provider = Schemas["Provider"];
export type Rule = Provider["rules"][number];
export type Token = Schemas["Token"];
export type Policies = Schemas["Policies"];
export type PolicyText = Schemas["PolicyText"];
export type PolicyChecked = Schemas["PolicyChecked"];
export type Verdict = Schemas["PolicyVerdict"];
export type Decisions = Schemas["PolicyLog"];
export type Mesh = { status: Status; peers: Peer[] };

/** A value as workflows pass it: the word `null`, or an object whose one member tells the kind. */
export type Value =
  | "null"
  | { bool: boolean }
  | { int: number }
  | { float: number }
  | { text: string }
  | { list: Value[] }
  | { map: Record<string, Value> }
  | { file: FileRef }
  | { dir: FileRef };

/** What was asked when a run began. */
export type Submission = {
  source: string;
  params: Record<string, Value>;
  assets: Record<string, Value>;
  binding?: string | null;
  strategy?: string | null;
  /** The area under whose rules it is done: its id. */
  area?: string;
};

export type Price = { currency: string; rows: { dimension: string; amount_nano: number; per: number }[]; fixed: number };

export type Detail = { kind: string; [field: string]: unknown };
