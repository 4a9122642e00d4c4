// Areas as the node tells of them.

export const areaAt = (id: string) => `/areas/${id}`;

export type Standing = "member" | "invited" | "asking" | "left" | "expelled";

export type AreaSummary = { id: string; name: string; about: string; standing: Standing; members: number; invited: number; shared: number; rules: number; votes_wanted: number };

type Org = { org: string; org_name?: string | null };
type Ballot = { by: string[]; votes: number; needed: number; voted: boolean };

/** A rule in the form in which people and the API write it: a name, and one of the others. */
export type AreaRule = { name?: string; residency?: string[]; licences?: string[]; personal?: string; organisations?: string[]; price?: { per: string; max: string }; runtimes?: string[] };
export type RuleBook = { rules: AreaRule[] };

export type Member = Org & { own: boolean; founder: boolean; connected: boolean };
export type Invited = Org & Ballot & { joined: boolean };
export type Expelling = Org & Ballot;
export type Proposal = Ballot & { number: number; digest: string; book: RuleBook };
export type SharedKind = "workspace" | "workflow" | "service";
export type Shared = Org & { own: boolean; node: string; kind: SharedKind; name: string; digest: string; size: number; here: boolean };

export type Area = {
  id: string;
  name: string;
  about: string;
  founder: string;
  founder_name?: string | null;
  standing: Standing;
  members: Member[];
  invited: Invited[];
  expelling: Expelling[];
  rules: { number: number; digest: string | null; book: RuleBook | null };
  proposals: Proposal[];
  shared: Shared[];
};

export type SharedContent = { kind: SharedKind; name: string; org: string; document: string };
